"""The walk back from a bad output, on planted faults with harmless twins: alone and in blocks."""

import re
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from corpus import op_by_op, steps
from corpus.case import marked_lines
from corpus.planted import PLANTED
from jax import lax
from sampled import sampled

from nanlab.backend.finiteness import INF, NAN
from nanlab.blame import source_path
from nanlab.blame.batched import BlockProbe
from nanlab.blame.diagnosis import location as places
from nanlab.blame.diagnosis.attribution import Blame, CauseFinder
from nanlab.blame.diagnosis.causal_walk import first_in_time
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.probes.codes import WINDOW, Probe
from nanlab.blame.program.dataflow import downstream, upstream
from nanlab.blame.program.program import flatten

F32 = np.float32
each_planted = pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
each_second = pytest.mark.parametrize("planted", sampled(PLANTED.values(), 2), ids=PLANTED)


@cache
def compiled(function, shapes):
    """A function's program, and its probe, jitted once for all arguments of these shapes."""
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    program = flatten(function, *arguments)
    probe = Probe(program)
    return program, probe, jax.jit(probe)


def run_alone(function, *arguments):
    """One lane's reading, jitted alone, with what the function returned."""
    arrays = [np.asarray(argument) for argument in arguments]
    _, probe, run = compiled(function, tuple((a.shape, a.dtype) for a in arrays))
    outputs, codes = run(*arrays)
    return Reading(probe, {name: np.asarray(code) for name, code in codes.items()}), outputs


def judged(reading):
    program = reading.probe.program
    return CauseFinder(program).blame(reading, program.frames[0].results)


def blamed(function, *arguments):
    return judged(run_alone(function, *arguments)[0])


def cause_of(finding):
    return finding and (finding.primitive, finding.mechanism)


# ---- planted faults ------------------------------------------------------------------------------


@each_planted
def test_a_planted_fault_is_found(planted):
    blame = blamed(planted.function, *planted.faulty)
    assert cause_of(blame.culprit) == planted.culprit
    assert cause_of(blame.origin) == (planted.origin or planted.culprit)
    marked = blame.culprit or blame.origin
    mark = "culprit" if blame.culprit else "origin"
    assert marked.source in marked_lines(planted.function, mark)
    assert (marked.phase, marked.iterations) == (planted.phase, planted.iterations)


@each_planted
def test_its_harmless_twin_is_not_blamed(planted):
    assert blamed(planted.function, *planted.harmless) == Blame(origin=None, culprit=None)


@each_second
def test_what_is_found_is_what_happens_op_by_op(planted):
    account = op_by_op.run(planted.function, *planted.faulty)
    blame = blamed(planted.function, *planted.faulty)
    if planted.culprit is None or account.culprit is None:
        # No site made a NaN: it came from outside, or there is none.
        assert account.culprit is None
        assert blame.culprit is None or blame.culprit.mechanism in ("input", "constant")
    else:
        assert blame.culprit.primitive == account.culprit.primitive
        assert blame.culprit.iterations == account.culprit.iterations
    sources = {op_by_op.INPUT: "input", op_by_op.CONSTANT: "constant"}
    if account.origin in sources:
        assert blame.origin.mechanism == sources[account.origin]
    else:
        emission = account.emissions[account.origin]
        assert blame.origin.primitive == emission.primitive
        assert blame.origin.iterations == emission.iterations
    harmless = op_by_op.run(planted.function, *planted.harmless)
    assert not harmless.bads


@each_second
def test_looking_changes_nothing(planted):
    for arguments in (planted.faulty, planted.harmless):
        _, outputs = run_alone(planted.function, *arguments)
        plain = jax.jit(planted.function)(*arguments)
        assert jax.tree.structure(outputs) == jax.tree.structure(plain)
        for seen, unseen in zip(jax.tree.leaves(outputs), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(seen, unseen, rtol=1e-6)


FAULTY_LANES = (0, 3, 4, 8)


def lanes_of(planted, count=9):
    """Arguments for several lanes, of which FAULTY_LANES fail."""
    each = [planted.faulty if i in FAULTY_LANES else planted.harmless for i in range(count)]
    return [np.stack(argument) for argument in zip(*each, strict=True)]


def block_probe(planted, devices):
    arguments = tuple(np.asarray(argument) for argument in planted.faulty)
    return BlockProbe(planted.function, arguments, block=4, devices=jax.devices()[:devices])


@each_second
def test_in_a_block_each_lane_gets_the_verdict_that_it_gets_alone(planted):
    # Nine lanes in two launches of 2 devices x 4 lanes: the last launch is padded.
    readings, which = block_probe(planted, devices=2).read(*lanes_of(planted))
    verdicts = [judged(readings[i]) for i in which]
    faulty, harmless = (blamed(planted.function, *a) for a in (planted.faulty, planted.harmless))
    assert verdicts == [faulty if i in FAULTY_LANES else harmless for i in range(9)]
    # Lanes with the same codes share one reading, so that the walk is made once for each.
    assert len(readings) == 2


@pytest.mark.parametrize("name", ["straight", "scan in scan", "while, late", "branch in scan"])
def test_one_device_reads_what_two_read(name):
    planted = PLANTED[name]
    (one, which_one), (two, which_two) = (
        block_probe(planted, devices).read(*lanes_of(planted)) for devices in (1, 2)
    )
    for i, j in zip(which_one, which_two, strict=True):
        for code in one[i].codes:
            assert np.array_equal(one[i].codes[code], two[j].codes[code])


@pytest.mark.parametrize("count", [1, 7, 8])
def test_a_padded_block_reads_as_a_full_one(count):
    planted = PLANTED["straight"]
    readings, which = block_probe(planted, devices=2).read(*lanes_of(planted, count))
    assert len(which) == count
    is_blamed = [judged(readings[i]).culprit is not None for i in which]
    assert is_blamed == [i in FAULTY_LANES for i in range(count)]


@pytest.mark.parametrize("name", ["straight", "scan, reversed", "while", "where in a gradient"])
def test_one_lane_can_be_read_with_nothing_compiled_together(name):
    planted = PLANTED[name]
    reading = block_probe(planted, devices=1).read_op_by_op(*planted.faulty)
    assert judged(reading) == blamed(planted.function, *planted.faulty)


def test_the_first_in_time_may_be_harmless():
    planted = PLANTED["after a harmless NaN"]
    reading, _ = run_alone(planted.function, *planted.faulty)
    site = reading.probe.program.equations[first_in_time(reading, NAN).equation]
    assert site.primitive == "log"
    frame = places.user_frame(site)
    assert f"corpus/planted.py:{frame.line}" in marked_lines(planted.function, "decoy")
    reading, _ = run_alone(planted.function, *planted.harmless)
    assert reading.probe.program.equations[first_in_time(reading, NAN).equation].primitive == "log"
    reading, _ = run_alone(planted.function, F32(1))
    assert first_in_time(reading, INF) is None


# ---- edges ---------------------------------------------------------------------------------------


def test_a_bad_argument_that_is_an_output_as_it_is_is_told_though_no_site_reads_it():
    def hand_through(x, y):
        return x, y + 1

    blame = blamed(hand_through, F32(np.nan), F32(1))
    assert cause_of(blame.culprit) == cause_of(blame.origin) == ("", "input")
    blame = blamed(hand_through, F32(np.inf), F32(1))
    assert (cause_of(blame.culprit), cause_of(blame.origin)) == (None, ("", "input"))
    assert blamed(hand_through, F32(1), F32(1)) == Blame(origin=None, culprit=None)


def test_a_bad_constant_that_is_an_output_as_it_is_is_told():
    blame = blamed(lambda x: (x, np.float32(np.nan)), F32(1))
    assert cause_of(blame.culprit) == ("", "constant")


@pytest.mark.parametrize("trips", [0, 1])
def test_a_loop_that_does_not_run_hands_its_carry_through(trips):
    def loop(x, count):
        return lax.fori_loop(0, count, lambda _, v: jnp.log(v), x)

    blame = blamed(loop, F32(-1) if trips else F32(np.nan), trips)
    assert cause_of(blame.culprit) == (("log", "domain") if trips else ("", "input"))
    assert blamed(loop, F32(2), trips) == Blame(origin=None, culprit=None)


def test_an_empty_scan_hands_its_carry_through():
    def loop(x, xs):
        return lax.scan(lambda carry, x: (carry / x, x), x, xs)[0] + 1

    assert cause_of(blamed(loop, F32(np.nan), np.zeros(0, F32)).culprit) == ("add", "input")
    assert blamed(loop, F32(1), np.zeros(0, F32)).culprit is None


@pytest.mark.parametrize("late", [0, 1, WINDOW - 2, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW])
def test_a_while_loop_is_followed_to_the_iteration_however_late_it_fails(late):
    # The inf is there from the first iteration on: recording begins with it.
    def loop(limit, count):
        def body(state):
            number, best, x = state
            return number + 1, jnp.minimum(best, jnp.inf), jnp.sqrt(limit - number) + 0 * x

        start = (0, jnp.exp(limit * 0 + 100), F32(0))
        return lax.while_loop(lambda state: state[0] < count, body, start)[2]

    for after in (1, 5, 100):
        blame = blamed(loop, F32(late - 0.5), late + after)
        assert cause_of(blame.culprit) == ("sqrt", "domain")
        assert blame.culprit.iterations == (late,)
    assert blamed(loop, F32(late - 0.5), late).culprit is None


def test_an_effect_keeps_its_place_and_an_unused_site_is_not_blamed():
    def noisy(x):
        jnp.log(x)
        jax.debug.print("{}", jnp.sqrt(x))
        return x * 2

    assert blamed(noisy, F32(-1)) == Blame(origin=None, culprit=None)


def test_outputs_that_are_not_asked_about_are_not_blamed():
    def two(x):
        return jnp.log(x), jnp.sqrt(x + 2)

    reading, _ = run_alone(two, F32(-1))
    judge = CauseFinder(reading.probe.program)
    first, second = reading.probe.program.frames[0].results
    assert cause_of(judge.blame(reading, [first]).culprit) == ("log", "domain")
    assert judge.blame(reading, [second]) == Blame(origin=None, culprit=None)


# ---- mechanisms ----------------------------------------------------------------------------------

DOTTED = np.array([[1e3, 1e3]], F32)
# what happens -> program, arguments, primitive and mechanism of the origin, and of the culprit.
MECHANISMS = {
    "0/0": (lambda x: x / x, 0.0, ("div", "0/0"), ("div", "0/0")),
    "inf/inf": (
        lambda x: jnp.cosh(x) / jnp.sinh(x), 1e3, ("cosh", "overflow"), ("div", "inf/inf"),
    ),
    "1/0": (lambda x: 1 / x, 0.0, ("div", "pole"), None),
    "1/subnormal": (lambda x: 1 / (x * 1e-30), 1e-10, ("div", "pole"), None),
    "a quotient too large": (lambda x: 1e30 / x, 1e-30, ("div", "overflow"), None),
    "a product too large": (lambda x: x * x, 1e30, ("mul", "overflow"), None),
    "a sum too large": (lambda x: x + x, 3e38, ("add", "overflow"), None),
    "log 0": (jnp.log, 0.0, ("log", "pole"), None),
    "log of a negative": (jnp.log, -1.0, ("log", "domain"), ("log", "domain")),
    "log1p of -1": (jnp.log1p, -1.0, ("log1p", "pole"), None),
    "sqrt of a negative": (jnp.sqrt, -1.0, ("sqrt", "domain"), ("sqrt", "domain")),
    "rsqrt of 0": (lax.rsqrt, 0.0, ("rsqrt", "pole"), None),
    "rsqrt of a negative": (lax.rsqrt, -1.0, ("rsqrt", "domain"), ("rsqrt", "domain")),
    "0 ** -1.5": (lambda x: lax.pow(x, F32(-1.5)), 0.0, ("pow", "pole"), None),
    "a power too large": (lambda x: lax.pow(x, F32(9.5)), 1e30, ("pow", "overflow"), None),
    "(-2) ** 0.5": (lambda x: lax.pow(x, F32(0.5)), -2.0, ("pow", "domain"), ("pow", "domain")),
    "x ** -3": (lambda x: x**-3, 0.0, ("integer_pow", "pole"), None),
    "x ** 9": (lambda x: x**9, 1e30, ("integer_pow", "overflow"), None),
    "acosh below 1": (jnp.arccosh, 0.5, ("acosh", "domain"), ("acosh", "domain")),
    "asin above 1": (jnp.arcsin, 2.0, ("asin", "domain"), ("asin", "domain")),
    "atanh of 1": (jnp.arctanh, 1.0, ("atanh", "pole"), None),
    "x % 0": (lambda x: lax.rem(F32(3), x), 0.0, ("rem", "domain"), ("rem", "domain")),
    "sin of inf": (lambda x: jnp.sin(x * x), 1e30, ("mul", "overflow"), ("sin", "domain")),
    "digamma at a pole": (
        lax.digamma, -1.0, ("digamma", "pole"), ("digamma", "pole"),
    ),
    "sum of infs": (
        lambda x: jnp.sum(jnp.exp(x) * jnp.array([1, -1], x.dtype)), 1e3,
        ("exp", "overflow"), ("reduce_sum", "inf-inf"),
    ),
    "product with an inf": (
        lambda x: jnp.prod(jnp.stack([jnp.exp(x), x * 0])), 1e3,
        ("exp", "overflow"), ("reduce_prod", "0*inf"),
    ),
    "cumulative sum": (
        lambda x: jnp.cumsum(jnp.exp(x) * jnp.array([1, -1], x.dtype)), 1e3,
        ("exp", "overflow"), ("cumsum", "inf-inf"),
    ),
    "matrix product, 0 * inf": (
        lambda x: jnp.exp(x) @ jnp.array([[0.0], [1.0]], x.dtype), DOTTED,
        ("exp", "overflow"), ("dot_general", "0*inf"),
    ),
    "matrix product, inf - inf": (
        lambda x: jnp.exp(x) @ jnp.array([[-1.0], [1.0]], x.dtype), DOTTED,
        ("exp", "overflow"), ("dot_general", "inf-inf"),
    ),
    "matrix product, too large": (
        lambda x: (x * 1e17) @ (x.T * 1e17), DOTTED, ("dot_general", "overflow"), None,
    ),
    "cholesky of a negative": (
        lambda x: jnp.linalg.cholesky(jnp.diag(jnp.stack([x, x]))), -1.0,
        ("cholesky", "opaque"), ("cholesky", "opaque"),
    ),
    "an index out of range": (
        lambda x: jnp.take(jnp.arange(3, dtype=x.dtype), jnp.int32(x)), 7.0,
        ("gather", "fill"), ("gather", "fill"),
    ),
    "a type too small": (lambda x: x.astype(jnp.float16), 1e6,
                         ("convert_element_type", "overflow"), None),
    "a type without inf": (
        lambda x: x.astype(jnp.float8_e4m3fn).astype(jnp.float32), 1e6,
        ("convert_element_type", "overflow"), ("convert_element_type", "overflow"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("function", "x", "origin", "culprit"), MECHANISMS.values(), ids=MECHANISMS
)
def test_the_arithmetic_is_named(function, x, origin, culprit):
    blame = blamed(function, F32(x))
    assert (cause_of(blame.origin), cause_of(blame.culprit)) == (origin, culprit)
    # The same on a number that does no harm, inside every domain.
    is_bounded = cause_of(blame.origin)[0] in ("asin", "atanh")
    harmless = np.full_like(F32(x), 0.5 if is_bounded else 1.5)
    assert blamed(function, harmless) == Blame(origin=None, culprit=None)


# ---- phases --------------------------------------------------------------------------------------


def phases_by_line(program):
    """For each line of corpus/steps.py, the phases of the operations that it makes."""
    phases = places.phases_of(program)
    found = {}
    for frame in program.frames:
        equations = [program.equations[index] for index in frame.equations]
        for equation in (equation for equation in equations if equation.opened is None):
            line = places.user_frame(equation).line
            found.setdefault(line, set()).add(phases[equation.index])
    return found


@pytest.mark.parametrize("step", steps.STEPS, ids=lambda step: step.__name__)
def test_every_line_of_a_step_is_in_the_phases_that_it_is_marked_with(step):
    lines = Path(steps.__file__).read_text().splitlines()
    found = phases_by_line(flatten(step, *steps.STEPS[step]))
    assert found
    for number, phases in found.items():
        _, _, marks = lines[number - 1].partition("# <-- ")
        assert phases == set(re.findall(r"\w+", marks)), f"{number}: {lines[number - 1]}"


# ---- flow ----------------------------------------------------------------------------------------


def scanned(x, y, xs):
    def body(carry, slice_):
        kept, other = carry
        return (kept + slice_, other * 2), kept

    (kept, other), stacked = lax.scan(body, (x, y), xs)
    return kept, other, stacked


# output -> which of the arguments x, y, xs go into it.
FLOWS = {0: {0, 2}, 1: {1}, 2: {0, 2}}


@pytest.mark.parametrize(("output", "wanted"), FLOWS.items())
def test_what_goes_into_a_loops_result_goes_through_its_own_carry_only(output, wanted):
    program = flatten(scanned, F32(0), F32(0), np.zeros(3, F32))
    top = program.frames[0]
    found = upstream(program, [top.results[output]], through=lambda equation: True, iterated=True)
    assert {place for place, v in enumerate(top.arguments) if v in found} == wanted


def test_what_leaves_one_iteration_reaches_the_results_and_not_the_next_iteration():
    program = flatten(scanned, F32(0), F32(0), np.zeros(3, F32))
    top, body = program.frames
    slice_ = body.arguments[2]
    found = downstream(program, [slice_])
    assert {place for place, v in enumerate(top.results) if v in found} == {0}
    # What stacks up is the carry before the slice was added.
    assert body.arguments[0] not in found


def test_a_chosen_branch_depends_on_what_chose_it():
    def choose(x, y):
        return lax.cond(x > 0, jnp.sin, jnp.cos, y)

    program = flatten(choose, F32(0), F32(0))
    top = program.frames[0]
    found = upstream(program, top.results, through=lambda equation: True, iterated=False)
    assert set(top.arguments) <= found


# ---- places --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        (optax.__file__, "optax/__init__.py"),
        (optax.apply_updates.__code__.co_filename, r"optax/_src/\w+.py"),
        (source_path.__file__, "nanlab/blame/source_path.py"),
        (steps.__file__, "corpus/steps.py"),
        (__file__, "test_blame.py"),
        ("/opt/python/site-packages/some/deep/module.py", "some/deep/module.py"),
        ("/usr/lib/python3/dist-packages/single.py", "single.py"),
        ("<ipython-input-1>", "<ipython-input-1>"),
    ],
)
def test_a_source_file_is_written_from_its_packages_root(file, wanted):
    assert re.fullmatch(wanted, source_path.from_package_root(file))


def test_a_library_may_be_installed_in_a_folder_of_any_name(tmp_path):
    # As pip --target does, which says what it has installed there; other code is a person's own.
    record = tmp_path / "libs/some-1.0.dist-info/RECORD"
    record.parent.mkdir(parents=True)
    record.write_text("some/deep/module.py,sha256=x,1\nsingle.py,,\n../../bin/some,,\n")
    files = ("libs/some/deep/module.py", "libs/single.py", "libs/train.py", "some/deep/module.py")
    found = [source_path.is_installed(str(tmp_path / file)) for file in files]
    assert found == [True, True, False, False]
    assert source_path.from_package_root(str(tmp_path / files[0])) == "some/deep/module.py"


def test_a_culprit_in_a_library_is_told_with_the_line_that_called_it():
    def step(weight):
        clip = optax.clip_by_global_norm(0.0)
        return clip.update(weight, clip.init(weight))[0]  # <-- culprit

    culprit = blamed(step, np.zeros(3, F32)).culprit
    assert culprit.source in marked_lines(step, "culprit")
    assert re.fullmatch(r"optax/[\w/]+\.py:\d+", culprit.library)
    assert culprit.function.endswith("step")
    own = blamed(lambda x: x / x, F32(0)).culprit
    assert (own.library, own.module) == ("", "")


# name stack -> module
SCOPES = {
    "": "",
    "jvp(Net)/Dense_0": "Net/Dense_0",
    "transpose(jvp(Net))/block/Dense_1": "Net/block/Dense_1",
    "vmap(transpose(jvp(Net)))/update/mul": "Net/mul",
    "update": "",
    "jvp()/while/body": "while/body",
    "jit(step)/Net": "step/Net",
}


@pytest.mark.parametrize(("scopes", "module"), SCOPES.items())
def test_a_module_is_what_the_scopes_say_without_transformations_and_phases(scopes, module):
    assert places.module_of(scopes) == module


def test_a_lane_that_fails_otherwise_than_its_neighbor_has_a_reading_of_its_own():
    def either(x):
        return jnp.log(x) + jnp.sqrt(4 - x)

    probe = BlockProbe(either, (F32(0),), block=4, devices=jax.devices())
    readings, which = probe.read(F32([1, -1, 9, 2, 0, -2]))
    culprits = [cause_of(judged(readings[i]).culprit) for i in which]
    log, sqrt = ("log", "domain"), ("sqrt", "domain")
    assert culprits == [None, log, sqrt, None, None, log]
    origins = [cause_of(judged(readings[i]).origin) for i in which]
    assert origins[4] == ("log", "pole")


def test_the_same_function_partly_applied_is_another_program():
    def power(x, exponent):
        return x**exponent

    assert cause_of(blamed(partial(power, exponent=-1), F32(0)).origin) == ("integer_pow", "pole")
    assert blamed(partial(power, exponent=2), F32(0)).origin is None
