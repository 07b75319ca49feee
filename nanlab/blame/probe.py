"""Program -> Probe: the same program, which also says what each of its values holds.

Each value that can be bad gets one reduction to a code (FINITE, INF, NAN); values whose code
follows from another's (a reshape, a tanh) get none. A frame's codes are one int8 vector, a
loop's are stacked by iteration. The probe is a pure function: vmap it over lanes, jit it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from nanlab import _jax
from nanlab.blame.mechanism import DETAILS, NAN_OF, SAME_AS
from nanlab.blame.sites import Frame, Program, Site
from nanlab.codes import FINITE, INF, NAN, array_code

WINDOW = 64
"""How many iterations of a while loop are recorded, from the first that holds a bad value."""

Codes = dict[str, Array]
"""Recorded codes by frame, "codes0" ...; of a while loop "first3" too, where its window begins,
"trips3", how often it ran, and for each code "late3.codes4", where in the last row an INF and a NAN
began; of a branch "ran5"."""


class Probe:
    """A program that reports its values' codes.

    Attributes:
        program: what it runs.
        slots: value -> its place in its frame's vector of codes.
        detail_slots: site -> the place of its mechanism's detail in its frame's vector.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.slots: dict[int, int] = {}
        self.detail_slots: dict[int, int] = {}
        for frame in program.frames:
            self._number(frame)

    def _number(self, frame: Frame) -> None:
        """Give the frame's measured values and details their places."""
        program, count = self.program, 0
        # A branch's arguments and a loop's constants have the codes of what feeds them.
        measured = [v for place, v in enumerate(frame.arguments) if self._varies(frame, place)]
        for index in frame.sites:
            site = program.sites[index]
            if site.primitive not in SAME_AS and site.primitive not in NAN_OF:
                measured += site.results
        for value in measured:
            if program.values[value].can_be_bad:
                self.slots[value] = count
                count += 1
        for index in frame.sites:
            site = program.sites[index]
            bad = any(program.values[v].can_be_bad for v in site.results)
            if site.primitive in DETAILS and bad:
                self.detail_slots[index] = count
                count += 1

    def _varies(self, frame: Frame, place: int) -> bool:
        """Whether an argument of a frame is none that it shares with the frame outside."""
        if frame.parent is None:
            return True
        opened = self.program.sites[frame.parent].opened
        assert opened is not None
        return frame.kind != "cond" and place >= opened.consts

    def __call__(self, *arguments: Any) -> tuple[Any, Codes]:
        """The function's own output, and the codes; arguments as the program's function had."""
        flat = [jnp.asarray(leaf) for leaf in jax.tree.leaves(arguments)]
        results, codes = self._run(self.program.frames[0], flat)
        tree = jax.tree.structure(self.program.tree)
        return jax.tree.unflatten(tree, [jnp.asarray(r) for r in results]), codes

    def _run(self, frame: Frame, arguments: Sequence[Any]) -> tuple[list[Any], Codes]:
        program = self.program
        env: dict[int, Any] = dict(zip(frame.arguments, arguments, strict=True))
        recorded: dict[int, Array] = {}
        inner: Codes = {}

        def read(value: int) -> Any:
            return env[value] if value in env else program.values[value].constant

        def record(value: int) -> None:
            if value in self.slots:
                recorded[self.slots[value]] = array_code(env[value])

        for value in frame.arguments:
            record(value)
        for index in frame.sites:
            site = program.sites[index]
            operands = [read(v) for v in site.operands]
            results, codes = self._run_site(site, operands)
            inner.update(codes)
            env.update(zip(site.results, results, strict=True))
            for value in site.results:
                record(value)
            if index in self.detail_slots:
                arrays = [jnp.asarray(operand) for operand in operands]
                detail = DETAILS[site.primitive](site.eqn.params, arrays, results)
                recorded[self.detail_slots[index]] = detail.astype(jnp.int8)
        vector = [recorded[place] for place in range(len(recorded))]
        own = jnp.stack(vector) if vector else jnp.zeros(0, jnp.int8)
        return [read(v) for v in frame.results], {f"codes{frame.index}": own, **inner}

    def _run_site(self, site: Site, operands: Sequence[Any]) -> tuple[Sequence[Any], Codes]:
        if site.opened is None:
            return _jax.bind(site.eqn, operands), {}
        if site.opened.kind == "scan":
            return self._scan(site, operands)
        if site.opened.kind == "while":
            return self._while(site, operands)
        return self._cond(site, operands)

    def _scan(self, site: Site, operands: Sequence[Any]) -> tuple[Sequence[Any], Codes]:
        opened, params = site.opened, site.eqn.params
        assert opened is not None
        split = opened.consts + opened.carry
        consts, carry, sliced = (
            operands[: opened.consts], operands[opened.consts : split], operands[split:],
        )  # fmt: skip
        body = self.program.frames[site.frames[0]]

        def step(carried: Any, slices: Any) -> tuple[Any, Any]:
            results, codes = self._run(body, [*consts, *carried, *slices])
            return results[: opened.carry], (results[opened.carry :], codes)

        carried, (stacked, codes) = lax.scan(
            step, list(carry), list(sliced), length=params["length"], reverse=params["reverse"]
        )
        return [*carried, *stacked], codes

    def _while(self, site: Site, operands: Sequence[Any]) -> tuple[Sequence[Any], Codes]:
        opened = site.opened
        assert opened is not None
        assert opened.condition is not None
        (condition, constants), own = opened.condition
        body = self.program.frames[site.frames[0]]
        consts = operands[own : own + opened.consts]
        carry = list(operands[own + opened.consts :])
        shapes = jax.eval_shape(lambda c: self._run(body, [*consts, *c])[1], carry)
        window = {k: jnp.zeros((WINDOW, *s.shape), s.dtype) for k, s in shapes.items()}
        recorded = [k for k in shapes if k.startswith("codes")]
        late = {k: jnp.full((2, *shapes[k].shape), -1, jnp.int32) for k in recorded}

        def going(carried: Sequence[Any]) -> Array:
            return _jax.run_jaxpr(condition, constants, [*operands[:own], *carried])[0]

        def step(loop: Any) -> Any:
            carried, trips, first, window, late = loop
            results, codes = self._run(body, [*consts, *carried])
            bad = [jnp.any(codes[k] > FINITE) for k in recorded]
            first = jnp.where((first < 0) & jnp.any(jnp.stack(bad)), trips, first)
            row = jnp.clip(jnp.where(first < 0, 0, trips - first), 0, WINDOW - 1)
            # What does not fit is gathered in the last row, and when it began is kept beside it.
            window = {k: w.at[row].max(codes[k]) for k, w in window.items()}
            is_late = row == WINDOW - 1
            began = {k: jnp.stack([codes[k] >= INF, codes[k] >= NAN]) & is_late for k in recorded}
            late = {k: jnp.where((late[k] < 0) & began[k], trips, late[k]) for k in recorded}
            return _kept(going(carried), results, carried), trips + 1, first, window, late

        start = (carry, jnp.int32(0), jnp.int32(-1), window, late)
        results, trips, first, window, late = lax.while_loop(
            lambda loop: jnp.any(going(loop[0])), step, start
        )
        about = {f"first{body.index}": first, f"trips{body.index}": trips}
        about |= {f"late{body.index}.{k}": began for k, began in late.items()}
        return results, {**window, **about}

    def _cond(self, site: Site, operands: Sequence[Any]) -> tuple[Sequence[Any], Codes]:
        branches = [self.program.frames[index] for index in site.frames]
        inputs = list(operands[1:])

        def taken(frame: Frame, inputs: Any) -> tuple[Any, Codes]:
            results, codes = self._run(frame, inputs)
            return results, {**codes, f"ran{frame.index}": jnp.int8(1)}

        shapes = [jax.eval_shape(lambda i, f=f: taken(f, i)[1], inputs) for f in branches]
        nothing = {k: jnp.zeros(s.shape, s.dtype) for each in shapes for k, s in each.items()}

        def branch(frame: Frame) -> Any:
            def run(*inputs: Any) -> tuple[Any, Codes]:
                results, codes = taken(frame, inputs)
                return results, {**nothing, **codes}

            return run

        index = jnp.clip(operands[0], 0, len(branches) - 1)
        return lax.switch(index, [branch(f) for f in branches], *inputs)


def _kept(going: Array, results: Sequence[Any], carried: Sequence[Any]) -> list[Any]:
    """What a while loop carries on: under vmap, elements that are done keep what they had."""
    if not going.ndim:
        return list(results)

    def keep(new: Any, old: Any) -> Any:
        return jnp.where(going.reshape(going.shape + (1,) * (new.ndim - going.ndim)), new, old)

    return [keep(new, old) for new, old in zip(results, carried, strict=True)]
