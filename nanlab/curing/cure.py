"""Function, arguments -> rewrites of its lines that mend the fault: the public `nanlab.cure`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp

from nanlab.backend.config import standard_promotion, without_checks
from nanlab.blame.explain.verdict import Verdict
from nanlab.blame.misuse import traced_call
from nanlab.blame.pinpoint import pinpoint_call
from nanlab.blame.program.call import Call, call_of
from nanlab.blame.program.program import flatten_closed
from nanlab.blame.source_path import displayed
from nanlab.blame.vocabulary import Phase
from nanlab.curing.candidates import Candidates, Place, Rewrite, places_of, unlikely_kinds
from nanlab.curing.report import Cure, Cures
from nanlab.curing.source import Source, source_of
from nanlab.curing.swap import NotApplicable, Swap
from nanlab.curing.trial import Checks, Trial

ENOUGH = 3
"""The number of checked cures after which the search ends."""
MORE = 3
"""The number of rewrites that are tried after the first checked cure."""
MOST_LINES = 3
"""The largest number of rewrites in one cure."""
ONCE = ("zero wins", "finite operand", "saturate")
"""Kinds of rewrite of which a second one at the same line adds nothing."""
MOST_MOVED = 12
"""The number of rewrites that moved the fault on top of which others are tried."""
LIKELY = 10
"""The number of rewrites that are tried for each of these before the less likely ones."""


def cure(
    function: Callable[..., Any],
    *args: Any,
    healthy: Sequence[tuple[Any, ...]] = (),
    seconds: float = 20.0,
    **kwargs: Any,
) -> Cures[Cure]:
    """Find rewrites of the user's lines that mend a call whose outputs are not finite.

    Rewrites are tried at the lines of the fault and of what feeds them. The rewritten source is
    traced, so that gradients are its own, compiled once, and checked:

    - all outputs are finite with the failing arguments, and so is their gradient by the first
      argument if the function takes none itself;
    - with healthy arguments outputs are what they were, up to rounding and a small eps;
    - what was not finite agrees with float64, or with the limit of nearby arguments, and what was
      finite stays the same: a rewrite whose outputs are finite and wrong is refused.

    Args:
        function: any function that JAX can trace, jitted or not.
        *args: its positional arguments, with which it fails.
        healthy: tuples of positional arguments of the same shapes with which it does not fail;
            none for arguments that are derived from the failing ones.
        seconds: processor time after which no further rewrite is tried.
        **kwargs: its keyword arguments.

    Returns:
        The cures, best first; empty if there are none, and `reason` says why.

    Raises:
        TypeError: it is not a function, or not one of these arguments.
        ValueError: healthy arguments have other shapes than the failing ones.
        Exception: whatever tracing the function raises.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import nanlab
        >>> def distance(a, b):
        ...     return jnp.sqrt(jnp.sum((a - b) ** 2))
        >>> cures = nanlab.cure(jax.grad(distance), jnp.ones(3), jnp.ones(3))
        >>> mended = cures[0].apply(jax.grad(distance))
        >>> mended(jnp.ones(3), jnp.ones(3)).tolist()
        [0.0, 0.0, 0.0]
    """
    with without_checks():
        call, _ = traced_call(function, args, kwargs, verb="cure")
        others = [_healthy_call(function, call, arguments) for arguments in healthy]
        with standard_promotion():
            return _Search(function, args, kwargs, call, others, seconds).cures()


def _healthy_call(function: Callable[..., Any], call: Call, arguments: tuple[Any, ...]) -> Any:
    other = call_of(function, arguments, {})
    shapes = [[(x.shape, x.dtype) for x in c.arrays] for c in (call, other)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"healthy arguments have the shapes {shapes[1]}, and the failing ones {shapes[0]}: "
            "pass healthy=[(a, b), ...] with arrays like those of the failing call"
        )
    return other.arrays


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """Some rewrites and what running them showed."""

    rewrites: tuple[Rewrite, ...]
    swap: Swap
    checks: Checks

    @property
    def order(self) -> tuple[Any, ...]:
        """How good a cure it is; the best is the smallest."""
        checks, rank = self.checks, max(r.rank for r in self.rewrites)
        error = 0.0 if math.isnan(checks.error) else checks.error
        has_limit = checks.limit not in ("", "eps limit")
        return (
            any(r.is_library for r in self.rewrites), not checks.is_checked, not has_limit,
            checks.healthy == 0, len(self.rewrites), round(error, 2), rank, checks.extra[0],
        )  # fmt: skip


class _Search:
    """The search for cures of one call."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        call: Call,
        healthy: Sequence[Sequence[Any]],
        seconds: float,
    ) -> None:
        self._function, self._args, self._kwargs = function, args, kwargs
        self._call, self._healthy = call, healthy
        self._deadline = time.process_time() + seconds
        self._accepted: list[_Tried] = []
        self._partial: list[_Tried] = []
        self._refused: dict[str, int] = {}
        self._n_tried = 0

    def cures(self) -> Cures[Cure]:
        """Return the cures."""
        verdict = pinpoint_call(self._call)
        if not verdict.fault:
            return Cures((), reason="Every output is finite: there is nothing to cure.")
        program = flatten_closed(self._call.closed, self._call.traced.out_info)
        places = places_of(program, verdict)
        if not places:
            return Cures((), reason=_without_lines(verdict), verdict=verdict)
        self._unlikely = unlikely_kinds(verdict)
        site = verdict.culprit or verdict.origin
        is_value = site is None or site.phase != Phase.BACKWARD
        self._trial = Trial(self._call, self._healthy, is_value=is_value)
        self._try_all(self._rewrites(places, {}), {}, ())
        for _ in range(1, MOST_LINES):
            if self._accepted or self._is_late:
                break
            self._go_on()
        found = sorted(self._accepted, key=lambda tried: tried.order)
        return Cures(
            tuple(Cure(rewrites=t.rewrites, swap=t.swap, checks=t.checks) for t in found),
            reason="" if found else self._reason(verdict, places),
            verdict=verdict,
            n_tried=self._n_tried,
        )

    @property
    def _is_late(self) -> bool:
        return time.process_time() > self._deadline

    def _rewrites(
        self, places: Sequence[Place], files: dict[str, tuple[Source, Source]]
    ) -> Iterator[Rewrite]:
        now = {file: new for file, (_, new) in files.items()}
        return Candidates(now, self._unlikely).of(places)

    def _try_all(
        self, rewrites: Iterator[Rewrite], files: dict[str, tuple[Source, Source]],
        before: tuple[Rewrite, ...],
    ) -> None:  # fmt: skip
        """Try rewrites on top of others."""
        further, known = 0, {(r.line, r.kind) for r in before}
        for rewrite in rewrites:
            can_check = bool(self._accepted) and self._trial.can_check
            n_enough = sum(t.checks.is_checked or not can_check for t in self._accepted)
            further += n_enough > 0
            if n_enough >= ENOUGH or further > MORE or self._is_late:
                return
            if rewrite.is_library and n_enough:
                return
            if rewrite.kind in ONCE and (rewrite.line, rewrite.kind) in known:
                continue
            file = rewrite.before.file
            old = files[file][0] if file in files else rewrite.before
            self._try({**files, file: (old, rewrite.after)}, (*before, rewrite))

    def _try(self, files: dict[str, tuple[Source, Source]], rewrites: tuple[Rewrite, ...]) -> None:
        self._n_tried += 1
        try:
            swap = Swap(files)
            with swap.open():
                call = call_of(self._function, self._args, self._kwargs)
            checks = self._trial.check(call)
        except NotApplicable as error:
            self._note(str(error))
            return
        except Exception as error:  # the rewritten line does not fit its operands
            self._note(f"{type(error).__name__} while it was traced")
            return
        tried = _Tried(rewrites=rewrites, swap=swap, checks=checks)
        if not checks.failure:
            self._accepted.append(tried)
            return
        self._note(checks.failure)
        if not checks.finite:
            self._partial.append(tried)

    def _note(self, failure: str) -> None:
        self._refused[failure] = self._refused.get(failure, 0) + 1

    def _go_on(self) -> None:
        """Rewrite a further line where a rewrite moved the fault."""
        moved, self._partial = self._partial, []
        moved.sort(key=lambda t: (t.checks.n_bad, max(r.rank for r in t.rewrites)))
        seen: set[tuple[Any, ...]] = set()
        later: list[tuple[_Tried, Iterator[Rewrite]]] = []
        for tried in moved:
            if self._accepted or self._is_late or len(seen) == MOST_MOVED:
                break
            places = self._places_after(tried)
            lines = tuple((place.file, place.span.line) for place in places[:2])
            if places and (lines, tried.rewrites[-1].kind) not in seen:
                seen.add((lines, tried.rewrites[-1].kind))
                rewrites = self._rewrites(places, dict(tried.swap.pairs))
                self._try_all(islice(rewrites, LIKELY), dict(tried.swap.pairs), tried.rewrites)
                later.append((tried, rewrites))
        for tried, rewrites in later:
            if not self._accepted:
                self._try_all(rewrites, dict(tried.swap.pairs), tried.rewrites)

    def _places_after(self, tried: _Tried) -> list[Place]:
        """Return the expressions of the fault that some rewrites leave."""
        with tried.swap.open():
            call = call_of(self._function, self._args, self._kwargs)
            verdict = pinpoint_call(call)
            if not verdict.fault and self._args and tried.checks.gradients:
                try:
                    call = call_of(partial(_gradients, self._function), self._args, self._kwargs)
                    verdict = pinpoint_call(call)
                except Exception:  # the first argument has leaves that are no arrays
                    return []
        return places_of(flatten_closed(call.closed, call.traced.out_info), verdict)

    def _reason(self, verdict: Verdict, places: Sequence[Place]) -> str:
        site = verdict.culprit or verdict.origin
        files = {place.file for place in places if not place.is_library}
        unread = sorted(displayed(file) for file in files if source_of(file) is None)
        if not self._n_tried and unread:
            return (
                f"The source of {', '.join(unread)} cannot be read as Python, so none of its lines "
                "can be rewritten: put the function into a file of its own."
            )
        if not self._n_tried:
            where = f"{site.source} ({site.code})" if site else "the fault"
            return (
                f"No rewrite is known for the expressions at {where}, and the source of what feeds "
                "them has none either."
            )
        counts = ", ".join(f"{n} {why}" for why, n in sorted(self._refused.items()))
        late = " The time was up." if self._is_late else ""
        return (
            f"None of {self._n_tried} rewrites passed its checks ({counts}).{late} If the numbers "
            "grow from step to step, the training has to change: nanlab.cure_training tries that."
        )


def _gradients(function: Callable[..., Any], first: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the gradient of the outputs' sum by the first argument."""

    def total(first: Any) -> Any:
        outputs = jax.tree.leaves(function(first, *args, **kwargs))
        return sum(jnp.sum(x) for x in outputs if jnp.issubdtype(x.dtype, jnp.floating))

    return [x for x in jax.tree.leaves(jax.grad(total, allow_int=True)(first))
            if x.dtype != jax.dtypes.float0]  # fmt: skip


def _without_lines(verdict: Verdict) -> str:
    if verdict.input_faults:
        return (
            f"The fault came with {', '.join(verdict.input_faults)}: the data has to change, and "
            "no line of the function."
        )
    return "No line of a source file belongs to the fault, so there is none to rewrite."
