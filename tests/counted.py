"""A problem that counts its steps, for tests of which of them are executed."""

from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nanlab.problems.problem import Metrics, Problem


class Counted(NamedTuple):
    """A number that grows by a factor, and how often any lane's step has run."""

    problem: Problem
    calls: Counter


def counted_problem():
    """A problem that counts its steps, wherever and however they are executed."""
    calls = Counter()

    def init(knobs, key):
        return jnp.float32(1.0)

    def step(x, knobs, key):
        jax.debug.callback(lambda _: calls.update(steps=1), x)
        return x * knobs["factor"].astype(jnp.float32), Metrics(x)

    return Counted(Problem(init=init, step=step, knobs=("factor",)), calls)
