"""What is told of this machine's arithmetic is measured."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from nanlab.engine.environment import product_bits

pytestmark = pytest.mark.smoke


def rounded(bits):
    """A float32 product that keeps so many significant bits of its left factors."""

    def multiply(left, right):
        left = np.asarray(left, np.float64)
        unit = 2.0 ** (np.floor(np.log2(np.maximum(left, 1e-30))) - bits + 1)
        return (np.round(left / unit) * unit).astype(np.float32) @ np.asarray(right)

    return multiply


@pytest.mark.parametrize("bits", [8, 11, 24])
def test_the_bits_that_a_product_keeps_of_its_factors_are_measured(bits):
    gpu = SimpleNamespace(platform="gpu")
    assert product_bits(gpu, rounded(bits)) == bits
    assert product_bits(gpu, lambda left, right: np.zeros_like(left)) == 1


def test_a_cpus_products_keep_all_bits():
    assert product_bits(SimpleNamespace(platform="gpu")) == 24  # of this machine
    assert product_bits(jax.devices()[0]) is None
