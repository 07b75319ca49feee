"""One group -> traces: the only vmap, jit and sharding of training.

A lane is one run. Lanes are vmapped in blocks of a fixed width, the blocks of a device run one
after another, and each device has its share of them. A step with a fault is not taken: the lane
keeps the state before it ("freeze on fault"), and a block ends when none of its lanes is live.

A lane's bits do not depend on its neighbors, its place, the number of blocks or of devices, as
long as the block's width is the same. That is why the width is a constant of the accelerator.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nanlab.backend import keys
from nanlab.backend.finiteness import FINITE, INF, NAN, array_code
from nanlab.backend.jaxpr import Device
from nanlab.backend.keys import init_key, step_key
from nanlab.engine.block_width import block_for
from nanlab.engine.matmul_layout import laid_out
from nanlab.problems.problem import AnyArray, Knobs, Metrics, Problem, State

# The random draws of `init` run once and compile long: at LLVM's level 1 in a quarter of the time
# (1.1 s against 4.7 s for two dense layers), to the same bits.
_QUICK_COMPILE = {"xla_backend_optimization_level": 1}

# A program for several devices loses its common subexpressions before XLA simplifies it, one for
# a single device only after: then x / s, s for a lane, becomes x * (1 / s) in one of the two, and
# Adam's first update differs. Without that pass they agree to the bit, at no cost in time
# (measured with JAX 0.10.2 and 0.12.0 on a CPU, 1 against 2 devices, sgd and adam).
_SAME_ON_ANY_DEVICES = {"xla_disable_hlo_passes": "cse"}

NEVER = -2
"""A step that did not come; -1 is the initial state, steps count from 0."""


class Lanes(NamedTuple):
    """What is asked of each lane; leading axis lanes.

    Attributes:
        knobs: name -> float64.
        seed: int64.
        steps: int32, how many steps the run has; 0 for a lane that only pads a block.
    """

    knobs: Knobs
    seed: AnyArray
    steps: AnyArray


class LaneState(NamedTuple):
    """Where each lane is and what it has seen; leading axis lanes.

    Attributes:
        state: the problem's state after the last step taken.
        step: int32, steps taken so far, hence the number of the next one.
        stop_step: int32, the step that was not taken because of what it made, -1 if the initial
            state itself is at fault, or NEVER.
        loss_code, state_code: int8, what the outputs of the last step tried hold.
        initial_loss, best_loss, final_loss: float64; the last two over finite losses only, NaN if
            there was none.
        accuracy: float64, at the last step with a finite loss; NaN if there was none.
        grad_norm_max: float64, over the steps with a finite gradient; NaN if there was none.
        nonfinite_gradient_steps: int32.
    """

    state: State
    step: AnyArray
    stop_step: AnyArray
    loss_code: AnyArray
    state_code: AnyArray
    initial_loss: AnyArray
    best_loss: AnyArray
    final_loss: AnyArray
    accuracy: AnyArray
    grad_norm_max: AnyArray
    nonfinite_gradient_steps: AnyArray


def leaf_codes(state: State) -> Array:
    """The code of each leaf of one lane's state, int8, shape (leaves,)."""
    codes = [array_code(leaf) for leaf in jax.tree.leaves(state)]
    return jnp.stack(codes) if codes else jnp.zeros(0, jnp.int8)


def outputs_code(codes: Array, watched: Array) -> Array:
    """The code of a state for the definition of a fault.

    An inf counts only in a leaf that is `watched` (one that was finite at the start), a NaN in
    any leaf.
    """
    counted = jnp.where(watched | (codes == NAN), codes, FINITE)
    return jnp.max(counted, initial=FINITE).astype(jnp.int8)


class LaneProgram:
    """One problem, compiled for any number of blocks of lanes.

    Attributes:
        block: lanes in a block.
        devices: how many devices share the blocks.
        traces: how often each of its programs was traced, hence compiled; 1 at most.
        watched: (leaves,) bool, after `start`: the leaves in which an inf is a fault.
    """

    def __init__(
        self, problem: Problem, devices: list[Device] | None = None, *, block: int | None = None
    ) -> None:
        devices = devices or jax.devices()
        self.problem = problem
        self.block = block or block_for(problem, devices[0])
        self._on_cpu = devices[0].platform == "cpu"
        self.devices = len(devices)
        self.traces: Counter[str] = Counter()
        self.watched: np.ndarray | None = None
        self._mesh = Mesh(np.array(devices), ("lanes",))
        self._start = self._over_blocks(self._start_block, of_lanes=1)
        self._run = self._over_blocks(self._run_block, of_lanes=2, shared=2)
        self._observe = self._over_blocks(self._observe_block, of_lanes=3)

    def start(self, lanes: Lanes) -> LaneState:
        """The lanes at their initial states; a fault of the initial state stops a lane at -1."""
        trace, codes = self._start(lanes)
        if self.watched is None:
            host_codes = np.asarray(codes)
            deliberate = _constant_leaves(self.problem) & (host_codes == INF).any(axis=0)
            self.watched = ~deliberate
        state_code = np.where(self.watched | (codes == NAN), codes, FINITE).max(1, initial=FINITE)
        stop = np.where((state_code != FINITE) & (np.asarray(lanes.steps) > 0), -1, NEVER)
        return trace._replace(
            stop_step=stop.astype(np.int32), state_code=state_code.astype(np.int8)
        )

    def run(self, trace: LaneState, lanes: Lanes, *, stop_at: int) -> LaneState:
        """Run every lane to its end, or to the step whose outputs hold `stop_at` or worse.

        Args:
            trace: where the lanes are; its buffers are given up (donated).
            lanes: what is asked of them.
            stop_at: INF to freeze before the first fault, NAN to go on to the first NaN.
        """
        assert self.watched is not None, "start comes first"
        return self._run(trace, lanes, self.watched, np.int8(stop_at))

    def observe(self, state: State, lanes: Lanes, step: AnyArray) -> dict[Any, Array]:
        """What each lane's next step would show, {(observable, layer): (lanes,) float64}.

        Args:
            state: leading axis lanes; it is not changed.
            lanes: what is asked of them.
            step: (lanes,) int32, the number of each lane's next step.
        """
        return self._observe(state, lanes, step)

    def _over_blocks(
        self, function: Callable[..., Any], *, of_lanes: int, shared: int = 0
    ) -> Callable[..., Any]:
        """Each device runs `function` over its blocks, one after another.

        Args:
            function: of one block.
            of_lanes: how many of its arguments have a leading axis of lanes.
            shared: how many follow that all lanes share.
        """

        def on_device(*arguments: Any) -> Any:
            self.traces[function.__name__] += 1
            blocks = jax.tree.map(
                lambda x: x.reshape(x.shape[0] // self.block, self.block, *x.shape[1:]),
                arguments[:of_lanes],
            )
            done = lax.map(lambda block: function(*block, *arguments[of_lanes:]), blocks)
            return jax.tree.map(lambda x: x.reshape(math.prod(x.shape[:2]), *x.shape[2:]), done)

        quick = {} if shared else _QUICK_COMPILE
        options = {**_SAME_ON_ANY_DEVICES, **quick} if self._on_cpu else None

        specs = (PartitionSpec("lanes"),) * of_lanes + (PartitionSpec(),) * shared
        sharded = jax.shard_map(
            on_device, mesh=self._mesh, in_specs=specs, out_specs=PartitionSpec("lanes"),
            check_vma=False,
        )  # fmt: skip
        launch = jax.jit(
            sharded,
            in_shardings=tuple(NamedSharding(self._mesh, spec) for spec in specs),
            donate_argnums=(0,) if shared else (),
            compiler_options=options,
        )
        compiled: list[Any] = []

        def run(*arguments: Any) -> Any:
            # Called as a jitted function it would be traced again where an array is on the host
            # that was on the devices before. It places what is on the host itself, in less than
            # half the time that device_put takes.
            if not compiled:
                compiled.append(launch.lower(*arguments).compile())
            return compiled[0](*arguments)

        return run

    def _start_block(self, lanes: Lanes) -> tuple[LaneState, Array]:
        return jax.vmap(self._start_lane)(lanes)

    def _start_lane(self, lanes: Lanes) -> tuple[LaneState, Array]:
        state = self.problem.init(lanes.knobs, init_key(lanes.seed))
        none, zero = jnp.float64(jnp.nan), jnp.int32(0)
        finite = jnp.int8(FINITE)
        trace = LaneState(
            state, zero, jnp.int32(NEVER), finite, finite, none, none, none, none, none, zero
        )
        return trace, leaf_codes(state)

    def _observe_block(self, state: State, lanes: Lanes, step: Array) -> dict[Any, Array]:
        return jax.vmap(self._observe_lane)(state, lanes, step)

    def _observe_lane(self, state: State, lanes: Lanes, step: Array) -> dict[Any, Array]:
        key = keys.for_step(step_key(lanes.seed), step)
        if self.problem.observe is not None:
            return self.problem.observe(state, lanes.knobs, key)
        _, metrics = self.problem.step(state, lanes.knobs, key)
        told = {"loss": metrics.loss, "gradient_norm": metrics.grad_norm,
                "accuracy": metrics.accuracy}  # fmt: skip
        return {(n, ""): v.astype(jnp.float64) for n, v in told.items() if v is not None}

    def _run_block(
        self, trace: LaneState, lanes: Lanes, watched: Array, stop_at: Array
    ) -> LaneState:
        def live(trace: LaneState) -> Array:
            return jnp.any((trace.stop_step == NEVER) & (trace.step < lanes.steps))

        base = jax.vmap(step_key)(lanes.seed)
        advance = jax.vmap(self._advance, in_axes=(0, 0, 0, None, None))
        if self._on_cpu:
            advance = laid_out(advance)
        return lax.while_loop(live, lambda t: advance(t, lanes, base, watched, stop_at), trace)

    def _advance(
        self, trace: LaneState, lanes: Lanes, base: Array, watched: Array, stop_at: Array
    ) -> LaneState:
        """One step of one lane, taken unless what it makes stops the lane."""
        key = keys.for_step(base, trace.step)
        state, metrics = self.problem.step(trace.state, lanes.knobs, key)
        loss_code = array_code(metrics.loss)
        state_code = outputs_code(leaf_codes(state), watched)
        live = (trace.stop_step == NEVER) & (trace.step < lanes.steps)
        worst = jnp.maximum(loss_code, state_code)
        stop = live & (worst >= stop_at)
        taken = live & ~stop
        # A lane that stops at an inf is followed from there, and then tries this step again.
        once = taken | (stop & (worst == NAN))

        def choose(new: Array, old: Array) -> Array:
            return jnp.where(taken, new, old)

        return trace._replace(
            state=jax.tree.map(choose, state, trace.state),
            step=trace.step + taken,
            stop_step=jnp.where(stop, trace.step, trace.stop_step),
            loss_code=jnp.where(live, loss_code, trace.loss_code),
            state_code=jnp.where(live, state_code, trace.state_code),
            **_observe(trace, metrics, live, once),
        )


def _observe(trace: LaneState, metrics: Metrics, live: Array, once: Array) -> dict[str, Array]:
    """The running summaries after one more step, unchanged in a lane that is not live.

    `once` is true where the step will not be tried again: only then is it counted.
    """
    loss = metrics.loss.astype(jnp.float64)
    counts = live & jnp.isfinite(loss)
    seen = {
        "initial_loss": jnp.where(live & (trace.step == 0), loss, trace.initial_loss),
        # fmin passes over the NaN that stands for "none so far".
        "best_loss": jnp.where(counts, jnp.fmin(loss, trace.best_loss), trace.best_loss),
        "final_loss": jnp.where(counts, loss, trace.final_loss),
    }
    if metrics.accuracy is not None:
        accuracy = metrics.accuracy.astype(jnp.float64)
        seen["accuracy"] = jnp.where(counts, accuracy, trace.accuracy)
    if metrics.grad_norm is not None:
        norm = metrics.grad_norm
        finite = jnp.isfinite(norm)
        largest = jnp.fmax(norm, trace.grad_norm_max)
        seen["grad_norm_max"] = jnp.where(live & finite, largest, trace.grad_norm_max)
        bad = (once & ~finite).astype(jnp.int32)
        seen["nonfinite_gradient_steps"] = trace.nonfinite_gradient_steps + bad
    return seen


def _constant_leaves(problem: Problem) -> np.ndarray:
    """Which leaves of the initial state depend on neither knobs nor key, (leaves,) bool.

    An inf there is written into the program on purpose (a best loss so far, say); an inf
    anywhere else was computed.
    """
    from nanlab.backend.jaxpr import constant_outputs

    knobs = {name: jnp.float64(1.0) for name in problem.knobs}
    key = init_key(jnp.int64(0))
    return np.array(constant_outputs(problem.init, knobs, key), bool)
