"""What `nanlab.lint` reports: findings, what is proved, and what that rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nanlab.blame.site import Site
from nanlab.linting.arguments import Assumption

SHOWN = 4
"""Number of names that are listed before the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An equation at which an inf or a NaN can arise that can reach an output.

    Attributes:
        site: the equation: primitive, mechanism, phase, module and line.
        sentence: what would have to happen.
        count: number of such equations on this line.
        is_growth: whether it is the overflow of a sum, a product or a square in a wide type.
    """

    site: Site
    sentence: str
    count: int = 1
    is_growth: bool = False

    @property
    def cure(self) -> str:
        """What usually cures it."""
        return self.site.cure

    def __str__(self) -> str:
        where = f"{self.site.source}: " if self.site.source else ""
        return f"{where}{self.sentence}"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """An equation at which an inf or a NaN could arise, and cannot with what is assumed.

    Attributes:
        site: the equation.
        reason: "range": its operands stay away from danger. "masked": what it may make reaches no
            output.
        find_arguments: returns the names of the arguments that it depends on.
        find_opaque: returns the primitives without a rule that it depends on; their results are
            taken to be finite.
    """

    site: Site
    reason: str
    find_arguments: Callable[[], tuple[str, ...]] = field(repr=False, compare=False)
    find_opaque: Callable[[], tuple[str, ...]] = field(repr=False, compare=False)

    @property
    def rests_on(self) -> tuple[str, ...]:
        """The arguments whose ranges, and the kernels whose results, are assumed."""
        return (*self.find_arguments(), *self.find_opaque())


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """A primitive without a rule: its results are taken to be any finite numbers.

    Attributes:
        primitive: name of the primitive.
        sites: its equations.
    """

    primitive: str
    sites: tuple[Site, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class Report:
    """What `nanlab.lint` found. `print` it to read it.

    Attributes:
        findings: where an inf or a NaN can arise from harmless numbers, and reach an output.
        growth: where sums, products or squares can overflow in a wide type, if numbers grow.
        proved: where one could arise in other programs, and cannot here.
        assumed: ranges of the arguments.
        unknown: primitives without a rule.
    """

    findings: tuple[Finding, ...]
    growth: tuple[Finding, ...]
    proved: tuple[Proof, ...]
    assumed: tuple[Assumption, ...]
    unknown: tuple[Unknown, ...]

    def text(self, *, growth: bool = False) -> str:
        """Return the report as plain text, with findings of growth if requested."""
        return "\n".join(self._lines(growth=growth))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as dicts, lists, strings and numbers."""
        return {
            "findings": [_finding(finding) for finding in self.findings],
            "growth": [_finding(finding) for finding in self.growth],
            "proved": [
                {**_place(proof.site), "reason": proof.reason, "rests_on": list(proof.rests_on)}
                for proof in self.proved
            ],
            "assumed": [asdict(assumption) for assumption in self.assumed],
            "unknown": [
                {"primitive": unknown.primitive, "sites": [_place(s) for s in unknown.sites]}
                for unknown in self.unknown
            ],
        }

    def __repr__(self) -> str:
        counts = (f"{name}={len(getattr(self, name))}" for name in ("findings", "growth", "proved"))
        return f"Report({', '.join(counts)}; print it)"

    def __str__(self) -> str:
        return self.text()

    def _lines(self, *, growth: bool) -> Iterator[str]:
        shown = (*self.findings, *(self.growth if growth else ()))
        yield self._headline()
        for number, finding in enumerate(shown, start=1):
            yield ""
            yield from _finding_lines(number, finding)
        yield ""
        yield from self._basis()

    def _headline(self) -> str:
        n = len(self.findings)
        found = {0: "No inf or NaN can arise", 1: "An inf or a NaN can arise in 1 place"}
        text = found.get(n, f"Infs or NaNs can arise in {n} places")
        if not n and self.unknown:
            names = [unknown.primitive for unknown in self.unknown]
            stand = "1 primitive is" if len(names) == 1 else f"{len(names)} primitives are"
            text = f"No inf or NaN was found; {stand} unknown: {_listed(names)}"
        hidden = len(self.growth)
        if not hidden:
            return f"{text}."
        growing = "sums and products" if hidden > 1 else "a sum or a product"
        return f"{text}; {hidden} more where {growing} overflow if numbers grow (growth)."

    def _basis(self) -> Iterator[str]:
        if self.proved:
            kinds = Counter(proof.site.primitive for proof in self.proved).most_common()
            yield (
                f"Proved: {len(self.proved)} other places cannot make one that reaches an output "
                f"({', '.join(f'{name} {count}' for name, count in kinds[:8])}), assuming"
            )
        else:
            yield "Assumed:"
        by_range: dict[tuple[float, float, str], list[str]] = {}
        for assumption in self.assumed:
            key = (assumption.lo, assumption.hi, assumption.source)
            by_range.setdefault(key, []).append(assumption.name)
        for (lo, hi, source), names in by_range.items():
            origin = "as you assume" if source == "assume" else "from the example"
            yield f"  [{lo:g}, {hi:g}] {origin}: {_listed(names)}"
        yield "  arithmetic rounded operation by operation; XLA may fuse operations and round less"
        for unknown in self.unknown:
            lines = sorted({site.source for site in unknown.sites if site.source})
            yield f"  finite results of {unknown.primitive}, which has no rule: {_listed(lines)}"


def _finding_lines(number: int, finding: Finding) -> Iterator[str]:
    site = finding.site
    place = f"the {site.phase} pass" if site.phase.endswith("ward") else f"the {site.phase}"
    module = f", in {site.module}" if site.module else ""
    more = f" ({finding.count} times)" if finding.count > 1 else ""
    kind = "growth" if finding.is_growth else site.mechanism
    yield f"{number}. {site.primitive}, {kind}, in {place}{module}{more}"
    if site.source:
        yield f"   at {site.source} in {site.function}"
        if site.code:
            yield f"       {site.code}"
    yield f"   {finding.sentence}"
    if finding.cure:
        yield f"   Usual cure: {finding.cure}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _place(site: Site) -> dict[str, Any]:
    fields = ("primitive", "mechanism", "phase", "module", "source", "function", "file", "line")
    return {name: getattr(site, name) for name in fields}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        **_place(finding.site),
        "code": finding.site.code,
        "sentence": finding.sentence,
        "cure": finding.cure,
        "count": finding.count,
    }
