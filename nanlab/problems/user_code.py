"""Import, call and describe user-defined code: "ab.py:make_problem" -> Problem."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
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

_NANLAB = f"{Path(__file__).parents[1]}{os.sep}"


class UserCodeError(Exception):
    """User-defined code cannot be used.

    Attributes:
        key: the grid's key for it, such as "run.problem" or "knobs.alpha".
        sentence: what is wrong, and the way out.
    """

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(f"{key}: {sentence}")
        self.key = key
        self.sentence = sentence


@contextmanager
def user_code(key: str, action: str, *, hint: str = "") -> Generator[None]:
    """Run user-defined code: what it raises is a sentence, its `os.chdir` and forks do not last.

    Args:
        key: the grid's key that names the code.
        action: subject of the sentence, such as "importing mine.py".
        hint: end of the sentence.

    Raises:
        UserCodeError: the code raised anything, `SystemExit` included.
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    folder, process = os.getcwd(), os.getpid()
    try:
        yield
    except (UserCodeError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise UserCodeError(key, f"{action} fails: {described(error)}{hint}") from error
    finally:
        end_fork_of(process)
        os.chdir(folder)


def end_fork_of(process: int) -> None:
    """End this process if it is a fork of `process`: it must not go on with the same study."""
    if os.getpid() != process:
        os._exit(0)


def user_function(spec: str, *, key: str) -> Callable[..., Any]:
    """Return the function named by "my_module:name" or "path/to/file.py:name".

    Raises:
        UserCodeError: no such file, module or function, or importing it fails.
    """
    home, _, name = spec.rpartition(":")
    module = _from_file(Path(home), key) if home.endswith(".py") else _from_path(home, key)
    found = getattr(module, name, None)
    if callable(found):
        return found
    functions = [
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    known = f"it has {', '.join(functions)}" if functions else "it defines no function"
    raise UserCodeError(key, f"{home} has no function {name}; {known}")


def _from_file(path: Path, key: str) -> ModuleType:
    if not path.is_file():
        raise UserCodeError(
            key, f"file {path} not found; paths are relative to the working directory"
        )
    name = _name_of_file(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # it can import the modules next to it
    sys.modules[name] = module
    try:
        with user_code(key, f"importing {path}"):
            spec.loader.exec_module(module)
    except UserCodeError:
        del sys.modules[name]
        raise
    return module


def _name_of_file(path: Path) -> str:
    return f"nanlab_own_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"


@contextmanager
def reimported(specs: Iterable[str]) -> Generator[None]:
    """Import the modules of user-defined code again while this is open, as a new process would."""
    homes = [spec.rpartition(":")[0] for spec in specs if USER_CODE.match(spec)]
    names = [_name_of_file(Path(h)) if h.endswith(".py") else h for h in homes]
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    try:
        yield
    finally:
        sys.modules.update(before)


def _from_path(name: str, key: str) -> ModuleType:
    with user_code(key, f"importing {name}"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            raise UserCodeError(
                key, f"module {name} not found; name a file as path/to/file.py:name"
            ) from error


def described(error: BaseException) -> str:
    """Return an error of user-defined code in one line, with the file and line that raised it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__)
              if not f.filename.startswith(_NANLAB) and "site-packages" not in f.filename
              and "importlib" not in f.filename]  # fmt: skip
    try:
        message = (str(error).strip().splitlines() or [""])[0]
    except Exception:
        message = "(its message cannot be shown: __str__ raises)"
    name = type(error).__name__
    at = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{name}: {message}{at}" if message else f"{name}{at}"


def user_code_hashes(specs: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of each data file, or of the source file that defines each function."""
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
    """Build a user-defined problem, its knobs named as the grid names them.

    Args:
        statics: `problem`, and `static.NAME` for each keyword argument given by the grid.

    Returns:
        The problem; its knobs are called `knobs.NAME`.

    Raises:
        UserCodeError: the function does not accept these arguments, raises, or returns no Problem.
    """
    spec, key = str(statics["problem"]), "run.problem"
    function = user_function(spec, key=key)
    given = {n.partition(".")[2]: v for n, v in statics.items() if n.startswith("static.")}
    with user_code(key, spec):
        _check_arguments(function, given, spec)
        problem = function(**given)
    if not isinstance(problem, Problem):
        raise UserCodeError(
            key, f"{spec} must return a nanlab.Problem, got {type(problem).__name__}"
        )
    return _named(problem, spec)


def _check_arguments(function: Callable[..., Any], given: Mapping[str, Any], spec: str) -> None:
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = [p.name for p in parameters]
    for name in given:
        if name not in names:
            known = f"it takes {', '.join(names)}" if names else "it takes no arguments"
            raise UserCodeError(f"static.{name}", f"{spec} has no such argument; {known}")
    for p in parameters:
        if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and p.name not in given:
            raise UserCodeError(
                f"static.{p.name}", f"is missing: argument {p.name} of {spec} has no default"
            )


def _is_number(value: Any) -> bool:
    if isinstance(value, str | bytes):
        return False
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _named(problem: Problem, spec: str) -> Problem:
    """Return the problem as the engine takes it: knobs by the grid's names, weakly typed."""

    def plain(knobs: Knobs) -> dict[str, Array]:
        return {n.partition(".")[2]: weak(value, "float64") for n, value in knobs.items()}

    def step(state: State, knobs: Knobs, key: Array) -> tuple[State, Metrics]:
        process = os.getpid()
        # A bare loss is accepted in place of Metrics.
        returned: Any = problem.step(state, plain(knobs), key)
        if not isinstance(returned, tuple) or len(cast(tuple[Any, ...], returned)) != 2:
            raise TypeError("it must return (state, nanlab.Metrics)")
        state, metrics = cast(tuple[State, Any], returned)
        end_fork_of(process)
        return _strong(state), metrics if isinstance(metrics, Metrics) else Metrics(metrics)

    def observe(state: State, knobs: Knobs, key: Array) -> Any:
        assert problem.observe is not None
        observed: Any = problem.observe(state, plain(knobs), key)
        # The curves are float64; `user_checks` says what is wrong with anything else.
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), observed)

    baseline, batch = problem.baseline_losses, problem.batch
    stripped = None if baseline is None else (
        lambda knobs: baseline({n.partition(".")[2]: v for n, v in knobs.items()})
    )  # fmt: skip
    knobs = problem.knobs
    defaults = knobs if isinstance(knobs, Mapping) else dict.fromkeys(knobs)
    for name, value in defaults.items():
        if value is not None and not _is_number(value):
            sentence = f"its default in {spec} must be a number, got {value!r}"
            raise UserCodeError(f"knobs.{name}", sentence)
    return replace(
        problem,
        init=lambda knobs, key: _strong(problem.init(plain(knobs), key)),
        step=step,
        knobs={f"knobs.{name}": value for name, value in defaults.items()},
        baseline_losses=stripped,
        batch=None if batch is None else lambda state, knobs, key: batch(state, plain(knobs), key),
        observe=None if problem.observe is None else observe,
    )


def _strong(state: State) -> State:
    """Return the state as arrays without weak types; TrainState counts in Python numbers, say."""

    def array(x: Any) -> Any:
        is_key = isinstance(x, Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return x if is_key else jnp.asarray(x, jnp.asarray(x).dtype)

    return jax.tree.map(array, state)


def check_knobs(names: Iterable[str], problem: Problem, spec: str) -> None:
    """Raise UserCodeError if the problem lacks one of these knobs of the grid."""
    for name in sorted(set(names) - set(problem.knobs)):
        near = difflib.get_close_matches(name, list(problem.knobs), n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"it has {', '.join(problem.knobs)}"
        raise UserCodeError(name, f"{spec} has no such knob; {hint}")
