"""Function, arguments -> report: the public `nanlab.lint`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from nanlab.blame.diagnosis.attribution import site_at
from nanlab.blame.diagnosis.location import phases_of
from nanlab.blame.explain.advice import usual_advice
from nanlab.blame.explain.expressions import Expressions
from nanlab.blame.misuse import traced_call
from nanlab.blame.program.call import Call
from nanlab.blame.program.dataflow import upstream
from nanlab.blame.program.program import Program, flatten_closed
from nanlab.blame.site import Site
from nanlab.blame.vocabulary import Mechanism, Phase
from nanlab.linting.abstract import CONSTANT, INPUT
from nanlab.linting.analysis import RangeAnalysis, ValueResults
from nanlab.linting.arguments import Assumption, abstract_argument, assumptions_of
from nanlab.linting.report import Finding, Proof, Report, Unknown
from nanlab.linting.sentences import Sentences


def lint(
    function: Callable[..., Any],
    *args: Any,
    assume: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Report:
    """Report where an inf or a NaN can arise in a function, before it runs.

    The function is traced, and its program is interpreted with a range in place of each number:
    gradients and updates as well. Nothing is computed or compiled.

    - A range comes from `assume`, else from the example: up to twice its largest magnitude and at
      least 10, not below 0 where the example is not. An inf or a NaN in the example may stand
      where it stands there.
    - A *finding* is a danger: a pole, an argument outside of a domain, a division by 0, the
      overflow of exp or pow, of a cast or of float16, that may reach an output. Overflow of sums,
      products and squares in a wide type is *growth*, and reported apart.
    - What is *proved* holds for all arguments in these ranges, for arithmetic that is rounded
      operation by operation as XLA does on a CPU. Results of primitives in `unknown` are taken to
      be finite.

    Args:
        function: any function that JAX can trace, jitted or not.
        *args: examples of its positional arguments.
        assume: ranges by name, as {"batch['x']": (-5, 5), "state.params": 10.0}: of an argument
            or any part of it; a number stands for plus and minus.
        **kwargs: examples of its keyword arguments.

    Returns:
        The report; `print` it to read it.

    Raises:
        TypeError: it is not a function, or not one of these arguments.
        ValueError: an assumption fits no argument, or contradicts its example.
        Exception: whatever tracing the function raises.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import nanlab
        >>> def loss(w, x):
        ...     return -jnp.log(jax.nn.softmax(x @ w)).mean()
        >>> report = nanlab.lint(loss, jnp.ones((3, 2)), jnp.ones((4, 3)))
        >>> report.findings[0].sentence
        "log's argument can be 0: softmax(dot(x, w)) lies in [0, 1], and 0 is reached once \
logits differ by more than 103."
    """
    call, _ = traced_call(function, args, kwargs, verb="lint")
    return lint_call(call, assume)


def lint_call(call: Call, assume: Mapping[str, Any] | None = None) -> Report:
    """Return the report of a call that has been traced."""
    program = flatten_closed(call.closed, None)
    assumptions = assumptions_of(call.names, call.arrays, assume)
    pairs = zip(call.arrays, assumptions, strict=True)
    arguments = [abstract_argument(array, assumption) for array, assumption in pairs]
    analysis = RangeAnalysis(program)
    results = analysis.run(arguments)
    dangers = results.dangers.keys() & results.reaching
    if dangers:
        # What can happen only after another finding is no finding of its own.
        alone = RangeAnalysis(program, muted=dangers).run(arguments)
        dangers &= alone.dangers.keys()
    return _Reporting(call, analysis, results, assumptions).report(dangers)


class _Reporting:
    """Turns the results of an analysis into a report."""

    def __init__(
        self,
        call: Call,
        analysis: RangeAnalysis,
        results: ValueResults,
        assumptions: list[Assumption | None],
    ) -> None:
        self._names, self._program = call.names, analysis.program
        self._analysis, self._results = analysis, results
        self._assumptions = assumptions
        self._phases = phases_of(analysis.program)
        expressions = Expressions(analysis.program, call.names)
        self._sentences = Sentences(analysis, expressions)

    def report(self, dangers: Iterable[int]) -> Report:
        """Return the report, with these equations as findings."""
        results, found = self._results, set(dangers)
        findings = [self._finding(index) for index in sorted(found)]
        findings += [*self._meetings(), *self._written(), *self._returning()]
        growth = [self._finding(index) for index in sorted(results.growth)]
        unknown: dict[str, list[Site]] = {}
        for index in sorted(results.unknown):
            site = self._site(index, Mechanism.OPAQUE)
            unknown.setdefault(site.primitive, []).append(site)
        return Report(
            findings=_merged(findings),
            growth=_merged(growth),
            proved=tuple(self._proofs(found)),
            assumed=tuple(a for a in self._assumptions if a is not None),
            unknown=tuple(Unknown(primitive=p, sites=tuple(s)) for p, s in unknown.items()),
        )

    def _site(self, index: int, mechanism: Mechanism) -> Site:
        return site_at(self._program.equations[index], self._phases[index], mechanism)

    def _site_of_finding(self, index: int, mechanism: Mechanism) -> Site:
        """Return the site of an equation, with what usually cures it."""
        equation, phase = self._program.equations[index], self._phases[index]
        dtype = str(self._analysis.of(equation.results[0]).dtype)
        return replace(
            self._site(index, mechanism), cure=usual_advice(equation, phase, mechanism, dtype)
        )

    def _finding(self, index: int) -> Finding:
        results = self._results
        danger = results.dangers.get(index) or results.growth[index]
        return Finding(
            site=self._site_of_finding(index, danger.mechanism),
            sentence=self._sentences.of(self._program.equations[index], danger),
            is_growth=danger.is_growth,
        )

    def _meetings(self) -> Iterator[Finding]:
        """Yield where an inf that came with the arguments or the program may become NaN."""
        reaching = self._results.reaching
        for index, (mechanism, makers) in sorted(self._results.meetings.items()):
            if index not in reaching or makers.isdisjoint((INPUT, CONSTANT)):
                continue
            source = "an argument contains an inf" if INPUT in makers else (
                "an inf is written into the program"
            )  # fmt: skip
            equation = self._program.equations[index]
            yield Finding(
                site=self._site_of_finding(index, mechanism),
                sentence=self._sentences.of_meeting(equation, mechanism, source),
            )

    def _written(self) -> Iterator[Finding]:
        """Yield where an inf or a NaN that is written into the program enters what is returned."""
        program = self._program

        def is_bad(value: int) -> bool:
            return CONSTANT in self._analysis.of(value).bad.makers

        todo, seen = [v for v in program.frames[0].results if is_bad(v)], set[int]()
        while todo:
            maker = program.computed_by(todo.pop())
            if maker is None or maker.index in seen or maker.index in self._results.meetings:
                continue  # what a meeting makes of it is a finding of its own
            seen.add(maker.index)
            bad = [v for v in maker.operands if is_bad(v)]
            todo += bad
            if any(program.values[v].is_constant for v in bad):
                yield Finding(
                    site=self._site_of_finding(maker.index, Mechanism.CONSTANT),
                    sentence="an inf or a NaN that is written into the program can be returned.",
                )

    def _returning(self) -> Iterator[Finding]:
        """Yield where a NaN of an argument that the forward pass masks enters the backward pass."""
        program, forward = self._program, (Phase.INIT, Phase.DATA, Phase.FORWARD)

        def is_nan(value: int) -> bool:
            return INPUT in self._analysis.of(value).nan.makers

        makers = [program.values[v].equation for v in program.frames[0].results if is_nan(v)]
        if not makers or any(m is None or self._phases[m] in forward for m in makers):
            return
        for index in program.frames[0].equations:
            equation = program.equations[index]
            if self._phases[index] not in forward and any(map(is_nan, equation.results)):
                name = self._sentences.name(next(v for v in equation.operands if is_nan(v)))
                yield Finding(
                    site=self._site_of_finding(index, Mechanism.INPUT),
                    sentence=f"{equation.primitive} hands on a NaN that came with the arguments "
                    f"and that the forward pass masks: {name} contains it, and 0 * NaN is NaN.",
                )
                return

    def _proofs(self, found: set[int]) -> Iterator[Proof]:
        results = self._results
        for index in sorted(results.checked - found):
            danger = results.dangers.get(index)
            if danger is not None and index in results.reaching:
                continue  # it can happen after another finding
            yield Proof(
                site=self._site(index, danger.mechanism if danger else Mechanism.OPAQUE),
                reason="masked" if danger else "range",
                find_arguments=partial(_arguments, self._program, self._names, index),
                find_opaque=partial(_opaque, self._program, results.unknown, index),
            )


def _upstream(program: Program, index: int) -> set[int]:
    operands = program.equations[index].operands
    return upstream(program, operands, through=lambda _: True, iterated=True)


def _arguments(program: Program, names: list[str], index: int) -> tuple[str, ...]:
    fed = _upstream(program, index)
    arguments = zip(program.frames[0].arguments, names, strict=True)
    return tuple(name for value, name in arguments if value in fed)


def _opaque(program: Program, unknown: set[int], index: int) -> tuple[str, ...]:
    fed = _upstream(program, index)
    makers = {program.values[value].equation for value in fed}
    return tuple(sorted({program.equations[i].primitive for i in unknown & (makers - {None})}))


def _merged(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return one finding for those of one kind on one line."""
    merged: dict[tuple[object, ...], Finding] = {}
    for finding in findings:
        site = finding.site
        key = (site.source, site.primitive, site.mechanism, site.phase, finding.is_growth)
        known = merged.setdefault(key, replace(finding, count=0))
        merged[key] = replace(known, count=known.count + 1)
    return tuple(merged.values())
