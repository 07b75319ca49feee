"""Tables and blames as text: Markdown, LaTeX and sentences."""

from __future__ import annotations

import re

from nanlab.results.blame_text import blame_sentence
from nanlab.results.text_tables import latex_escape, latex_table, markdown_table

SPECIAL = "\\ & % _ # $ { } ^ ~ < > |"


def test_every_character_that_latex_would_take_otherwise_is_escaped():
    plain = re.sub(r"\\[a-zA-Z]+\{\}|\\[&%_#${}^]|\{\}", "", latex_escape(SPECIAL))
    assert not plain.strip()


def test_a_latex_table_escapes_cells_and_caption_and_repeats_its_header():
    table = latex_table(["a_b"], [["|y| < 1"]], columns="l", caption="95 %", label="tab:x")
    assert r"\textbar{}y\textbar{} \textless{} 1 \\" in table
    assert r"\caption{95 \%}\label{tab:x}\\" in table
    assert table.index(r"a\_b") < table.index(r"\endhead") < table.index("textbar")


def test_a_markdown_table_aligns_numbers_right_and_escapes_bars():
    assert markdown_table(["a", "n"], [["x|y", "1"]], numbers={1}).splitlines() == [
        "| a | n |",
        "|---|---:|",
        "| x\\|y | 1 |",
    ]


def test_a_blame_is_a_sentence_of_its_columns():
    site = {"mechanism": "overflow", "primitive": "square", "phase": "forward",
            "module": "MLP/Dense_1", "source": "a.py:3"}  # fmt: skip
    row = {f"origin_{name}": value for name, value in site.items()}
    row |= {f"culprit_{name}_now": None for name in site}
    assert blame_sentence(row, "origin") == ("overflow in square, forward, MLP/Dense_1, at a.py:3")
    assert blame_sentence(row | {"origin_primitive": ""}, "origin", line=False) == (
        "overflow, forward, MLP/Dense_1"
    )
    assert blame_sentence(row, "culprit", suffix="_now") == "no NaN"
