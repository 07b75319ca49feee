"""The words of a blame: phase, mechanism, status, and what JAX's own checks answer."""

from __future__ import annotations

from nanlab.backend.vocabulary import Word


class Phase(Word):
    """The part of a training program that an equation belongs to."""

    INIT = "init", "The initial state was being made."
    DATA = "data", "The value came with the data or another argument."
    FORWARD = "forward", "The forward pass: the model and its loss."
    BACKWARD = "backward", "The backward pass: the gradient."
    UPDATE = "update", "The optimizer's update."


class Mechanism(Word):
    """The arithmetic by which an inf or a NaN arises."""

    OVERFLOW = "overflow", "a number too large for its type"
    POLE = "pole", "a function at its pole"
    INF_MINUS_INF = "inf-inf", "two infs that cancel"
    ZERO_TIMES_INF = "0*inf", "a zero meets an inf"
    ZERO_OVER_ZERO = "0/0", "zero by zero"
    INF_OVER_INF = "inf/inf", "inf by inf"
    DOMAIN = "domain", "an argument outside the function's domain"
    OPAQUE = "opaque", "made inside a kernel"
    INPUT = "input", "came in with the arguments"
    CONSTANT = "constant", "is written into the program"
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
        "Operation by operation there is a fault, which the compiler's rewriting removes.",
    )
    CLEAN = "clean", "Every output is finite."


class WitnessAnswer(Word):
    """How the place where `jax.debug_nans` stops compares with the blame; best first."""

    AGREES = "agrees", "It stops at the same operation and line."
    SEES_LESS = "sees-less", "It names a whole loop or call, or no line."
    EARLIER_BENIGN = "earlier-benign", "It stops earlier, at a value that does no harm."
    NOT_REPRODUCED = (
        "not-reproduced",
        "Run operation by operation for one lane, nothing fails: it rounds differently.",
    )
    NOT_ASKED = "not-asked", "It was not run."
    DISAGREES = "disagrees", "It names another operation."

    @property
    def rank(self) -> int:
        """Its position from best (0) to worst."""
        return list(type(self)).index(self)
