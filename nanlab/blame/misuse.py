"""Function, arguments -> the traced call, or a sentence that says why there is none."""

from __future__ import annotations

import inspect
import linecache
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import checkify

from nanlab.backend import jaxpr as _jax
from nanlab.blame.program.call import Call, call_of
from nanlab.blame.source_path import displayed, is_installed, is_nanlab

CHECKS_LEFT_OUT = (
    "the conditions of checkify.check were not examined, only what the function computes; "
    "jax.experimental.checkify.checkify(function) examines them"
)
_UNTRACEABLE: dict[type[Exception], str] = {
    jax.errors.TracerBoolConversionError: "a Python if, while, and, or, not or assert needs the "
    "number of an array there, which is not known before the program runs. Use jnp.where, lax.cond "
    "or lax.while_loop; an argument that decides a branch may be a Python bool, number or string, "
    "which stays what it is",
    jax.errors.TracerArrayConversionError: "an array goes to NumPy there, which JAX cannot follow. "
    "Use jax.numpy in its place, or jax.pure_callback for what only NumPy can do",
    jax.errors.TracerIntegerConversionError: "an array is used there as an index or a size, whose "
    "number is not known before the program runs. Pass a Python int",
    jax.errors.NonConcreteBooleanIndexError: "the shape of x[mask] depends on the numbers in the "
    "mask. Use jnp.where(mask, x, 0) in its place",
    jax.errors.ConcretizationTypeError: "an array is turned into a Python number there, as by "
    "float(), int(), .item() or .tolist(). Leave it an array, or pass it as a Python number, which "
    "stays what it is",
}  # the first that fits: the last is the base of some of them


def traced_call(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, verb: str = "pinpoint"
) -> tuple[Call, list[str]]:
    """Trace a call without computing anything.

    Args:
        function: the function.
        args: its positional arguments.
        kwargs: its keyword arguments.
        verb: name of nanlab's function that was called, for error messages.

    Returns:
        The traced call, and remarks on it.

    Raises:
        TypeError: it is not a function, or not one of these arguments.
        ValueError: an argument was donated to an earlier call and deleted.
        Exception: whatever tracing raises; with a sentence in place of JAX's text if the function
            cannot be traced.
    """
    _check_function(function, verb)
    _check_arguments(function, args, kwargs, verb)
    try:
        call = call_of(function, args, kwargs)
    except Exception as error:
        if sentence := _sentence(error, function):
            error.args = (sentence,)
        raise
    if not any(type(effect).__name__ == "ErrorEffect" for effect in call.closed.effects):
        return call, []
    return call_of(_without_checks(function), args, kwargs), [CHECKS_LEFT_OUT]


def _without_checks(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that computes the same and carries its checks along, unread."""

    @wraps(function)
    def unchecked(*args: Any, **kwargs: Any) -> Any:
        checked: Any = checkify.checkify(function, errors=checkify.user_checks)
        _, result = checked(*args, **kwargs)
        return result

    return unchecked


# ---- Before tracing ------------------------------------------------------------------------------


def _check_function(function: Any, verb: str) -> None:
    compiled: Any = (jax.stages.Compiled, jax.stages.Lowered)
    if isinstance(function, compiled):
        raise TypeError(
            f"nanlab.{verb} needs a function that it can trace, and a compiled program has none "
            f"of its operations left: pass the function that was compiled{_called()}"
        )
    if not callable(function):
        raise TypeError(
            f"nanlab.{verb} needs a function and its arguments, as in {verb}(f, x), and got "
            f"{_what(function)}: pass the function itself, not the result of its call{_called()}"
        )
    plain = inspect.unwrap(function)
    kinds = {
        inspect.isgeneratorfunction: "a generator function",
        inspect.iscoroutinefunction: "an async function",
        inspect.isasyncgenfunction: "an async generator function",
    }
    for is_kind, kind in kinds.items():
        if is_kind(plain):
            raise TypeError(
                f"{name_of(function)} is {kind}, which computes nothing when it is called: pass a "
                f"function that returns arrays{_called()}"
            )


def _check_arguments(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], verb: str
) -> None:
    if any(map(inspect.isgenerator, (*args, *kwargs.values()))):
        raise TypeError(
            f"an argument of {name_of(function)} is a generator, which can be read only once: "
            f"pass a list{_called()}"
        )
    if _jax.holds_tracer((args, dict(kwargs))):
        raise TypeError(_inside("an argument", verb))
    if _jax.is_traced(()) and _jax.holds_tracer(_closed_over(function)):
        raise TypeError(_inside("an array that the function uses", verb))
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"{name_of(function)}{signature} cannot be called with these arguments: {error}. "
            f"nanlab.{verb} takes them after the function, as in {verb}(f, x, y){_called()}"
        ) from None


def _closed_over(function: Any) -> list[Any]:
    try:
        return [*inspect.getclosurevars(inspect.unwrap(function)).nonlocals.values()]
    except (TypeError, ValueError):
        return []


def _inside(what: str, verb: str) -> str:
    return (
        f"nanlab.{verb} is given a function and numbers, and {what} has none yet, as {verb} is "
        "called inside a function that jax.jit, grad, vmap or the like transforms. Call it "
        f"outside, as in {verb}(jax.grad(f), x){_called()}"
    )


# ---- After tracing -------------------------------------------------------------------------------


def _sentence(error: Exception, function: Any) -> str:
    """Return why a function cannot be traced; "" if the error says it itself."""
    for kind, reason in _UNTRACEABLE.items():
        if isinstance(error, kind):
            return f"{name_of(function)} cannot be traced: {_at(error)}{reason}"
    text = str(error)
    if isinstance(error, OverflowError) and "Python int" in text:
        return (
            f"{name_of(function)} gets a Python int that no integer type of JAX holds ({text}): "
            f"pass it as a float{_called()}"
        )
    if isinstance(error, TypeError) and "converted to a scalar index" in text:
        reason = _UNTRACEABLE[jax.errors.TracerIntegerConversionError]
        return f"{name_of(function)} cannot be traced: {_at(error)}{reason}"
    if text.startswith("Non-hashable static arguments"):
        return (
            f"a static argument of {name_of(function)} cannot be hashed, as it is a list, a dict "
            f"or an array: pass a tuple, or do not make it static{_called()}"
        )
    if "not a valid JAX type" in text and "returned a value of type" in text:
        kind = text.partition("<class '")[2].partition("'")[0]
        return (
            f"{name_of(function)} returns {_a(kind)}, which is no array: return arrays, or lists, "
            f"tuples and dicts of arrays{_called()}"
        )
    return ""


def _at(error: Exception) -> str:
    """Return the user's line at which an error arose, with its code."""
    found = ""
    for frame, line in _frames(error.__traceback__):
        code = frame.f_code
        if not (is_installed(code.co_filename) or is_nanlab(code.co_filename)):
            text = linecache.getline(code.co_filename, line).strip()
            found = f"at {displayed(code.co_filename)}:{line}" + (f", `{text}`, " if text else " ")
    return found


def _frames(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _called() -> str:
    """Return where the user called nanlab, as the end of a sentence."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        file = frame.f_code.co_filename
        if not (is_installed(file) or is_nanlab(file)):
            return f" (called at {displayed(file)}:{frame.f_lineno})"
        frame = frame.f_back
    return ""


def name_of(function: Any) -> str:
    """Return the name of a function, for sentences."""
    plain = inspect.unwrap(function)
    name = str(getattr(plain, "__qualname__", None) or type(plain).__name__)
    return "the lambda" if name.endswith("<lambda>") else name.rpartition("<locals>.")[2]


def _what(thing: Any) -> str:
    if hasattr(thing, "dtype") and hasattr(thing, "shape"):
        return f"an array, {thing.dtype}{list(thing.shape)}"
    if thing is None or isinstance(thing, str | bool | int | float):
        return repr(thing)
    return _a(type(thing).__name__)


def _a(name: str) -> str:
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
