"""Data dictionary -> docs/tables.md: every column of every table, with type, unit and meaning."""

from __future__ import annotations

from nanlab.grid.parameters import PARAMETERS
from nanlab.reporting.rendering import rendered
from nanlab.results.dictionary import type_of
from nanlab.results.schema import TABLES

KINDS = {str: "string", bool: "boolean", int: "integer", float: "number"}


def columns_markdown() -> str:
    """Return the page: a section for each table, and one for the parameters."""
    return rendered(
        "dictionary.txt",
        tables=TABLES,
        type_of=type_of,
        parameters=PARAMETERS.values(),
        kinds=KINDS,
    )
