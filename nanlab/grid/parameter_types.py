"""What a value may be -> types: the kinds of value that a grid holds, checked strictly."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AllowInfNan,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    WrapValidator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

ParameterValue = bool | int | float | str

Role = Literal["knob", "option", "static", "address", "length", "rule"]
"""What a parameter does: `knob` is traced, so a new value costs no compile; `option` is a knob
that is left out of the program at its default, 0, so runs with it are a group of their own;
`static` changes the program and so the group; `address` is the seed; `length` is the number of
steps, traced; `rule` only decides the outcome's name, on the host."""

LARGEST_INT = 2**63 - 1
"""Whole numbers are held in 64 bits."""


OWN_CODE = re.compile(r".+:[A-Za-z_]\w*$")
"""What a person's own code looks like in a grid: "module:name" or "path/to/file.py:name"."""


@dataclass(frozen=True)
class Choice:
    """A string type: one of `names()`, which is asked anew each time, so that a table may grow.

    Where `own` says how, a person's own code does too: "module:name" or "path/to/file.py:name";
    and so does a file with one of `endings`.
    """

    names: Callable[[], Iterable[str]]
    own: str | None = None
    endings: tuple[str, ...] = ()

    def check(self, value: object) -> str:
        """`value` if it is one of the names; otherwise pydantic's error of type "choice"."""
        names = list(self.names())
        if isinstance(value, str) and (value in names or self._is_own(value)):
            return value
        raise PydanticCustomError("choice", "not a choice", {"names": names, "own": self.own})

    def _is_own(self, value: str) -> bool:
        if self.endings and value.endswith(self.endings):
            return True
        return self.own is not None and OWN_CODE.match(value) is not None

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        names = {"type": "string", "enum": list(self.names())}
        pattern = "|".join((":", *(ending.replace(".", r"\\.") + "$" for ending in self.endings)))
        return {"anyOf": [names, {"type": "string", "pattern": pattern}]} if self.own else names


def sentence_error(sentence: str) -> PydanticCustomError:
    """An error of type "sentence", whose context already holds what a person is told."""
    return PydanticCustomError("sentence", "{sentence}", {"sentence": sentence})


def _size_or_full(value: Any, handler: Callable[[Any], int | str]) -> int | str:
    try:
        return handler(value)
    except ValueError as error:
        raise sentence_error('must be a whole number, 1 or more, or "full"') from error


def _scalar(value: Any) -> ParameterValue:
    is_scalar = isinstance(value, bool | int | float | str)
    if not is_scalar or (isinstance(value, float) and not math.isfinite(value)):
        raise sentence_error("must be true or false, a finite number, or text in quotes")
    return value


Scalar = Annotated[Any, BeforeValidator(_scalar)]
Number = Annotated[float, Strict(), AllowInfNan(False)]
Whole = Annotated[int, Strict()]
Switch = Annotated[bool, Strict()]
BatchSize = Annotated[
    Annotated[int, Strict(), Field(ge=1, le=LARGEST_INT)] | Literal["full"],
    WrapValidator(_size_or_full),
]
