"""Check a user-defined problem before it runs: trace it, twice, and compute nothing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.problems.problem import OBSERVABLES, Problem, State
from nanlab.problems.user_code import UserCodeError, user_code


def check_user_problem(
    problem: Problem,
    given: Mapping[str, float],
    spec: str,
    *,
    key: str = "run.problem",
    again: Problem | None = None,
) -> None:
    """Check that a user-defined problem can be run.

    Args:
        problem: as `make_user_problem` returns it.
        given: knobs that the grid sets in every run, and their values in one of them.
        spec: name of the code, for error messages.
        key: the grid's key that names it, for error messages.
        again: the problem, built a second time; `problem` if not given.

    Raises:
        UserCodeError: a knob has no value; tracing fails; the structure, shapes or dtypes of the
            state change; the loss is not a scalar; `observe` or `baseline_losses` returns what has
            no place in the tables; or the code is impure (two traces differ, or it has side
            effects).
    """
    defaults = problem.knobs if isinstance(problem.knobs, Mapping) else {}
    for name, default in defaults.items():
        if default is None and name not in given:
            raise UserCodeError(name, f"is missing: {spec} has no default for it")
    knobs = {name: jax.ShapeDtypeStruct((), np.float64) for name in problem.knobs}
    random = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    code = _Code(spec, key)
    with user_code(key, f"{spec}'s init"):
        state = jax.eval_shape(problem.init, knobs, random)
    with user_code(key, f"{spec}'s step"):
        after, metrics = jax.eval_shape(problem.step, state, knobs, random)
    _check_state(state, after, code)
    loss: Any = getattr(metrics, "loss", None)
    if getattr(loss, "shape", None) != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise code.wrong(f"{spec}'s step must return a scalar float loss, got {_kind(loss)}")
    _check_functions(problem, again or problem, (state, knobs, random), code)
    if problem.baseline_losses is not None:
        _check_baseline(problem.baseline_losses, {**defaults, **given}, code)


def _check_functions(
    problem: Problem, again: Problem, arguments: tuple[Any, ...], code: _Code
) -> None:
    """Check that what a problem computes at a step depends on its arguments alone."""
    at_step = {
        "step": (problem.step, again.step), "batch": (problem.batch, again.batch),
        "observe": (problem.observe, again.observe),
    }  # fmt: skip
    for name, (function, other) in at_step.items():
        if function is None or other is None:
            continue
        with user_code(code.key, f"{code.spec}'s {name}"):
            returned = jax.eval_shape(function, *arguments)
            if name == "observe":
                _check_observed(returned, code)
            _check_purity(code, name, (function, other), arguments)
    with user_code(code.key, f"{code.spec}'s init"):
        _check_purity(code, "init", (problem.init, again.init), arguments[1:])


_ADDRESS = re.compile(r"0x[0-9a-f]+")
"""An address in a program's text: a function imported again has another one."""


class _Code(NamedTuple):
    """The code under check: its name, and the grid's key that names it."""

    spec: str
    key: str

    def wrong(self, sentence: str) -> UserCodeError:
        return UserCodeError(self.key, sentence)


def _check_state(before: State, after: State, code: _Code) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(before)
    for path, leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise code.wrong(
                f"state{jax.tree_util.keystr(path)} of {code.spec} is a typed key; store "
                "jax.random.key_data(key), and rebuild the key with jax.random.wrap_key_data "
                "where it is used",
            )
        if 0 in leaf.shape:
            # JAX replicates such an array over devices, whatever sharding a program declares.
            name = f"state{jax.tree_util.keystr(path)} of {code.spec}"
            raise code.wrong(f"{name} has no elements ({_kind(leaf)}); leave it out")
    if jax.tree.structure(before) != jax.tree.structure(after):
        if [path for path, _ in leaves] == _paths(after):
            raise code.wrong(
                f"{code.spec}'s step replaces {_static_node(before)} in its state; {_ARRAYS_ONLY}"
            )
        raise code.wrong(
            f"{code.spec}'s step must return a state with the same pytree structure as its input: "
            f"expected {jax.tree.structure(before)}, got {jax.tree.structure(after)}",
        )
    for (path, old), new in zip(leaves, jax.tree.leaves(after), strict=True):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise code.wrong(
                f"state{jax.tree_util.keystr(path)} of {code.spec} is {_kind(old)} before a step "
                f"and {_kind(new)} after it; step must preserve shapes and dtypes (set dtypes "
                "explicitly: jax_enable_x64 is on)",
            )


def _check_observed(observed: Any, code: _Code) -> None:
    expected = f"{code.spec}'s observe must return {{(observable, layer): scalar}}, got"
    if not isinstance(observed, Mapping):
        raise code.wrong(f"{expected} {type(observed).__name__}")
    for name, value in cast(Mapping[Any, Any], observed).items():
        if not (isinstance(name, tuple) and [*map(type, cast(Any, name))] == [str, str]):
            raise code.wrong(f'{expected} {name!r}; the layer "" is the whole network')
        if name[0] not in OBSERVABLES:
            near = difflib.get_close_matches(name[0], OBSERVABLES, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"it may be {', '.join(OBSERVABLES)}"
            raise code.wrong(f'{code.spec}\'s observe has no observable "{name[0]}"; {hint}')
        if getattr(value, "shape", None) != () or jnp.issubdtype(value.dtype, jnp.complexfloating):
            raise code.wrong(f"{expected} {_kind(value)} at {name}")


def _check_baseline(
    baseline: Callable[..., Any], values: Mapping[str, float | None], code: _Code
) -> None:
    """Call the host function as for two equal runs: a mistake may need more than one."""
    knobs = {name: np.full(2, value, np.float64) for name, value in values.items()}
    with user_code(code.key, f"{code.spec}'s baseline_losses"):
        losses = np.asarray(baseline(knobs))
    if losses.shape != (2,) or losses.dtype.kind not in "fiu":
        raise code.wrong(
            f"{code.spec}'s baseline_losses must return one loss for each run, for 2 runs "
            f"float64[2], got {_kind(losses)}; knobs are arrays with a value for each run"
        )


_ARRAYS_ONLY = (
    "keep only arrays in the state, such as params and opt_state, and build the optimizer in step"
)


def _paths(state: State) -> list[Any]:
    return [path for path, _ in jax.tree_util.tree_leaves_with_path(state)]


def _static_node(state: State) -> str:
    optimizer = f"an optimizer or a function ({type(state).__name__}.tx)"
    return optimizer if hasattr(state, "tx") else "a function or a constant"


def _kind(array: Any) -> str:
    if not hasattr(array, "shape"):
        return type(array).__name__
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _check_purity(
    code: _Code, name: str, functions: tuple[Callable[..., Any], ...], arguments: tuple[Any, ...]
) -> None:
    # New lambdas: JAX caches the trace of a function that it has seen.
    (first, constants, _), (second, others, _) = (
        _jax.trace(lambda *given, function=function: function(*given), *arguments)
        for function in functions
    )
    if _jax.holds_tracer(constants):
        raise code.wrong(
            f"the state of {code.spec} holds {_static_node(arguments[0])} that closes over a "
            f"knob, and would keep the value of another run; {_ARRAYS_ONLY}"
        )
    if _ADDRESS.sub("", str(first)) != _ADDRESS.sub("", str(second)):
        raise code.wrong(
            f"{code.spec}'s {name} is not pure: two traces give two different programs. Draw "
            "random numbers from its key argument, and read no clock, file or mutable global",
        )
    if not all(
        np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
        for a, b in zip(constants, others, strict=True)
        if np.asarray(a).dtype.kind in "fiub"
    ):
        raise code.wrong(
            f"{code.spec} is not deterministic: built twice, its {name} holds different numbers. "
            "Seed what it draws, as in np.random.default_rng(0), or draw it from the key argument",
        )
    effects = sorted({type(effect).__name__ for effect in first.effects})
    if effects:
        raise code.wrong(
            f"{code.spec}'s {name} has side effects ({', '.join(effects)}); remove callbacks and "
            "jax.debug.print",
        )
