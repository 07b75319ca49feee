"""A rewritten program -> what running it shows: finite, unchanged on healthy inputs, right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.blame.program.call import Call
from nanlab.blame.program.program import flatten_closed
from nanlab.curing.approach import limits_of
from nanlab.curing.inputs import Inputs
from nanlab.curing.limits import Limits, Results, Tolerances, numbers
from nanlab.curing.reference import BACKWARD, Reference, compiled_reference
from nanlab.curing.traced import Run, Traced, traced_of

HEALTHY_INPUTS = 3
COMPILED = 4
"""The number of rewrites that are compiled at once: most cures are among the first."""
LARGEST = 1e8
"""Healthy inputs with larger results are the last to be used."""
ILL_CONDITIONED = 1e-5
"""The same holds if float64 gives results that differ by more."""
ROUNDINGS = 50
"""How many times its rounding an output may change: an eps of 1e-6 is 16 of float32's."""


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What running a rewritten program shows.

    Attributes:
        finite: whether all outputs are finite with the failing inputs.
        n_bad: the number of numbers that are not.
        gradients: whether the outputs' gradient by the first argument was checked too; false
            where the function takes gradients itself, or has none.
        healthy: the number of healthy inputs.
        change: largest change of an output with these, relative to the output; NaN without any.
        limit: with what the outputs were compared that had not been finite: "float64", "limit",
            "infinite limit", or "" if nothing could be.
        error: largest deviation from that, relative; NaN without any.
        extra: operations more than before, and how many there were.
        failure: why the rewrite is refused; "" if it is not.
    """

    finite: bool
    n_bad: int
    gradients: bool
    healthy: int = 0
    change: float = math.nan
    limit: str = ""
    error: float = math.nan
    extra: tuple[int, int] = (0, 0)
    failure: str = ""

    @property
    def is_checked(self) -> bool:
        """Whether more was checked than that the outputs are finite."""
        return self.healthy > 0 or self.limit != ""


class Trial:
    """The original program, and what rewritten ones are compared with.

    Args:
        call: the failing call.
        healthy: arguments of calls in which nothing fails.
        is_value: whether the fault is in the function's value, not in its derivative.
    """

    def __init__(
        self, call: Call, healthy: Sequence[Sequence[Any]] = (), *, is_value: bool = True
    ) -> None:
        self._program = flatten_closed(call.closed, None)
        differentiates = any(BACKWARD in e.scopes for e in self._program.equations)
        self._base, self._gradients = traced_of(call, with_gradients=not differentiates)
        self._run = self._base.compiled()
        self._size = _size(self._base.jaxpr)
        self.failing = self._run(self._base.leaves)
        types = {v.dtype for v in self._program.values if jnp.issubdtype(v.dtype, jnp.floating)}
        self._precision = max((float(jnp.finfo(t).eps) for t in types), default=1e-7)
        self._rounded = max(ILL_CONDITIONED, self._precision)
        # Rounding explains such changes, or an eps that is small enough.
        self._tolerances = Tolerances(
            limit=0.03 + 20 * self._precision, unchanged=max(2e-4, 10 * self._precision),
            floor=self._precision, n_values=self._base.n_outputs, values=self._values(is_value),
        )  # fmt: skip
        base, self._n_checked = self._base, 0
        self._inputs = Inputs(call, self._program, base.leaves[: base.n_constants])
        constants = base.leaves[: base.n_constants]
        self._healthy = self._healthy_runs([[*constants, *arrays] for arrays in healthy])
        self._limits: Limits | None = None

    def _values(self, is_value: bool) -> list[bool]:
        """Return which outputs have to be large where they grow without a limit."""
        # The loss, if the function returns it besides what it makes of gradients.
        program, backward = self._program, set[int]()
        for equation in program.equations:
            if BACKWARD in equation.scopes or backward & set(equation.operands):
                backward |= set(equation.results)
        values = [v not in backward for v in program.frames[0].results]
        values += [False] * (len(self.failing) - len(values))
        bad = [bool((~np.isfinite(x)).any()) for x in self.failing]
        has_value = any(a and b for a, b in zip(values, bad, strict=True))
        return values if has_value else [is_value] * len(values)

    def _healthy_runs(self, given: list[list[Any]]) -> list[tuple[list[Any], Results]]:
        found = [(leaves, self._run(leaves)) for leaves in given]
        if found:
            return [(leaves, results) for leaves, results in found if _n_bad(results) == 0]
        late: list[tuple[list[Any], Results]] = []
        for variant in self._inputs.like():
            results = self._run(variant)
            if _n_bad(results) == 0:
                is_large = max((float(np.abs(r).max(initial=0)) for r in results), default=0)
                is_late = is_large > LARGEST or self._rounding(variant, results) > self._rounded
                (late if is_late else found).append((variant, results))
            if len(found) == HEALTHY_INPUTS:
                break
        return found or late[:HEALTHY_INPUTS]

    def _rounding(self, leaves: Sequence[Any], results: Results) -> float:
        """Return how far the program's own results are from those of float64."""
        return 0.0 if self._reference is None else self._change(self._exact(leaves), results)

    def _exact(self, leaves: Sequence[Any]) -> Results:
        assert self._reference is not None
        return numbers(self._reference(leaves, 0.0).outputs)

    @property
    def can_check(self) -> bool:
        """Whether there is more to check than that outputs are finite."""
        return bool(self._healthy) or self.limits.are_known(self.failing)

    @cached_property
    def _reference(self) -> Reference | None:
        base = self._base
        return compiled_reference(base.jaxpr, base.constants, base.leaves)

    @property
    def limits(self) -> Limits:
        """What the outputs tend to near the failing inputs."""
        if self._limits is None:
            base = self._base
            self._limits = limits_of(self._reference, self._inputs, self.failing, base.largest)
        return self._limits

    def check(self, call: Call) -> Checks:
        """Run a rewritten program."""
        traced, _ = traced_of(call, with_gradients=self._gradients)
        self._n_checked += 1
        if self._n_checked > COMPILED:
            checks = self._checks(traced, traced.stepwise())
            if checks.failure:
                return checks
        return self._checks(traced, traced.compiled())

    def _checks(self, traced: Traced, run: Run) -> Checks:
        results = run(traced.leaves)
        extra = (_size(traced.jaxpr) - self._size, self._size)
        n_bad = _n_bad(results)
        known: dict[str, Any] = {"gradients": self._gradients, "extra": extra, "n_bad": n_bad}
        if n_bad:
            return Checks(finite=False, failure="not finite", **known)
        if [r.shape for r in results] != [r.shape for r in self.failing]:
            return Checks(finite=True, failure="other shapes", **known)
        changes = [
            self._healthy_change(leaves, before, run(traced.with_arrays_of(self._base, leaves)))
            for leaves, before in self._healthy
        ]
        known |= {"healthy": len(changes), "change": max(changes, default=math.nan)}
        if any(not change <= self._tolerances.unchanged for change in changes):
            return Checks(finite=True, failure="healthy inputs give other numbers", **known)
        found = self.limits.compare(results, self.failing, self._tolerances)
        return Checks(finite=True, **known, **found)

    def _healthy_change(self, leaves: Sequence[Any], before: Results, after: Results) -> float:
        """Return the change from what the program computes there, or, if less, from float64."""
        change = self._change(before, after)
        if change <= self._tolerances.unchanged or self._reference is None:
            return change
        # 1 - sigmoid(10) has three digits left in float32, and a better formula has all.
        change = min(change, self._change(self._exact(leaves), after))
        # An eps is a rounding of what it is added to, and grows as that does.
        rounding = min(self._rounding(leaves, before), self._rounded)
        return change if change > ROUNDINGS * rounding else min(change, self._tolerances.unchanged)

    def _change(self, before: Results, after: Results) -> float:
        """Return the largest change of an output, relative to the largest number in it."""
        largest = 0.0
        for old, new in zip(before, after, strict=True):
            if old.size:
                change = float(np.abs(new - old).max()) - 4 * self._precision
                scale = max(float(np.abs(old).max()), self._precision)
                largest = max(largest, change / scale)
        return largest if not math.isnan(largest) else math.inf


def _n_bad(results: Results) -> int:
    return sum(int((~np.isfinite(r)).sum()) for r in results)


def _size(jaxpr: Any) -> int:
    """Return the number of operations of a program, loops' bodies and branches included."""
    count = 0
    for eqn in jaxpr.eqns:
        opened = _jax.open_equation(eqn)
        bodies = () if opened is None else opened.bodies
        count += sum(_size(body) for body, _ in bodies) if bodies else 1
    return count
