"""Parameters -> the pydantic model of a grid file, and its JSON Schema.

The tables are generated from the parameters, so a new parameter is accepted in all of them.
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
"""Default maximum number of runs for which `runs.csv` is written next to `runs.parquet`."""

DEVICE_LIMIT = 1024
"""Maximum number of devices of a process; JAX starts that many on a CPU in about a second."""

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

    engine: Annotated[str, Choice(lambda: ENGINES)] = Field(
        default="local",
        description="Where chunks run: local in this process, files in worker processes that "
        "you start (python -m nanlab.worker), ray on a Ray cluster.",
    )
    devices: Annotated[Whole, Field(ge=1, le=DEVICE_LIMIT)] | None = Field(
        default=None,
        description="Number of devices per process; the default is all devices of the machine, or "
        "one per worker with engine ray.",
    )
    mixed_devices: Switch = Field(
        default=False,
        description="Allow machines with different kinds of devices to share the study; adds a "
        "device column to runs.",
    )
    curves: Switch = Field(
        default=False, description="Write curves.parquet: metrics of every run at log-spaced steps."
    )
    chunk_runs: Count | None = Field(
        default=None,
        description="Approximate number of runs per launch; the default is 1,024, or 4,096 per GPU "
        "in a process with GPUs.",
    )
    witnesses: Whole = Field(
        default=20,
        ge=0,
        description="Maximum number of distinct blames replayed by jax.debug_nans.",
    )
    csv_runs: Whole = Field(
        default=CSV_RUNS, ge=0, description="Maximum number of runs for which runs.csv is written."
    )


def _documented(type_: Any, doc: str) -> Any:
    return Annotated[type_, Field(description=doc)]


def _named(name: str, type_: Any) -> Any:
    # A named type is defined once in the schema, however often it is used.
    return cast(Any, TypeAliasType)(name, type_)


def _table(name: str, types: dict[str, Any], doc: str) -> Any:
    """Return a table type with optional keys that rejects all others."""
    table = cast(Any, TypedDict)(name, types, total=False)
    table.__doc__ = doc
    table.__pydantic_config__ = ConfigDict(extra="forbid")
    return table


def _chosen(tag_of: Callable[[Any], str | None], types: dict[str, Any], sentence: str) -> Any:
    """Return a union of `types` in which `tag_of` selects the one that errors refer to.

    Args:
        tag_of: value -> tag, or None if no type fits.
        types: the types by tag.
        sentence: error where no type fits.
    """
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
    # Pydantic includes tags in an error's path; the brackets distinguish them from keys.
    return f"<{name}>"


def _form_of(value: Any) -> str | None:
    if isinstance(value, list):
        return "list"
    keys = list(cast(Tree, value)) if isinstance(value, dict) else []
    nearest = [key if key in FORMS else suggestion(key, FORMS) for key in keys]
    return next((form for form in nearest if form is not None), None)


def _is_single(value: Any) -> bool:
    return not isinstance(value, list | dict)


def _condition_of(value: Any) -> str:
    return "value" if _is_single(value) else "any" if isinstance(value, list) else "compare"


def _included(value: Any) -> str | None:
    return "value" if _is_single(value) else _form_of(value)


def _only_single(value: Any) -> Any:
    if _is_single(value):
        return value
    raise sentence_error("must be one value, the same for every run; several belong under [axes]")


def _only_list(value: Any) -> Any:
    if isinstance(value, list):
        return cast(Any, value)
    if isinstance(value, dict):
        raise sentence_error(
            "must be a list of values: linspace, logspace and range produce numbers"
        )
    raise sentence_error("must be a list; one value belongs under [run]")


def _not_empty(comparison: dict[str, Any]) -> dict[str, Any]:
    if comparison:
        return comparison
    raise sentence_error(f"must contain a comparison: one of {', '.join(COMPARISONS)}")


def _double_brackets(name: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, dict):
            raise sentence_error(f"must be in double brackets: [[{name}]]")
        return value

    return BeforeValidator(check)


def _run_type(parameter: Parameter) -> Any:
    return Annotated[_value_type(parameter), BeforeValidator(_only_single)]


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
    compare = _table(
        f"{parameter.name}_compared", orderings | types, "True where all of these hold."
    )
    return _chosen(
        _condition_of,
        {
            "value": _value_type(parameter),
            "any": values,
            "compare": Annotated[compare, AfterValidator(_not_empty)],
        },
        "",
    )


@cache
def file_model(user_defined: tuple[str, ...] = ()) -> Any:
    """Return the TypeAdapter of a whole grid file; cached, since building it takes some 50 ms.

    Args:
        user_defined: names such as `knobs.alpha` and `static.order` that occur in the file.
    """
    known = [*PARAMETERS.values(), *(PARAMETERS[name] for name in user_defined)]

    def parameters(name: str, type_of: Callable[[Parameter], Any], doc: str) -> Any:
        return _table(name, {p.name: _documented(type_of(p), p.doc) for p in known}, doc)

    run = parameters(
        "Run", _run_type, "Parameters that are the same for every run; each may be an axis instead."
    )
    axes = parameters("Axes", _axis_type, "Axes, whose product is swept; the first varies slowest.")
    zipped = parameters("Zip", _axis_type, "Axes of equal length that move together.")
    exclude = parameters(
        "Exclude", _condition_type, "Drop the points that match all of these conditions."
    )
    include = parameters("Include", _include_type, "Add points: a product of its own over [run].")
    tables = {"zip": zipped, "exclude": exclude, "include": include}
    types = {
        "title": _documented(Annotated[str, Strict()], "Question that the study answers."),
        "run": run,
        "axes": axes,
        **{name: Annotated[list[table], _double_brackets(name)] for name, table in tables.items()},
        "search": Search,
        "refine": Refine,
        "exec": Exec,
        "claim": _documented(
            dict[str, Any],
            "A published claim and its decision rule, read by python -m nanlab.claims.",
        ),
        "law": _documented(
            list[dict[str, Any]],
            "Published laws and how they are measured, read by python -m nanlab.theory.",
        ),
    }
    return TypeAdapter(
        _table("Grid", types, "A study: the runs to train, and the values to sweep.")
    )


class _Untitled(GenerateJsonSchema):
    """A generator without pydantic's titles, which only repeat the keys in capitals."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


_USER_TABLES = {
    "knobs": {"type": "object", "description": "Traced numbers of a user-defined problem."},
    "static": {"type": "object", "description": "Static choices of a user-defined problem."},
}


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a grid file, generated from its model."""
    generated = file_model().json_schema(schema_generator=_Untitled)
    for table in ("Run", "Axes", "Zip", "Exclude", "Include"):
        generated["$defs"][table]["properties"] |= _USER_TABLES
    return {"$schema": GenerateJsonSchema.schema_dialect, **generated}
