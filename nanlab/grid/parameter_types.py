"""Types of the values that a grid holds; pydantic checks them strictly."""

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
that is left out of the program at its default, 0, so runs that use it form their own group;
`static` changes the program and hence the group; `address` is the seed; `length` is the number of
steps, traced; `rule` only decides the name of the outcome, on the host."""

LARGEST_INT = 2**63 - 1
"""Whole numbers are stored in 64 bits."""

USER_CODE = re.compile(r".+:[A-Za-z_]\w*$")
"""A reference to user code in a grid: "module:name" or "path/to/file.py:name"."""


@dataclass(frozen=True)
class Choice:
    """A string type that accepts one of `names()`, called on every check because tables may grow.

    Attributes:
        names: function that lists the accepted names.
        user_code: example of a reference to user code; None where none is accepted.
        endings: file suffixes that are accepted too.
    """

    names: Callable[[], Iterable[str]]
    user_code: str | None = None
    endings: tuple[str, ...] = ()

    def check(self, value: object) -> str:
        """Return `value` if it is accepted.

        Raises:
            PydanticCustomError: of type "choice", if it is not.
        """
        names = list(self.names())
        if isinstance(value, str) and (value in names or self._is_user_code(value)):
            return value
        context = {"names": names, "user_code": self.user_code}
        raise PydanticCustomError("choice", "not a choice", context)

    def _is_user_code(self, value: str) -> bool:
        if self.endings and value.endswith(self.endings):
            return True
        return self.user_code is not None and USER_CODE.match(value) is not None

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        names = {"type": "string", "enum": list(self.names())}
        if not self.user_code:
            return names
        pattern = "|".join((":", *(ending.replace(".", r"\\.") + "$" for ending in self.endings)))
        return {"anyOf": [names, {"type": "string", "pattern": pattern}]}


def sentence_error(sentence: str) -> PydanticCustomError:
    """Return an error of type "sentence", whose context holds the message for the user."""
    return PydanticCustomError("sentence", "{sentence}", {"sentence": sentence})


def or_sentence(sentence: str) -> WrapValidator:
    """Return a validator that replaces all errors of a type with one sentence."""

    def validate(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValueError as error:
            raise sentence_error(sentence) from error

    return WrapValidator(validate)


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
    or_sentence('must be a whole number, 1 or more, or "full"'),
]
