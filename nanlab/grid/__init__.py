"""grid.toml -> Grid: validation, every problem at once, by key and line.

The way there: file and flags -> tree (`source`, `flags`) -> what is asked (`asked`, by
the model in `model`) -> products of expanded axes (`parts`, `points`), checked against each other
(`checks`).  `python -m nanlab.grid` writes the JSON Schema for editors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nanlab.grid.document import GridDocument, parse_document
from nanlab.grid.errors import Complaint, GridError, in_order
from nanlab.grid.expansion import Findings
from nanlab.grid.overrides import split_arguments
from nanlab.grid.parameter_models import PROBLEMS
from nanlab.grid.points import Product
from nanlab.grid.schema import Exec, schema
from nanlab.grid.source import Source, read_source
from nanlab.grid.validation import checked_products

__all__ = ["Complaint", "Exec", "Grid", "GridError", "load_grid", "schema", "split_arguments"]

SCHEMA_FILE = Path(__file__).parents[1] / "grid.schema.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """A valid grid: what is asked of how many runs.

    Attributes:
        path: the file, as it was asked for.
        stem: the file's name without its suffix; names the results' folder.
        title: the question that the study answers; the stem where the file has none.
        problems: the problems that its runs are of, in `PROBLEMS`' order, then a person's own.
        exec: how to run it; never part of a run's identity.
        warnings: sentences about what is legal, but surely not meant.
        products: the main grid's points, then each include's; a point may be in several.
        asked: what the file and the flags say.
        source: where they say it.
    """

    path: str
    stem: str
    title: str
    problems: tuple[str, ...]
    exec: Exec
    warnings: tuple[str, ...]
    products: tuple[Product, ...]
    asked: GridDocument
    source: Source

    def complaint(self, key: str, sentence: str) -> Complaint:
        """A complaint about a parameter, or about `run.problem`, at its line."""
        places = [("run", key), ("axes", key)] + [("zip", i, key) for i in range(100)]
        path = next((p for p in places if self.source.knows(p)), None)
        path = tuple(key.split(".")) if path is None else path
        return self.source.complaint(path, sentence)

    def without_rounds(self) -> Grid:
        """The same grid less its [search] or [refine]: what is listed is all that is run."""
        return replace(self, asked=replace(self.asked, search=None, refine=None))

    def resolved_toml(self) -> str:
        """What was asked, flags included, as canonical TOML; loading it gives the same plan."""
        return self.asked.toml()


def load_grid(
    path: str | os.PathLike[str],
    *,
    overrides: Sequence[tuple[str, str]] = (),
    sets: Sequence[str] = (),
) -> Grid:
    """Reads a grid file, lets flags change it, and checks all of it.

    Args:
        path: the TOML file.
        overrides: (key, text) pairs such as ("run.steps", "50") for keys that the file has; a
            text that is no TOML value is a string (see `split_arguments`).
        sets: assignments such as "axes.width=[8, 16]", which may create keys; one that makes a
            parameter of [run] an axis, or the reverse, moves it.

    Raises:
        GridError: every problem that was found, of the file, its values and the flags.
    """
    source = read_source(os.fspath(path), overrides, sets)
    asked, complaints = parse_document(source)
    findings = Findings(source, asked)
    products = checked_products(asked, findings)
    complaints = [*complaints, *findings.complaints, *source.complaints]
    if complaints:
        raise GridError(source.path, in_order(complaints))
    present = {problem for product in products for problem in product.values("problem")}
    stem = Path(source.path).stem
    return Grid(
        path=source.path,
        stem=stem,
        title=asked.title or stem,
        problems=(
            *(problem for problem in PROBLEMS if problem in present),
            *sorted(str(problem) for problem in present if problem not in PROBLEMS),
        ),
        exec=asked.exec,
        warnings=tuple(map(str, in_order(findings.warnings))),
        products=tuple(products),
        asked=asked,
        source=source,
    )


def schema_text() -> str:
    """The JSON Schema as `nanlab/grid.schema.json` holds it."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"
