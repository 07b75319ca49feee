"""Intervals and tests over seeds, held against SciPy, brute force and simulated null studies."""

import itertools

import numpy as np
import pytest
import scipy.stats

from nanlab.results.statistics import holm, interval, share_interval, sign_flip_p

pytestmark = pytest.mark.smoke


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
        (values,), np.mean, permutation_type="samples", n_resamples=200_000, rng=0
    ).pvalue
    assert sign_flip_p(values) == pytest.approx(theirs, rel=0.05)


def test_differences_of_zero_say_nothing():
    assert sign_flip_p(np.zeros(20)) == 1.0
    assert sign_flip_p(np.array([1.0, 2.0, 0.0, 0.0])) == sign_flip_p(np.array([1.0, 2.0]))
    assert sign_flip_p(np.ones(20)) == 2 / 2**20


def test_an_interval_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(2).normal(1.0, 2.0, 20)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=3
    ).confidence_interval
    assert interval(values) == pytest.approx((theirs.low, theirs.high), abs=0.08)


def test_none_or_all_of_the_seeds_leave_three_over_n_open():
    assert share_interval(np.zeros(20)) == (0.0, 0.15)
    assert share_interval(np.ones(20)) == (0.85, 1.0)
    low, high = share_interval(np.array([0.0, 1.0] * 10))
    assert 0.2 < low < 0.5 < high < 0.8


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
