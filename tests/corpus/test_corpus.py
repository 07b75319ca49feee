"""The detective on reported failures: primitive, line, arithmetic, phase, iteration and module."""

import jax
import numpy as np
import pytest

from corpus import CASES, op_by_op
from corpus.case import Case
from nanlab.blame.cause import Reading
from nanlab.blame.judge import Blame, Finding, Judge
from nanlab.blame.probe import Probe
from nanlab.blame.sites import flatten

ALIASES = {"add_any": "add", "pjit": "jit", "remat2": "checkpoint"}

# JAX 0.12's digamma(0) is -inf, 0.10's is NaN.
DIGAMMA_IS_NAN = bool(np.isnan(jax.lax.digamma(np.float32(0))))

# Case -> what the detective gets wrong there, and why. A case that it gets right now fails.
MISSES = {
    # It is bound whole. The line is that of the call, in JAX.
    "shard_map_masked_mean": {"primitive", "line", "mechanism"},
    # No primitive makes this NaN: it came with the data, and the first to read it is named, in
    # the line before the one that is marked, in the forward pass.
    "masked_nan_targets": {"line", "phase"},
}
if not DIGAMMA_IS_NAN:
    # Then lgamma(a) + lgamma(b) - lgamma(a + b) is inf - inf, and that is blamed: it is right.
    MISSES["beta_policy_digamma"] = {"primitive", "line", "mechanism"}

# Whole models that compile for seconds, and whose mechanism a smaller case has too.
SLOW = {
    "attention_masked_row",
    "ctl_healthy_mlp_step",
    "embedding_out_of_range",
    "gan_saturated",
    "pow_negative_base",
    "sac_log1m_tanh2",
    "vae_logvar_overflow",
}

each_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name, case in CASES.items()
    ],
)


def blame_of(case: Case) -> Blame:
    with jax.enable_x64(False):
        function, arguments = case.built
        program = flatten(function, *arguments)
        probe = Probe(program)
        codes = jax.jit(lambda *a: probe(*a)[1])(*arguments)
    reading = Reading(probe, {name: np.asarray(code) for name, code in codes.items()})
    return Judge(program).blame(reading, program.frames[0].results)


def canonical(primitive: str) -> str:
    return ALIASES.get(primitive, primitive)


def wrong(case: Case, culprit: Finding) -> set[str]:
    """What of a faulty program's culprit is not as the labels say."""
    right = {canonical(primitive) for primitive in (case.primitive, *case.also) if primitive}
    checks = {
        "primitive": not right or canonical(culprit.primitive) in right,
        "line": culprit.source in case.marked("culprit", "also"),
        "mechanism": culprit.mechanism == case.mechanism or culprit.primitive in case.also,
        "phase": culprit.phase in (case.phase, *case.also_phases),
        "iterations": case.iterations in ((), culprit.iterations),
        "module": case.module in culprit.module,
    }
    return {what for what, is_right in checks.items() if not is_right}


@each_case
def test_a_faulty_program_is_blamed_where_it_is_marked_and_a_harmless_one_is_not(
    case: Case,
) -> None:
    culprit = blame_of(case).culprit
    if case.phase:
        assert culprit is not None
        assert wrong(case, culprit) == MISSES.get(case.name, set()), culprit
        return
    assert (culprit.mechanism if culprit else "") == case.mechanism, culprit


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_program_marks_one_culprit_or_is_harmless_and_marks_none(case: Case) -> None:
    assert len(case.marked("culprit")) == (1 if case.phase else 0)
    assert len(case.marked("decoy")) <= 1
    if case.primitive is None:
        # Nothing makes a NaN here, or none that reaches an output.
        assert case.mechanism in ("", "input")


def emitted(case: Case) -> op_by_op.Account:
    with jax.enable_x64(False):
        function, arguments = case.built
        return op_by_op.run(function, *arguments)


def line_of(emission: op_by_op.Emission) -> str:
    """The innermost line in the corpus, as its marks are written."""
    lines = (line.replace("\\", "/").rpartition("/corpus/")[1:] for line in emission.lines)
    return next("corpus/" + rest for found, rest in lines if found)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_labels_are_what_the_program_does_op_by_op(case: Case) -> None:
    account = emitted(case)
    nan, inf = account.first(nan=True), account.first(nan=False)
    if case.name in MISSES and case.name == "beta_policy_digamma":
        assert nan is not None
        assert nan.primitive == "sub"
        return
    assert (nan.primitive if nan else None) == (case.decoy or case.primitive)
    is_before = inf is not None and (nan is None or inf.number < nan.number)
    assert (inf.primitive if inf and is_before else None) == case.first_inf
    culprit = account.culprit
    blamed = case.decoy if case.rewritten_away else case.primitive
    assert (culprit.primitive if culprit else None) == blamed
    if culprit is not None and not case.rewritten_away:
        assert line_of(culprit) in case.marked("culprit", "also")
    reaches = any(op_by_op.holds(output, nan=True) for output in account.outputs)
    assert reaches == bool(case.phase or case.reaches_output)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_origin_is_the_one_that_the_program_has_op_by_op(case: Case) -> None:
    account, blame = emitted(case), blame_of(case)
    if case.rewritten_away or case.name == "shard_map_masked_mean":
        return
    bad = any(op_by_op.holds(output, nan=False) for output in account.outputs)
    assert (blame.origin is not None) == bad
    if blame.origin is None:
        return
    if account.origin < 0:
        sources = {op_by_op.INPUT: "input", op_by_op.CONSTANT: "constant"}
        assert blame.origin.mechanism == sources[account.origin]
        return
    emission = account.emissions[account.origin]
    assert blame.origin.primitive == emission.primitive
    assert blame.origin.iterations == emission.iterations
