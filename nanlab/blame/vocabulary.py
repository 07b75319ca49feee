"""The terms of a blame: phase, mechanism, status, and the result of JAX's own checks."""

from __future__ import annotations

from nanlab.backend.vocabulary import Word


class Phase(Word):
    """Part of a training program that an equation belongs to."""

    INIT = "init", "Creation of the initial state."
    DATA = "data", "Outside the step: the data or another argument."
    FORWARD = "forward", "The forward pass: the model and its loss."
    BACKWARD = "backward", "The backward pass: the gradient."
    UPDATE = "update", "The optimizer's update."


class Mechanism(Word):
    """Arithmetic by which an inf or a NaN arises."""

    OVERFLOW = "overflow", "a number too large for its type"
    POLE = "pole", "a function at its pole"
    INF_MINUS_INF = "inf-inf", "two infs that cancel"
    ZERO_TIMES_INF = "0*inf", "a zero meets an inf"
    ZERO_OVER_ZERO = "0/0", "zero divided by zero"
    INF_OVER_INF = "inf/inf", "inf divided by inf"
    DOMAIN = "domain", "an argument outside the function's domain"
    OPAQUE = "opaque", "computed inside a kernel"
    INPUT = "input", "passed in as an argument"
    CONSTANT = "constant", "written into the program"
    FILL = "fill", "filled in for an index out of bounds"


class Status(Word):
    """Whether the instrumented program shows the fault of the compiled one."""

    REPRODUCED = "reproduced", "The instrumented program fails in the same way."
    COMPILED_ONLY = (
        "compiled-only",
        "Only the compiled program fails; the sites are those of the instrumented one, if any.",
    )
    REWRITTEN_AWAY = (
        "rewritten-away",
        "Operation by operation there is a fault that the compiler's rewriting removes.",
    )
    CLEAN = "clean", "Every output is finite."


class WitnessAnswer(Word):
    """How the operation at which `jax.debug_nans` stops compares with the blame; best first."""

    AGREES = "agrees", "It stops at the same operation and line."
    SEES_LESS = "sees-less", "It names a whole loop or call, or no line."
    EARLIER_BENIGN = "earlier-benign", "It stops earlier, at a harmless value."
    NOT_REPRODUCED = (
        "not-reproduced",
        "Operation by operation, for one lane, nothing fails: rounding differs.",
    )
    NOT_ASKED = "not-asked", "It was not run."
    DISAGREES = "disagrees", "It names another operation."

    @property
    def rank(self) -> int:
        """Position from best (0) to worst."""
        return list(type(self)).index(self)
