"""Product -> table of its points as level indices, and the points' identities.

The levels of a parameter are its values in a product.  A million points are a few arrays of level
indices; only hashing visits them one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from nanlab.grid.defaults import is_default
from nanlab.grid.parameter_types import ParameterValue
from nanlab.grid.parameters import PARAMETERS, kind_of
from nanlab.grid.points import Product

DIGEST_BYTES = 16

_RUN_SALT = "nanlab run 1\n"
_GROUP_SALT = "nanlab group 1\n"
_GROUP_DIGITS = 12
_HASHED_AT_ONCE = 65_536


class PointTable:
    """The points of one product, in order.

    Attributes:
        n_points: number of points.
    """

    def __init__(self, product: Product) -> None:
        indices = product.indices()
        along = np.unravel_index(indices, product.shape) if product.axes else ()
        self.n_points = len(indices)
        self._product = product
        self._level_index: dict[str, Int[np.ndarray, " points"]] = {
            name: index
            for axis, index in zip(product.axes, along, strict=True)
            for name in axis.values
        }

    @property
    def names(self) -> Sequence[str]:
        """The parameters of the product: all declared ones, and the user-defined ones in it."""
        return [*self._product.fixed, *self._level_index]

    def levels(self, name: str) -> Sequence[Any]:
        """Return the values of parameter `name` that level indices refer to."""
        return self._product.values(name)

    def level_index(self, name: str) -> Int[np.ndarray, " points"] | None:
        """Return each point's level of parameter `name`, or None if there is only one."""
        return self._level_index.get(name)

    def using(self, name: str) -> Bool[np.ndarray, " points"]:
        """Return whether each point's problem has parameter `name`."""
        problems = PARAMETERS[name].problems
        uses = np.array([kind_of(p) in problems for p in self.levels("problem")], np.bool_)
        index = self.level_index("problem")
        return np.broadcast_to(uses, self.n_points) if index is None else uses[index]

    def digests(
        self, on_hashed: Callable[[int], None] = lambda n_points: None
    ) -> UInt8[np.ndarray, "points bytes"]:
        """Return the first bytes of each point's hash; report the number of points hashed."""
        digests = np.empty((self.n_points, DIGEST_BYTES), np.uint8)
        index = self.level_index("problem")
        for level, problem in enumerate(self.levels("problem")):
            of_problem = (
                np.arange(self.n_points) if index is None else np.flatnonzero(index == level)
            )
            kind = kind_of(problem)
            names = sorted(name for name in self.names if kind in PARAMETERS[name].problems)
            for start in range(0, len(of_problem), _HASHED_AT_ONCE):
                rows = of_problem[start : start + _HASHED_AT_ONCE]
                hashed = b"".join(map(_digest, self._texts(names, rows)))
                digests[rows] = np.frombuffer(hashed, np.uint8).reshape(-1, DIGEST_BYTES)
                on_hashed(len(rows))
        return digests

    def _texts(self, names: Iterable[str], rows: Int[np.ndarray, " rows"]) -> Iterator[str]:
        """Yield the canonical JSON of each row without braces, with a trailing comma."""
        columns: list[list[str]] = []
        constant = ""
        for name in names:
            index = self.level_index(name)
            if index is None:
                constant += _fragments(name, self.levels(name)[:1])[0]
                continue
            used, inverse = np.unique(index[rows], return_inverse=True)
            values = self.levels(name)
            fragments = _fragments(name, [values[level] for level in used.tolist()], constant)
            columns.append(np.array(fragments, object)[inverse].tolist())
            constant = ""
        columns.append([constant] * len(rows))
        return map("".join, zip(*columns, strict=True))


def _fragments(name: str, values: Sequence[ParameterValue | None], before: str = "") -> list[str]:
    """Return the canonical JSON of a parameter's values after `before`; defaults are left out."""
    key = f"{before}{json.dumps(name)}:"
    # JSON has a finite float's repr, and json.dumps takes six times as long.
    return [
        before if is_default(name, v) else f"{key}{repr(v) if type(v) is float else json.dumps(v)},"
        for v in values
    ]


def _digest(fragments: str) -> bytes:
    text = f"{_RUN_SALT}{{{fragments[:-1]}}}"
    return sha256(text.encode()).digest()[:DIGEST_BYTES]


def group_id(statics: Mapping[str, ParameterValue]) -> str:
    """Return a group's identity: a hash of the static parameters that are not at their defaults."""
    text = "".join(_fragments(name, [statics[name]])[0] for name in sorted(statics))
    return sha256(f"{_GROUP_SALT}{{{text[:-1]}}}".encode()).hexdigest()[:_GROUP_DIGITS]
