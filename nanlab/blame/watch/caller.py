"""The Python stack around a computation -> the user's line, and the call that a wrapper made."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import FrameType
from typing import Any

from nanlab.blame.source_path import from_package_root, is_installed, is_nanlab

# Libraries that wrap `jax.jit`: their frames lie between the user's call and JAX.
_WRAPPERS = {"jax", "nanlab", "equinox", "flax", "jaxtyping", "beartype", "contextlib", "functools"}


@dataclass(frozen=True, slots=True)
class Caller:
    """The user's line that made a computation.

    Attributes:
        file: its file.
        line: its number.
        function: qualified name of the function that it is in.
    """

    file: str
    line: int
    function: str

    @property
    def place(self) -> str:
        """File and line, as text shows them."""
        return f"{from_package_root(self.file)}:{self.line}"

    @property
    def code(self) -> str:
        """The line itself."""
        return linecache.getline(self.file, self.line).strip()


def caller_here() -> Caller | None:
    """Return the innermost line that is neither a library's nor ours."""
    for frame in _frames():
        code = frame.f_code
        if _is_users(code.co_filename):
            return Caller(code.co_filename, frame.f_lineno, code.co_qualname)
    return None


@cache
def _is_users(file: str) -> bool:
    return not (is_installed(file) or is_nanlab(file))


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_frame(frame: FrameType, module: str, function: str) -> bool:
    if frame.f_code.co_name != function:
        return False
    return str(frame.f_globals.get("__name__", "")).endswith(module)


def wrapper_call() -> tuple[Callable[..., Any], Any, Any] | None:
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


def residual_outputs() -> frozenset[int]:
    """Return which outputs a piece of a jitted function has for its derivative alone.

    When JAX differentiates a jitted function, one program returns what the function returns and
    then what its derivative needs; differentiated forward, it returns their tangents, too. Only
    the frames of these rules know which output is which. The outermost rule was the first.
    """
    rules = list[Callable[[int, frozenset[int]], tuple[int, frozenset[int]]]]()
    for frame in _frames():
        if _is_frame(frame, ".pjit", "_pjit_linearize"):
            rules.append(partial(_linearized, frame.f_locals))
        elif _is_frame(frame, ".pjit", "_pjit_jvp"):
            rules.append(partial(_pushed_forward, frame.f_locals))
        elif _is_users(frame.f_code.co_filename):
            break
    n_outputs, residuals = -1, frozenset[int]()
    for rule in reversed(rules):
        n_outputs, residuals = rule(n_outputs, residuals)
    return residuals


def _linearized(
    local: Mapping[str, Any], n_outputs: int, residuals: frozenset[int]
) -> tuple[int, frozenset[int]]:
    start = local.get("num_primals_out")
    jaxpr = next((local[k] for k in ("primal_jaxpr", "fwd_jaxpr") if k in local), None)
    if start is None or jaxpr is None:
        return -1, frozenset()
    n_all = len(jaxpr.out_avals)
    return n_all, (residuals if start == n_outputs else frozenset()).union(range(start, n_all))


def _pushed_forward(
    local: Mapping[str, Any], n_outputs: int, residuals: frozenset[int]
) -> tuple[int, frozenset[int]]:
    has_tangent = local.get("is_nz_tangents_out", ())
    with_tangent = [i for i, has in enumerate(has_tangent) if has]
    if len(has_tangent) != n_outputs:
        residuals = frozenset()
    n_all = len(has_tangent) + len(with_tangent)
    tangents = range(len(has_tangent), n_all)
    return n_all, residuals.union(
        j for i, j in zip(with_tangent, tangents, strict=True) if i in residuals
    )


def pmapped_call(function: Any) -> tuple[str, list[tuple[str, Any]]]:
    """Return the name of the function that pmap was given, and its (name, argument) pairs."""
    about = _mapped(function)
    name = getattr(about, "func_name", None) or ""
    frame = next((f for f in _frames() if _is_frame(f, ".pmap", "wrapped")), None)
    if frame is None or about is None:
        return name, []
    args, kwargs = frame.f_locals["args"], frame.f_locals["kwargs"]
    starts = list(about.arg_names or ()) if len(about.arg_names or ()) >= len(args) else []
    starts += [f"args[{i}]" for i in range(len(starts), len(args))]
    return name, [*zip(starts, args, strict=False), *kwargs.items()]


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
