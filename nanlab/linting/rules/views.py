"""Rules of primitives that copy elements or move them to another shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nanlab.linting.abstract import MOST_ELEMENTS, Abstract, interval, joined
from nanlab.linting.here import Here

COPIES = {
    "copy", "copy_p", "stop_gradient", "optimization_barrier", "pvary", "pcast", "reshard",
    "sharding_constraint", "layout_constraint", "name", "psum_invariant_cast", "mesh_cast",
}  # fmt: skip
"""Primitives whose results are their operands."""

MOVES = {"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose"}
"""Primitives whose result has the operand's elements in another shape."""


def copied(here: Here, *operands: Abstract) -> list[Abstract]:
    """Return the operands."""
    return list(operands[: len(here.equation.results)])


def _moved(
    value: Abstract, function: Callable[[Any], Any], shape: Sequence[int], axes: list[int | None]
) -> Abstract:
    """Return a value in another shape, whose axes are these axes of the value."""
    return value.map(
        function,
        shape,
        bounds=tuple(bound.moved(axes) for bound in value.bounds),
        peak=value.peak and value.peak.moved(axes),
    )


def _ndim_axes(value: Abstract) -> list[int | None]:
    return list(range(len(value.shape)))


def broadcast_in_dim(here: Here, value: Abstract, *sizes: Abstract) -> Abstract:
    """Return a value with new axes."""
    targets = here.params["broadcast_dimensions"]
    axes: list[int | None] = [None] * len(here.shape)
    for axis, target in enumerate(targets):
        axes[target] = axis

    def function(array: Any) -> Any:
        return array.reshape([1 if axis is None else array.shape[axis] for axis in axes])

    return _moved(value, function, here.shape, axes)


def reshape(here: Here, value: Abstract, *sizes: Abstract) -> Abstract:
    """Return a value in another shape; only axes of size 1 come or go without effect."""
    before = [axis for axis, size in enumerate(value.shape) if size != 1]
    after = [axis for axis, size in enumerate(here.shape) if size != 1]
    if [value.shape[axis] for axis in before] == [here.shape[axis] for axis in after]:
        axes: list[int | None] = [None] * len(here.shape)
        for axis, target in zip(before, after, strict=True):
            axes[target] = axis

        def function(array: Any) -> Any:
            return array.reshape([1 if axis is None else array.shape[axis] for axis in axes])

        return _moved(value, function, here.shape, axes)
    if max(value.lo.size, value.hi.size, value.bad.where.size) <= 1:
        return value.uniform(here.shape)
    if np.prod(value.shape) <= MOST_ELEMENTS:
        return value.map(lambda a: np.broadcast_to(a, value.shape).reshape(here.shape), here.shape)
    return value.uniform(here.shape)


def squeeze(here: Here, value: Abstract) -> Abstract:
    """Return a value without some axes of size 1."""
    dropped = {axis % len(value.shape) for axis in here.params["dimensions"]}
    axes = [axis for axis in range(len(value.shape)) if axis not in dropped]
    return _moved(
        value, lambda array: array.reshape([array.shape[a] for a in axes]), here.shape, [*axes]
    )


def expand_dims(here: Here, value: Abstract) -> Abstract:
    """Return a value with new axes of size 1."""
    return reshape(here, value)


def transpose(here: Here, value: Abstract) -> Abstract:
    """Return a value with its axes in another order."""
    order = here.params["permutation"]
    return _moved(value, lambda array: array.transpose(order), here.shape, list(order))


def rev(here: Here, value: Abstract) -> Abstract:
    """Return a value with some axes reversed."""
    dimensions = here.params["dimensions"]
    return value.map(lambda array: np.flip(array, dimensions), here.shape)


def sliced(here: Here, value: Abstract) -> Abstract:
    """Return a part of a value."""
    strides = here.params["strides"] or (1,) * len(value.shape)
    bounds = zip(here.params["start_indices"], here.params["limit_indices"], strides, strict=True)
    slices = [slice(*bound) for bound in bounds]

    def function(array: Any) -> Any:
        return array[
            tuple(slice(None) if n == 1 else s for s, n in zip(slices, array.shape, strict=True))
        ]

    return value.map(function, here.shape)


def anywhere(here: Here, value: Abstract, *indices: Abstract) -> Abstract:
    """Return elements of the first operand, whichever they are."""
    return value.uniform(here.shape)


def every_part(here: Here, value: Abstract) -> list[Abstract]:
    """Return parts of a value, one for each result."""
    results = range(len(here.equation.results))
    return [value.uniform(here.result_type(index)[0]) for index in results]


def split(here: Here, value: Abstract) -> list[Abstract]:
    """Return a value in pieces along one axis."""
    axis, start = here.params["axis"], 0
    pieces: list[Abstract] = []
    for size in here.params["sizes"]:
        piece = (slice(None),) * axis + (slice(start, start + size),)
        shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
        pieces.append(
            value.map(lambda a, piece=piece: a if a.shape[axis] == 1 else a[piece], shape)
        )
        start += size
    return pieces


def concatenate(here: Here, *pieces: Abstract) -> Abstract:
    """Return several arrays one after the other along an axis."""
    axis = here.params["dimension"]
    if np.prod(here.shape) > MOST_ELEMENTS:
        return joined(*(piece.uniform(here.shape) for piece in pieces))

    def whole(arrays: list[Any]) -> Any:
        # Axes along which every piece is the same stay compressed, but for the one joined along.
        sizes = [
            here.shape[i] if any(array.shape[i] != 1 for array in arrays) else 1
            for i in range(len(here.shape))
        ]
        full = [
            np.broadcast_to(a, (*sizes[:axis], piece.shape[axis], *sizes[axis + 1 :]))
            for a, piece in zip(arrays, pieces, strict=True)
        ]
        return np.concatenate(full, axis)

    def mays(name: str) -> Any:
        standing = [getattr(piece, name) for piece in pieces]
        makers = frozenset[int]().union(*(may.makers for may in standing))
        ones = (1,) * len(here.shape)
        masks = [np.broadcast_to(m.where, ones) if m.where.ndim == 0 else m.where for m in standing]
        return type(standing[0])(whole(masks), makers)

    return here.value(
        whole([piece.lo for piece in pieces]), whole([piece.hi for piece in pieces]),
        mays("posinf"), mays("neginf"), mays("nan"),
        nonzero=all(piece.nonzero for piece in pieces),
    )  # fmt: skip


def either(here: Here, *operands: Abstract) -> Abstract:
    """Return elements of any operand."""
    return joined(*(operand.uniform(here.shape) for operand in operands))


def pad(here: Here, value: Abstract, padding: Abstract) -> Abstract:
    """Return a value with a border, which may be cut."""
    configuration = here.params["padding_config"]
    is_plain = all(low >= 0 and high >= 0 and not inner for low, high, inner in configuration)
    if not is_plain or np.prod(here.shape) > MOST_ELEMENTS:
        return either(here, value, padding)
    inside = np.zeros(here.shape, bool)
    inside[
        tuple(
            slice(low, n - high)
            for (low, high, _), n in zip(configuration, here.shape, strict=False)
        )
    ] = True

    def merged(array: Any, border: Any) -> Any:
        full = np.empty(here.shape, np.asarray(array).dtype)
        full[...] = np.asarray(border).reshape(-1)[0]
        full[inside] = np.broadcast_to(array, value.shape).reshape(-1)
        return full

    def mays(name: str) -> Any:
        own, border = getattr(value, name), getattr(padding, name)
        return type(own)(merged(own.where, border.where), own.makers | border.makers)

    return here.value(
        merged(value.lo, padding.lo), merged(value.hi, padding.hi),
        mays("posinf"), mays("neginf"), mays("nan"), nonzero=value.nonzero and padding.nonzero,
    )  # fmt: skip


def iota(here: Here, *sizes: Abstract) -> Abstract:
    """Return the index along an axis."""
    axis = here.params["dimension"]
    n = here.shape[axis]
    if n > MOST_ELEMENTS:
        return interval(here.shape, here.dtype, 0, n - 1)
    along = [n if i == axis else 1 for i in range(len(here.shape))]
    index = np.arange(n, dtype=np.float64).reshape(along)
    return here.value(index, index)


VIEWS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(COPIES, copied),
    "broadcast_in_dim": broadcast_in_dim,
    "reshape": reshape,
    "squeeze": squeeze,
    "expand_dims": expand_dims,
    "transpose": transpose,
    "rev": rev,
    "slice": sliced,
    "dynamic_slice": anywhere,
    "split": split,
    "unstack": every_part,
    "concatenate": concatenate,
    "stack": either,
    "pad": pad,
    "iota": iota,
    "sort": lambda here, *operands: [operand.uniform() for operand in operands],
}
