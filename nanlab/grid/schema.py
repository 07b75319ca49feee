"""Parameters -> the grid file's model: what each of its tables accepts, and its JSON Schema.

The tables are made of the parameters here, so a new parameter is accepted everywhere by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    TypeAdapter,
)
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypeAliasType, TypedDict

from nanlab.grid.axes import FORMS, Count
from nanlab.grid.errors import suggestion
from nanlab.grid.parameter_types import Choice, Number, Switch, Whole, sentence_error
from nanlab.grid.parameters import PARAMETERS, Parameter
from nanlab.grid.search import Refine, Search
from nanlab.grid.toml import Tree

CSV_RUNS = 100_000
"""`runs.csv` is written up to this many runs; `runs.parquet` always."""

ENGINES = ("local", "files", "ray")
"""Where chunks can run."""

ORDERINGS = ("gt", "ge", "lt", "le")
COMPARISONS = (*ORDERINGS, "ne", "in", "not_in")

_AXIS_SENTENCE = (
    "must be a list, or a table such as { linspace = [1.0, 2.0], num = 3 }; "
    "one value belongs under [run]"
)


class Exec(BaseModel, frozen=True, extra="forbid"):
    """How to run a study; never part of a run's identity."""

    engine: Annotated[
        str,
        Choice(lambda: ENGINES),
        Field(
            description="Where chunks run: local is this process, files are workers that you "
            "start (python -m nanlab.worker), ray is a Ray cluster."
        ),
    ] = "local"
    devices: Annotated[
        Count | None,
        Field(
            description="How many devices a process uses; all of its machine's where left out, "
            "and one for each worker of engine ray."
        ),
    ] = None
    mixed_devices: Annotated[
        Switch,
        Field(
            description="Whether machines with different kinds of devices may share the study; "
            "runs then has a column device."
        ),
    ] = False
    curves: Annotated[
        Switch,
        Field(description="Whether to write curves.parquet: what runs show at log-spaced steps."),
    ] = False
    chunk_runs: Annotated[
        Count | None,
        Field(
            description="About how many runs are launched at a time; 1,024 where left out, and "
            "where one process has GPUs 4,096 for each."
        ),
    ] = None
    witnesses: Annotated[
        Whole,
        Field(ge=0, description="How many distinct blames are replayed under jax.debug_nans."),
    ] = 20
    csv_runs: Annotated[
        Whole, Field(ge=0, description="runs.csv is written up to this many runs.")
    ] = CSV_RUNS


def _documented(type_: Any, doc: str) -> Any:
    return Annotated[type_, Field(description=doc)]


def _named(name: str, type_: Any) -> Any:
    # A named type is one definition in the schema, however often it is used.
    return cast(Any, TypeAliasType)(name, type_)


def _table(name: str, types: dict[str, Any], doc: str) -> Any:
    """A table of which every key may be left out, and which knows no others."""
    table = cast(Any, TypedDict)(name, types, total=False)
    table.__doc__ = doc
    table.__pydantic_config__ = ConfigDict(extra="forbid")
    return table


def _chosen(tag_of: Callable[[Any], str | None], types: dict[str, Any], sentence: str) -> Any:
    """The one of `types` whose tag `tag_of` finds; errors speak of that one alone."""
    union: Any = None
    for tag, type_ in types.items():
        tagged = Annotated[type_, Tag(_tag(tag))]
        union = tagged if union is None else union | tagged
    chooser = Discriminator(
        lambda value: None if (tag := tag_of(value)) is None else _tag(tag),
        custom_error_type="sentence",
        custom_error_message="{sentence}",
        custom_error_context={"sentence": sentence},
    )
    return Annotated[union, chooser]


def _tag(name: str) -> str:
    # Pydantic puts tags into an error's path; the brackets tell them from a person's keys.
    return f"<{name}>"


def _form_of(value: Any) -> str | None:
    if isinstance(value, list):
        return "list"
    keys = list(cast(Tree, value)) if isinstance(value, dict) else []
    nearest = [key if key in FORMS else suggestion(key, FORMS) for key in keys]
    return next((form for form in nearest if form is not None), None)


def _is_one(value: Any) -> bool:
    return not isinstance(value, list | dict)


def _condition_of(value: Any) -> str:
    return "value" if _is_one(value) else "any" if isinstance(value, list) else "compare"


def _included(value: Any) -> str | None:
    return "value" if _is_one(value) else _form_of(value)


def _only_one(value: Any) -> Any:
    if _is_one(value):
        return value
    raise sentence_error("must be one value, the same for every run; several belong under [axes]")


def _only_list(value: Any) -> Any:
    if isinstance(value, list):
        return cast(Any, value)
    if isinstance(value, dict):
        raise sentence_error("must be a list of values: linspace, logspace and range make numbers")
    raise sentence_error("must be a list; one value belongs under [run]")


def _some(comparison: dict[str, Any]) -> dict[str, Any]:
    if comparison:
        return comparison
    raise sentence_error(f"must hold a comparison: one of {', '.join(COMPARISONS)}")


def _double_brackets(name: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, dict):
            raise sentence_error(f"must be in double brackets: [[{name}]]")
        return value

    return BeforeValidator(check)


def _run_type(parameter: Parameter) -> Any:
    return Annotated[_value_type(parameter), BeforeValidator(_only_one)]


@cache
def _value_type(parameter: Parameter) -> Any:
    return _named(parameter.name, parameter.type)


def _list_type(parameter: Parameter) -> Any:
    return Annotated[list[_value_type(parameter)], Field(min_length=1)]


@cache
def _axis_type(parameter: Parameter) -> Any:
    if parameter.is_number:
        values = _chosen(_form_of, {"list": _list_type(parameter), **FORMS}, _AXIS_SENTENCE)
    else:
        values = Annotated[_list_type(parameter), BeforeValidator(_only_list)]
    return _named(f"{parameter.name}_axis", values)


def _include_type(parameter: Parameter) -> Any:
    forms = FORMS if parameter.is_number else {}
    types = {"value": _value_type(parameter), "list": _list_type(parameter), **forms}
    table = ", or a table such as { range = 8 }" if forms else ""
    return _chosen(_included, types, f"must be one value, a list{table}")


def _condition_type(parameter: Parameter) -> Any:
    values = _list_type(parameter)
    types = {key: values for key in ("in", "not_in")} | {"ne": _value_type(parameter)}
    orderings = dict.fromkeys(ORDERINGS, Number) if parameter.is_number else {}
    compare = _table(f"{parameter.name}_compared", orderings | types, "All of these hold.")
    return _chosen(
        _condition_of,
        {
            "value": _value_type(parameter),
            "any": values,
            "compare": Annotated[compare, AfterValidator(_some)],
        },
        "",
    )


@cache
def file_model(own: tuple[str, ...] = ()) -> Any:
    """Pydantic's TypeAdapter of a whole grid file; built once, since that takes some 50 ms.

    Args:
        own: the parameters of a person's own that the file names, `knobs.alpha` or `static.order`.
    """
    known = [*PARAMETERS.values(), *(PARAMETERS[name] for name in own)]

    def parameters(name: str, type_of: Callable[[Parameter], Any], doc: str) -> Any:
        return _table(name, {p.name: _documented(type_of(p), p.doc) for p in known}, doc)

    run = parameters("Run", _run_type, "The same for every run; any may be an axis instead.")
    axes = parameters("Axes", _axis_type, "The product of these; the first varies slowest.")
    zipped = parameters("Zip", _axis_type, "Axes of equal length that move together.")
    exclude = parameters("Exclude", _condition_type, "Drops the points that match all of these.")
    include = parameters("Include", _include_type, "Adds points: a product over [run].")
    tables = {"zip": zipped, "exclude": exclude, "include": include}
    types = {
        "title": _documented(Annotated[str, Strict()], "The question that the study answers."),
        "run": run,
        "axes": axes,
        **{name: Annotated[list[table], _double_brackets(name)] for name, table in tables.items()},
        "search": Search,
        "refine": Refine,
        "exec": Exec,
        "claim": _documented(
            dict[str, Any], "A published claim and its rule, read by python -m nanlab.claims."
        ),
    }
    return TypeAdapter(_table("Grid", types, "A study: what is run, and over which values."))


class _Untitled(GenerateJsonSchema):
    """Leaves out pydantic's titles, which only say a key again in capitals."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


_OWN_TABLES = {
    "knobs": {"type": "object", "description": "Numbers of a problem of your own."},
    "static": {"type": "object", "description": "Choices of a problem of your own."},
}


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a grid file, from the models that validate one."""
    generated = file_model().json_schema(schema_generator=_Untitled)
    for table in ("Run", "Axes", "Zip", "Exclude", "Include"):
        generated["$defs"][table]["properties"] |= _OWN_TABLES
    return {"$schema": GenerateJsonSchema.schema_dialect, **generated}
