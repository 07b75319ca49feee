"""A bundle, in another process -> the faulty call, for `nanlab.cure`."""

from __future__ import annotations

from typing import Any

from nanlab.blame.program.call import call_of
from nanlab.recorder.bundle import Bundle
from nanlab.recorder.frameworks import judged_outputs
from nanlab.recorder.structure import NotDescribed, built, classes_in, looked_up, only, restored

_LIBRARIES = {"jax", "numpy", "optax", "chex", "flax", "equinox", "nanlab"}
_INSTEAD = "or call fault.verdict.cures() where the training catches the fault"


def function_of(bundle: Bundle, function: str | None) -> str:
    """Return the function of the faulty call as "module:name".

    Args:
        bundle: the bundle.
        function: what the user says; None for what the bundle says.

    Raises:
        NotDescribed: it cannot be had; the message says what to do.
    """
    about = bundle.about
    name, module = about["function"], about.get("module", "")
    if about.get("iteration") is not None:
        raise NotDescribed(
            "the fault is in one iteration of a scan, which is no function: give its body and the "
            f"arrays in {bundle.folder / 'arguments.npz'} to nanlab.cure"
        )
    if about.get("structure") is None:
        why = about.get("unstructured") or "an older nanlab wrote the bundle"
        raise NotDescribed(
            f"the arguments cannot be built again: {why}. Call fault.verdict.cures() where the "
            f"training catches the fault, or nanlab.cure({name}, *arguments)"
        )
    if function is not None:
        return function
    if not module or "<" in name:
        raise NotDescribed(
            f"{name} cannot be imported, since it is defined inside a function: move it to a "
            f"module and pass --function module:name, {_INSTEAD}"
        )
    if module == "__main__":
        raise NotDescribed(
            f"{name} is defined in the script itself, which importing it would run: pass "
            f"--function module:{name} if that is harmless, {_INSTEAD}"
        )
    return f"{module}:{name}"


def modules_of(bundle: Bundle, function: str) -> set[str]:
    """Return the modules that are imported for a cure, without those of known libraries."""
    names = {function, *classes_in(bundle.about["structure"])}
    modules = {name.partition(":")[0] for name in names}
    return {name for name in modules if name.partition(".")[0] not in _LIBRARIES}


def call_in(bundle: Bundle, function: str) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return (function, args, kwargs) of the faulty call; it returns the outputs at fault.

    Raises:
        NotDescribed: the function or an argument cannot be had.
    """
    about = bundle.about
    found = looked_up(function)
    if not callable(found):
        raise NotDescribed(f"{function} is not a function")
    rows = zip(bundle.arguments.values(), about["types"], bundle.arguments, strict=True)
    leaves = [restored(array, kind, name) for array, kind, name in rows]
    args, kwargs = built(about["structure"], leaves)
    if about["judged"]:
        outputs = call_of(found, args, kwargs).outputs
        judged = judged_outputs(outputs, about["judged"], is_inner=False)
        found = found if judged is None else only(found, judged)
    return found, args, kwargs
