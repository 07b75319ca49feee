"""List the parts of a training: `python -m nanlab.parts`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from nanlab.parts.listing import PARTS, parts_markdown, parts_text


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """List the parts that make up a training, each with a sentence and its source."""

    kinds: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """the parameters whose choices to list, such as activation or loss; all by default"""
    markdown: bool = False
    """write Markdown, as in docs/parts.md"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 2 no such kind."""
    arguments = tyro.cli(
        Arguments, prog="python -m nanlab.parts", args=argv, config=(tyro.conf.FlagCreatePairsOff,)
    )
    unknown = [kind for kind in arguments.kinds if kind not in PARTS]
    if unknown:
        print(f"unknown kind {unknown[0]}; choose from {', '.join(PARTS)}", file=sys.stderr)
        return 2
    kinds = arguments.kinds or tuple(PARTS)
    print(parts_markdown(kinds) if arguments.markdown else parts_text(kinds), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
