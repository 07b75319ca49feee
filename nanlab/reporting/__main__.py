"""Data dictionary of the tables: `python -m nanlab.reporting` prints docs/tables.md."""

from __future__ import annotations

from dataclasses import dataclass

import tyro


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Print the data dictionary: type, unit and meaning of every column, in Markdown."""


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    tyro.cli(Arguments, prog="python -m nanlab.reporting", args=argv)
    from nanlab.reporting.columns import columns_markdown

    print(columns_markdown(), end="")


if __name__ == "__main__":
    main()
