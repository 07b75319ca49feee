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
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from nanlab.backend.jaxpr import weak
from nanlab.grid.parameter_types import USER_CODE
from nanlab.problems.problem import Knobs, Metrics, Problem, State


class UserCodeError(Exception):
    """A person's own code cannot be used.

    Attributes:
        key: the grid's key that it is about, such as "run.problem" or "knobs.alpha".
        sentence: what is wrong, and the way out.
    """

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(f"{key}: {sentence}")
        self.key = key
        self.sentence = sentence


def user_function(spec: str, *, key: str) -> Callable[..., Any]:
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
    raise UserCodeError(key, f"{place} has no function {name}; {held}")


def _from_file(path: Path, key: str) -> ModuleType:
    if not path.is_file():
        raise UserCodeError(
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
        raise UserCodeError(key, f"importing {path} fails: {told(error)}") from error
    return module


def _from_path(name: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            raise UserCodeError(
                key, f"there is no module {name}; a file is given as path/to/file.py:name"
            ) from error
        raise UserCodeError(key, f"importing {name} fails: {told(error)}") from error
    except Exception as error:
        raise UserCodeError(key, f"importing {name} fails: {told(error)}") from error


def told(error: BaseException) -> str:
    """An error of a person's code in one line, with their line."""
    frames = [f for f in traceback.extract_tb(error.__traceback__)
              if f.filename != __file__ and "site-packages" not in f.filename
              and "importlib" not in f.filename]  # fmt: skip
    first = (str(error).strip().splitlines() or [""])[0]
    at = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first}{at}"


def user_code_hashes(specs: Iterable[str]) -> dict[str, str]:
    """The hash of each of these files, or of the file that holds the code that it names."""
    hashes: dict[str, str] = {}
    for spec in sorted(specs):
        source: str | None = spec
        if USER_CODE.match(spec):
            found = inspect.unwrap(user_function(spec, key="run.problem"))
            source = inspect.getsourcefile(found)
        content = b"" if source is None else Path(source).read_bytes()
        hashes[spec] = hashlib.sha256(content).hexdigest()
    return hashes


def make_user_problem(statics: Mapping[str, Any]) -> Problem:
    """A person's own problem, its knobs named as the grid names them.

    Args:
        statics: problem, and `static.NAME` for each keyword argument that the grid gives.

    Raises:
        OwnCodeError: it cannot be made of these.
    """
    spec, key = str(statics["problem"]), "run.problem"
    function = user_function(spec, key=key)
    given = {n.partition(".")[2]: v for n, v in statics.items() if n.startswith("static.")}
    _check_arguments(function, given, spec)
    try:
        problem = function(**given)
    except Exception as error:
        raise UserCodeError(key, f"{spec} fails: {told(error)}") from error
    if not isinstance(problem, Problem):
        raise UserCodeError(
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
            raise UserCodeError(f"static.{name}", f"{spec} has no argument of that name; {known}")
    for p in parameters:
        if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and p.name not in given:
            raise UserCodeError(
                f"static.{p.name}", f"is missing: {spec} has no default for its argument {p.name}"
            )


def _named(problem: Problem) -> Problem:
    """The problem as the engine takes it: knobs by the grid's names, and weakly typed."""

    def plain(knobs: Knobs) -> dict[str, Array]:
        return {n.partition(".")[2]: weak(value, "float64") for n, value in knobs.items()}

    def step(state: State, knobs: Knobs, key: Array) -> tuple[State, Metrics]:
        # The loss alone will do, so the types say less than what may come.
        state, metrics = cast(tuple[State, Any], problem.step(state, plain(knobs), key))
        return _strong(state), metrics if isinstance(metrics, Metrics) else Metrics(metrics)

    baseline, batch = problem.baseline_losses, problem.batch
    stripped = None if baseline is None else (
        lambda knobs: baseline({n.partition(".")[2]: v for n, v in knobs.items()})
    )  # fmt: skip
    own = problem.knobs
    defaults = own if isinstance(own, Mapping) else dict.fromkeys(own)
    return replace(
        problem,
        init=lambda knobs, key: _strong(problem.init(plain(knobs), key)),
        step=step,
        knobs={f"knobs.{name}": value for name, value in defaults.items()},
        baseline_losses=stripped,
        batch=None if batch is None else lambda state, knobs, key: batch(state, plain(knobs), key),
    )


def _strong(state: State) -> State:
    """The state as arrays: Python's numbers too (a new TrainState counts from one), none weak.

    A weak type that a step makes strong would be another program's.
    """

    def array(x: Any) -> Any:
        is_key = isinstance(x, Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return x if is_key else jnp.asarray(x, jnp.asarray(x).dtype)

    return jax.tree.map(array, state)


def unknown_knob(name: str, problem: Problem, spec: str) -> UserCodeError:
    """What to say of a knob that the grid gives and the problem does not have."""
    near = difflib.get_close_matches(name, list(problem.knobs), n=1)
    hint = f'; did you mean "{near[0]}"?' if near else f"; it has {', '.join(problem.knobs)}"
    return UserCodeError(name, f"{spec} has no knob of that name{hint}")
