"""Rules of reading and writing elements by index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from nanlab.blame.vocabulary import Mechanism
from nanlab.linting.abstract import NEVER, Abstract, anything, joined
from nanlab.linting.floats import is_float
from nanlab.linting.here import Here
from nanlab.linting.rules.reductions import product_of, sum_of


def gather(here: Here, a: Abstract, indices: Abstract) -> Abstract:
    """Return elements by index; one out of bounds may be filled with NaN."""
    found = a.uniform(here.shape)
    fill = here.params.get("fill_value")
    if "FILL" not in str(here.params["mode"]).upper():
        return found
    outside = _outside(here, a, indices)
    if is_float(here.dtype) and (fill is None or np.isnan(fill)):
        nan = here.danger(Mechanism.FILL, outside, 1, "can be out of bounds", indices)
        return replace(found, nan=found.nan | nan)
    if outside.any():
        if fill is None:
            return anything(here.shape, here.dtype)
        filled = np.asarray(fill, np.float64)
        return replace(found, lo=np.minimum(found.lo, filled), hi=np.maximum(found.hi, filled))
    return found


def _outside(here: Here, a: Abstract, indices: Abstract) -> np.ndarray:
    numbers = here.params["dimension_numbers"]
    for k, axis in enumerate(numbers.start_index_map):
        last = a.shape[axis] - here.params["slice_sizes"][axis]
        lo, hi = (end[..., k if end.shape[-1] > 1 else 0] for end in (indices.lo, indices.hi))
        if lo.size and (lo.min() < 0 or hi.max() > last):
            return np.ones((1,) * len(here.shape), bool)
    return np.zeros((1,) * len(here.shape), bool)


def scatter(here: Here, a: Abstract, indices: Abstract, updates: Abstract) -> Abstract:
    """Return an array with some elements replaced."""
    return joined(a.uniform(), updates.uniform(a.shape)).alone()


def scatter_add(here: Here, a: Abstract, indices: Abstract, updates: Abstract) -> Abstract:
    """Return an array with numbers added to some elements, any number of them to each."""
    axes = here.params["dimension_numbers"].update_window_dims
    window = int(np.prod([updates.shape[axis] for axis in axes], initial=1))
    count = int(np.prod(updates.shape)) // max(window, 1)
    added = sum_of(here, updates.uniform(a.shape), count)
    own = a.uniform()
    clash = (own.posinf.where & added.neginf.where) | (own.neginf.where & added.posinf.where)
    nan = here.meeting(Mechanism.INF_MINUS_INF, clash, own.infs | added.infs)
    sign = -1 if here.equation.primitive == "scatter-sub" else 1
    lo, hi = (added.lo, added.hi) if sign > 0 else (-added.hi, -added.lo)
    posinf, neginf = (added.posinf, added.neginf)[::sign]
    found = here.value(
        np.where(own.empty, 0, own.lo) + lo, np.where(own.empty, 0, own.hi) + hi,
        own.posinf | posinf, own.neginf | neginf, own.nan | added.nan | nan,
        ulps=2 if is_float(here.dtype) else 0,
    )  # fmt: skip
    return found


def scatter_mul(here: Here, a: Abstract, indices: Abstract, updates: Abstract) -> Abstract:
    """Return an array with some elements multiplied."""
    return product_of(here, joined(a.uniform(), updates.uniform(a.shape)), updates.lo.size + 1)


def dynamic_update_slice(here: Here, a: Abstract, update: Abstract, *start: Abstract) -> Abstract:
    """Return an array with a part replaced."""
    return joined(a.uniform(), update.uniform(a.shape)).alone()


def top_k(here: Here, a: Abstract) -> list[Abstract]:
    """Return the largest elements and their indices."""
    shape, dtype = here.result_type(1)
    return [a.uniform(here.shape), anything(shape, dtype)]


def exact(here: Here, a: Abstract, *others: Abstract) -> Abstract:
    """Return elements of the first operand."""
    return a.uniform(here.shape)


def empty(here: Here, *operands: Abstract) -> Abstract:
    """Return an array that is not written yet."""
    return here.value(0.0, 0.0, NEVER, NEVER, NEVER)


INDEXING: dict[str, Callable[..., Any]] = {
    "gather": gather,
    "dynamic_update_slice": dynamic_update_slice,
    "scatter": scatter,
    "scatter-add": scatter_add,
    "scatter_add": scatter_add,
    "scatter-sub": scatter_add,
    "scatter_sub": scatter_add,
    "scatter-mul": scatter_mul,
    "scatter_mul": scatter_mul,
    "scatter-min": scatter,
    "scatter_min": scatter,
    "scatter-max": scatter,
    "scatter_max": scatter,
    "top_k": top_k,
    "empty": empty,
    "empty2": empty,
}
