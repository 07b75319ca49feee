"""A verdict's text: nothing is broken or unmarked in it, and nothing in it acts on a terminal."""

import io
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
import pytest
from jax import lax
from rich.console import Console

import nanlab
from nanlab.blame.explain.layout import printable, wrapped
from nanlab.blame.explain.text import show, verdict_text
from nanlab.cli.summary import blame_lines, wrapped_line
from nanlab.reporting.source_lines import SourceLines

F32 = np.float32
WIDTHS = (120, 80, 50, 30)


def printed(verdict, width):
    """What `print` of rich shows in a terminal of this width."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(verdict)
    return console.file.getvalue()


def shown(verdict, width):
    """What `nanlab.debug` shows."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show(verdict, console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def cosine():
    """Rows 3, 17, 20, ... of a batch of 64 have length 0."""
    rows = [3, 17, 20, 22, 23, 24, 25, 27, 30]

    def distance_of_a_batch(x):
        return optax.cosine_distance(x, jnp.ones((64, 3), F32)).mean()

    return nanlab.pinpoint(distance_of_a_batch, jnp.ones((64, 3), F32).at[jnp.array(rows)].set(0))


@pytest.mark.parametrize("width", WIDTHS)
def test_neither_paths_nor_types_nor_names_are_broken(cosine, width):
    text = shown(cosine, width)
    for whole in (
        f"test_verdict_text.py:{cosine.culprit.line}",
        cosine.culprit.library,
        "float32[64, 3]",
        "float32[64, 1]",
        "distance_of_a_batch",
        "at [3, 0]",
        "reduce_sum",
        "a_unit = a / a_norm",
    ):
        assert whole in text, whole
    longest = max(map(len, re.split(r"\s", text)))
    too_long = [line for line in text.splitlines() if len(line) > max(width, longest + 8)]
    assert not too_long


@pytest.mark.parametrize("width", WIDTHS)
def test_a_path_longer_than_the_terminal_is_broken_after_a_slash(cosine, width):
    lines = printed(cosine, width).splitlines()
    assert max(map(len, lines)) <= width
    assert any(f"test_verdict_text.py:{cosine.culprit.line}" in line for line in lines)


def test_words_are_wrapped_at_spaces_outside_shapes():
    text = "x has float32[64, 10] and is in a/long/path/to/file.py:12 of it"
    assert wrapped(text, 20, is_folded=False) == [
        "x has", "float32[64, 10] and", "is in", "a/long/path/to/file.py:12", "of it",
    ]  # fmt: skip
    assert wrapped(text, 20, is_folded=True) == [
        "x has", "float32[64, 10] and", "is in a/long/path/to/", "file.py:12 of it",
    ] or max(map(len, wrapped(text, 20, is_folded=True))) <= 20  # fmt: skip
    assert wrapped("", 20, is_folded=True) == [""]
    assert wrapped("a" * 50, 20, is_folded=True) == ["a" * 20, "a" * 20, "a" * 10]


def test_the_line_of_a_library_is_shown_with_its_code(cosine):
    assert cosine.culprit.library.startswith("optax/losses/")
    assert cosine.culprit.library_code == "a_unit = a / a_norm"
    lines = [line.strip() for line in str(cosine).splitlines()]
    assert lines[lines.index(f"through {cosine.culprit.library}") + 1] == "a_unit = a / a_norm"


# ---- what is bad ---------------------------------------------------------------------------------


def test_the_rows_that_are_not_finite_are_listed(cosine):
    assert cosine.culprit.results[0].n_bad_rows == 9
    text = " ".join(str(cosine).split())
    assert "not finite in rows 3, 17, 20, 22, 23, 24, 25, 27 and 1 more of 64." in text


@pytest.mark.parametrize(
    ("rows", "said"),
    [([2], "in row 2 of 4"), ([0, 3], "in rows 0 and 3 of 4"), ([0, 1, 2, 3], None)],
)
def test_rows_are_counted_where_not_all_are_bad(rows, said):
    x = np.ones((4, 2), F32)
    x[rows] = -1
    verdict = nanlab.pinpoint(lambda x: jnp.log(x), x)
    assert verdict.culprit.results[0].bad_rows == tuple(rows)
    text = str(verdict)
    assert said in text if said else "of 4" not in text


def test_a_bad_argument_leads_with_its_path_and_its_rows():
    model, ids = nn.Embed(64, 64), jnp.array([1, 7])
    params = model.init(jax.random.key(0), ids)
    table = np.array(params["params"]["embedding"])
    table[7, 2] = table[9, 3] = table[9, 4] = np.nan
    verdict = nanlab.pinpoint(model.apply, {"params": {"embedding": table}}, ids)
    first, second, *_ = re.split(r"(?<=\.)\n", str(verdict))
    assert first == "There is a NaN in output."
    assert " ".join(second.split()) == (
        "The argument variables['params']['embedding'] already holds NaN: 3 of 4,096 values, first "
        "at [7, 2], in rows 7 and 9 of 64."
    )
    assert "The NaN is first used by: gather" in str(verdict)
    (contents,) = verdict.inputs
    assert (contents.nans, contents.bad_rows, contents.n_bad_rows) == (3, (7, 9), 2)


def test_the_argument_that_the_fault_began_with_comes_first():
    def loss(batch, mask, scale):
        return jnp.sum(batch["x"]) * scale + jnp.sum(jnp.maximum(mask, 0))

    batch = {"x": F32([[1, 2], [np.nan, 3]]), "y": F32([np.inf, 1])}
    verdict = nanlab.pinpoint(loss, batch, F32([-np.inf, 0]), float("nan"))
    assert [c.expression for c in verdict.inputs] == ["batch['x']", "batch['y']", "mask", "scale"]
    assert set(verdict.input_faults) == {"batch['x']", "batch['y']", "mask", "scale"}
    text = " ".join(str(verdict).split())
    assert (
        "argument batch['x'] already holds NaN: 1 of 4 values, first at [1, 0], in row 1 of 2."
        in text
    )
    assert "More arguments that contain an inf or a NaN: scale" in text


def test_several_kinds_of_bad_values_are_counted_apart():
    verdict = nanlab.pinpoint(lambda x: x + 1, F32([np.nan, np.inf, np.inf, 0]))
    assert "already holds NaN and +inf: 1 NaN and 2 +inf of 4 values, first at [0]." in str(verdict)
    assert "The argument x is already NaN." in str(nanlab.pinpoint(lambda x: x + 1, F32(np.nan)))


def test_elements_that_are_a_part_of_all_are_marked():
    verdict = nanlab.pinpoint(lambda x: jnp.sum(x), np.full(70_000, 1e38, F32))
    assert verdict.origin.operands[0].n_there == 70_000
    assert "(8 of 70,000)" in " ".join(str(verdict).split())
    few = nanlab.pinpoint(lambda x: jnp.sum(x), np.full(5, 1e38, F32))
    assert "of 5" not in str(few)


# ---- what must not act on a terminal -------------------------------------------------------------

NASTY = {
    "\x1b[31mred\x1b[0m": r"\x1b[31mred\x1b[0m",
    "new\nline\r\ttab": r"new\nline\r\ttab",
    "\u202eright to left\u2066": r"\u202eright to left\u2066",
    "bell\x07, null\x00, delete\x7f": r"bell\x07, null\x00, delete\x7f",
    "lone \ud800": r"lone \ud800",
    "\x9b31m": r"\x9b31m",
    "gruen, \u00e4, \u96ea": "gruen, \u00e4, \u96ea",
}


@pytest.mark.parametrize(("raw", "safe"), NASTY.items(), ids=range(len(NASTY)))
def test_what_acts_on_a_terminal_is_escaped(raw, safe):
    assert printable(raw) == safe


@pytest.mark.parametrize("raw", list(NASTY)[:3])
def test_names_are_escaped_wherever_a_verdict_is_shown(raw):
    def loss(params):
        with jax.named_scope(raw.replace("/", "")):
            return {raw: jnp.log(params[raw]) * params["other"]}

    params = {raw: F32([-1]), "other": F32([np.nan])}
    verdict = nanlab.pinpoint(loss, params)
    for text in (str(verdict), shown(verdict, 80), printed(verdict, 80), repr(verdict)):
        plain = text.replace("\n", "")
        assert not [c for c in plain if not c.isprintable()]
    assert not set("\x1b\u202e\u2066") & set(verdict._repr_html_())
    assert raw in json.loads(json.dumps(verdict.to_dict()))["output_faults"][0] or "\\" in repr(raw)


def test_a_source_file_cannot_act_on_a_terminal(tmp_path):
    path = tmp_path / "evil\x1b[2Jname.py"
    code = "import jax.numpy as jnp\n\n\ndef f(x):\n    return jnp.log(x)  # \x1b[2J\u202e\n"
    path.write_text(code, encoding="utf-8")
    scope = {}
    exec(compile(code, str(path), "exec"), scope)
    verdict = nanlab.pinpoint(scope["f"], F32([-1]))
    text = shown(verdict, 80)
    assert r"# \x1b[2J\u202e" in text
    assert r"evil\x1b[2Jname.py:5" in text
    assert "\x1b" not in text + str(verdict) + repr(verdict)


# ---- in one line, as a bool, as an error ---------------------------------------------------------


def test_a_verdict_is_true_if_there_is_a_fault():
    bad, good = nanlab.pinpoint(jnp.log, F32([-1])), nanlab.pinpoint(jnp.log, F32([1]))
    away = nanlab.Verdict(status=nanlab.blame.vocabulary.Status.REWRITTEN_AWAY)
    assert bad
    assert not good
    assert not away
    assert good.raise_if_fault() is None
    with pytest.raises(FloatingPointError) as caught:
        bad.raise_if_fault()
    assert str(caught.value) == str(bad)


def test_a_verdict_in_one_line_is_short_enough_for_a_failing_assert():
    def loss(quite_a_long_name_of_an_argument_that_never_ends_before_eighty_columns_are_full):
        x = quite_a_long_name_of_an_argument_that_never_ends_before_eighty_columns_are_full
        return {"a" * 60: lax.scan(lambda c, v: (c, jnp.log(-jnp.exp(v))), 0, x)[1]}

    line = repr(nanlab.pinpoint(loss, F32([1e9])))
    assert len(line) <= 240  # pytest cuts what is longer
    assert "\n" not in line
    assert line.startswith("Verdict(reproduced: NaN in output")
    assert "culprit log, domain, forward at test_verdict_text.py:" in line
    assert "origin exp, overflow, forward at test_verdict_text.py:" in line
    assert repr(nanlab.pinpoint(jnp.log, F32([1]))) == "Verdict(clean: every output is finite)"
    inf = repr(nanlab.pinpoint(jnp.log, F32([0])))
    assert inf.startswith("Verdict(reproduced: inf in output; origin log, pole, forward")


# ---- the table of a study ------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_of_blames_breaks_neither_paths_nor_names(width):
    row = {"runs": 1234}
    for role, source in (("origin", "nanlab/parts/losses.py:122"), ("culprit", "x/y_z.py:7")):
        row |= {
            f"{role}_mechanism": "inf-inf", f"{role}_primitive": "reduce_sum",
            f"{role}_phase": "forward", f"{role}_module": "MLP/Dense_1", f"{role}_source": source,
        }  # fmt: skip
    lines = blame_lines(pl.DataFrame([row]), SourceLines({}))
    text = "\n".join(wrapped_line(line, width) for line in lines)
    wanted = ("1,234", "inf-inf in reduce_sum", "forward, MLP/Dense_1", "x/y_z.py:7")
    for whole in (*wanted, "nanlab/parts/losses.py:122"):
        assert whole in text
    if width >= 50:
        assert max(map(len, text.splitlines())) <= width


def test_plain_text_has_the_width_that_is_requested(cosine):
    assert max(map(len, verdict_text(cosine, 200).splitlines())) > 88
