"""A rewritten program -> what running it shows: finite, unchanged on healthy inputs, right."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.blame.program.call import Call
from nanlab.blame.program.program import flatten_closed
from nanlab.curing import inputs
from nanlab.curing.limits import Limits, Results, Tolerances, limits_of, numbers
from nanlab.curing.reference import QUICK, compiled_reference

Run = Callable[[Sequence[Any]], Results]
HEALTHY_INPUTS = 3
LARGEST = 1e8
"""Healthy inputs with larger results are the last to be used."""


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


class Traced:
    """A program of its constants and arguments, which also returns the outputs' gradient.

    Args:
        call: the traced call.
        with_gradients: whether to add the gradient.

    Attributes:
        leaves: values of its constants, then its arguments.
        n_constants: the number of constants.
        n_outputs: the number of outputs, without gradients.
        jaxpr: the program.
        constants: constants of the program itself.
    """

    def __init__(self, call: Call, *, with_gradients: bool) -> None:
        self._call = call
        jaxpr, constants = _jax.split_constants(call.closed)
        known = [jnp.asarray(c) if not hasattr(c, "dtype") else c for c in constants]
        self.leaves: list[Any] = [*known, *call.arrays]
        self.n_constants = len(known)

        def run(*leaves: Any) -> list[Any]:
            return _jax.run_jaxpr(jaxpr, leaves[: len(known)], leaves[len(known) :])

        function: Callable[..., Any] = self._differentiated(run) if with_gradients else run
        shapes = [_shape(x) for x in self.leaves]
        self.jaxpr, self.constants, _ = _jax.trace(function, *shapes)
        self.n_outputs = len(jaxpr.outvars)

    @property
    def largest(self) -> list[float]:
        """The largest number of each output's type."""
        avals: list[Any] = [v.aval for v in self.jaxpr.outvars]
        types = [aval.dtype for aval in avals]
        return [float(jnp.finfo(t).max) if jnp.issubdtype(t, jnp.inexact) else math.inf
                for t in types]  # fmt: skip

    def _differentiated(self, run: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        floats = [i + self.n_constants for i in _differentiable(self._call)]

        def both(*leaves: Any) -> list[Any]:
            def of_floats(*xs: Any) -> Any:
                filled = list(leaves)
                for i, x in zip(floats, xs, strict=True):
                    filled[i] = x
                outputs = run(*filled)
                return [x for x in outputs if _is_float(x)], outputs

            given = [leaves[i] for i in floats]
            measured, pull, outputs = jax.vjp(of_floats, *given, has_aux=True)
            return [*outputs, *pull([jnp.ones_like(x) for x in measured])]

        return both

    def compiled(self, options: dict[str, Any] | None = QUICK) -> Run:
        """Compile the program, without optimization unless other options are given."""

        def run(*leaves: Any) -> list[Any]:
            return _jax.run_jaxpr(self.jaxpr, self.constants, leaves)

        program = jax.jit(run).lower(*self.leaves).compile(options)
        return lambda leaves: numbers(program(*leaves))


def _shape(x: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=getattr(x, "weak_type", False))


def _is_float(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


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
        differentiates = any("transpose(" in e.scopes for e in self._program.equations)
        self._base, self._gradients = _traced(call, with_gradients=not differentiates)
        self._run = self._base.compiled()
        self._size = _size(self._base.jaxpr)
        self.failing = self._run(self._base.leaves)
        types = {v.dtype for v in self._program.values if jnp.issubdtype(v.dtype, jnp.floating)}
        self._precision = max((float(jnp.finfo(t).eps) for t in types), default=1e-7)
        # Rounding explains such changes, or an eps that is small enough.
        self._tolerances = Tolerances(
            limit=0.03 + 20 * self._precision, unchanged=max(1e-4, 10 * self._precision),
            floor=self._precision, is_value=is_value, n_values=self._base.n_outputs,
        )  # fmt: skip
        first = self._base.leaves[: self._base.n_constants]
        self._healthy = self._healthy_runs([[*first, *arrays] for arrays in healthy])
        self._limits: Limits | None = None

    def _healthy_runs(self, given: list[list[Any]]) -> list[tuple[list[Any], Results]]:
        found = [(leaves, self._run(leaves)) for leaves in given]
        if found:
            return [(leaves, results) for leaves, results in found if _n_bad(results) == 0]
        leaves, fixed = self._base.leaves, self._base.n_constants
        late: list[tuple[list[Any], Results]] = []
        for variant in inputs.like(leaves, fixed):
            results = self._run(variant)
            if _n_bad(results) == 0:
                is_large = max((float(np.abs(r).max(initial=0)) for r in results), default=0)
                (late if is_large > LARGEST else found).append((variant, results))
            if len(found) == HEALTHY_INPUTS:
                break
        return [*found, *late][:HEALTHY_INPUTS]

    @property
    def limits(self) -> Limits:
        """What the outputs tend to near the failing inputs."""
        if self._limits is None:
            base = self._base
            reference = compiled_reference(base.jaxpr, base.constants, base.leaves)
            self._limits = limits_of(
                reference, base.leaves, base.n_constants, self.failing, base.largest
            )
        return self._limits

    def check(self, call: Call) -> Checks:
        """Run a rewritten program."""
        traced, _ = _traced(call, with_gradients=self._gradients)
        run = traced.compiled()
        results = run(traced.leaves)
        extra = (_size(traced.jaxpr) - self._size, self._size)
        n_bad = _n_bad(results)
        known: dict[str, Any] = {"gradients": self._gradients, "extra": extra, "n_bad": n_bad}
        if n_bad:
            return Checks(finite=False, failure="not finite", **known)
        if [r.shape for r in results] != [r.shape for r in self.failing]:
            return Checks(finite=True, failure="other shapes", **known)
        changes = [
            self._change(before, run(self._mapped(traced, leaves)))
            for leaves, before in self._healthy
        ]
        known |= {"healthy": len(changes), "change": max(changes, default=math.nan)}
        if any(not change <= self._tolerances.unchanged for change in changes):
            return Checks(finite=True, failure="healthy inputs give other numbers", **known)
        found = self.limits.compare(results, self.failing, self._tolerances)
        if not found.get("failure") and _n_bad(traced.compiled(None)(traced.leaves)):
            found["failure"] = "not finite when it is optimized"
        return Checks(finite=True, **known, **found)

    def _mapped(self, traced: Traced, leaves: Sequence[Any]) -> list[Any]:
        """Return these leaves in the order of another program, whose constants may be fewer."""
        base = self._base
        known = {id(x): new for x, new in zip(base.leaves, leaves, strict=True)}
        own = [known.get(id(x), x) for x in traced.leaves[: traced.n_constants]]
        return [*own, *leaves[base.n_constants :]]

    def _change(self, before: Results, after: Results) -> float:
        """Return the largest change of an output, relative to the largest number in it."""
        largest = 0.0
        for old, new in zip(before, after, strict=True):
            if old.size:
                change = float(np.abs(new - old).max()) - 4 * self._precision
                scale = max(float(np.abs(old).max()), self._precision)
                largest = max(largest, change / scale)
        return largest if not math.isnan(largest) else math.inf


def _differentiable(call: Call) -> list[int]:
    """Return the arrays by which to differentiate: of the first argument, as jax.grad does."""
    roots = [re.split(r"[.\[]", name)[0] for name in call.names]
    return [i for i, x in enumerate(call.arrays) if roots[i] == roots[0] and _is_float(x)]


def _traced(call: Call, *, with_gradients: bool) -> tuple[Traced, bool]:
    if with_gradients and _differentiable(call):
        try:
            return Traced(call, with_gradients=True), True
        except Exception:  # a while loop, a callback, a kernel without a derivative
            pass
    return Traced(call, with_gradients=False), False


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
