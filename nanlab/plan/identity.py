"""Product -> rows: points as columns of codes, and their identities; no point is an object here.

A code is a place in a parameter's levels, the values it has in a product.  A million points are
a few arrays of codes; only hashing looks at them one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanlab.grid.parameter_types import ParameterValue
from nanlab.grid.parameters import PARAMETERS, kind_of
from nanlab.grid.points import Product

Ints = NDArray[np.int64]

DIGEST_BYTES = 16

_RUN_SALT = "nanlab run 1\n"
_GROUP_SALT = "nanlab group 1\n"
_GROUP_DIGITS = 12
_HASHED_AT_ONCE = 65_536


class PointTable:
    """The points of one product, in order.

    Attributes:
        many: how many there are.
    """

    def __init__(self, product: Product) -> None:
        indices = product.indices()
        places = np.unravel_index(indices, product.shape) if product.axes else ()
        self.many = len(indices)
        self._product = product
        self._codes: dict[str, Ints] = {
            name: codes
            for axis, codes in zip(product.axes, places, strict=True)
            for name in axis.values
        }

    @property
    def names(self) -> Sequence[str]:
        """The parameters that the product knows: all that are declared, and a person's own."""
        return [*self._product.fixed, *self._codes]

    def levels(self, name: str) -> Sequence[Any]:
        """The values of parameter `name` that codes stand for."""
        return self._product.values(name)

    def codes(self, name: str) -> Ints | None:
        """Each point's level of parameter `name`, or None where all have the only one."""
        return self._codes.get(name)

    def using(self, name: str) -> NDArray[np.bool_]:
        """Whether each point's problem has parameter `name`."""
        problems = PARAMETERS[name].problems
        uses = np.array([kind_of(each) in problems for each in self.levels("problem")], np.bool_)
        codes = self.codes("problem")
        return np.broadcast_to(uses, self.many) if codes is None else uses[codes]

    def digests(self) -> NDArray[np.uint8]:
        """The first bytes of each point's hash, shape (points, DIGEST_BYTES)."""
        digests = np.empty((self.many, DIGEST_BYTES), np.uint8)
        codes = self.codes("problem")
        for level, problem in enumerate(self.levels("problem")):
            rows = np.arange(self.many) if codes is None else np.flatnonzero(codes == level)
            kind = kind_of(problem)
            names = [name for name in self.names if kind in PARAMETERS[name].problems]
            for start in range(0, len(rows), _HASHED_AT_ONCE):
                some = rows[start : start + _HASHED_AT_ONCE]
                hashed = b"".join(map(_digest, self._texts(sorted(names), some)))
                digests[some] = np.frombuffer(hashed, np.uint8).reshape(-1, DIGEST_BYTES)
        return digests

    def _texts(self, names: Iterable[str], rows: Ints) -> Iterator[str]:
        """The canonical JSON of each of `rows`, less its braces and with a comma at its end."""
        columns: list[list[str]] = []
        same = ""
        for name in names:
            codes = self.codes(name)
            if codes is None:
                same += _fragment(name, self.levels(name)[0])
                continue
            levels, inverse = np.unique(codes[rows], return_inverse=True)
            values = self.levels(name)
            fragments = [same + _fragment(name, values[level]) for level in levels]
            columns.append(np.array(fragments, object)[inverse].tolist())
            same = ""
        columns.append([same] * len(rows))
        return map("".join, zip(*columns, strict=True))


def _fragment(name: str, value: ParameterValue | None) -> str:
    if value == PARAMETERS[name].default:
        return ""
    return f"{json.dumps(name)}:{json.dumps(value)},"


def _digest(fragments: str) -> bytes:
    text = f"{_RUN_SALT}{{{fragments[:-1]}}}"
    return sha256(text.encode()).digest()[:DIGEST_BYTES]


def group_id(statics: Mapping[str, ParameterValue]) -> str:
    """The identity of a group: a hash of the static parameters that are not at their defaults."""
    text = "".join(_fragment(name, statics[name]) for name in sorted(statics))
    return sha256(f"{_GROUP_SALT}{{{text[:-1]}}}".encode()).hexdigest()[:_GROUP_DIGITS]
