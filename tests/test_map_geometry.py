"""Positions of the map on the page."""

import pytest

from nanlab.reporting.map_geometry import Plane, units

pytestmark = pytest.mark.smoke
PLANE = Plane(x=(0.0, 10.0), y=(-1.0, 1.0), left=20.0, top=10.0, right=120.0, bottom=60.0)


@pytest.mark.parametrize(
    ("value", "text"), [(3.0, "3"), (2.25, "2.2"), (0.04, "0"), (-1.06, "-1.1"), (100.0, "100")]
)
def test_lengths_are_to_a_tenth_and_no_longer_than_they_have_to_be(value, text):
    assert units(value) == text


def test_x_runs_to_the_right_and_y_upwards():
    assert [PLANE.at(x, 0.0)[0] for x in (0.0, 5.0, 10.0)] == [20.0, 70.0, 120.0]
    assert [PLANE.at(0.0, y)[1] for y in (-1.0, 0.0, 1.0)] == [60.0, 35.0, 10.0]
