"""Rules of primitives that copy elements or move them to another shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nanlab.linting.abstract import MOST_ELEMENTS, Abstract, interval, joined
from nanlab.linting.axes import COPIES, MOVES, axes_of
from nanlab.linting.here import Here


def copied(here: Here, *operands: Abstract) -> list[Abstract]:
    """Return the operands."""
    return list(operands[: len(here.equation.results)])


def moved(here: Here, value: Abstract, *sizes: Abstract) -> Abstract:
    """Return a value with its axes in other places, new ones or fewer."""
    axes = axes_of(here.equation, value.shape, here.shape)
    if axes is None:
        return _reshaped(here, value)
    known = [axis for axis in axes if axis is not None]
    order = [*known, *(axis for axis in range(len(value.shape)) if axis not in known)]

    def function(array: Any) -> Any:
        sizes = [1 if axis is None else array.shape[axis] for axis in axes]
        return array.transpose(order).reshape(sizes)

    return value.map(
        function,
        here.shape,
        bounds=tuple(bound.moved(axes) for bound in value.bounds),
        peak=value.peak and value.peak.moved(axes),
    )


def _reshaped(here: Here, value: Abstract) -> Abstract:
    if max(value.lo.size, value.hi.size, value.bad.where.size) <= 1:
        return value.uniform(here.shape)
    if np.prod(value.shape) <= MOST_ELEMENTS:
        return value.map(lambda a: np.broadcast_to(a, value.shape).reshape(here.shape), here.shape)
    return value.uniform(here.shape)


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
    return _joined_along(here, pieces, here.params["dimension"])


def _joined_along(here: Here, pieces: Sequence[Abstract], axis: int) -> Abstract:
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


def stack(here: Here, *pieces: Abstract) -> Abstract:
    """Return several arrays one after the other along a new axis."""
    axis = here.params["axis"]
    widened = [
        piece.map(
            lambda a: np.expand_dims(a, axis), (*here.shape[:axis], 1, *here.shape[axis + 1 :])
        )
        for piece in pieces
    ]
    return _joined_along(here, widened, axis)


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
    **dict.fromkeys(MOVES, moved),
    "rev": rev,
    "slice": sliced,
    "dynamic_slice": anywhere,
    "split": split,
    "unstack": every_part,
    "concatenate": concatenate,
    "stack": stack,
    "pad": pad,
    "iota": iota,
    "sort": lambda here, *operands: [operand.uniform() for operand in operands],
}
