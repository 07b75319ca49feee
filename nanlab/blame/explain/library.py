"""Equation -> the library functions around it, such as "optax.cosine_similarity"."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache

from nanlab.blame.diagnosis.location import is_plumbing, stack_of
from nanlab.blame.program.program import Equation
from nanlab.blame.source_path import from_package_root, is_installed

_NORMAL_LAYERS = ("LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm", "InstanceNorm")

_WITHOUT_MOMENT = ("optax.scale_by_schedule", "optax.scale_by_learning_rate")


def functions_around(equation: Equation) -> set[str]:
    """Return all library functions and classes around an equation: "jax.norm", "flax.LayerNorm"."""
    return {*_in_stack(equation), *_jitted(equation)}


def library_functions(equation: Equation) -> Iterator[str]:
    """Yield the library functions between an equation and the user's line, innermost first."""
    for frame in stack_of(equation):
        if not is_installed(frame.file):
            return
        if not is_plumbing(frame.file):
            yield f"{_package(frame.file)}.{frame.function}"


def key_of_library(names: Collection[str], primitive: str) -> str:
    """Return the remedy of a division by 0, or of what it led to, in a library's function."""
    if {"optax.cosine_similarity", "optax.cosine_distance"} & set(names):
        return "cosine"
    if any(layer in name for name in names for layer in _NORMAL_LAYERS):
        return "layer epsilon"
    # A schedule of the user's runs inside optax.scale_by_schedule, which divides by no moment.
    is_adaptive = any(
        name.startswith("optax.scale_by_") and name not in _WITHOUT_MOMENT for name in names
    )
    return "adam" if is_adaptive and primitive == "div" else ""


def _in_stack(equation: Equation) -> Iterator[str]:
    for frame in stack_of(equation):
        if is_installed(frame.file):
            package = _package(frame.file)
            for name in frame.function.split("."):
                yield f"{package}.{name}"


def _jitted(equation: Equation) -> Iterator[str]:
    for caller in equation.callers:
        name = caller.params.get("name")
        if isinstance(name, str):
            yield f"jax.{name}"


@cache
def _package(file: str) -> str:
    return from_package_root(file).partition("/")[0]
