"""Positions -> SVG: lengths, marks and a whole chart, read back as XML."""

import xml.etree.ElementTree as ET

import pytest

from nanlab.reporting.charts import Series
from nanlab.reporting.svg import Plane, key, mark, units

pytestmark = pytest.mark.smoke
PLANE = Plane((0.0, 10.0), (-1.0, 1.0), left=20.0, top=10.0, right=120.0, bottom=60.0)


@pytest.mark.parametrize(
    ("value", "text"), [(3.0, "3"), (2.25, "2.2"), (0.04, "0"), (-1.06, "-1.1"), (100.0, "100")]
)
def test_lengths_are_to_a_tenth_and_no_longer_than_they_have_to_be(value, text):
    assert units(value) == text


def test_x_runs_to_the_right_and_y_upwards():
    assert [PLANE.x(value) for value in (0.0, 5.0, 10.0)] == [20.0, 70.0, 120.0]
    assert [PLANE.y(value) for value in (-1.0, 0.0, 1.0)] == [60.0, 35.0, 10.0]


@pytest.mark.parametrize("kind", ["full", "open", "square", "up", "down", "dash"])
def test_each_mark_is_one_element_at_its_place(kind):
    shape = ET.fromstring(mark(kind, 7.0, 9.5, "#123456"))
    assert shape.get("stroke") == "#123456"
    at = (shape.get("cx"), shape.get("cy")) if shape.tag == "circle" else shape.get("d")
    assert at == ("7", "9.5") or at.startswith("M7 9.5m")
    assert shape.get("fill") == ("#123456" if kind == "full" else "none")


def test_what_is_not_marked_has_no_mark():
    assert mark("none", 0.0, 0.0, "#000") == ""


@pytest.mark.parametrize("color", range(8))
def test_the_key_of_a_line_has_its_dashes_and_black_has_none(color):
    def line_of(series):
        return ET.fromstring(key(series)).find("path")

    colored = line_of(Series(label="a", x=[], y=[], color=color))
    assert (colored.get("stroke-dasharray") is None) == (color == 0)
    assert line_of(Series(label="a", x=[], y=[], color=-1)).get("stroke-dasharray") is None
    assert (
        line_of(Series(label="a", x=[], y=[], shape="ranges", color=color)).get("stroke-width")
        == "4"
    )
