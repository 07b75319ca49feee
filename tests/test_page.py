"""The page of a report, from tables alone: what it says is escaped, and its data are whole."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from nanlab.grid.outcome import Outcome
from nanlab.reporting.analysis import analyze
from nanlab.reporting.page import cell_labels, report_page
from nanlab.reporting.templates import context_of
from nanlab.results.read import read_results

pytestmark = pytest.mark.smoke
QUICKSTART = Path(__file__).resolve().parents[1] / "results/quickstart"


@pytest.fixture(scope="module")
def results():
    return read_results(QUICKSTART)


def page_of(results, **changes):
    analysis = analyze(dataclasses.replace(results, **changes))
    return analysis, report_page(
        analysis, context_of(analysis), figures={}, other_files=["runs.csv", "<other>"]
    )


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_what_people_wrote_is_escaped_and_nothing_is_fetched(results):
    title = 'Does <script>alert("x")</script> & co. fail?'
    _, page = page_of(
        results,
        resolved={**results.resolved, "title": title},
        notes=["a <b> note", "</script><script>"],
    )
    assert title not in page
    assert page.count("&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; co.") >= 2
    assert "a &lt;b&gt; note" in page and "&lt;other&gt;" in page
    # The page's own two scripts: its data and its program.
    assert page.count("<script") == page.count("</script>") == 2
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)


def test_every_run_is_in_one_cell_of_the_data(results):
    analysis, page = page_of(results)
    cells = [cell for cell in data_of(page)["cells"]]
    assert len(cells) == len(analysis.maps.cells)
    counted = dict.fromkeys(Outcome, 0)
    for cell, (_, _, _, box, outcomes, *_) in zip(analysis.maps.cells, cells, strict=True):
        assert sum(n for _, n in outcomes) == sum(cell.counts.values())
        assert len(box) == 4 and min(box) >= 0
        for number, n in outcomes:
            counted[list(Outcome)[number]] += n
    assert {outcome: n for outcome, n in counted.items() if n} == analysis.outcomes()
    assert sum(counted.values()) == results.runs.height


def test_rows_and_columns_are_called_by_their_values(results):
    analysis, page = page_of(results)
    columns, rows = cell_labels(analysis)
    across, down = analysis.maps.merged
    assert len(columns) == -(-len(analysis.layout.x.labels) // across)
    assert len(rows) == -(-len(analysis.layout.y.labels) // down)
    assert all(f'<th scope="row">{label}</th>' in page for label in rows)


def test_a_study_that_is_running_says_what_is_missing(results):
    half = results.runs.head(360)
    analysis, page = page_of(results, runs=half)
    sentence = context_of(analysis)["notes"][0]
    assert sentence.startswith("The study is not finished: 360 runs of 720 ")
    assert sentence in page
