"""ab.py:make_problem -> Problem: a person's own code, brought in and checked before it runs."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nanlab import _jax
from nanlab._jax import weak
from nanlab.parameters_types import OWN_CODE
from nanlab.problem import Knobs, Metrics, Problem, State


class OwnCodeError(Exception):
    """A person's own code cannot be used.

    Attributes:
        key: the grid's key that it is about, such as "run.problem" or "knobs.alpha".
        sentence: what is wrong, and the way out.
    """

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(f"{key}: {sentence}")
        self.key = key
        self.sentence = sentence


def own_function(spec: str, *, key: str) -> Callable[..., Any]:
    """The function that "my_module:name" or "path/to/file.py:name" means.

    Raises:
        OwnCodeError: there is no such file, module or function, or importing it fails.
    """
    place, _, name = spec.rpartition(":")
    module = _from_file(Path(place), key) if place.endswith(".py") else _from_path(place, key)
    found = getattr(module, name, None)
    if callable(found):
        return found
    home = module.__name__
    theirs = ((n, each) for n, each in vars(module).items() if callable(each))
    defined = [n for n, each in theirs if getattr(each, "__module__", None) == home]
    held = f"it has {', '.join(defined)}" if defined else "it defines no function"
    raise OwnCodeError(key, f"{place} has no function {name}; {held}")


def _from_file(path: Path, key: str) -> ModuleType:
    if not path.is_file():
        raise OwnCodeError(
            key, f"there is no file {path}; a path is taken from the folder where the command runs"
        )
    name = f"nanlab_own_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    described = importlib.util.spec_from_file_location(name, path.resolve())
    assert described is not None and described.loader is not None
    module = importlib.util.module_from_spec(described)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # what stands beside it can be imported by it
    sys.modules[name] = module
    try:
        described.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise OwnCodeError(key, f"importing {path} fails: {told(error)}") from error
    return module


def _from_path(name: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            raise OwnCodeError(
                key, f"there is no module {name}; a file is given as path/to/file.py:name"
            ) from error
        raise OwnCodeError(key, f"importing {name} fails: {told(error)}") from error
    except Exception as error:
        raise OwnCodeError(key, f"importing {name} fails: {told(error)}") from error


def told(error: BaseException) -> str:
    """An error of a person's code in one line, with their line."""
    frames = [f for f in traceback.extract_tb(error.__traceback__)
              if f.filename != __file__ and "site-packages" not in f.filename
              and "importlib" not in f.filename]  # fmt: skip
    first = (str(error).strip().splitlines() or [""])[0]
    at = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first}{at}"


def own_code_hashes(specs: Iterable[str]) -> dict[str, str]:
    """The hash of each of these files, or of the file that holds the code that it names."""
    hashes: dict[str, str] = {}
    for spec in sorted(specs):
        source: str | None = spec
        if OWN_CODE.match(spec):
            found = inspect.unwrap(own_function(spec, key="run.problem"))
            source = inspect.getsourcefile(found)
        content = b"" if source is None else Path(source).read_bytes()
        hashes[spec] = hashlib.sha256(content).hexdigest()
    return hashes


def make_own(statics: Mapping[str, Any]) -> Problem:
    """A person's own problem, its knobs named as the grid names them.

    Args:
        statics: problem, and `static.NAME` for each keyword argument that the grid gives.

    Raises:
        OwnCodeError: it cannot be made of these.
    """
    spec, key = str(statics["problem"]), "run.problem"
    function = own_function(spec, key=key)
    given = {n.partition(".")[2]: v for n, v in statics.items() if n.startswith("static.")}
    _check_arguments(function, given, spec)
    try:
        problem = function(**given)
    except Exception as error:
        raise OwnCodeError(key, f"{spec} fails: {told(error)}") from error
    if not isinstance(problem, Problem):
        raise OwnCodeError(
            key, f"{spec} returns {type(problem).__name__}; it must return a nanlab.Problem"
        )
    return _named(problem)


def _check_arguments(function: Callable[..., Any], given: Mapping[str, Any], spec: str) -> None:
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = [p.name for p in parameters]
    for name in given:
        if name not in names:
            known = f"it takes {', '.join(names)}" if names else "it takes no arguments"
            raise OwnCodeError(f"static.{name}", f"{spec} has no argument of that name; {known}")
    for p in parameters:
        if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and p.name not in given:
            raise OwnCodeError(
                f"static.{p.name}", f"is missing: {spec} has no default for its argument {p.name}"
            )


def _named(problem: Problem) -> Problem:
    """The problem as the engine takes it: knobs by the grid's names, and weakly typed."""

    def plain(knobs: Knobs) -> dict[str, Array]:
        return {n.partition(".")[2]: weak(value, "float64") for n, value in knobs.items()}

    def step(state: State, knobs: Knobs, key: Array) -> tuple[State, Metrics]:
        # The loss alone will do, so the types say less than what may come.
        state, metrics = cast(tuple[State, Any], problem.step(state, plain(knobs), key))
        return state, metrics if isinstance(metrics, Metrics) else Metrics(metrics)

    baseline, batch = problem.baseline_losses, problem.batch
    stripped = None if baseline is None else (
        lambda knobs: baseline({n.partition(".")[2]: v for n, v in knobs.items()})
    )  # fmt: skip
    own = problem.knobs
    defaults = own if isinstance(own, Mapping) else dict.fromkeys(own)
    return replace(
        problem,
        init=lambda knobs, key: problem.init(plain(knobs), key),
        step=step,
        knobs={f"knobs.{name}": value for name, value in defaults.items()},
        baseline_losses=stripped,
        batch=None if batch is None else lambda state, knobs, key: batch(state, plain(knobs), key),
    )


def unknown_knob(name: str, problem: Problem, spec: str) -> OwnCodeError:
    """What to say of a knob that the grid gives and the problem does not have."""
    near = difflib.get_close_matches(name, list(problem.knobs), n=1)
    hint = f'; did you mean "{near[0]}"?' if near else f"; it has {', '.join(problem.knobs)}"
    return OwnCodeError(name, f"{spec} has no knob of that name{hint}")


def check_own(
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
            raise OwnCodeError(name, f"is missing: {spec} gives it no default")
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

    def wrong(self, sentence: str) -> OwnCodeError:
        return OwnCodeError(self.key, sentence)


def _traced(code: _Code, name: str, trace: Callable[[], Any]) -> Any:
    try:
        return trace()
    except OwnCodeError:
        raise
    except Exception as error:
        raise code.wrong(f"{code.spec}'s {name} fails: {told(error)}") from error


def _check_state(before: State, after: State, code: _Code) -> None:
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise code.wrong(
            f"the state that {code.spec}'s step returns is built otherwise than the one it gets: "
            f"{jax.tree.structure(after)}, not {jax.tree.structure(before)}",
        )
    leaves = jax.tree_util.tree_leaves_with_path(before)
    for (path, old), new in zip(leaves, jax.tree.leaves(after), strict=True):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise code.wrong(
                f"state{jax.tree_util.keystr(path)} of {code.spec} is {_kind(old)} before a step "
                f"and {_kind(new)} after it; both must be the same (name the dtypes: 64 bits "
                "are on)",
            )


def _kind(array: Any) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _check_purity(
    code: _Code, name: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    # Functions of their own: JAX would remember the trace of one that it has seen.
    first, constants, _ = _jax.trace(lambda *given: function(*given), *arguments)
    second, others, _ = _jax.trace(lambda *given: function(*given), *arguments)
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
