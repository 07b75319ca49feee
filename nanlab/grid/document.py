"""Tree -> Asked: what the file asks for, and a complaint for each part that means nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nanlab.grid.axes import FORMS, AxisForm
from nanlab.grid.errors import Complaint, sentence_of, suggestion, unknown_key
from nanlab.grid.parameter_types import ParameterValue
from nanlab.grid.parameters import PARAMETERS, is_user_defined
from nanlab.grid.schema import COMPARISONS, ORDERINGS, Exec, file_model
from nanlab.grid.search import Refine, Search
from nanlab.grid.source import Source
from nanlab.grid.toml import Path, Tree, file_text

OWN_TABLES = ("knobs", "static")
GRID_TABLES = (
    "title", "run", "axes", "zip", "exclude", "include", "search", "refine", "exec", "claim",
)  # fmt: skip

DOCUMENT_MODELS: dict[str, type[BaseModel]] = {"search": Search, "refine": Refine, "exec": Exec}
"""The tables whose keys are no parameters."""

Condition = ParameterValue | list[ParameterValue] | dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class GridDocument:
    """What a grid file asks for, each value valid on its own.

    Attributes:
        title: the question, or None.
        run: parameters that are the same for every run.
        axes: in the file's order.
        zips, excludes, includes: one table each, as many as there are in the file.
        search, refine: along which axes to make it finer where its outcome changes, or None.
        exec: how to run it.
        lost: what could not be understood and is not here: paths of parameters, or of tables.
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
    lost: frozenset[Path]

    @property
    def finer(self) -> Search | Refine | None:
        """What says along which axes it is made finer; None if it is a plain grid."""
        return self.search or self.refine

    def toml(self) -> str:
        """The same as canonical TOML: no comments, numbers normalized, tables in a fixed order."""
        tree: Tree = {
            "title": self.title,
            "run": self.run,
            "axes": self.axes,
            "zip": self.zips,
            "exclude": self.excludes,
            "include": self.includes,
        }
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
    """The tree with `knobs.alpha` and `static.order` as one key each, in every table."""
    return {key: _flat(value) for key, value in tree.items()}


def _flat(table: Any) -> Any:
    if isinstance(table, list):
        return [_flat(each) for each in cast(list[Any], table)]
    if not isinstance(table, dict):
        return table
    flat: Tree = {}
    for key, value in cast(Tree, table).items():
        if key in OWN_TABLES and isinstance(value, dict):
            flat |= {f"{key}.{name}": each for name, each in cast(Tree, value).items()}
        else:
            flat[key] = value
    return flat


def _own_names(tree: Tree) -> Iterable[str]:
    values = [value if isinstance(value, list) else [value] for value in tree.values()]
    tables = [each for value in values for each in cast(list[Any], value)]
    names = {name for table in tables if isinstance(table, dict) for name in cast(Tree, table)}
    return sorted(filter(is_user_defined, names))


def parse_document(source: Source) -> tuple[GridDocument, list[Complaint]]:
    """What pydantic understands of the source's tree, and complaints about all the rest."""
    complaints: list[Complaint] = []
    lost: frozenset[Path] = frozenset()
    tree = flattened(source.tree)
    model = file_model(tuple(_own_names(tree)))
    try:
        parsed = model.validate_python(tree)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
        complaints = _complaints(source, errors)
        lost = frozenset(_lost(_written(error["loc"])) for error in errors)
        tree = _without(tree, (), lost)
        parsed = model.validate_python(tree)
    return _asked(parsed, tree, lost), complaints


def _asked(parsed: Tree, tree: Tree, lost: frozenset[Path]) -> GridDocument:
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
        lost=lost,
    )


def _is_tag(part: str | int) -> bool:
    return isinstance(part, str) and part.startswith("<")


def _written(location: Path) -> Path:
    """Pydantic's location as a person wrote it: without the tags of our unions."""
    return tuple(part for part in location if not _is_tag(part))


def _lost(path: Path) -> Path:
    """The smallest part of the file that means nothing without `path`: mostly a parameter."""
    if path[0] in ("search", "refine"):
        return path[:1]  # what is left of it may mean nothing
    return path[: 3 if path[0] in ("zip", "exclude", "include") else 2]


def _without(node: Any, path: Path, lost: frozenset[Path]) -> Any:
    """`node` without what is lost; a lost table in a list leaves an empty one in its place."""
    if isinstance(node, dict):
        kept = {k: v for k, v in cast(Tree, node).items() if (*path, k) not in lost}
        return {key: _without(value, (*path, key), lost) for key, value in kept.items()}
    if isinstance(node, list):
        places = enumerate(cast(list[Any], node))
        return [{} if (*path, i) in lost else _without(v, (*path, i), lost) for i, v in places]
    return node


def _complaints(source: Source, errors: Sequence[ErrorDetails]) -> list[Complaint]:
    unknown = [error for error in errors if error["type"] == "extra_forbidden"]
    meant = {_meant(error["loc"]) for error in unknown}
    complaints = [source.complaint(_written(e["loc"]), _unknown_key(e["loc"])) for e in unknown]
    for error in errors:
        path = _written(error["loc"])
        if error["type"] == "missing":
            # A key that is only misspelled is told once.
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
        return f'a parameter stands in a table; did you mean "run.{key}" or "axes.{key}"?'
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
