"""Problem -> the same, or what is wrong with it: a person's own code is traced before it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.problems.problem import Problem, State
from nanlab.problems.user_code import UserCodeError, told


def check_user_problem(
    problem: Problem, given: frozenset[str], spec: str, *, key: str = "run.problem"
) -> None:
    """See that a problem of a person's own can be run; nothing is computed, only traced.

    Args:
        problem: as `make_own` made it.
        given: the knobs that the grid gives to every run of it.
        spec: for the sentences.
        key: the grid's key that they are about.

    Raises:
        OwnCodeError: a knob has no value; tracing fails; the shapes or types of the state change;
            the loss is not one number; a second trace is another program, or it acts on the
            outside: then it is not pure.
    """
    defaults = problem.knobs if isinstance(problem.knobs, Mapping) else {}
    for name, default in defaults.items():
        if default is None and name not in given:
            raise UserCodeError(name, f"is missing: {spec} gives it no default")
    knobs = {name: jax.ShapeDtypeStruct((), np.float64) for name in problem.knobs}
    random = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    code = _Code(spec, key)
    state = _traced(code, "init", lambda: jax.eval_shape(problem.init, knobs, random))
    after, metrics = _traced(
        code, "step", lambda: jax.eval_shape(problem.step, state, knobs, random)
    )
    _check_state(state, after, code)
    loss: Any = getattr(metrics, "loss", None)
    if getattr(loss, "shape", None) != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise code.wrong(f"the loss that {spec}'s step returns must be one number, not {loss}")
    for name, function, arguments in (
        ("init", problem.init, (knobs, random)),
        ("step", problem.step, (state, knobs, random)),
    ):
        _check_purity(code, name, function, arguments)


class _Code(NamedTuple):
    """What a check is about: the code by its name, and the grid's key that names it."""

    spec: str
    key: str

    def wrong(self, sentence: str) -> UserCodeError:
        return UserCodeError(self.key, sentence)


def _traced(code: _Code, name: str, trace: Callable[[], Any]) -> Any:
    try:
        return trace()
    except UserCodeError:
        raise
    except Exception as error:
        raise code.wrong(f"{code.spec}'s {name} fails: {told(error)}") from error


def _check_state(before: State, after: State, code: _Code) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(before)
    for path, leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise code.wrong(
                f"state{jax.tree_util.keystr(path)} of {code.spec} is a typed key; keep its "
                "numbers, jax.random.key_data(key), and make a key of them where it is used, "
                "jax.random.wrap_key_data(numbers)",
            )
    if jax.tree.structure(before) != jax.tree.structure(after):
        if [path for path, _ in leaves] == _paths(after):
            raise code.wrong(
                f"the state of {code.spec} holds, beside its arrays, {_held(before)} that its step "
                f"replaces; {_ARRAYS_ONLY}"
            )
        raise code.wrong(
            f"the state that {code.spec}'s step returns is built otherwise than the one it gets: "
            f"{jax.tree.structure(after)}, not {jax.tree.structure(before)}",
        )
    for (path, old), new in zip(leaves, jax.tree.leaves(after), strict=True):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise code.wrong(
                f"state{jax.tree_util.keystr(path)} of {code.spec} is {_kind(old)} before a step "
                f"and {_kind(new)} after it; both must be the same (name the dtypes: 64 bits "
                "are on)",
            )


_ARRAYS_ONLY = (
    "keep arrays only in the state (params and opt_state, say), and make the optimizer in the step"
)


def _paths(state: State) -> list[Any]:
    return [path for path, _ in jax.tree_util.tree_leaves_with_path(state)]


def _held(state: State) -> str:
    optimizer = f"an optimizer or a function ({type(state).__name__}.tx)"
    return optimizer if hasattr(state, "tx") else "a function or a constant"


def _kind(array: Any) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _check_purity(
    code: _Code, name: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    # Functions of their own: JAX would remember the trace of one that it has seen.
    first, constants, _ = _jax.trace(lambda *given: function(*given), *arguments)
    second, others, _ = _jax.trace(lambda *given: function(*given), *arguments)
    if _jax.holds_tracer(constants):
        raise code.wrong(
            f"the state of {code.spec} holds, beside its arrays, {_held(arguments[0])} that is "
            f"made of a knob; it would keep the knob of another run. {_ARRAYS_ONLY[:1].upper()}"
            f"{_ARRAYS_ONLY[1:]}"
        )
    same = str(first) == str(second) and all(
        np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
        for a, b in zip(constants, others, strict=True)
        if np.asarray(a).dtype.kind in "fiub"
    )
    if not same:
        raise code.wrong(
            f"{code.spec}'s {name} is not pure: traced twice, it is two programs. Draw random "
            "numbers from the key it gets, and read no clock, file or global that changes",
        )
    effects = sorted({type(effect).__name__ for effect in first.effects})
    if effects:
        raise code.wrong(
            f"{code.spec}'s {name} acts on the outside ({', '.join(effects)}); take callbacks and "
            "jax.debug.print out of it",
        )
