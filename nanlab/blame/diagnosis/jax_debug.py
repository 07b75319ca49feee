"""Cross-check a blame with `jax.debug_nans` or `jax.debug_infs`.

They run the function again, op by op and for one lane, and stop at the first bad result in time.
That is independent evidence, not a verdict: they stop at harmless values too, do not look into
loops, and a program rounds differently op by op than compiled.
"""

from __future__ import annotations

import contextlib
import io
import re
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from nanlab.backend.finiteness import NAN
from nanlab.blame.diagnosis.causal_walk import first_in_time
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.site import Site
from nanlab.blame.source_path import from_package_root, is_installed
from nanlab.blame.vocabulary import Phase, WitnessAnswer

_ENCOUNTERED = re.compile(r"encountered in ([\w.-]+)")
_CONTAINERS = {"jit", "pjit", "scan", "while", "cond", "shard_map", "custom_linear_solve", "remat2"}
_ALIASES = {"add_any": "add", "pjit": "jit", "remat2": "checkpoint"}


class Sighting(NamedTuple):
    """Where one of JAX's checks stopped.

    Attributes:
        primitive: name of the primitive that JAX reported.
        source: "file:line" of the innermost user frame, or "".
    """

    primitive: str
    source: str


def sighting(
    function: Callable[..., Any], arguments: tuple[Any, ...], worst: int
) -> Sighting | None:
    """Run an unjitted function under JAX's check for `worst` and return where it stops, if so."""
    check = jax.debug_nans if worst == NAN else jax.debug_infs
    # JAX prints a message when it runs a jitted helper again.
    with check(True), contextlib.redirect_stdout(io.StringIO()):
        try:
            jax.block_until_ready(function(*arguments))
        except FloatingPointError as error:
            named = _ENCOUNTERED.search(str(error))
            frames = traceback.extract_tb(error.__traceback__)
            frame = next((f for f in reversed(frames) if not is_installed(f.filename)), None)
            source = f"{from_package_root(frame.filename)}:{frame.lineno}" if frame else ""
            return Sighting(named.group(1) if named else "", source)
    return None


def compare_with_blame(
    seen: Sighting | None,
    site: Site,
    reading: Reading,
    op_by_op: Callable[[], Reading],
    worst: int,
) -> WitnessAnswer:
    """Compare where JAX stopped with the site that nanlab blames.

    Args:
        seen: where JAX stopped, or None.
        site: the blamed site.
        reading: codes of the compiled step, from which the site was derived.
        op_by_op: returns the codes of the same step run as JAX's check does, op by op and
            unbatched; called only if the compiled step does not explain the sighting.
        worst: INF or NAN, the kind of check.

    Returns:
        How the two compare.
    """
    if seen is None:
        return WitnessAnswer.NOT_REPRODUCED
    named = _canonical(seen.primitive)
    # Op by op, JAX reports a backward primitive at the line that calls `jax.grad`.
    same_line = site.phase == Phase.BACKWARD or seen.source in ("", site.source)
    if named == _canonical(site.primitive) and same_line:
        return WitnessAnswer.AGREES
    if named in _CONTAINERS:
        return WitnessAnswer.SEES_LESS
    if named == _first_name(reading, worst):
        return WitnessAnswer.EARLIER_BENIGN
    return (
        WitnessAnswer.NOT_REPRODUCED
        if named == _first_name(op_by_op(), worst)
        else WitnessAnswer.DISAGREES
    )


def _canonical(primitive: str) -> str:
    return _ALIASES.get(primitive, primitive)


def _first_name(reading: Reading, worst: int) -> str | None:
    event = first_in_time(reading, worst)
    program = reading.probe.program
    if event is None or event.equation is None:
        return None
    return _canonical(program.equations[event.equation].primitive)
