"""Function, harmless arguments -> arguments on which it fails: the public `nanlab.hunt`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count, product
from typing import Any

import numpy as np

from nanlab.backend.config import without_checks
from nanlab.backend.finiteness import as_numbers
from nanlab.blame.misuse import name_of, traced_call
from nanlab.blame.pinpoint import pinpoint_call
from nanlab.blame.program.call import Call
from nanlab.blame.program.program import flatten_closed
from nanlab.hunting.climb import Climb
from nanlab.hunting.found import Found, moved_between
from nanlab.hunting.shrink import Shrinking
from nanlab.hunting.space import variables_of
from nanlab.hunting.starts import ROUND, Starts, Values
from nanlab.hunting.trials import Trials

SIGNED = 8
"""Number of rounds in which floats that are nowhere negative in the example stay so."""
CLIMBS = 3
"""Number of starts of a round from which gradients are followed, if none of the round fails."""
CANDIDATES = 3
"""Number of failing inputs of a round that are shrunk, if the first turn out to be finite."""


def hunt(
    function: Callable[..., Any],
    *args: Any,
    vary: str | Iterable[str] | None = None,
    bound: float | Mapping[str, Any] = 10.0,
    seconds: float = 10.0,
    seed: int = 0,
    **kwargs: Any,
) -> Found:
    """Search for an input near the given one on which a function returns an inf or a NaN.

    The function is compiled as by `jax.jit` and runs on many inputs. One on which it fails is
    brought back towards the given one as far as it fails, and examined by `nanlab.pinpoint`.

    What an array stands for is respected: zeros and ones, one-hot rows, the range of integers,
    signs of an optimizer's moments; at first, also that floats are nowhere negative. Random keys
    stay what they are, and so do infs and NaNs.

    Args:
        function: any function that JAX can trace, jitted or not.
        *args: harmless examples of its positional arguments.
        vary: what may be changed, as ("batch", "state.params"): arguments or parts of them; by
            default all but the states of Optax's optimizers.
        bound: largest magnitude of a number, at least that in its example; or one by name, or a
            range by name, as {"batch['x']": (0, 255), "state": 1.0}.
        seconds: time for the search; shrinking may take as long again.
        seed: of the random numbers. The same seed finds the same input, unless time runs out.
        **kwargs: harmless examples of its keyword arguments.

    Returns:
        What was found, true if there is an input that fails; `print` it to read it.

    Raises:
        TypeError: it is not a function, or not one of these arguments.
        ValueError: a name or a limit is wrong, or there is nothing to vary or to look at.
        Exception: what tracing the function, or running it on the given input, raises.

    Example:
        >>> import jax.numpy as jnp
        >>> import nanlab
        >>> found = nanlab.hunt(lambda x: x / jnp.sqrt(jnp.sum(x * x)), jnp.ones(3))
        >>> bool(found), found.verdict.culprit.primitive, found.args[0].tolist()
        (True, 'div', [0.0, 0.0, 0.0])
    """
    _check_numbers(seconds, seed)
    with without_checks():
        call, _ = traced_call(function, args, kwargs, verb="hunt")
        return _Hunt(call, name_of(function), vary, bound, seconds, seed).found()


def _check_numbers(seconds: Any, seed: Any) -> None:
    problems: list[str] = []
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds < float("inf"):
        problems.append(f"seconds = {seconds!r}: must be a positive number")
    if not isinstance(seed, int | np.integer) or seed < 0:
        problems.append(f"seed = {seed!r}: must be a whole number, 0 or more")
    if problems:
        raise ValueError("\n  ".join(["nanlab.hunt: the search is not well defined", *problems]))


class _Hunt:
    """The search of one call."""

    def __init__(
        self, call: Call, function: str, vary: Any, bound: Any, seconds: float, seed: int
    ) -> None:
        self._call, self._function, self._seconds = call, function, seconds
        program = flatten_closed(call.closed, call.traced.out_info)
        if not any(program.values[v].can_be_bad for v in program.frames[0].results):
            raise ValueError(f"{function} returns no floats, so no output can be an inf or a NaN")
        signed = variables_of(call, vary, bound)
        free = [variable.with_any_sign() for variable in signed]
        self._starts = [Starts(variables, program, seed) for variables in (signed, free)]
        self._trials = Trials(call, program, free)
        self._trials.deadline = time.monotonic() + seconds
        self._started = 0

    def found(self) -> Found:
        """Return what the search finds."""
        if self._trials.given:
            verdict = pinpoint_call(self._call)
            return self._report(self._call, verdict=verdict, is_given=True, share=1.0)
        climb = None
        for number in count():
            failing = self._failing(number)
            share = len(failing) / self._started
            candidates = map(self._start, failing[:CANDIDATES])
            if not failing and number >= SIGNED - 1:
                climb = climb or Climb(self._call, self._trials.variables, self._trials)
                candidates = self._climbed(climb, number)
            for values in candidates:
                if found := self._examined(values, share):
                    return found
            if self._trials.is_over:
                break
        return self._report(self._call, verdict=None, share=0.0)

    def _start(self, number: int) -> Values:
        """Return an input to try: after some rounds, without regard to the example's signs."""
        return self._starts[number >= SIGNED * ROUND][number]

    def _failing(self, number: int) -> list[int]:
        """Return the starts of a round that fail, first those that move the fewest arrays."""
        failing: list[tuple[int, int]] = []
        for index in range(number * ROUND, (number + 1) * ROUND):
            values = self._start(index)
            self._started += 1
            if self._trials.fails(values):
                failing.append((len(values), index))
            if self._trials.is_over:
                break
        return [index for _, index in sorted(failing)]

    def _climbed(self, climb: Climb, number: int) -> Iterator[Values]:
        """Yield inputs that fail on the way along a gradient, one for each start."""
        starts = self._starts[number >= SIGNED]
        inputs = [{}, *(starts[number * ROUND + place] for place in range(CLIMBS))]
        for (place, values), direction in product(enumerate(inputs), (1, -1)):
            phase = 0.0 if place < 2 else float(number + place)
            for moved in climb.steps(values, starts.variables, direction, phase):
                if self._trials.is_over:
                    return
                if self._trials.fails(moved):
                    yield moved
                    break

    def _examined(self, values: Values, share: float) -> Found | None:
        """Return an input that fails, shrunk; None if it does not fail again."""
        deadline, self._trials.deadline = self._trials.deadline, time.monotonic() + self._seconds
        shrunk = Shrinking(self._trials, self._trials.variables, values).shrunk()
        self._trials.deadline = deadline
        for candidate in (shrunk, values):
            call = self._trials.call_with(candidate)
            verdict = pinpoint_call(call)
            if verdict.fault:
                return self._report(call, verdict=verdict, share=share)
        return None

    def _report(self, call: Call, **fields: Any) -> Found:
        assert call.restored is not None
        args, kwargs = call.restored(call.arrays)
        variables = self._trials.variables
        given, found = (
            [as_numbers(np.asarray(c.arrays[v.index])) for v in variables]
            for c in (self._call, call)
        )
        return Found(
            args=args,
            kwargs=kwargs,
            moved=moved_between([v.name for v in variables], given, found),
            starts=self._started,
            tried=self._trials.tried,
            errors=self._trials.errors,
            function=self._function,
            arrays=dict(zip(call.names, call.arrays, strict=True)),
            **fields,
        )
