"""The detective on reported failures: primitive, line, arithmetic, phase, iteration and module."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corpus import CASES, lanes, loops, nested, op_by_op, overflows
from corpus.case import Case
from nanlab import Verdict, pinpoint
from nanlab.blame.diagnosis.attribution import Blame, CauseFinder
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.probes.codes import Probe
from nanlab.blame.program.program import flatten
from nanlab.blame.site import Site

ALIASES = {"add_any": "add", "pjit": "jit", "remat2": "checkpoint"}

# JAX 0.12's digamma(0) is -inf, 0.10's is NaN.
DIGAMMA_IS_NAN = bool(np.isnan(jax.lax.digamma(np.float32(0))))

# Case -> what the detective gets wrong there, and why. A case that it gets right now fails.
MISSES: dict[str, set[str]] = {}
if not DIGAMMA_IS_NAN:
    # Then lgamma(a) + lgamma(b) - lgamma(a + b) is inf - inf, and that is blamed: it is right.
    MISSES["beta_policy_digamma"] = {"origin", "primitive", "line", "mechanism"}

if jax.__version_info__ < (0, 9):
    # The frame of the user's own call is missing from the derivative of jnp.linalg.norm.
    MISSES["lane_of_gradient"] = {"line"}

# Programs that compile for seconds, and whose mechanism a smaller case has too.
SLOW = {
    "adam_fp16_unused_row",
    "cross_entropy_of_zero",
    "dirichlet_zero_concentration",
    "fid_negative_eigenvalue",
    "fp16_square_overflow_std",
    "global_norm_overflow",
    "lane_constant_column",
    "logsumexp_all_neginf",
    "pairwise_coulomb_diag",
    "poisson_log_link",
    "shard_map_masked_mean",
    "sinkhorn_underflow",
    "eigh_degenerate",
    "fp16_attention_logits",
    "interp_duplicate_knots",
    "lamb_trust_ratio",
    "loss_scale_too_large",
    "many_decoys_then_update",
    "nested_scan_curriculum",
    "poincare_arccosh",
    "ppo_ratio_overflow",
    "rmsnorm_fp16_eps_underflow",
    "sgd_lr_too_high",
    "beta_policy_digamma",
    "bf16_bce",
    "dice_empty_mask",
    "gp_cholesky_no_jitter",
    "layernorm_eps_outside",
    "masked_nan_targets",
    "remat_policy_attention_large_logits",
    "rl_masked_entropy",
    "second_step_only",
    "weight_norm_zero_column",
    "wgan_gp_zero_grad",
    "xlstm_exp_gate",
    "adafactor_fp16_zero_grad",
    "adam_moment_overflow",
    "attention_masked_row",
    "covariance_downdate_scan",
    "ctl_healthy_mlp_step",
    "dropout_keep_zero",
    "embedding_out_of_range",
    "fp16_feed_forward",
    "gammainc_at_inf",
    "gan_saturated",
    "gmm_em_outlier",
    "hmm_forward_blocked",
    "layernorm_no_eps",
    "pow_negative_base",
    "sac_log1m_tanh2",
    "svd_degenerate",
    "vae_logvar_overflow",
}
# Cheap to compile a second time, and worth it for their loops and lanes.
TWICE = {case.name for file in (loops, nested, lanes, overflows) for case in file.CASES}
TWICE -= SLOW | {"associative_scan_products", "many_decoys_then_update", "nested_scan_curriculum"}


def each_case(slow: set[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=name, marks=[pytest.mark.slow] if name in slow else [])
            for name, case in CASES.items()
        ],
    )


@cache
def verdict_of(name: str) -> Verdict:
    with jax.enable_x64(False):
        function, arguments = CASES[name].built
        return pinpoint(function, *arguments)


def blame_of(case: Case) -> Blame:
    """What the probe says that records codes and keeps no values, as in training."""
    with jax.enable_x64(False):
        function, arguments = case.built
        program = flatten(function, *arguments)
        probe = Probe(program)
        codes = jax.jit(lambda *a: probe(*a)[1])(*arguments)
    reading = Reading(probe, {name: np.asarray(code) for name, code in codes.items()})
    return CauseFinder(program).blame(reading, program.frames[0].results)


@cache
def fuses(dtype: type) -> bool:
    """Whether this machine's compiled programs round y - x * x once, not after the square too."""
    limit = float(jnp.finfo(dtype).max)
    x, y = jnp.full(2, (1.5 * limit) ** 0.5, dtype), jnp.full(2, 0.9 * limit, dtype)
    # The square alone overflows, and the difference does not.
    return bool(jnp.isfinite(jax.jit(lambda x, y: y - x * x)(x, y)).all())


def as_compiled_here(case: Case) -> Case:
    """The case with the labels that hold on this machine's processor."""
    if case.fused is None or not fuses(case.fused):
        return case
    return replace(case, primitive=None, origin=case.first_inf, mechanism="overflow")


def canonical(primitive: str) -> str:
    return ALIASES.get(primitive, primitive)


def source(site: Site) -> str:
    """The site's line, as marks are written."""
    return f"corpus/{Path(site.file).name}:{site.line}"


def began(site: Site) -> str:
    """What made the inf: a primitive, unless it was there before."""
    return site.mechanism if site.mechanism in ("constant", "input") else site.primitive


def wrong(case: Case, verdict: Verdict) -> set[str]:
    """What of a faulty program's verdict is not as the labels say."""
    named = verdict.origin if case.origin else verdict.culprit
    if not verdict.fault or verdict.origin is None or named is None:
        return {"fault"}
    right = {canonical(primitive) for primitive in (case.primitive, *case.also) if primitive}
    beginnings = {case.origin or case.causal_inf or case.first_inf or case.primitive}
    beginnings = {canonical(each) for each in beginnings if each}
    marks = ["fused"] if case.fused and case.origin else ["culprit", "also", "origin"]
    checks = {
        "culprit": case.origin is None or verdict.culprit is None,
        "origin": not beginnings or canonical(began(verdict.origin)) in beginnings,
        "primitive": not right or canonical(named.primitive) in right,
        "line": source(named) in case.marked(*marks),
        "mechanism": named.mechanism == case.mechanism or named.primitive in case.also,
        "phase": named.phase in (case.phase, *case.also_phases),
        "iterations": case.iterations in ((), named.iterations),
        "module": case.module in named.module,
        "lane": named.lane == case.lane,
    }
    return {what for what, is_right in checks.items() if not is_right}


@each_case(SLOW)
def test_a_faulty_program_is_blamed_where_it_is_marked_and_a_harmless_one_is_not(
    case: Case,
) -> None:
    verdict = verdict_of(case.name)
    if case.phase:
        assert wrong(as_compiled_here(case), verdict) == MISSES.get(case.name, set()), verdict
        return
    if case.rewritten_away:
        assert (verdict.status, verdict.fault) == ("rewritten-away", False)
        return
    # A NaN that came in goes out, and nothing here is to be blamed for it.
    assert verdict.fault == (case.mechanism == "input")
    assert (verdict.culprit.mechanism if verdict.culprit else "") == case.mechanism, verdict


@each_case(CASES.keys() - TWICE)
def test_the_probe_without_values_says_what_the_verdict_says(case: Case) -> None:
    if case.rewritten_away:
        return  # the verdict shows what XLA takes out of the probe
    blame, verdict = blame_of(case), verdict_of(case.name)
    if as_compiled_here(case) is not case:
        # The probe measures the square, so the compiler has to round it.
        assert blame.culprit is not None
        found = (blame.culprit.primitive, blame.culprit.mechanism)
        assert found == (case.primitive, case.mechanism)
        assert blame.culprit.source in case.marked("culprit")
        return
    for finding, site in ((blame.origin, verdict.origin), (blame.culprit, verdict.culprit)):
        assert (finding is None) == (site is None)
        if finding is not None and site is not None:
            told = ("primitive", "phase", "module", "function", "mechanism", "iterations")
            assert [getattr(finding, what) for what in told] == [
                getattr(site, what) for what in told
            ]
            assert finding.source == source(site) or not site.line


@each_case(set())
def test_a_program_marks_the_line_that_its_labels_are_about(case: Case) -> None:
    is_nan, is_inf = case.phase and not case.origin, case.phase and case.origin
    assert len(case.marked("culprit")) == (1 if is_nan else 0)
    assert len(case.marked("origin")) == (1 if is_inf else 0)
    assert len(case.marked("decoy")) <= 1
    assert bool(case.marked("fused")) == bool(case.fused)
    if case.primitive is None and not case.origin:
        # Nothing makes a NaN or an inf here, or none that reaches an output.
        assert case.mechanism in ("", "input")


def emitted(case: Case) -> op_by_op.Account:
    with jax.enable_x64(False):
        function, arguments = case.built
        return op_by_op.run(function, *arguments)


def line_of(emission: op_by_op.Emission) -> str:
    """The innermost line in the corpus, as its marks are written."""
    lines = (line.replace("\\", "/").rpartition("/corpus/")[1:] for line in emission.lines)
    return next("corpus/" + rest for found, rest in lines if found)


def origin_of(account: op_by_op.Account) -> str:
    """What made the inf op by op, as `began` tells it."""
    if account.origin < 0:
        return {op_by_op.INPUT: "input", op_by_op.CONSTANT: "constant"}[account.origin]
    return account.emissions[account.origin].primitive


@pytest.mark.slow
@each_case(set())
def test_the_labels_are_what_the_program_does_op_by_op(case: Case) -> None:
    account = emitted(case)
    nan, inf = account.first(nan=True), account.first(nan=False)
    if case.name in MISSES and case.name == "beta_policy_digamma":
        assert nan is not None
        assert nan.primitive == "sub"
        return
    assert (nan.primitive if nan else None) == (case.decoy or case.primitive)
    is_before = inf is not None and (nan is None or inf.number < nan.number)
    first_inf = case.first_inf or (case.origin if case.origin != "constant" else None)
    assert (inf.primitive if inf and is_before else None) == first_inf
    culprit = account.culprit
    blamed = case.decoy if case.rewritten_away else case.primitive
    assert (culprit.primitive if culprit else None) == blamed
    if culprit is not None and not case.rewritten_away:
        assert line_of(culprit) in case.marked("culprit", "also")
        assert case.iterations in ((), culprit.iterations)
        assert origin_of(account) == (case.causal_inf or case.first_inf or case.primitive)
    is_nan = bool(case.phase and not case.origin)
    reaches = any(op_by_op.holds(output, nan=True) for output in account.outputs)
    assert reaches == bool(is_nan or case.reaches_output)


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(c, id=c.name) for c in CASES.values() if c.origin])
def test_an_inf_is_made_op_by_op_where_it_is_marked(case: Case) -> None:
    account = emitted(case)
    assert any(op_by_op.holds(output, nan=False) for output in account.outputs)
    assert origin_of(account) == case.origin
    if account.origin >= 0:
        emission = account.emissions[account.origin]
        assert {line_of(emission)} == case.marked("origin")
        assert case.iterations in ((), emission.iterations)


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name) for c in lanes.CASES if c.lane is not None]
)
def test_the_lane_is_the_one_whose_outputs_are_bad(case: Case) -> None:
    with jax.enable_x64(False):
        function, arguments = case.built
        outputs = jax.tree.leaves(function(*arguments))
    lane = case.lane if isinstance(case.lane, tuple) else (case.lane,)
    for output in outputs:
        # Every output has the lanes in front.
        bad = np.argwhere(~np.isfinite(np.asarray(output)))
        assert {tuple(index) for index in bad[:, : len(lane)].tolist()} == {lane}


@pytest.mark.slow
@each_case(set())
def test_the_origin_is_the_one_that_the_program_has_op_by_op(case: Case) -> None:
    account, verdict = emitted(case), verdict_of(case.name)
    if case.rewritten_away:
        return
    bad = any(op_by_op.holds(output, nan=False) for output in account.outputs)
    assert (verdict.origin is not None) == bad
    if verdict.origin is None:
        return
    assert began(verdict.origin) == origin_of(account)
    if account.origin >= 0:
        assert verdict.origin.iterations == account.emissions[account.origin].iterations
