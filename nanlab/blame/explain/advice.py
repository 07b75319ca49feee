"""Fault -> advice: what usually cures it, chosen from its whole chain."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from nanlab.backend.finiteness import NAN
from nanlab.blame.diagnosis.causal_walk import Event
from nanlab.blame.explain.derivatives import Derivatives
from nanlab.blame.explain.formulas import Formulas
from nanlab.blame.explain.library import functions_around, key_of_library
from nanlab.blame.explain.remedies import (
    AT_SINGULARITY,
    FORWARD,
    OUTSIDE,
    OVERFLOWS,
    is_called,
    remedy,
    spoken,
)
from nanlab.blame.explain.surroundings import Surroundings
from nanlab.blame.program.program import Equation
from nanlab.blame.site import Site
from nanlab.blame.vocabulary import Mechanism, Phase

_DISTRIBUTIONS = ("numpyro", "distrax", "tensorflow_probability")
_EXPONENTIALS = ("exp", "exp2", "expm1")
_CASTS = ("convert_element_type", "reduce_precision")


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What advice is chosen from.

    Attributes:
        origin: event at which the inf or the NaN began.
        culprit: event of the first NaN; the origin, if there is no NaN or it is both.
        sites: their sites.
        equations: the equations on the way to the output.
        phase: returns the phase of an equation.
    """

    origin: Event
    culprit: Event
    sites: Mapping[Event, Site]
    equations: Collection[Equation]
    phase: Callable[[int], Phase]

    @property
    def passed(self) -> set[int]:
        """Numbers of the equations on the way."""
        return {equation.index for equation in self.equations}

    @property
    def returns_backward(self) -> bool:
        """Whether the way leads through a backward pass."""
        return any(self.phase(index) == Phase.BACKWARD for index in self.passed)


def advice(chain: Chain, around: Surroundings) -> tuple[str, Equation | None]:
    """Return what usually cures a fault, and the function whose derivative is at fault, if any.

    Where nothing safe can be said, the sentence is neutral.
    """
    adviser = _Adviser(chain, around)
    return adviser.advice(), adviser.behind


class _Adviser:
    def __init__(self, chain: Chain, around: Surroundings) -> None:
        self._chain, self._around = chain, around
        self._formulas = Formulas(around)
        self._origin, self._culprit = chain.sites[chain.origin], chain.sites[chain.culprit]
        self._at_origin, self._at_culprit = map(around.at, (chain.origin, chain.culprit))
        is_kernel = self._origin.mechanism == Mechanism.OPAQUE
        at = None if is_kernel else self._at_origin
        self.behind = None if at is None else Derivatives(around).of(at)

    def advice(self) -> str:
        """Return the first sentence that a rule gives."""
        rules: list[Callable[[], str]] = [self._read, self._by_library]
        if self._at_origin is not None:
            rules += [self._derivative, self._masked, self._forward]
        for rule in rules:
            if sentence := rule():
                return sentence
        return remedy(self._origin.mechanism.value)

    def _say(self, key: str, name: str = "", *, meets: str = "0 * inf") -> str:
        return remedy(key, name, self._dtype, meets=meets)

    @property
    def _dtype(self) -> str:
        results = self._origin.results or self._culprit.results
        return results[0].dtype if results else "float32"

    # ---- What no equation of the program made ----------------------------------------------------

    def _read(self) -> str:
        mechanism, culprit = self._origin.mechanism, self._culprit
        if mechanism == Mechanism.FILL:
            is_loss = any("integer_labels" in name for name in self._functions())
            return self._say("labels" if is_loss else "fill")
        if mechanism not in (Mechanism.INPUT, Mechanism.CONSTANT):
            return ""
        if self._chain.origin.worst == NAN:
            is_input = mechanism == Mechanism.INPUT
            if self._chain.returns_backward:
                return self._say("padding" if is_input else "written padding")
            if any(map(self._around.is_masked_product, self._chain.equations)):
                return self._say("mask product later")
            return self._say("input" if is_input else "written NaN")
        if culprit.mechanism == Mechanism.INF_MINUS_INF and culprit.primitive == "sub":
            if self._subtracts_maximum():
                return self._say("masked row")
        elif culprit.mechanism == Mechanism.ZERO_TIMES_INF and self._meets_mask():
            return self._say("inf mask" if mechanism == Mechanism.CONSTANT else "inf argument")
        return self._say(mechanism.value)

    def _subtracts_maximum(self) -> bool:
        equation = self._at_culprit
        return equation is not None and any(
            self._formulas.is_maximum(value) for value in equation.operands
        )

    def _meets_mask(self) -> bool:
        equation = self._at_culprit
        return equation is not None and any(map(self._around.is_mask, equation.operands))

    # ---- Libraries -------------------------------------------------------------------------------

    def _functions(self) -> set[str]:
        equations = (self._at_culprit, self._at_origin)
        return {name for e in equations if e is not None for name in functions_around(e)}

    def _by_library(self) -> str:
        names = self._functions()
        if self._is_at_zero() and (key := key_of_library(names, self._origin.primitive)):
            return self._say(key)
        is_log = self._name_behind() == "log"
        if is_log and any(n.startswith(p) for n in names for p in _DISTRIBUTIONS):
            return self._say("probs")
        return ""

    def _is_at_zero(self) -> bool:
        """Return whether it is a division by 0, or something that such a division led to."""
        return self._origin.mechanism in (Mechanism.POLE, Mechanism.ZERO_OVER_ZERO)

    def _name_behind(self) -> str:
        at = self.behind or self._at_origin
        return at.primitive if at is not None else ""

    # ---- Derivatives -----------------------------------------------------------------------------

    def _derivative(self) -> str:
        """Return the advice for a derivative that is infinite, by the function behind it."""
        behind, at = self.behind, self._at_origin
        if behind is None:
            is_transposed = at is not None and "transpose(" in at.scopes
            return self._say("derivative") if is_transposed and self._is_at_zero() else ""
        name = behind.primitive
        return (
            (name != "div" and self._formula(behind))
            or self._guarded(behind)
            or self._formula(behind)
            or (self._at_singularity(behind) if name in AT_SINGULARITY else self._say("derivative"))
        )

    def _formula(self, behind: Equation) -> str:
        """Return the advice for a formula that a library has in a safe form."""
        formulas, name, argument = self._formulas, behind.primitive, behind.operands[0]
        if name == "div":
            return self._say(formulas.of_divisor(behind))
        by_name = {"log": formulas.of_log, "log1p": formulas.of_log1p}
        key = by_name[name](argument) if name in by_name else ""
        if name == "log" and any("logsumexp" in f for f in functions_around(behind)):
            key = "all -inf"
        if not key and name == "log" and formulas.is_entropy(behind):
            key = "xlogx"
        return self._say(key)

    def _guarded(self, behind: Equation) -> str:
        """Return the advice for a function whose result is masked, and not its derivative."""
        name = behind.primitive
        guard = self._guard(behind)
        if not guard or not is_called(name):
            return ""
        if guard == "clip":
            return self._say("clip inside", name)
        is_norm = name == "sqrt" and self._formulas.is_norm(behind)
        if is_norm or (name == "div" and self._formulas.is_length(behind.operands[1])):
            name = "norm"
        if guard == "product":
            return self._say("mask product", name)
        meets = "0 * inf"
        if self._origin.mechanism == Mechanism.DOMAIN:
            meets = "0 * NaN"
        elif self._culprit.mechanism == Mechanism.ZERO_OVER_ZERO:
            meets = "0 / 0"
        return self._say("mask inside", name, meets=meets)

    def _guard(self, behind: Equation) -> str:
        """Return how the program masks the result of a function, if it does."""
        around, at = self._around, self._at_culprit
        guard = around.guard(behind, self._chain.passed)
        if guard or at is None or self._culprit.phase != Phase.BACKWARD:
            return guard
        contents = zip(at.operands, self._culprit.operands, strict=False)
        zeros = [v for v, c in contents if c.zeros and not (c.posinfs or c.neginfs or c.nans)]
        return next(filter(None, (around.zero_from(v, behind) for v in zeros)), "")

    def _at_singularity(self, behind: Equation) -> str:
        """Return the advice for a function at a point where it has no finite derivative."""
        name, formulas = behind.primitive, self._formulas
        is_outside = self._origin.mechanism == Mechanism.DOMAIN
        if name == "sqrt" and formulas.is_norm(behind):
            return self._say("norm at 0")
        if name in ("sqrt", "rsqrt") and formulas.is_spread(behind):
            return self._say("std at 0")
        if name == "sqrt" and formulas.is_square(behind.operands[0]):
            return self._say("abs at 0")
        if is_outside and name in OUTSIDE:
            return self._say(OUTSIDE[name], name)
        return self._say(AT_SINGULARITY[name], name)

    # ---- What the forward pass masks -------------------------------------------------------------

    def _masked(self) -> str:
        at, culprit = self._at_origin, self._at_culprit
        assert at is not None
        if at.primitive in ("exp", "log", "log1p") and (sentence := self._known(at)):
            return sentence
        if not is_called(at.primitive) or not at.results:
            return ""
        is_product = self._culprit.mechanism == Mechanism.ZERO_TIMES_INF and culprit is not None
        if is_product and self._culprit.phase != Phase.BACKWARD:
            return self._say("mask product", at.primitive) if self._meets_mask() else ""
        return self._guarded(at) if self._chain.returns_backward else ""

    def _known(self, at: Equation) -> str:
        if at.primitive != "exp":
            return self._formula(at)
        key = self._formulas.of_exp(at) if self._origin.mechanism == Mechanism.OVERFLOW else ""
        return self._say(key)

    # ---- The forward pass ------------------------------------------------------------------------

    def _forward(self) -> str:
        at = self._at_origin
        assert at is not None
        name, mechanism = at.primitive, self._origin.mechanism
        if mechanism == Mechanism.OVERFLOW:
            return self._exponential(at) if name in _EXPONENTIALS else self._overflow(at)
        if mechanism == Mechanism.INF_MINUS_INF and self._subtracts_maximum():
            return self._say("masked row")
        if name == "div" and self._is_at_zero() and (key := self._formulas.of_divisor(at)):
            return self._say(key)
        is_root = mechanism == Mechanism.DOMAIN and name in ("sqrt", "rsqrt")
        if is_root and self._formulas.is_variance(at.operands[0]):
            return self._say("variance")
        return self._say(FORWARD.get((mechanism.value, name), ""), name)

    def _exponential(self, at: Equation) -> str:
        if self._around.feeds_itself(at):
            return self._say("diverges", at.primitive)
        less = self._around.made_by(at.operands[0], "sub")
        is_ratio = less and all(self._around.constant(v) is None for v in less.operands)
        return self._say("ratio" if is_ratio else "exp")

    def _overflow(self, at: Equation) -> str:
        name, around = at.primitive, self._around
        if name not in _CASTS:
            if around.feeds_itself(at) and not self._dtype.startswith("float8"):
                return self._say("diverges", spoken(name))
            is_square = name in ("square", "integer_pow", "mul", "reduce_sum")
            if is_square and self._formulas.feeds_norm(at):
                return self._say("norm overflow")
        is_backward = self._origin.phase == Phase.BACKWARD
        return self._say(_overflow_key(name, self._dtype, is_backward=is_backward))


def usual_advice(equation: Equation, phase: Phase, mechanism: Mechanism, dtype: str) -> str:
    """Return what usually cures a fault of which nothing but its equation is known.

    Args:
        equation: the equation at which the inf or the NaN may begin.
        phase: its phase.
        mechanism: what happens there.
        dtype: type of its result.
    """
    name, is_backward = equation.primitive, phase == Phase.BACKWARD
    is_at_zero = mechanism in (Mechanism.POLE, Mechanism.ZERO_OVER_ZERO)
    key = FORWARD.get((mechanism.value, name), mechanism.value)
    if mechanism == Mechanism.OVERFLOW:
        key = _overflow_key(name, dtype, is_backward=is_backward)
    elif mechanism == Mechanism.FILL:
        names = functions_around(equation)
        key = "labels" if any("integer_labels" in name for name in names) else "fill"
    elif is_at_zero:
        by_library = key_of_library(functions_around(equation), name)
        key = by_library or ("derivative" if is_backward else key)
    return remedy(key, name, dtype)


def _overflow_key(name: str, dtype: str, *, is_backward: bool) -> str:
    if name in _EXPONENTIALS:
        return "exp"
    if name not in _CASTS:
        return "wider" if dtype == "float16" else OVERFLOWS.get(name, "overflow")
    if dtype.startswith("float8"):
        return "cast float8"
    if dtype == "float16":
        return "loss scale" if is_backward else "cast float16"
    return "cast"
