"""Data dictionary -> docs/tables.md: every column of every table, with type, unit and meaning."""

from __future__ import annotations

from nanlab.grid.parameters import PARAMETERS, Parameter
from nanlab.results.dictionary import type_of
from nanlab.results.schema import TABLES
from nanlab.results.text_tables import markdown_table

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

What a parameter is: a *knob* is traced, so that another value of it costs no compile; a *static* is a choice that changes the program; an *option* is a number that is left out of the program where it is off; the *address* is the seed; the *length* is how many steps there are; a *rule* says how an ending is called."""  # noqa: E501


def columns_markdown() -> str:
    """The page: a section for each table, and one for the parameters."""
    blocks = [_HEAD]
    for name, table in TABLES.items():
        rows = [
            (f"`{column}`", type_of(kind()), unit, meaning)
            for column, (kind, meaning, unit) in table.columns.items()
        ]
        heading = f"## {name}\n\n{table.meaning} {_MORE[name]}\n\n"
        blocks.append(heading + markdown_table(("column", "type", "unit", "meaning"), rows))
        if name == "runs":
            header = ("column", "type", "what it is", "default", "meaning")
            rows = map(_parameter, PARAMETERS.values())
            blocks.append(f"{_PARAMETERS}\n\n{markdown_table(header, rows)}")
    return "\n\n".join(blocks) + "\n"


def _parameter(parameter: Parameter) -> tuple[str, ...]:
    names = {str: "string", bool: "boolean", int: "integer", float: "number"}
    kinds = " or ".join(names[kind] for kind in parameter.kinds)
    default = "" if parameter.default is None else f"`{str(parameter.default).lower()}`"
    return f"`{parameter.name}`", kinds, parameter.role, default, parameter.doc
