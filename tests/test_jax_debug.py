"""Where `jax.debug_nans` and `jax.debug_infs` stop, and how that compares with a blame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nanlab.backend.finiteness import INF, NAN
from nanlab.blame.diagnosis.attribution import CauseFinder
from nanlab.blame.diagnosis.jax_debug import Sighting, compare_with_blame, sighting
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.probes.codes import Probe
from nanlab.blame.program.program import flatten
from nanlab.blame.vocabulary import WitnessAnswer

F32 = np.float32
HERE = "test_jax_debug.py"


def line_of(function):
    return f"{HERE}:{function.__code__.co_firstlineno + 1}"


def logarithm(x):
    return jnp.sum(jax.lax.log(x))


def calm(x):
    return x + 1


def overflow(x):
    return jax.lax.square(x) * 2


def test_a_nan_is_sighted_at_its_primitive_and_line():
    seen = sighting(logarithm, (F32([1, -1]),), NAN)
    assert seen.primitive == "log"
    assert seen.source.endswith(line_of(logarithm))


def test_each_check_sees_its_own_kind_only():
    assert sighting(overflow, (F32(3e38),), NAN) is None
    assert sighting(overflow, (F32(3e38),), INF).primitive == "square"
    assert sighting(calm, (F32(1),), NAN) is None


def test_the_checks_are_off_again_and_standard_output_is_left_alone(capsys):
    sighting(jax.jit(logarithm), (F32([-1]),), NAN)
    assert capsys.readouterr().out == ""
    assert not jax.config.jax_debug_nans and not jax.config.jax_debug_infs
    assert np.isnan(logarithm(F32([-1])))


# A NaN that no output has, and then one that the output has.
def benign_then_causal(x):
    masked = jnp.where(x > 0, jax.lax.log(x), 0)
    return masked + (x - x) / (x - x)


def reading_of(function, x):
    program = flatten(function, x)
    probe = Probe(program)
    codes = jax.jit(lambda x: probe(x)[1])(x)
    return Reading(probe, {name: np.asarray(code) for name, code in codes.items()})


@pytest.fixture(scope="module")
def reading():
    return reading_of(benign_then_causal, F32(-1))


@pytest.fixture(scope="module")
def culprit(reading):
    program = reading.probe.program
    found = CauseFinder(program).blame(reading, program.frames[0].results).culprit
    assert found.primitive == "div"
    return found


def never():
    raise AssertionError("the step is read op by op only where the compiled one explains nothing")


ELSEWHERE = "elsewhere.py:1"


@pytest.mark.parametrize(
    ("seen", "answer"),
    [
        (None, WitnessAnswer.NOT_REPRODUCED),
        (("div", "its line"), WitnessAnswer.AGREES),
        (("div", ""), WitnessAnswer.AGREES),
        (("scan", ELSEWHERE), WitnessAnswer.SEES_LESS),
        (("pjit", ""), WitnessAnswer.SEES_LESS),
        (("log", ELSEWHERE), WitnessAnswer.EARLIER_BENIGN),
    ],
)
def test_a_sighting_is_compared_with_the_blame(seen, answer, reading, culprit):
    if seen is not None:
        primitive, source = seen
        seen = Sighting(primitive, culprit.source if source == "its line" else source)
    assert compare_with_blame(seen, culprit, reading, never, NAN) == answer


def test_what_the_compiled_step_does_not_explain_is_looked_for_op_by_op(reading, culprit):
    seen = Sighting("sqrt", ELSEWHERE)
    explained = reading_of(lambda x: jax.lax.sqrt(x), F32(-1))
    assert (
        compare_with_blame(seen, culprit, reading, lambda: explained, NAN)
        == WitnessAnswer.NOT_REPRODUCED
    )
    assert (
        compare_with_blame(seen, culprit, reading, lambda: reading, NAN) == WitnessAnswer.DISAGREES
    )
