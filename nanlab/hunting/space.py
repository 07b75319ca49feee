"""Call, names, bounds -> variables: what a search may change, and within which limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.blame.program.call import Call
from nanlab.linting.arguments import (
    compare,
    fits,
    range_of_example,
    ranges_of,
    unknown_name,
)
from nanlab.linting.floats import float_type


class Kind(StrEnum):
    """What an array stands for, by its type and the numbers in the example."""

    NUMBERS = "numbers"
    ZEROS_AND_ONES = "zeros and ones"
    ONE_HOT = "one-hot"
    INTEGERS = "integers"
    BOOLEANS = "booleans"


@dataclass(frozen=True, kw_only=True)
class Variable:
    """An array that a search may change. Complex numbers are pairs along a last axis.

    Attributes:
        index: position among the arrays of the call.
        name: name of the array.
        array: the given array.
        kind: what it stands for.
        lo: least number that it may hold.
        hi: greatest number that it may hold.
        least: least number once the example's signs count no more.
    """

    index: int
    name: str
    array: jax.Array
    kind: Kind
    lo: float
    hi: float
    least: float

    @cached_property
    def given(self) -> np.ndarray:
        """The given numbers, in a type that NumPy computes with."""
        return _numbers(self.array)

    def with_any_sign(self) -> Variable:
        """Return the variable without the limit that only the example's signs suggest."""
        return replace(self, lo=self.least)

    def bounded(self, values: Any) -> np.ndarray:
        """Return numbers within the limits; where the given array is not finite, it stays."""
        with np.errstate(all="ignore"):
            bounded = np.clip(values, self.lo, self.hi).astype(self.given.dtype)
        if self.kind != Kind.NUMBERS:
            return bounded
        return np.where(np.isfinite(self.given), bounded, self.given)

    def on_device(self, values: np.ndarray) -> jax.Array:
        """Return numbers as an array like the given one."""
        dtype = self.array.dtype
        if jnp.issubdtype(dtype, jnp.complexfloating):
            stored = (values[..., 0] + 1j * values[..., 1]).astype(dtype)
        else:
            stored = _rounded_inwards(values, dtype, self)
        if self.array.committed:
            return jax.device_put(stored, self.array.sharding)
        array = jnp.asarray(stored, dtype)
        return _jax.weak(array, dtype) if self.array.weak_type else array


def _numbers(array: jax.Array) -> np.ndarray:
    numbers = np.asarray(array)
    if numbers.dtype.kind == "c":
        return np.stack([np.real(numbers), np.imag(numbers)], -1)
    return numbers if numbers.dtype.kind in "iub" else numbers.astype(_working(numbers.dtype))


def _working(dtype: Any) -> Any:
    return np.float64 if dtype == np.float64 else np.float32


def _rounded_inwards(values: np.ndarray, dtype: Any, variable: Variable) -> np.ndarray:
    """Return numbers in a type whose rounding does not carry them over a limit."""
    stored = values.astype(dtype)
    if variable.kind == Kind.NUMBERS and values.dtype != dtype:
        again = stored.astype(values.dtype)
        is_over = (again > variable.hi) | (again < variable.lo)
        shrunk = (values * (1 - float_type(dtype).epsilon)).astype(dtype)
        stored = np.where(is_over, shrunk, stored)
    return stored


def variables_of(
    call: Call, vary: Iterable[str] | None, bound: float | Mapping[str, Any]
) -> list[Variable]:
    """Return what a search may change.

    Args:
        call: the traced call.
        vary: names of arguments or of parts of them; None for all but the states of optimizers.
        bound: the largest magnitude, or one by name, or a range by name.

    Returns:
        The variables, at least one.

    Raises:
        ValueError: a name fits no argument, a limit is wrong, or nothing can be varied. All
            problems are reported at once.
    """
    problems: list[str] = []
    chosen = (vary,) if isinstance(vary, str) else None if vary is None else tuple(vary)
    for key in chosen or ():
        unknown_name(f"vary: {key!r}", key, call.names, problems)
    limits = _Limits(call.names, bound, problems)
    if problems:
        raise ValueError("\n  ".join(["nanlab.hunt: the search is not well defined", *problems]))
    states = _states_of_optimizers(call)
    left = set[int]() if chosen is not None else states
    variables: list[Variable] = []
    for index, (name, array) in enumerate(zip(call.names, call.arrays, strict=True)):
        is_chosen = chosen is None or any(fits(key, name) for key in chosen)
        if is_chosen and index not in left and _can_vary(array):
            limited = limits.of(index, name, array, is_state=index in states)
            if limited.lo < limited.hi:
                variables.append(limited)
    if problems or not variables:
        problems = problems or [_nothing(call, chosen, left)]
        raise ValueError("\n  ".join(["nanlab.hunt: the search is not well defined", *problems]))
    return variables


def _nothing(call: Call, chosen: tuple[str, ...] | None, left: set[int]) -> str:
    if call.numbers and not call.arrays:
        return (
            f"nothing can be varied: {', '.join(call.numbers)} is a Python number, which stays "
            "what it is; pass jnp.asarray of it"
        )
    if left:
        return (
            "nothing can be varied but the state of an optimizer; name it, as in "
            f"vary={call.names[min(left)]!r}"
        )
    named = "the arguments" if chosen is None else ", ".join(map(repr, chosen)) or "an empty list"
    return (
        f"nothing can be varied: in {named} is no array of numbers that may take more than one "
        "value within the limits (random keys and counts stay what they are)"
    )


def _can_vary(array: jax.Array) -> bool:
    if _jax.is_key(array) or not array.size or not array.is_fully_addressable:
        return False
    is_old_key = array.dtype == jnp.uint32 and array.ndim and array.shape[-1] in (2, 4)
    return not is_old_key


class _Limits:
    """Within which limits the numbers of an array may be."""

    def __init__(
        self, names: Sequence[str], bound: float | Mapping[str, Any], problems: list[str]
    ) -> None:
        self._problems = problems
        self._bound, self._given = 10.0, dict[str, Any]()
        if isinstance(bound, Mapping):
            self._given = dict(bound)
        elif isinstance(bound, bool) or not _is_magnitude(bound):
            problems.append(f"bound = {bound!r}: must be a positive number, or a number or a pair "
                            "(least, most) by name, as in {'batch': 5.0}")  # fmt: skip
        else:
            self._bound = float(bound)
        self._ranges = ranges_of("bound", self._given, names, problems)

    def of(self, index: int, name: str, array: jax.Array, *, is_state: bool) -> Variable:
        """Return a variable with its kind and its limits, equal ones if it is constant.

        Args:
            index: position among the arrays of the call.
            name: name of the array.
            array: the given array.
            is_state: whether it belongs to the state of an optimizer.

        Returns:
            The variable.
        """
        key = max((key for key in self._ranges if fits(key, name)), key=len, default=None)
        lo, hi = (-self._bound, self._bound) if key is None else self._ranges[key]
        is_range = key is not None and isinstance(self._given[key], Sequence)
        numbers = _numbers(array)

        def variable(kind: Kind, lo: float, hi: float, least: float | None = None) -> Variable:
            least = lo if least is None else least
            return Variable(
                index=index, name=name, array=array, kind=kind, lo=lo, hi=hi, least=least
            )  # fmt: skip

        if array.dtype == jnp.bool_:
            return variable(Kind.BOOLEANS, 0, 1)
        if array.dtype.kind in "iu":
            seen = int(numbers.min()), int(numbers.max())
            return variable(Kind.INTEGERS, *((lo, hi) if is_range else seen))
        if not is_range and (choices := _choices(numbers)):
            return variable(choices, 0, 1)
        finite = numbers[np.isfinite(numbers)]
        if key is None:
            reach = float(np.abs(finite).max(initial=0))
            lo, hi = min(lo, -reach), max(hi, reach)
        else:
            compare(name, finite, lo, hi, self._problems)
        most = _largest(array.dtype)
        lo, hi = max(lo, -most), min(hi, most)
        is_moment = is_state or _is_positive(name, np.zeros(1))
        if _is_positive(name, numbers) and not is_range and (key is None or is_moment):
            return variable(Kind.NUMBERS, 0.0, hi, 0.0 if is_moment else lo)
        return variable(Kind.NUMBERS, lo, hi)


def _is_positive(name: str, numbers: np.ndarray) -> bool:
    """Return whether numbers are nowhere negative, by the example or by their name."""
    return range_of_example(name, numbers)[0] == 0


def _is_magnitude(bound: Any) -> bool:
    try:
        return bool(0 < float(bound) < np.inf)
    except (TypeError, ValueError):
        return False


def _largest(dtype: Any) -> float:
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    return float(jnp.finfo(dtype).max) if is_complex else float_type(dtype).largest


def _choices(numbers: np.ndarray) -> Kind | None:
    """Return what an array of zeros and ones stands for; None for other numbers."""
    ones = numbers == 1
    if numbers.size < 3 or ones.all() or not ones.any() or not (ones | (numbers == 0)).all():
        return None
    is_one_hot = numbers.ndim > 1 and bool((ones.sum(-1) == 1).all())
    return Kind.ONE_HOT if is_one_hot else Kind.ZEROS_AND_ONES


class _Mark:
    """The position of an array."""

    def __init__(self, index: int) -> None:
        self.index = index


def _states_of_optimizers(call: Call) -> set[int]:
    """Return the positions of the arrays in states of Optax's optimizers."""
    if call.restored is None:
        return set()
    named = {i for i, name in enumerate(call.names) if "opt_state" in name}
    try:
        arguments = call.restored([_Mark(i) for i in range(len(call.arrays))])
    except Exception:  # Flax's objects take arrays only
        return named
    states = jax.tree.leaves(arguments, is_leaf=_is_state)
    marks = jax.tree.leaves([state for state in states if _is_state(state)])
    return named | {mark.index for mark in marks if isinstance(mark, _Mark)}


def _is_state(node: Any) -> bool:
    kind = type(node)
    return kind.__module__.startswith("optax.") and kind.__name__.endswith("State")
