"""Source -> GridDocument: the settings that pydantic accepts, and complaints about the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nanlab.grid.axes import FORMS, AxisForm
from nanlab.grid.errors import (
    MAX_COMPLAINTS,
    Complaint,
    GridError,
    in_order,
    sentence_of,
    suggestion,
    unknown_key,
)
from nanlab.grid.parameter_types import ParameterValue
from nanlab.grid.parameters import PARAMETERS, is_user_defined
from nanlab.grid.schema import COMPARISONS, ORDERINGS, Exec, file_model
from nanlab.grid.search import Refine, Search
from nanlab.grid.source import Source
from nanlab.grid.toml import Path, Tree, file_text

USER_TABLES = ("knobs", "static")
GRID_TABLES = (
    "title", "run", "axes", "zip", "exclude", "include", "search", "refine", "exec", "claim", "law",
)  # fmt: skip

DOCUMENT_MODELS: dict[str, type[BaseModel]] = {"search": Search, "refine": Refine, "exec": Exec}
"""The tables whose keys are not parameters."""

Condition = ParameterValue | list[ParameterValue] | dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class GridDocument:
    """The contents of a grid file, each value valid on its own.

    Attributes:
        title: question that the study answers, or None.
        run: parameters that are the same for every run.
        axes: axes, in the file's order.
        zips: the [[zip]] tables.
        excludes: the [[exclude]] tables.
        includes: the [[include]] tables.
        search: the [search] table, or None.
        refine: the [refine] table, or None.
        exec: how to run the study.
        invalid: paths of parameters or tables that were dropped as invalid.
    """

    title: str | None
    run: dict[str, ParameterValue]
    axes: dict[str, AxisForm]
    zips: list[dict[str, AxisForm]]
    excludes: list[dict[str, Condition]]
    includes: list[dict[str, ParameterValue | AxisForm]]
    search: Search | None
    refine: Refine | None
    exec: Exec
    invalid: frozenset[Path]

    @property
    def refinement(self) -> Search | Refine | None:
        """The [search] or [refine] table; None in a plain grid."""
        return self.search or self.refine

    def toml(self) -> str:
        """Return canonical TOML: no comments, normalized numbers, tables in a fixed order."""
        tree: Tree = {"title": self.title, "run": self.run, "axes": self.axes}
        tree |= {"zip": self.zips, "exclude": self.excludes, "include": self.includes}
        for key in DOCUMENT_MODELS:
            model: BaseModel | None = getattr(self, key)
            tree[key] = None if model is None else model.model_dump(exclude_unset=True)
        return file_text({key: _plain(value) for key, value in tree.items() if value})


def _plain(node: Any) -> Any:
    if isinstance(node, BaseModel):
        return node.model_dump()
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in cast(Tree, node).items()}
    return [_plain(value) for value in cast(list[Any], node)] if isinstance(node, list) else node


def flattened(tree: Tree) -> Tree:
    """Return the tree with `knobs.alpha` and `static.order` as one key each, in every table."""
    return {key: _flat(value) for key, value in tree.items()}


def _flat(table: Any) -> Any:
    if isinstance(table, list):
        return [_flat(item) for item in cast(list[Any], table)]
    if not isinstance(table, dict):
        return table
    flat: Tree = {}
    for key, value in cast(Tree, table).items():
        if key in USER_TABLES and isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in cast(Tree, value).items()}
        else:
            flat[key] = value
    return flat


def _user_defined_names(tree: Tree) -> Iterable[str]:
    values = [value if isinstance(value, list) else [value] for value in tree.values()]
    tables = [table for value in values for table in cast(list[Any], value)]
    names = {name for table in tables if isinstance(table, dict) for name in cast(Tree, table)}
    return sorted(filter(is_user_defined, names))


def parse_document(source: Source) -> tuple[GridDocument, list[Complaint]]:
    """Return the settings that are valid, and complaints; raise those if they are too many."""
    complaints: list[Complaint] = []
    invalid: frozenset[Path] = frozenset()
    tree = flattened(source.tree)
    model = file_model(tuple(_user_defined_names(tree)))
    try:
        parsed = model.validate_python(tree)
    except ValidationError as error:
        details = error.errors(include_url=False)
        complaints = _complaints(source, details[:MAX_COMPLAINTS])
        if len(details) >= MAX_COMPLAINTS:
            raise GridError(source.path, in_order(complaints)) from None
        invalid = frozenset(_unit(_written(detail["loc"])) for detail in details)
        tree = _without(tree, (), invalid)
        parsed = model.validate_python(tree)
    return _document(parsed, tree, invalid), complaints


def _document(parsed: Tree, tree: Tree, invalid: frozenset[Path]) -> GridDocument:
    def ordered(values: Tree, as_in: Tree) -> Tree:
        return {name: values[name] for name in as_in}

    def tables(key: str) -> list[Tree]:
        pairs = zip(parsed.get(key, []), tree.get(key, []), strict=True)
        return [ordered(values, as_in) for values, as_in in pairs]

    return GridDocument(
        title=parsed.get("title"),
        run=parsed.get("run", {}),
        axes=ordered(parsed.get("axes", {}), tree.get("axes", {})),
        zips=tables("zip"),
        excludes=tables("exclude"),
        includes=tables("include"),
        search=parsed.get("search"),
        refine=parsed.get("refine"),
        exec=parsed.get("exec", Exec()),
        invalid=invalid,
    )


def _written(location: Path) -> Path:
    """Return pydantic's location as in the file: without the tags of our unions."""
    return tuple(p for p in location if not (isinstance(p, str) and p.startswith("<")))


def _unit(path: Path) -> Path:
    """Return the smallest unit to drop if `path` is invalid: mostly a parameter."""
    if path[0] in ("search", "refine"):
        return path[:1]  # the rest of the table may depend on it
    return path[: 3 if path[0] in ("zip", "exclude", "include") else 2]


def _without(node: Any, path: Path, invalid: frozenset[Path]) -> Any:
    """Return `node` without what is invalid; a table in a list becomes an empty one."""
    if isinstance(node, dict):
        valid = {k: v for k, v in cast(Tree, node).items() if (*path, k) not in invalid}
        return {key: _without(value, (*path, key), invalid) for key, value in valid.items()}
    if isinstance(node, list):
        items = enumerate(cast(list[Any], node))
        return [{} if (*path, i) in invalid else _without(v, (*path, i), invalid) for i, v in items]
    return node


def _complaints(source: Source, errors: Sequence[ErrorDetails]) -> list[Complaint]:
    unknown = [error for error in errors if error["type"] == "extra_forbidden"]
    meant = {_meant(error["loc"]) for error in unknown}
    complaints = [source.complaint(_written(e["loc"]), _unknown_key(e["loc"])) for e in unknown]
    for error in errors:
        path = _written(error["loc"])
        if error["type"] == "missing":
            # A misspelled key is reported as unknown, and not as missing too.
            if path not in meant:
                complaints.append(source.complaint(path, sentence_of(error)))
        elif error["type"] != "extra_forbidden":
            complaints.append(source.complaint(path, sentence_of(error), error["input"]))
    return complaints


def _meant(location: Path) -> Path:
    near = suggestion(location[-1], _known_keys(location))
    return (*_written(location)[:-1], near or location[-1])


def _unknown_key(location: Path) -> str:
    key = location[-1]
    if len(location) == 1 and key in PARAMETERS:
        return f'a parameter belongs in a table; did you mean "run.{key}" or "axes.{key}"?'
    return unknown_key(key, _known_keys(location))


def _known_keys(location: Path) -> Sequence[str]:
    if len(location) == 1:
        return GRID_TABLES
    if location[0] in DOCUMENT_MODELS:
        return list(DOCUMENT_MODELS[str(location[0])].model_fields)
    tag = str(location[-2]).strip("<>")
    if tag in FORMS:
        return list(FORMS[tag].model_fields)
    if tag == "compare":
        is_number = PARAMETERS[str(location[-3])].is_number
        return [key for key in COMPARISONS if is_number or key not in ORDERINGS]
    return list(PARAMETERS)
