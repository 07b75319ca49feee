"""Tables of parts -> a list: `python -m nanlab.parts` shows all that a training can be made of."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from nanlab.parts.listing import PARTS, parts_markdown, parts_text


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """List what a training can be made of: a sentence each, and where it comes from."""

    kinds: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """the parameters whose choices are listed, such as activation or loss; all if none is given"""
    markdown: bool = False
    """write Markdown, as docs/parts.md has it"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 2 there is no such kind."""
    arguments = tyro.cli(
        Arguments, prog="python -m nanlab.parts", args=argv, config=(tyro.conf.FlagCreatePairsOff,)
    )
    unknown = [kind for kind in arguments.kinds if kind not in PARTS]
    if unknown:
        print(f"no kind of part is called {unknown[0]}; there are {', '.join(PARTS)}",
              file=sys.stderr)  # fmt: skip
        return 2
    kinds = arguments.kinds or tuple(PARTS)
    print(parts_markdown(kinds) if arguments.markdown else parts_text(kinds), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
