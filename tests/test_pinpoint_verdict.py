"""What a verdict tells: the numbers that met, how it is written, and its reproducer."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from rich.console import Console

import nanlab
from nanlab.backend import finiteness as codes
from nanlab.blame.diagnosis.contents import (
    SHOWN_ELEMENTS,
    contents,
    contributing_elements,
    first_bad,
)
from nanlab.blame.program.program import flatten
from nanlab.blame.vocabulary import Status

F32 = np.float32
CODE_OF_NAN = codes.NAN
NAN, INF = np.nan, np.inf


def cause_of(site):
    return site and (site.primitive, site.mechanism)


# ---- counting ------------------------------------------------------------------------------------

ARRAYS = {
    "finite": F32([3, -1, 0, 0]),
    "every kind": F32([[NAN, INF, -INF], [0, 5, -2]]),
    "nothing finite": F32([NAN, INF]),
    "a number": np.array(-INF, F32),
    "empty": np.zeros((2, 0), F32),
    "doubles": np.array([1e300, NAN]),
    "whole": np.int32([3, 0, -7]),
    "bytes": np.uint8([3, 0, 7]),
    "unsigned": np.uint32([3, 0]),
    "bools": np.array([True, False]),
    "half": np.float16([INF, -1]),
    "bfloat16": np.asarray([NAN, 2.5, -INF], jnp.bfloat16),
    "float8": np.asarray([NAN, 1.5, 0], jnp.float8_e4m3fn),
    "complex": np.complex64([1j, complex(NAN, INF), complex(0, -INF), 0]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_what_an_array_holds_is_counted(name):
    array = ARRAYS[name]
    held = contents("x", array)
    numbers = [complex(x) for x in array.reshape(-1)]
    finite = [x.real for x in numbers if np.isfinite(x)]
    has_order = array.dtype.kind not in "bc" and finite
    assert (held.expression, held.shape, held.dtype) == ("x", array.shape, str(array.dtype))
    assert held.min == (min(finite) if has_order else None)
    assert held.max == (max(finite) if has_order else None)
    assert held.nans == sum(np.isnan(x) for x in numbers)
    assert held.posinfs == sum(INF in (x.real, x.imag) for x in numbers)
    assert held.neginfs == sum(-INF in (x.real, x.imag) for x in numbers)
    assert held.zeros == sum(x == 0 for x in numbers)
    bad = [place for place in np.ndindex(array.shape) if not np.isfinite(complex(array[place]))]
    assert held.first_bad == (bad[0] if bad else None)
    assert held.there == ()
    json.dumps(held.min)


def test_the_telling_elements_are_shown_first():
    row = F32([*range(1, 20), 0, INF, NAN])
    shown = contents("x", row, row).there
    assert len(shown) == SHOWN_ELEMENTS
    assert np.isnan(shown[0])
    assert shown[1:5] == (INF, 0, 19, 18)
    assert contents("x", row, row[:0]).there == ()


def general(numbers):
    return lambda a, b: lax.dot_general(a, b, numbers)


# what -> function, shapes of its operands
MET = {
    "elementwise": (lambda a, b: a * b, [(2, 3), (2, 3)]),
    "a sum": (lambda a: lax.reduce_sum_p.bind(a, axes=(0,), out_sharding=None), [(4, 3)]),
    "a sum of two axes": (lambda a: jnp.sum(a, axis=(0, 2)), [(2, 3, 4)]),
    "a maximum": (lambda a: jnp.max(a, axis=1), [(2, 3)]),
    "a cumulative sum": (lambda a: lax.cumsum(a, axis=1), [(2, 4)]),
    "reversed": (lambda a: lax.cumsum(a, axis=0, reverse=True), [(4, 2)]),
    "a matrix product": (general((((1,), (0,)), ((), ()))), [(2, 3), (3, 4)]),
    "transposed": (general((((0,), (1,)), ((), ()))), [(3, 2), (4, 3)]),
    "batched": (general((((2,), (1,)), ((0,), (0,)))), [(2, 3, 4), (2, 4, 5)]),
    "batched at other places": (general((((0,), (2,)), ((1,), (0,)))), [(3, 2, 4), (2, 5, 3)]),
    "batched twice": (
        general((((3,), (0,)), ((2, 0), (1, 3)))), [(2, 4, 3, 5), (5, 3, 6, 2)],
    ),
    "contracted twice": (general((((0, 2), (1, 0)), ((), ()))), [(2, 3, 4), (4, 2, 5)]),
    "a vector": (general((((0,), (0,)), ((), ()))), [(3,), (3,)]),
}  # fmt: skip


@pytest.mark.parametrize(("function", "shapes"), MET.values(), ids=MET)
def test_what_went_into_an_element_is_what_changes_it(function, shapes):
    # An element of an operand went into a result's element if the NaN goes from one to the other.
    rng = np.random.RandomState(0)
    operands = [rng.rand(*shape).astype(F32) for shape in shapes]
    run, equation = jax.jit(function), flatten(function, *operands).equations[-1]
    result = np.asarray(run(*operands))
    for index in [(0,) * result.ndim, tuple(n - 1 for n in result.shape)]:
        met = contributing_elements(equation, operands, index)
        for side, operand in enumerate(operands):
            wanted = []
            for place in np.ndindex(operand.shape):
                spoilt = [x.copy() for x in operands]
                spoilt[side][place] = NAN
                if np.isnan(np.asarray(run(*spoilt))[index]):
                    wanted.append(operand[place])
            np.testing.assert_array_equal(np.sort(met[side], axis=None), np.sort(wanted))


def test_the_first_bad_element_may_be_asked_to_be_a_nan():
    numbers = F32([[1, INF], [NAN, 0]])
    assert first_bad(numbers) == (0, 1)
    assert first_bad(numbers, worst=CODE_OF_NAN) == (1, 0)
    assert first_bad(F32([1])) is None
    assert first_bad(np.int32([1])) is None
    assert first_bad(np.array(NAN)) == ()


def test_a_site_tells_its_operands_and_its_result():
    def shares(x, total):
        return (x - 1) / total

    verdict = nanlab.pinpoint(shares, F32([[2, 1], [3, 1]]), F32([[1, 0], [0, 0]]))
    left, right = verdict.culprit.operands
    (result,) = verdict.culprit.results
    assert (left.expression, right.expression) == ("x - 1.0", "total")
    assert (left.shape, left.dtype, left.min, left.max) == ((2, 2), "float32", 0, 2)
    assert (left.zeros, right.zeros, left.first_bad) == (2, 3, None)
    assert (left.there, right.there) == ((0,), (0,))
    assert (result.nans, result.posinfs, result.neginfs) == (2, 1, 0)
    assert (result.min, result.max, result.first_bad) == (1, 1, (0, 1))
    assert np.isnan(result.there).all()


# ---- fields --------------------------------------------------------------------------------------


def masked(x, mask):
    # XLA makes a selection of the product: compiled, it is finite where the mask is False.
    return jnp.sum(x + jnp.inf * mask.astype(F32))


def test_a_fault_that_xla_rewrites_away_is_no_fault():
    verdict = nanlab.pinpoint(masked, F32([1, 2]), np.array([False, False]))
    assert np.isfinite(jax.jit(masked)(F32([1, 2]), np.array([False, False])))
    assert not verdict.fault
    bad = nanlab.pinpoint(masked, F32([1, 2]), np.array([False, True]))
    assert (bad.status, bad.fault) == ("reproduced", True)


def test_a_fault_that_xla_rewrites_away_is_told_as_such():
    verdict = nanlab.pinpoint(masked, F32([1, 2]), np.array([False, False]))
    assert verdict.status == "rewritten-away"
    assert cause_of(verdict.culprit) == ("mul", "0*inf")


def test_a_verdict_says_in_words_what_its_status_is():
    found = nanlab.pinpoint(lambda x: jnp.log(x), F32(-1))
    away = replace(found, status=Status.REWRITTEN_AWAY)
    assert (found.fault, away.fault) == (True, False)
    assert "There is a NaN in output." in str(found)
    assert "Every output is finite as compiled" in str(away)
    only = replace(found, status=Status.COMPILED_ONLY)
    assert only.fault
    assert "in the same way (compiled-only)" in str(only).replace("\n", " ")


def test_what_reaches_no_output_is_benign():
    def guarded(x):
        kept = jnp.where(x > 0, jnp.log(x), 0)
        return kept + lax.scan(lambda c, v: (c + jnp.where(v > 0, 1 / v, 0), c), F32(0), x)[0]

    verdict = nanlab.pinpoint(guarded, F32([1, -1, 0]))
    assert (verdict.status, verdict.fault) == ("clean", False)
    assert [*map(cause_of, verdict.benign)] == [("log", "domain"), ("div", "pole")]
    assert verdict.benign[1].iterations == (2,)
    assert (verdict.origin, verdict.culprit, verdict.chain) == (None, None, ())
    assert "Harmless" in str(verdict)
    assert nanlab.pinpoint(guarded, F32([1, 1, 2])).benign == ()


def test_a_chain_goes_by_way_of_the_culprit():
    def two(x):
        big = jnp.exp(x)
        scaled = big * 2
        gone = scaled - scaled
        return jnp.sum(gone * 3)

    verdict = nanlab.pinpoint(two, F32([1, 100]))
    names = [site.primitive for site in verdict.chain]
    assert names == ["exp", "mul", "sub", "mul", "reduce_sum"]
    first = two.__code__.co_firstlineno
    assert [site.line - first for site in verdict.chain] == [1, 2, 3, 4, 4]
    assert (verdict.origin.line - first, verdict.culprit.line - first) == (1, 3)


def test_a_chain_goes_round_a_loop():
    def loop(x):
        return lax.scan(lambda c, v: (c * jnp.log(v), None), F32(1), x)[0] + 1

    verdict = nanlab.pinpoint(loop, F32([1, -1, 2]))
    links = [(site.primitive, site.iterations) for site in verdict.chain]
    assert links == [("log", (1,)), ("mul", (1,)), ("mul", (2,)), ("add", ())]


# ---- a discarded lane ----------------------------------------------------------------------------


def test_the_element_that_is_shown_is_one_that_reaches_the_output():
    def safe(x):
        return jnp.where(x < -1, 0, jnp.log(x))

    culprit = nanlab.pinpoint(jax.vmap(safe), F32([-2, 1, -0.5])).culprit
    assert (culprit.lane, culprit.operands[0].there) == (2, (-0.5,))


def test_a_lane_is_that_of_the_batched_axis():
    verdict = nanlab.pinpoint(
        lambda x: jax.vmap(lambda v: jnp.log(v), in_axes=1, out_axes=1)(x), F32([[1, 2, -3]] * 2)
    )
    assert verdict.culprit.results[0].first_bad == (0, 2)


@pytest.mark.parametrize(
    "one",
    [lambda v: jnp.log(v)[None] * jnp.ones((1, 2)), lambda v: jnp.log(v[None, None]) + jnp.ones(3)],
)
def test_an_axis_that_a_lane_adds_to_its_own_value_does_not_hide_the_lane(one):
    verdict = nanlab.pinpoint(jax.vmap(one), F32([1, -1]))
    assert (cause_of(verdict.culprit), verdict.culprit.lane) == (("log", "domain"), 1)


def test_what_all_lanes_share_has_no_lane():
    def one(x, table):
        return x * jnp.log(table)

    verdict = nanlab.pinpoint(jax.vmap(one, in_axes=(0, None)), F32([[1, 2]] * 3), F32([1, -1]))
    assert cause_of(verdict.culprit) == ("log", "domain")
    assert verdict.culprit.lane is None


# ---- writing -------------------------------------------------------------------------------------


def wordy(quite_a_long_name_for_a_dict):
    def body(carry, x):
        long_product = (carry * quite_a_long_name_for_a_dict["and_a_long_key_too"] < x) & (x > 0)
        return jnp.log(carry - 1e9) * 1e30 * 1e30 + 0 * long_product, None

    return lax.scan(body, F32(1), np.arange(30))[0]


@pytest.fixture(scope="module")
def verdicts():
    def html(x, y):
        return jnp.where(x < 3, jnp.log(x), y) if 1 < 2 & 3 else "<b>&amp;</b>"

    def many(xs):
        return [jnp.log(x) for x in xs]

    return {
        "clean": nanlab.pinpoint(jnp.exp, F32([1])),
        "html": nanlab.pinpoint(html, F32([-1]), F32([1])),
        "wordy": nanlab.pinpoint(wordy, {"and_a_long_key_too": F32(1)}),
        "many outputs": nanlab.pinpoint(many, [F32(-1)] * 30),
        "input": nanlab.pinpoint(lambda *x: x, *[F32(NAN)] * 30),
        "benign": nanlab.pinpoint(lambda x: jnp.where(x < 0, 0, jnp.log(x)), F32([-1, 1])),
    }


NAMES = ["clean", "html", "wordy", "many outputs", "input", "benign"]


@pytest.mark.parametrize("name", NAMES)
def test_a_verdict_is_plain_data(verdicts, name):
    verdict = verdicts[name]
    written = verdict.to_dict()
    assert type(written["status"]) is str
    assert json.loads(json.dumps(written, allow_nan=False)) == json.loads(json.dumps(written))
    assert written["fault"] == verdict.fault
    assert set(written) >= {"status", "origin", "culprit", "chain", "benign", "output_faults"}
    assert "evidence" not in written


@pytest.mark.parametrize("name", NAMES)
def test_a_verdict_is_written_in_short_lines(verdicts, name):
    verdict = verdicts[name]
    text = str(verdict)
    # A path stays in one piece, however long the checkout's is.
    lines = [line for line in text.splitlines() if not line.startswith("  at ")]
    assert max(map(len, lines)) <= 88
    main = verdict.culprit or verdict.origin
    if main and main.file:
        assert f"{Path(main.file).name}:{main.line}" in text.replace("\n", "").replace(" ", "")
        assert main.primitive in text


class Balanced(HTMLParser):
    """Knows whether every tag is closed, and what text there is."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("name", NAMES)
def test_a_verdict_is_html_in_a_notebook(verdicts, name):
    parser = Balanced()
    parser.feed(verdicts[name]._repr_html_())
    parser.close()
    assert parser.open == []
    if name == "html":
        assert 'if 1 < 2 & 3 else "<b>&amp;</b>"' in " ".join(parser.text.split())
    assert "&lt;b" in verdicts["html"]._repr_html_()


@pytest.mark.parametrize("width", [40, 200])
@pytest.mark.parametrize("name", NAMES)
def test_a_verdict_is_printed_in_a_terminal_of_any_width(verdicts, name, width):
    console = Console(width=width, no_color=True, color_system=None)
    with console.capture() as captured:
        console.print(verdicts[name])
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    main = verdicts[name].culprit or verdicts[name].origin
    if main and main.file:
        squeezed = "".join(captured.get().split())
        assert f"{Path(main.file).name}:{main.line}" in squeezed


# ---- reproducers ---------------------------------------------------------------------------------

BF16 = jnp.bfloat16
SAVED = {
    "log": (lambda x: jnp.log(x), [F32([1, -1])]),
    "div": (lambda x, y: x / y, [np.array([0.0, 1]), np.array([0.0, 2])]),
    "dot_general": (lambda x: jnp.exp(x) @ jnp.diag(x), [F32([100, 0])]),
    "reduce_sum": (lambda x: jnp.sum(x), [F32([3e38, 3e38])]),
    "convert_element_type": (lambda x: x.astype(jnp.float16), [F32([1e6])]),
    "bfloat16": (lambda x: x * x, [np.asarray([1e30], BF16)]),
    "float8": (lambda x: x.astype(F32) / 0, [np.asarray([1, 0], jnp.float8_e4m3fn)]),
    "cholesky": (lambda x: lax.linalg.cholesky(x), [F32([[1, 2], [2, 1]])]),
    "conv_general_dilated": (lambda x: jnp.convolve(x, x), [F32([3e20, 3e20])]),
    "complex": (lambda z: z / (z - z), [np.complex64([1j])]),
    "sort": (lambda x: jnp.cumsum(jnp.sort(x)), [F32([3e38, 3e38])]),
    "in a scan": (lambda x: lax.scan(lambda c, v: (c, jnp.sqrt(v)), 0, x), [F32([1, -1])]),
    "gradient": (jax.grad(lambda x: jnp.sum(jnp.linalg.norm(x))), [F32([0, 0])]),
}
RUNNER = """
import runpy, sys
for script in sys.argv[1:]:
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as left:
        print("status", left.code)
    except BaseException as error:
        print("status", repr(error))
"""


def test_a_saved_reproducer_makes_the_fault_again(tmp_path):
    # One process for all: starting JAX takes longer than running them.
    scripts = []
    for name, (function, arguments) in SAVED.items():
        scripts.append(nanlab.pinpoint(function, *arguments).save(tmp_path / name))
    ran = subprocess.run(
        [sys.executable, "-c", RUNNER, *map(str, scripts)], capture_output=True, text=True
    )
    statuses = [line for line in ran.stdout.splitlines() if line.startswith("status")]
    assert dict(zip(SAVED, statuses, strict=True)) == dict.fromkeys(SAVED, "status 0"), ran.stderr


def test_a_saved_gather_makes_its_fill_again(tmp_path):
    verdict = nanlab.pinpoint(lambda x, i: x.at[i].get(mode="fill"), F32([1, 2]), np.int32([5]))
    assert cause_of(verdict.culprit) == ("gather", "fill")
    script = verdict.save(tmp_path)
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_a_saved_reproducer_runs_alone_and_fails_when_it_does_not_reproduce(tmp_path):
    script = nanlab.pinpoint(lambda x: jnp.log(x), F32([1, -1])).save(tmp_path)
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd="/")
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (0, "reproduced")
    with np.load(tmp_path / "operands.npz") as stored:
        np.testing.assert_array_equal(stored["operand0"], F32([1, -1]))
    np.savez(tmp_path / "operands.npz", operand0=F32([1, 1]))
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (1, "not reproduced")


def test_a_site_that_cannot_be_written_down_is_refused(tmp_path):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("i",))
    spec = jax.sharding.PartitionSpec("i")
    total = jax.shard_map(
        lambda x: jax.lax.psum(x, "i"), mesh=mesh, in_specs=spec, out_specs=jax.P()
    )
    verdict = nanlab.pinpoint(total, F32([3e38, 3e38]))
    assert verdict.origin.mechanism == "overflow"
    with pytest.raises(ValueError, match="cannot be reproduced alone"):
        verdict.save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("cases", [1.0, F32([1, 2, 3]), "operand"])
def test_a_selection_by_a_scalar_on_each_device_is_followed(cases):
    @partial(jax.pmap, axis_name="d")
    def step(count, w):
        other = w if isinstance(cases, str) else cases
        scale = jnp.where(count == 3, -1.0, other)
        return w - jax.lax.pmean(w, "d") * jnp.sqrt(scale)

    verdict = nanlab.pinpoint(step, np.int32([2, 3]), np.ones((2, 3), np.float32))
    assert cause_of(verdict.culprit) == ("sqrt", "domain")


def test_a_saved_scatter_needs_no_jaxpr(tmp_path):
    verdict = nanlab.pinpoint(lambda x, i: x.at[i].add(3e38), F32([3e38, 2]), np.int32([0]))
    assert cause_of(verdict.origin) == ("scatter-add", "overflow")
    script = verdict.save(tmp_path)
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (0, "reproduced"), ran.stderr


@pytest.mark.parametrize(
    ("function", "x"),
    [(jnp.exp, 1), (jnp.exp, NAN), (lambda x: x, INF)],
    ids=["clean", "in", "as is"],
)
def test_there_is_nothing_to_save_where_no_site_is_at_fault(function, x, tmp_path):
    with pytest.raises(ValueError, match="nothing to reproduce"):
        nanlab.pinpoint(function, F32(x)).save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
