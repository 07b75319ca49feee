"""grid.toml -> Grid: validation that reports every problem at once, by key and line.

Stages: file and flags to a tree (`source`, `overrides`), the tree to settings (`document`, by the
model in `schema`), settings to products of expanded axes (`expansion`, `points`), and checks
across settings (`validation`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nanlab.grid.document import GridDocument, parse_document
from nanlab.grid.errors import Complaint, GridError, in_order
from nanlab.grid.expansion import Diagnostics
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
    """A valid grid.

    Attributes:
        path: path of the file, as given.
        stem: the file's name without its suffix; names the results folder.
        title: question that the study answers; the stem where the file has none.
        problems: problems of its runs, in the order of `PROBLEMS`, then user-defined ones.
        exec: how to run the study; never part of a run's identity.
        warnings: sentences about what is legal but hardly intended.
        products: points of the main grid, then of each include; a point may be in several.
        document: settings of the file and the flags.
        source: where each of them was set.
    """

    path: str
    stem: str
    title: str
    problems: tuple[str, ...]
    exec: Exec
    warnings: tuple[str, ...]
    products: tuple[Product, ...]
    document: GridDocument
    source: Source

    def complaint(self, key: str, sentence: str) -> Complaint:
        """Return a complaint about a parameter, or about `run.problem`, at its line."""
        paths = [("run", key), ("axes", key)]
        paths += [("zip", i, key) for i in range(len(self.document.zips))]
        path = next((p for p in paths if self.source.defines(p)), tuple(key.split(".")))
        return self.source.complaint(path, sentence)

    def without_rounds(self) -> Grid:
        """Return the grid without [search] and [refine], so that only its coarse pass is run."""
        return replace(self, document=replace(self.document, search=None, refine=None))

    def resolved_toml(self) -> str:
        """Return the settings, flags included, as canonical TOML; it loads to the same plan."""
        return self.document.toml()


def load_grid(
    path: str | os.PathLike[str],
    *,
    overrides: Sequence[tuple[str, str]] = (),
    sets: Sequence[str] = (),
) -> Grid:
    """Read a grid file, apply flags to it, and check the result.

    Args:
        path: the TOML file.
        overrides: (key, text) pairs such as ("run.steps", "50") for keys that the file has; text
            that is not a TOML value is a string (see `split_arguments`).
        sets: assignments such as "axes.width=[8, 16]", which may add keys; one that makes a
            parameter of [run] an axis, or the reverse, moves it.

    Returns:
        The grid.

    Raises:
        GridError: with every problem of the file, its values and the flags.
    """
    source = read_source(os.fspath(path), overrides, sets)
    document, complaints = parse_document(source)
    diagnostics = Diagnostics(source, document)
    products = checked_products(document, diagnostics)
    complaints = [*complaints, *diagnostics.complaints, *source.complaints]
    if complaints:
        raise GridError(source.path, in_order(complaints))
    present = {problem for product in products for problem in product.values("problem")}
    stem = Path(source.path).stem
    return Grid(
        path=source.path,
        stem=stem,
        title=document.title or stem,
        problems=(
            *(problem for problem in PROBLEMS if problem in present),
            *sorted(str(problem) for problem in present if problem not in PROBLEMS),
        ),
        exec=document.exec,
        warnings=tuple(map(str, in_order(diagnostics.warnings))),
        products=tuple(products),
        document=document,
        source=source,
    )


def schema_text() -> str:
    """Return the JSON Schema as text, as in `nanlab/grid.schema.json`."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"
