"""Data dictionary -> docs/tables.md: every column of every table, with type, unit and meaning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import polars as pl

from nanlab.grid.parameters import PARAMETERS, Parameter
from nanlab.results.dictionary import TABLE_MEANINGS, meaning_of, type_of
from nanlab.results.schema import BLAME, BOUNDARIES, CELLS, CURVES, ENDING, ENDS

_ITERATIONS = [name for name in BLAME if name.endswith("_iterations")]

COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "runs": {
        "run_id": pl.String,
        "group_id": pl.String,
        **dict(list(ENDING.items())[:3]),
        "steps": pl.Int64,
        **dict(list(ENDING.items())[3:]),
        **{name: kind for name, kind in BLAME.items() if name not in _ITERATIONS},
        **dict.fromkeys(("blame_id", "blame_status", "witness", "device"), pl.String),
    },
    "blames": {
        "blame_id": pl.String,
        "runs": pl.Int64,
        "reproduced": pl.Int64,
        "example_run": pl.String,
        **BLAME,
        **dict.fromkeys(("origin_witness", "culprit_witness", "witness"), pl.String),
    },
    "curves": CURVES,
    "boundaries": {name: kind for name, (kind, _) in BOUNDARIES.items()},
    "cells": {
        **{f"AXIS_{end}": pl.Float64 for end in ENDS},
        **{name: kind for name, (kind, _) in CELLS.items()},
    },
}
"""Table -> its columns in their order, parameters left out; `AXIS` stands for a refined axis."""

_MORE = {
    "runs": "The parameters stand between `group_id` and `outcome`; `device` is there with "
    "`[exec] mixed_devices = true` alone.",
    "blames": "The most frequent comes first.",
    "curves": "It is there with `[exec] curves = true`.",
    "boundaries": "It is there with `[search]`; a column for each other axis comes first.",
    "cells": "It is there with `[refine]`; a column for each other axis comes first.",
}

_HEAD = """\
# The tables

Every column of every table of a study: its type, its unit and its meaning. The tables are files in the study's folder: `NAME.parquet`, with a `NAME.csv` of the same rows beside `runs`, `boundaries` and `cells`; `blames` is a CSV file alone. In Python, `nanlab.load("results/X", "NAME")` reads one, and `frame.nanlab.columns` tells of it what this page tells.

What is missing is null, never NaN; [how to read the tables](how-to/read-tables.md) shows what other tools make of that. This page is written by `python -m nanlab.reporting > docs/tables.md`."""  # noqa: E501

_PARAMETERS = """\
## parameters

Each parameter that some run of a study uses has a column in `runs`, under its own name and in this order; one that nothing in the study reads has none. `knobs.NAME` and `static.NAME` are the numbers and the choices of a [problem of your own](how-to/own-problem.md).

What a parameter is: a *knob* is traced, so that another value of it costs no compile; a *static* is a choice that changes the program; an *option* is a number that is left out of the program where it is off; the *address* is the seed; the *length* is how many steps there are; a *rule* says how an ending is called.

| column | type | what it is | default | meaning |
|---|---|---|---|---|"""  # noqa: E501


def columns_markdown() -> str:
    """The page: a section for each table, and one for the parameters."""
    blocks = [_HEAD]
    for table, columns in COLUMNS.items():
        head = [
            f"## {table}",
            "",
            f"{TABLE_MEANINGS[table]} {_MORE[table]}",
            "",
            "| column | type | unit | meaning |",
        ]
        blocks.append("\n".join([*head, "|---|---|---|---|", *_rows(table, columns)]))
        if table == "runs":
            blocks.append("\n".join([_PARAMETERS, *_parameters(PARAMETERS.values())]))
    return "\n\n".join(blocks) + "\n"


def _rows(table: str, columns: Mapping[str, Any]) -> Iterator[str]:
    for name, kind in columns.items():
        meaning, unit = meaning_of(name, table)
        yield _row(f"`{name}`", type_of(kind()), unit, meaning)


def _parameters(parameters: Iterable[Parameter]) -> Iterator[str]:
    for each in parameters:
        names = {str: "string", bool: "boolean", int: "integer", float: "number"}
        kinds = " or ".join(names[kind] for kind in each.kinds)
        default = "" if each.default is None else f"`{str(each.default).lower()}`"
        yield _row(f"`{each.name}`", kinds, each.role, default, each.doc)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
