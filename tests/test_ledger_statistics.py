"""Intervals and tests over seeds, held against SciPy, brute force and simulated studies."""

import itertools

import numpy as np
import pytest
import scipy.stats

from nanlab.ledger import rules
from nanlab.ledger.claim import Claim
from nanlab.ledger.strata import Stratum
from nanlab.results.statistics import detectable, holm, interval, seed_interval, sign_flip_p

pytestmark = pytest.mark.smoke

SHARE, CONTRAST = (0.0, 1.0), (-1.0, 1.0)


def test_a_sign_flip_p_is_that_of_every_assignment_of_signs():
    rng = np.random.default_rng(0)
    for _ in range(5):
        values = rng.normal(0.3, 1.0, 9)
        sums = [abs(np.dot(signs, values)) for signs in itertools.product([1, -1], repeat=9)]
        share = np.mean(np.array(sums) >= abs(values.sum()) - 1e-12)
        assert sign_flip_p(values) == pytest.approx(share)


def test_a_sign_flip_p_is_scipys_where_signs_are_drawn():
    values = np.random.default_rng(1).normal(0.35, 1.0, 30)
    theirs = scipy.stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=40_000, rng=0
    ).pvalue
    assert sign_flip_p(values) == pytest.approx(theirs, rel=0.1)


def test_differences_of_zero_say_nothing():
    assert sign_flip_p(np.zeros(20)) == 1.0
    assert sign_flip_p(np.array([1.0, 2.0, 0.0, 0.0])) == sign_flip_p(np.array([1.0, 2.0]))
    assert sign_flip_p(np.ones(16)) == 2 / 2**16


def test_an_interval_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(2).normal(1.0, 2.0, 20)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=3
    ).confidence_interval
    assert interval(values) == pytest.approx((theirs.low, theirs.high), abs=0.08)


def end_by_hand(values, bound):
    """The lower end of a mean, from SciPy's distributions, over two thousand caps."""
    n, ends = len(values), []
    for cap in np.linspace(values.min(), values.max(), 2001):
        capped = np.minimum(values, cap)
        mean, deviation = capped.mean(), capped.std(ddof=1)
        by_t = mean - scipy.stats.t.ppf(0.975, n - 1) * deviation / np.sqrt(n)
        # A share q at the bound, the rest at one value: the same mean and variance.
        away = mean - bound
        q = capped.var() / (capped.var() + away**2) if away else 0.0
        most = scipy.stats.beta.ppf(0.975, n * q + 1, n - n * q) if n - n * q > 1e-9 else 1.0
        top = away / (1 - q) if q < 1 else 0.0
        ends.append(min(by_t, bound + top * (1 - most)))
    return max(bound, *ends)


SAMPLES = {
    "spread": lambda rng: rng.normal(0.3, 0.2, 20).clip(-1, 1),
    "one seed far above": lambda rng: np.append(rng.normal(0.2, 0.02, 24), 1.0),
    "one seed far below": lambda rng: np.append(rng.normal(0.2, 0.02, 24), -1.0),
    "three values": lambda rng: rng.choice([-1.0, 0.0, 1.0], 40),
    "all alike": lambda rng: np.full(30, 0.4),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_an_interval_over_seeds_is_the_one_that_its_docstring_describes(name):
    values = SAMPLES[name](np.random.default_rng(5))
    low, high = seed_interval(values, bounds=CONTRAST)
    assert low == pytest.approx(end_by_hand(values, -1.0), abs=1e-5)
    assert high == pytest.approx(-end_by_hand(-values, -1.0), abs=1e-5)
    assert low < values.mean() < high


@pytest.mark.parametrize("seeds", [20, 60, 200])
def test_an_interval_of_shares_of_0_and_1_is_clopper_and_pearsons_or_wider(seeds):
    for hits in [*range(0, seeds, 1 + seeds // 30), seeds - 1, seeds]:
        values = (np.arange(seeds) < hits).astype(float)
        low, high = seed_interval(values, bounds=SHARE)
        exact = scipy.stats.binomtest(hits, seeds).proportion_ci(method="exact")
        half = scipy.stats.t.ppf(0.975, seeds - 1) * values.std(ddof=1) / np.sqrt(seeds)
        assert low == pytest.approx(max(0.0, min(exact.low, hits / seeds - half)), abs=1e-7)
        assert high == pytest.approx(min(1.0, max(exact.high, hits / seeds + half)), abs=1e-7)


def test_where_all_seeds_agree_an_unseen_seed_may_be_anything():
    for seeds in (20, 60):
        reach = 1.0 - 0.025 ** (1.0 / seeds)
        for value in (-1.0, 0.0, 0.3, 1.0):
            low, high = seed_interval(np.full(seeds, value), bounds=CONTRAST)
            assert low == pytest.approx(value - reach * (value + 1.0))
            assert high == pytest.approx(value + reach * (1.0 - value))


DRAWN = {
    # name: (bounds, mean, draw of the seeds of a number of studies)
    **{
        f"one run a seed, {p:g}": (SHARE, p, lambda rng, size, p=p: rng.random(size) < p)
        for p in (0.0, 0.01, 0.03, 0.1, 0.2, 0.5, 0.97, 0.99, 1.0)
    },
    **{
        f"one pair a seed, {up:g} and {down:g}": (
            CONTRAST, up - down,
            lambda rng, size, up=up, down=down: rng.choice(
                [1.0, -1.0, 0.0], p=[up, down, 1.0 - up - down], size=size
            ),
        )
        for up, down in ((0.3, 0.0), (0.05, 0.0), (0.2, 0.2), (0.6, 0.3), (0.98, 0.0), (0.0, 0.1))
    },
    **{
        f"ten runs a seed, beta {a:g} and {b:g}": (
            SHARE, a / (a + b),
            lambda rng, size, a=a, b=b: rng.binomial(10, rng.beta(a, b, size)) / 10.0,
        )
        for a, b in ((0.5, 0.5), (2.0, 8.0), (0.1, 0.9))
    },
}  # fmt: skip
STUDIES = 500
THREE_ERRORS = 3.0 * np.sqrt(0.025 * 0.975 / STUDIES)


@pytest.mark.parametrize("name", DRAWN)
def test_intervals_cover_and_seldom_lie_beyond_the_truth(name):
    bounds, mean, draw = DRAWN[name]
    rng = np.random.default_rng(6)
    for seeds in (20, 60, 100):
        values = np.asarray(draw(rng, (STUDIES, seeds)), dtype=float)
        low, high = seed_interval(values, bounds=bounds)
        above, below = (low > mean + 1e-9).mean(), (high < mean - 1e-9).mean()
        # A claim with this threshold would hold by chance, or fail.
        assert max(above, below) <= 0.025 + THREE_ERRORS
        assert above + below <= 0.06


def claim_of(kind, least):
    contrast = {"with": {"lr": 1.0}, "without": {"lr": 0.1}, "at_least": least}
    rule = {"contrast": contrast} if kind == "effect" else {"share_at_least": least}
    return Claim.model_validate(
        {"id": "A1", "says": "", "kind": kind, "asks": "faults", "range": "", **rule}
    )


def stratum_of(values, *, cells=2):
    return Stratum(
        key={}, values=values, with_seeds=values, without_seeds=np.zeros_like(values),
        runs_with=len(values), runs_without=len(values), cells=cells,
    )  # fmt: skip


ORDER = [rules.UNSEEN, rules.FAILS, rules.OPEN, rules.BORDERLINE, rules.HOLDS]


@pytest.mark.parametrize("kind", ["effect", "example"])
def test_a_seed_that_rises_never_makes_a_claim_hold_less(kind):
    rng = np.random.default_rng(7)
    bounds = CONTRAST if kind == "effect" else SHARE
    claim = claim_of(kind, 0.2)
    for number in range(30):
        seeds = int(rng.choice([20, 30, 60]))
        values = rng.normal(0.4, rng.choice([0.05, 0.3]), seeds).clip(*bounds)
        if number % 2:
            values[rng.integers(seeds)] = bounds[1]
        raised = values.copy()
        at = rng.integers(seeds)
        raised[at] += rng.random() * (1.0 - raised[at])
        ends = [seed_interval(each, bounds=bounds) for each in (values, raised)]
        assert ends[1][0] >= ends[0][0] - 1e-7 and ends[1][1] >= ends[0][1] - 1e-7
        before, after = (
            rules.results_of(claim, "faults", [stratum_of(each)])[0] for each in (values, raised)
        )
        assert kind == "example" or after.p <= before.p
        assert ORDER.index(after.answer) >= ORDER.index(before.answer)


def test_a_smallest_effect_to_be_found_is_found_in_four_studies_of_five():
    rng = np.random.default_rng(8)
    for seeds, least in ((60, 0.1), (100, 0.2)):
        values = rng.normal(0.4, 0.35, seeds)
        mean = detectable(values, least, bounds=CONTRAST)
        shape = values - values.mean()
        studies = mean + rng.choice(shape, (300, seeds))
        found = (seed_interval(studies.clip(-1, 1), bounds=CONTRAST)[0] >= least).mean()
        assert 0.7 <= found <= 0.9
    assert detectable(np.zeros(20), 0.9, bounds=CONTRAST) is None


def test_holm_is_the_step_down_of_its_paper():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_cells_of_a_seed_that_go_together_do_not_make_false_findings():
    # A seed shifts all of its 50 cells alike: the test over seeds must keep to its level.
    rng = np.random.default_rng(4)
    seeds = rng.normal(0.0, 0.2, (400, 12, 1)) + rng.normal(0.0, 0.1, (400, 12, 50))
    found = [sign_flip_p(each.mean(axis=1)) <= 0.05 for each in seeds]
    # 400 studies at 5 %: more than 33 would come once in a thousand.
    assert sum(found) <= 33
