"""Variables, number -> values: the inputs that a search tries, one after the other.

A start is a function of the seed and its number, so that none has to be stored. Of each round the
first move every array in one way, the next one array alone, the last each in a way of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from nanlab.blame.program.program import Program
from nanlab.hunting.space import Kind, Variable

ROUND = 32
Values: TypeAlias = dict[int, np.ndarray]
"""The numbers of the variables that are moved, by position."""
Move: TypeAlias = Callable[["Starts", Variable, np.random.Generator], Any]


class Starts:
    """The inputs to try.

    Args:
        variables: what may be moved.
        program: the program; the numbers written into it are tried as well.
        seed: of the random numbers.
    """

    def __init__(self, variables: Sequence[Variable], program: Program, seed: int) -> None:
        self.variables, self._seed = variables, seed
        self.literals = _literals(program)

    def __getitem__(self, number: int) -> Values:
        """Return an input."""
        rng = np.random.default_rng((self._seed, number))
        place, moves = number % ROUND, list(_MOVES.values())
        if place < len(moves):
            numbers = [v.kind == Kind.NUMBERS for v in self.variables]
            moved = {i: moves[place] for i, x in enumerate(numbers) if x or rng.random() < 0.5}
        elif place < (len(moves) + ROUND) // 2 + 1:
            moved = {int(rng.integers(len(self.variables))): moves[rng.integers(len(moves))]}
        else:
            picked = np.flatnonzero(rng.random(len(self.variables)) < 0.5)
            moved = {int(i): moves[rng.integers(len(moves))] for i in picked}
        return {i: self._moved(i, move, rng) for i, move in moved.items()}

    def _moved(self, position: int, move: Move, rng: np.random.Generator) -> np.ndarray:
        variable = self.variables[position]
        if variable.kind != Kind.NUMBERS:
            move = _CHOICES[variable.kind]
        with np.errstate(all="ignore"):
            return variable.bounded(move(self, variable, rng))

    def number(self, v: Variable, rng: np.random.Generator) -> float:
        """Return a number that a program may treat in a way of its own."""
        within = [x for x in self.literals if v.lo <= x <= v.hi]
        ends = [0.0, v.lo, v.hi]
        return float(rng.choice(within if within and rng.random() < 0.5 else ends))


def _literals(program: Program) -> list[float]:
    found = set[float]()
    for value in program.values:
        if value.is_constant and value.shape == () and jnp.issubdtype(value.dtype, jnp.floating):
            number = float(value.constant)
            found |= {number, -number} if np.isfinite(number) else set()
    return sorted(found)


def _reach(v: Variable) -> float:
    """Return the largest magnitude in the given array, not 0."""
    finite = v.given[np.isfinite(v.given)]
    return max(float(np.abs(finite).max(initial=0)), 1e-2)


def _normal(v: Variable, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(v.given.shape, v.given.dtype)


def _filled(v: Variable, number: float) -> np.ndarray:
    return np.full_like(v.given, number)


def _scaled(_: Starts, v: Variable, rng: np.random.Generator) -> Any:
    most = max(abs(v.lo), v.hi) / _reach(v)
    return v.given * 10 ** rng.uniform(0, np.log10(max(most, 1.01)))


def _noisy(_: Starts, v: Variable, rng: np.random.Generator) -> Any:
    return v.given + _normal(v, rng) * _reach(v)


def _zero(_: Starts, v: Variable, rng: np.random.Generator) -> Any:
    return _filled(v, 0.0)


def _uniform(_: Starts, v: Variable, rng: np.random.Generator) -> Any:
    return rng.random(v.given.shape, v.given.dtype) * (v.hi - v.lo) + v.lo


def _constant(starts: Starts, v: Variable, rng: np.random.Generator) -> Any:
    return _filled(v, starts.number(v, rng))


def _corner(_: Starts, v: Variable, rng: np.random.Generator) -> Any:
    return np.sign(_normal(v, rng)) * max(abs(v.lo), v.hi) * 10 ** rng.uniform(-2, 0)


def _equal(_: Starts, v: Variable, rng: np.random.Generator) -> Any:
    return _filled(v, rng.standard_normal())


def _tiny(_: Starts, v: Variable, rng: np.random.Generator) -> Any:
    return v.given * 10 ** rng.uniform(-40, -3)


def _negated(_: Starts, v: Variable, rng: np.random.Generator) -> Any:
    return -v.given


def _one_element(starts: Starts, v: Variable, rng: np.random.Generator) -> Any:
    values = v.given.copy()
    values.flat[rng.integers(values.size)] = starts.number(v, rng)
    return values


def _one_row(starts: Starts, v: Variable, rng: np.random.Generator) -> Any:
    values = np.atleast_1d(v.given).copy()
    values[rng.integers(len(values))] = starts.number(v, rng)
    return values.reshape(v.given.shape)


def _equal_rows(_: Starts, v: Variable, rng: np.random.Generator) -> Any:
    return np.broadcast_to(v.given[:1], v.given.shape) if v.given.ndim else v.given


def _whole(_: Starts, v: Variable, rng: np.random.Generator) -> Any:
    return rng.integers(-3, 4, v.given.shape)


_MOVES: dict[str, Move] = {
    "scaled": _scaled,
    "noise": _noisy,
    "zeros": _zero,
    "uniform": _uniform,
    "a constant": _constant,
    "corners": _corner,
    "one number": _equal,
    "tiny": _tiny,
    "negated": _negated,
    "one element": _one_element,
    "one row": _one_row,
    "equal rows": _equal_rows,
    "whole numbers": _whole,
}


def _flipped(_: Starts, v: Variable, rng: np.random.Generator) -> Any:
    share = rng.choice([0.0, 1.0, rng.random()])
    return rng.random(v.given.shape) < share


def _classes(_: Starts, v: Variable, rng: np.random.Generator) -> Any:
    *rows, count = v.given.shape
    drawn = rng.integers(count, size=() if rng.random() < 0.5 else rows)
    return np.broadcast_to(np.eye(count)[drawn], v.given.shape)


def _integers(_: Starts, v: Variable, rng: np.random.Generator) -> Any:
    size = () if rng.random() < 0.5 else v.given.shape
    drawn = rng.integers(int(np.ceil(v.lo)), int(v.hi), size, endpoint=True)
    return np.broadcast_to(drawn, v.given.shape)


_CHOICES: dict[Kind, Move] = {
    Kind.ZEROS_AND_ONES: _flipped,
    Kind.BOOLEANS: _flipped,
    Kind.ONE_HOT: _classes,
    Kind.INTEGERS: _integers,
}
