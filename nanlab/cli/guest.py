"""A guest: somebody's script, run in this process as Python itself would run it."""

from __future__ import annotations

import atexit
import builtins
import os
import runpy
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from pkgutil import get_importer
from types import ModuleType
from typing import Any


class Misuse(Exception):
    """The command line cannot be followed; the message says why."""


def run_script(name: str, *, is_module: bool) -> int:
    """Run a script or a module as `__main__`.

    Args:
        name: the script's file, or the module's name.
        is_module: whether it is a module.

    Returns:
        The exit status that it asks for; 0 if for none.

    Raises:
        Misuse: there is no such module.
    """
    try:
        if not is_module:
            _run_file(name)
        elif _is_module(name):
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            raise Misuse(f"there is no module {name}")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        sys.stderr.write(f"{stop.code}\n")
        return 1
    return 0


def _run_file(name: str) -> None:
    """Run a script with the names that Python itself gives it: all of its paths are absolute."""
    path = name if Path(name).is_absolute() else f"{Path.cwd()}/{name}"  # "./" stays
    if get_importer(path) is not None or path.endswith(".pyc"):  # an archive, a compiled file
        runpy.run_path(name, run_name="__main__")
        return
    code = compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
    module = ModuleType("__main__")
    own = {"__file__": path, "__loader__": SourceFileLoader("__main__", path)}
    vars(module).update(own, __builtins__=builtins, __annotations__={}, __cached__=None)
    before, sys.modules["__main__"] = sys.modules["__main__"], module
    try:
        exec(code, vars(module))
    finally:
        sys.modules["__main__"] = before


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # its package is not there; it is no name
        return False


def end_process() -> BaseException | None:
    """Do what Python does at its end: wait for threads, run the exit handlers.

    Returns:
        What stopped that, if anything did.
    """
    for owner, name in ((threading, "_shutdown"), (atexit, "_run_exitfuncs")):
        try:
            getattr(owner, name)()
        except BaseException as error:
            return error
    return None


@contextmanager
def arguments_of_process(arguments: Sequence[str]) -> Generator[None]:
    """Set `sys.argv` while this is open."""
    before, sys.argv = sys.argv, list(arguments)
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def exits_reported(report: Callable[[int], int]) -> Generator[None]:
    """Report before `os._exit`, too.

    Args:
        report: called with the exit status; returns the one to exit with.
    """
    before, process, streams = os._exit, os.getpid(), (sys.stdout, sys.stderr)

    def exit_reported(status: int) -> None:
        if os.getpid() == process:  # a forked child leaves in the same way
            status = report(status)
            for stream in streams:
                with suppress(OSError, ValueError):
                    stream.flush()
        before(status)

    os._exit = exit_reported  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = before


@contextmanager
def tracebacks_quiet(is_quiet: Callable[[BaseException | None], bool]) -> Generator[None]:
    """Print no traceback of a thread, an exit handler or a finalizer that such an error ended."""

    def unless_quiet(report: Callable[[Any], object]) -> Callable[[Any], None]:
        def ended(failure: Any) -> None:
            if not is_quiet(failure.exc_value):
                report(failure)

        return ended

    before = threading.excepthook, sys.unraisablehook
    threading.excepthook, sys.unraisablehook = map(unless_quiet, before)
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = before


@contextmanager
def when_imported(name: str, then: Callable[[], None]) -> Generator[None]:
    """Call a function when a module has been imported, at once if it has been before."""
    if name in sys.modules:
        then()
        yield
        return
    finder = _After(name, then)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.remove()


class _After(MetaPathFinder):
    """Finds one module, with a loader that calls a function at its end."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self._name, self._then = name, then

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        """Find the module, and nothing else."""
        if name != self._name:
            return None
        self.remove()
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            run = loader.exec_module

            def run_then(module: Any) -> None:
                run(module)
                self._then()

            loader.exec_module = run_then
        return spec

    def remove(self) -> None:
        """Leave the import system as it was."""
        with suppress(ValueError):
            sys.meta_path.remove(self)
