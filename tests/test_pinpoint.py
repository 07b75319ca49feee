"""`nanlab.pinpoint` on planted faults with harmless twins, small enough to keep and too large."""

import doctest
import inspect
import json
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from corpus.case import marked_lines
from corpus.operations import OPERATIONS
from corpus.planted import PLANTED
from corpus.transformed import TRANSFORMED
from sampled import sampled

import nanlab
from nanlab.blame.probes import values as value_probe
from nanlab.blame.vocabulary import Status

FAULTS = TRANSFORMED | OPERATIONS
HANDING_ON = {"while", "jit", "scan", "cond", "shard_map"}


@cache
def verdict_on(name):
    """The verdict on the faulty call: several tests read it, and each costs a compilation."""
    return nanlab.pinpoint(FAULTS[name].function, *FAULTS[name].faulty)


def table(names=FAULTS, every=2):
    """Parametrize over the rows of a table; the quick run takes one of `every`."""
    return pytest.mark.parametrize("name", sampled(names, every))


def cause_of(site):
    return site and (site.primitive, site.mechanism)


def main(verdict):
    return verdict.culprit or verdict.origin


def line_of(site):
    return f"corpus/{Path(site.file).name}:{site.line}"


def same_numbers(one, other):
    """Whether two sites' numbers agree up to rounding: they were compiled differently."""
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for name in ("expression", "shape", "dtype", "nans", "posinfs", "neginfs", "zeros"):
            assert getattr(a, name) == getattr(b, name), name
        assert a.first_bad == b.first_bad
        np.testing.assert_allclose(a.there, b.there, rtol=1e-2)
        for x, y in ((a.min, b.min), (a.max, b.max)):
            assert (x is None) == (y is None)
            assert x is None or x == pytest.approx(y, rel=1e-2)


@table()
def test_a_fault_is_told_with_its_arithmetic(name):
    fault, verdict = FAULTS[name], verdict_on(name)
    assert verdict.status == "reproduced"
    assert verdict.fault
    assert cause_of(verdict.culprit) == fault.culprit
    assert cause_of(verdict.origin) == (fault.origin or fault.culprit)
    assert verdict.notes == ()


@table()
def test_a_fault_is_told_with_its_line_and_its_phase_and_its_iteration(name):
    fault, verdict = FAULTS[name], verdict_on(name)
    site, mark = main(verdict), "culprit" if verdict.culprit else "origin"
    function = inspect.unwrap(fault.function)
    assert line_of(site) in marked_lines(function, mark)
    assert site.code.endswith(f"# <-- {mark}")
    assert (site.phase, site.iterations) == (fault.phase, fault.iterations)


@table()
def test_a_fault_is_told_with_its_lane(name):
    assert main(verdict_on(name)).lane == FAULTS[name].lane


@table([name for name, fault in FAULTS.items() if fault.met is not None])
def test_a_fault_is_told_with_what_met_there(name):
    met = [operand.there for operand in main(verdict_on(name)).operands]
    assert len(met) == len(FAULTS[name].met)
    for shown, wanted in zip(met, FAULTS[name].met, strict=True):
        np.testing.assert_allclose(np.array(shown), np.array(wanted), rtol=1e-2)


@table()
def test_its_harmless_twin_is_silent(name):
    verdict = nanlab.pinpoint(FAULTS[name].function, *FAULTS[name].harmless)
    assert not verdict.fault
    assert verdict == nanlab.Verdict(status=Status.CLEAN)


@table()
def test_a_chain_goes_from_the_origin_to_the_output(name):
    verdict = verdict_on(name)
    first, last = verdict.chain[0], verdict.chain[-1]
    if verdict.origin.mechanism not in ("input", "constant"):
        assert cause_of(first) == cause_of(verdict.origin)
        assert (first.line, first.iterations) == (verdict.origin.line, verdict.origin.iterations)
    assert cause_of(verdict.culprit or verdict.origin) in map(cause_of, verdict.chain)
    assert last.primitive not in HANDING_ON
    assert all(site.operands == site.results == () for site in verdict.chain)
    assert verdict.output_faults


@table()
def test_every_verdict_can_be_written_down(name):
    verdict = verdict_on(name)
    written = json.dumps(verdict.to_dict(), allow_nan=False)
    assert json.loads(written)["origin"]["primitive"] == verdict.origin.primitive
    text = str(verdict)
    lines = [line for line in text.splitlines() if not line.startswith("  at ")]
    assert max(map(len, lines)) <= 88
    site = main(verdict)
    assert f"{Path(site.file).name}:{site.line}" in text


@table(every=8)
def test_a_program_too_large_to_keep_gets_the_same_verdict(name, monkeypatch):
    small = verdict_on(name)
    monkeypatch.setattr(value_probe, "STORED_VALUES_BYTES", -1)
    large = nanlab.pinpoint(FAULTS[name].function, *FAULTS[name].faulty)
    agree(small, large)


@table(PLANTED, every=4)
def test_a_planted_fault_is_told_the_same_small_and_large(name, monkeypatch):
    planted = PLANTED[name]
    small = nanlab.pinpoint(planted.function, *planted.faulty)
    assert cause_of(small.culprit) == planted.culprit
    assert cause_of(small.origin) == (planted.origin or planted.culprit)
    site, mark = main(small), "culprit" if small.culprit else "origin"
    assert line_of(site) in marked_lines(planted.function, mark)
    assert (site.phase, site.iterations) == (planted.phase, planted.iterations)
    monkeypatch.setattr(value_probe, "STORED_VALUES_BYTES", -1)
    agree(small, nanlab.pinpoint(planted.function, *planted.faulty))


def agree(small, large):
    """Two verdicts say the same."""
    assert large.status == small.status
    assert (large.input_faults, large.output_faults) == (small.input_faults, small.output_faults)
    assert large.notes == small.notes
    for one, other in ((small.origin, large.origin), (small.culprit, large.culprit)):
        assert cause_of(one) == cause_of(other)
        if one is not None:
            assert (one.file, one.line, one.phase) == (other.file, other.line, other.phase)
            assert (one.iterations, one.lane) == (other.iterations, other.lane)
            same_numbers(one.operands, other.operands)
            same_numbers(one.results, other.results)


@pytest.mark.parametrize("verb", [nanlab.pinpoint, nanlab.Verdict, nanlab.Site])
def test_the_examples_in_the_docstrings_run(verb):
    ran = doctest.testmod(import_module(verb.__module__), optionflags=doctest.ELLIPSIS)
    assert ran.failed == 0
    assert ran.attempted > 0
