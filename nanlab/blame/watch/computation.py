"""A computation that JAX runs -> what it is called, who called it, and its verdict."""

from __future__ import annotations

import functools
import linecache
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from nanlab.backend.dispatch import current_scopes, trace_closed
from nanlab.backend.finiteness import NAN
from nanlab.blame.explain.verdict import Verdict
from nanlab.blame.pinpoint import pinpoint, pinpoint_call
from nanlab.blame.program.call import OUTPUT, Call
from nanlab.blame.site import Site
from nanlab.blame.source_path import from_package_root, is_installed, is_nanlab

# Libraries that wrap `jax.jit`: their frames lie between the user's call and JAX.
_WRAPPERS = {"jax", "nanlab", "equinox", "flax", "jaxtyping", "beartype", "contextlib", "functools"}
# Operations that hold a program of the user's: what they return is judged as a call's.
_PROGRAMS = {"scan", "while", "cond", "call_exported"}
_CHANGED = "computed again from the same arguments, the outputs were not bad in the same way"


@dataclass(frozen=True, kw_only=True)
class JitCall:
    """A call of a jitted function, as Python sees it.

    Attributes:
        function: the function that was jitted.
        args: its arguments.
        kwargs: its keyword arguments.
        options: returns its static arguments, as options of `jax.jit`.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: Callable[[], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Computation:
    """One program that JAX runs.

    Attributes:
        closed: its jaxpr; None if it is not known.
        arguments: the leaves that it is run on.
        name: JAX's name for it.
        donated: for each argument whether it is donated.
        call: the jitted call that it belongs to; None for what a transformation runs eagerly.
        is_compiled: whether it was compiled ahead of time.
    """

    closed: Any
    arguments: Sequence[Any]
    name: str
    donated: Sequence[bool]
    call: JitCall | None = None
    is_compiled: bool = False
    saved: dict[int, Any] = field(default_factory=dict[int, Any])

    @property
    def is_operation(self) -> bool:
        """Whether it is one of JAX's own operations, or a piece of a transformed function."""
        if self.is_compiled:
            return False
        if self.call is None:
            return True
        function: Any = self.call.function
        if getattr(function, "_apply_primitive", False):
            return self.name not in _PROGRAMS
        module = str(getattr(function, "__module__", ""))
        is_jaxs = module == "jax" or module.startswith("jax.")
        # A user's jax.jit(jnp.log) holds a function that is jitted itself.
        return is_jaxs and not self._is_pmapped and not hasattr(function, "lower")

    @property
    def _is_pmapped(self) -> bool:
        module = str(getattr(self.call and self.call.function, "__module__", ""))
        return module.startswith("jax.") and module.endswith(".pmap")

    @property
    def kind(self) -> str:
        """What it is, as in `Fault`."""
        if self.is_compiled:
            return "compiled function"
        if self.call is None:
            return "piece"
        if self.is_operation or hasattr(self.call.function, "_apply_primitive"):
            return "operation"
        return "pmapped function" if self._is_pmapped else "jitted function"

    @property
    def qualified_name(self) -> str:
        """The function's name with its class or the function around it."""
        if self.call is None:
            return self.name
        if self._is_pmapped:
            return getattr(_mapped(self.call.function), "func_name", None) or self.name
        return str(getattr(self.call.function, "__qualname__", None) or self.name)

    def verdict(self, code: int) -> tuple[Verdict | None, str]:
        """Return what is wrong with it, and why that is not known or not sure.

        The user's function is traced again, so that its modules and arguments have their names.
        If that fails, or is finite, the jaxpr that was run is looked at.

        Args:
            code: INF or NAN, what its outputs hold.
        """
        verdict, problem = None, "its program is not known"
        for attempt in (self._traced_again, self._as_run):
            try:
                verdict = attempt()
            except Exception as error:
                problem = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
                continue
            if verdict is not None:
                problem = _CHANGED
                if verdict.fault and (code != NAN or verdict.nan_outputs):
                    return self._placed(verdict), ""
        return verdict, problem

    def _placed(self, verdict: Verdict) -> Verdict:
        """Give an operation the line of its call: its own trace may be of an earlier one."""
        frame = _user_frame() if self.is_operation else None
        if frame is None:
            return verdict

        def placed(site: Site | None) -> Site | None:
            if site is None or site.file:
                return site
            file, code = frame.f_code.co_filename, frame.f_code
            return replace(
                site,
                source=f"{from_package_root(file)}:{frame.f_lineno}",
                file=file,
                line=frame.f_lineno,
                function=code.co_qualname,
                code=linecache.getline(file, frame.f_lineno).strip(),
            )

        origin = placed(verdict.origin)
        is_one = verdict.origin is verdict.culprit
        return replace(
            verdict, origin=origin, culprit=origin if is_one else placed(verdict.culprit)
        )

    def _traced_again(self) -> Verdict | None:
        if self.call is None or self.is_operation or self._is_pmapped:
            return None
        wrapped = _wrapper_call()
        if wrapped is not None:
            function, args, kwargs = self._with_saved(wrapped)
            return pinpoint(function, *args, **kwargs)
        own, args, kwargs = self._with_saved((self.call.function, self.call.args, self.call.kwargs))

        # A function that JAX has not seen: of a known one it has a trace, without the modules.
        @functools.wraps(own)
        def function(*args: Any, **kwargs: Any) -> Any:
            return own(*args, **kwargs)

        return pinpoint(jax.jit(function, **self.call.options()), *args, **kwargs)

    def _with_saved(self, tree: Any) -> Any:
        """Put the copies of donated arguments in their places."""
        if not self.saved:
            return tree
        return jax.tree.map(lambda leaf: self.saved.get(id(leaf), leaf), tree)

    def _as_run(self) -> Verdict | None:
        if self.closed is None:
            return None
        arguments = [self.saved.get(id(x), x) for x in self.arguments]
        scopes = current_scopes() if self.call is None else ""
        traced, arrays, names = trace_closed(self.closed, arguments, scopes)
        names = self._pmapped_names() or list(names)
        names += [f"args[{i}]" for i in range(len(names), len(arrays))]
        outputs = jax.tree.leaves(traced.out_info)
        one = len(outputs) == 1
        return pinpoint_call(
            Call(
                traced=traced,
                arrays=arrays,
                names=[name or f"args[{i}]" for i, name in enumerate(names)],
                numbers={},
                outputs=[OUTPUT if one else f"{OUTPUT}[{i}]" for i in range(len(outputs))],
            )
        )

    def _pmapped_names(self) -> list[str]:
        if self.call is None or not self._is_pmapped:
            return []
        frame = next((f for f in _frames() if _is_frame(f, ".pmap", "wrapped")), None)
        about = _mapped(self.call.function)
        if frame is None or about is None:
            return []
        args, kwargs = frame.f_locals["args"], frame.f_locals["kwargs"]
        starts = list(about.arg_names or ()) if len(about.arg_names or ()) >= len(args) else []
        starts += [f"args[{i}]" for i in range(len(starts), len(args))]
        names = {
            id(leaf): start + jax.tree_util.keystr(path)
            for start, tree in [*zip(starts, args, strict=False), *kwargs.items()]
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        return [names.get(id(x), "") for x in self.arguments]


def user_place() -> str:
    """Return the user's file and line that made the computation; empty if there is none."""
    frame = _user_frame()
    if frame is None:
        return ""
    path = Path(frame.f_code.co_filename)
    is_near = path.is_relative_to(Path.cwd())
    return f"{path.relative_to(Path.cwd()) if is_near else path}:{frame.f_lineno}"


def _user_frame() -> FrameType | None:
    """Return the innermost frame that is neither a library's nor ours."""
    for frame in _frames():
        file = frame.f_code.co_filename
        if not (is_installed(file) or is_nanlab(file)):
            return frame
    return None


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_frame(frame: FrameType, module: str, function: str) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return name.endswith(module) and frame.f_code.co_name == function


def _wrapper_call() -> tuple[Callable[..., Any], Any, Any] | None:
    """Return the call of `eqx.filter_jit` or `nnx.jit` that the jitted call stands for.

    Both jit a function of their own, which has lost the user's names. Their frames still hold
    the user's function and arguments.
    """
    for frame in _frames():
        local = frame.f_locals
        if _is_frame(frame, "equinox._jit", "_call"):
            return local["jit_wrapper"].__wrapped__, local["args"], local["kwargs"]
        if _is_frame(frame, "nnx.transforms.compilation", "__call__") and "kwargs" in local:
            return local["self"].fun, local["args"], local["kwargs"]
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in _WRAPPERS:
            return None
    return None


def _mapped(function: Any) -> Any:
    """Return JAX's record of the function that pmap was given, with its name and arguments."""
    queue = [function]
    for _ in range(16):
        if not queue:
            return None
        one = queue.pop(0)
        if hasattr(one, "debug_info"):
            return one.debug_info
        queue += [cell.cell_contents for cell in getattr(one, "__closure__", None) or ()]
        queue += [one.__wrapped__] if hasattr(one, "__wrapped__") else []
    return None
