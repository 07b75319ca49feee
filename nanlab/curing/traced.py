"""Call -> a program of its constants and arguments, with the outputs' gradient, ready to run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.blame.program.call import Call
from nanlab.curing.limits import Results, numbers
from nanlab.curing.reference import BACKWARD
from nanlab.curing.stepwise import run_stepwise

Run = Callable[[Sequence[Any]], Results]
_PLAIN_CALLS = ("jit", "pjit", "closed_call")


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
        self._known = dict(_constants_of(jaxpr, constants))
        self.leaves: list[Any] = [*self._known.values(), *call.arrays]
        self.n_constants = len(self._known)

        def run(*leaves: Any) -> list[Any]:
            given = dict(zip(self._known, leaves[: self.n_constants], strict=True))
            return _run(jaxpr, constants, leaves[self.n_constants :], given)

        function: Callable[..., Any] = self._differentiated(run) if with_gradients else run
        shapes = [_shape(x) for x in self.leaves]
        self.jaxpr, self.constants, _ = _jax.trace(function, *shapes)
        self.n_outputs = len(jaxpr.outvars)

    def with_arrays_of(self, other: Traced, leaves: Sequence[Any]) -> list[Any]:
        """Return leaves of another program, which may lack some constants, as this one's."""
        given = dict(zip(other._known, leaves[: other.n_constants], strict=True))
        own = [given.get(key, x) for key, x in self._known.items()]
        return [*own, *leaves[other.n_constants :]]

    @property
    def largest(self) -> list[float]:
        """The largest number of each output's type."""
        avals: list[Any] = [v.aval for v in self.jaxpr.outvars]
        types = [aval.dtype for aval in avals]
        return [float(jnp.finfo(t).max) if jnp.issubdtype(t, jnp.inexact) else math.inf
                for t in types]  # fmt: skip

    def _differentiated(self, run: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        floats = [i + self.n_constants for i in differentiable(self._call)]

        def both(*leaves: Any) -> list[Any]:
            def of_floats(*xs: Any) -> Any:
                filled = list(leaves)
                for i, x in zip(floats, xs, strict=True):
                    filled[i] = x
                outputs = run(*filled)
                return [x for x in outputs if _is_float(x)], outputs

            given = [leaves[i] for i in floats]
            measured, pull, outputs = jax.vjp(of_floats, *given, has_aux=True)
            return [*outputs, *pull([_weights(x) for x in measured])]

        return both

    def compiled(self) -> Run:
        """Compile the program, as `jax.jit` does."""

        def run(*leaves: Any) -> list[Any]:
            return _jax.run_jaxpr(self.jaxpr, self.constants, leaves)

        program = jax.jit(run).lower(*self.leaves).compile()
        return lambda leaves: numbers(program(*leaves))

    def stepwise(self) -> Run:
        """Return a function that runs the program operation by operation."""
        return lambda leaves: numbers(run_stepwise(self.jaxpr, self.constants, leaves))


def _weights(x: Any) -> Any:
    """Return weights for the sum of an output, whose gradient is compared."""
    # The plain sum of what was normalized is a constant: its gradient is nothing but rounding.
    draws = np.random.default_rng(0).uniform(0.5, 1.5, x.shape)
    return jnp.asarray(draws if x.ndim else 1.0, x.dtype)


def _run(jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any], given: Any) -> list[Any]:
    """Run a jaxpr with other values of its constants, and of those of what it calls."""

    def bind(eqn: Any, operands: Sequence[Any]) -> Sequence[Any]:
        opened = _jax.open_equation(eqn)
        if opened is None or eqn.primitive.name not in _PLAIN_CALLS:
            scope = BACKWARD if BACKWARD in str(eqn.source_info.name_stack) else ""
            with jax.named_scope(scope) if scope else nullcontext():
                return _jax.bind(eqn, operands)
        return _run(*opened.bodies[0], operands, given)

    values = [given.get(_content(c), c) for c in constants]
    return _jax.run_jaxpr(jaxpr, values, arguments, bind)


def _constants_of(jaxpr: Any, constants: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the constants of a jaxpr, and of what it calls, by their content."""
    # Some are NumPy's, or JAX's own kind of these.
    arrays = (c if isinstance(c, jax.Array) else jnp.asarray(np.asarray(c)) for c in constants)
    yield from ((_content(c), x) for c, x in zip(constants, arrays, strict=True))
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _PLAIN_CALLS and (opened := _jax.open_equation(eqn)):
            yield from _constants_of(*opened.bodies[0])


def _content(constant: Any) -> Any:
    """Return what identifies a constant: a rewritten function may make it again."""
    with jax.ensure_compile_time_eval():  # it is asked for while a program is traced, too
        x = constant if hasattr(constant, "dtype") else np.asarray(constant)
        array = np.asarray(jax.random.key_data(x) if _jax.is_key(x) else x)
    return array.shape, str(array.dtype), array.tobytes()


def _shape(x: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=getattr(x, "weak_type", False))


def _is_float(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def differentiable(call: Call) -> list[int]:
    """Return the arrays by which to differentiate: of the first argument, as jax.grad does."""
    roots = [re.split(r"[.\[]", name)[0] for name in call.names]
    return [i for i, x in enumerate(call.arrays) if roots[i] == roots[0] and _is_float(x)]


def traced_of(call: Call, *, with_gradients: bool) -> tuple[Traced, bool]:
    """Return the program of a call, with gradients if it has any, and whether it has."""
    if with_gradients and differentiable(call):
        try:
            return Traced(call, with_gradients=True), True
        except Exception:  # a while loop, a callback, a kernel without a derivative
            pass
    return Traced(call, with_gradients=False), False
