"""`python -m nanlab.grid`: print the JSON Schema of grid files, or write it into the repository."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import tyro

from nanlab.grid import SCHEMA_FILE, schema_text


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Print the JSON Schema of grid files, which gives editors completion and descriptions."""

    write: bool = False
    """write it to nanlab/grid.schema.json instead, for contributors to nanlab"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = tyro.cli(
        Arguments, prog="python -m nanlab.grid", args=argv, config=(tyro.conf.FlagCreatePairsOff,)
    )
    if arguments.write:
        SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
        print(SCHEMA_FILE)
    else:
        print(schema_text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
