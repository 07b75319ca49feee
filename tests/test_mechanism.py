"""Codes and details at a site -> its arithmetic: a table, by IEEE 754's own cases."""

import pytest

from nanlab.blame.diagnosis.mechanism import inf_mechanism, nan_mechanism
from nanlab.blame.vocabulary import Mechanism

pytestmark = pytest.mark.smoke

# primitive, whether an operand holds an inf, the probe's detail -> how a NaN arose.
NANS = [
    ("div", False, 0, Mechanism.ZERO_OVER_ZERO),
    ("div", True, 0, Mechanism.INF_OVER_INF),
    ("div", True, 2, Mechanism.ZERO_OVER_ZERO),  # an inf elsewhere in the array
    ("sub", True, 0, Mechanism.INF_MINUS_INF),
    ("add_any", True, 0, Mechanism.INF_MINUS_INF),
    ("reduce_sum", True, 0, Mechanism.INF_MINUS_INF),
    ("psum", True, 0, Mechanism.INF_MINUS_INF),
    ("mul", True, 0, Mechanism.ZERO_TIMES_INF),
    ("reduce_prod", True, 0, Mechanism.ZERO_TIMES_INF),
    ("dot_general", True, 1, Mechanism.ZERO_TIMES_INF),
    ("dot_general", True, 0, Mechanism.INF_MINUS_INF),
    ("conv_general_dilated", True, 1, Mechanism.ZERO_TIMES_INF),
    ("log", False, 0, Mechanism.DOMAIN),
    ("sqrt", False, 0, Mechanism.DOMAIN),
    ("sin", True, 0, Mechanism.DOMAIN),
    ("lgamma", False, 2, Mechanism.POLE),
    ("digamma", False, 0, Mechanism.DOMAIN),
    ("gather", False, 0, Mechanism.FILL),
    ("scatter", False, 0, Mechanism.FILL),
    ("convert_element_type", False, 0, Mechanism.OVERFLOW),
    ("cholesky", False, 0, Mechanism.OPAQUE),
    ("a_primitive_of_next_year", False, 0, Mechanism.OPAQUE),
]
# primitive, detail -> how an inf arose from finite operands.
INFS = [
    ("mul", 0, Mechanism.OVERFLOW),
    ("exp", 0, Mechanism.OVERFLOW),
    ("dot_general", 0, Mechanism.OVERFLOW),
    ("div", 1, Mechanism.POLE),
    ("div", 0, Mechanism.OVERFLOW),
    ("pow", 1, Mechanism.POLE),
    ("pow", 0, Mechanism.OVERFLOW),
    ("log", 0, Mechanism.POLE),
    ("rsqrt", 0, Mechanism.POLE),
    ("lgamma", 1, Mechanism.POLE),
    ("lgamma", 0, Mechanism.OVERFLOW),
    ("eigh", 0, Mechanism.OPAQUE),
]


@pytest.mark.parametrize(("primitive", "operand_inf", "detail", "mechanism"), NANS)
def test_how_a_nan_arose(primitive, operand_inf, detail, mechanism):
    assert nan_mechanism(primitive, operand_inf, detail) == mechanism


@pytest.mark.parametrize(("primitive", "detail", "mechanism"), INFS)
def test_how_an_inf_arose(primitive, detail, mechanism):
    assert inf_mechanism(primitive, detail) == mechanism


@pytest.mark.parametrize("primitive", ["add", "mul", "dot_general", "convert_element_type"])
def test_in_a_type_without_an_inf_what_is_too_large_is_a_nan(primitive):
    assert nan_mechanism(primitive, False, 0, has_inf=False) == Mechanism.OVERFLOW
    # A division by zero is none.
    assert nan_mechanism("div", False, 1, has_inf=False) == Mechanism.POLE
