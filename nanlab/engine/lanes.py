"""Train the lanes of one group: the only vmap, jit and sharding of training.

A lane is one run. Lanes are vmapped in blocks of a fixed width, the blocks of a device run one
after another, and each device has its share of them. A step with a fault is not taken: the lane
keeps the state before it ("freeze on fault"). A block ends when none of its lanes is live.

A lane's bits depend on the width of its block, and not on its neighbors, its position, or the
number of blocks or devices. That is why the width is a constant of the accelerator.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float64, Int8, Int32, Int64

from nanlab.backend import keys
from nanlab.backend.finiteness import FINITE, INF, NAN, array_code
from nanlab.backend.jaxpr import Device, constant_outputs
from nanlab.backend.keys import RandomKey, init_key, step_key
from nanlab.engine.block_width import block_for
from nanlab.engine.matmul_layout import laid_out
from nanlab.problems.problem import AnyArray, Knobs, Metrics, Problem, State

# The random draws of `init` run once and compile slowly: at LLVM's level 1 in a quarter of the
# time (1.1 s against 4.7 s for two dense layers), to the same bits.
_QUICK_COMPILE = {"xla_backend_optimization_level": 1}

# A program for several devices loses its common subexpressions before XLA simplifies it, one for
# a single device only after: then x / s, s for a lane, becomes x * (1 / s) in one of the two, and
# Adam's first update differs. Without that pass they agree to the bit, at no cost in time
# (measured with JAX 0.10.2 and 0.12.0 on a CPU, 1 against 2 devices, sgd and adam).
_SAME_ON_ANY_DEVICES = {"xla_disable_hlo_passes": "cse"}

NEVER = -2
"""Step number of an event that never happened; -1 is the initial state, steps count from 0."""


class Lanes(NamedTuple):
    """The runs to train, one a lane.

    Attributes:
        knobs: values of each knob, float64.
        seed: seed of each run.
        steps: number of steps of each run; 0 for a lane that only pads a block.
    """

    knobs: Knobs
    seed: Int64[AnyArray, " lanes"]
    steps: Int32[AnyArray, " lanes"]


class LaneState(NamedTuple):
    """The training loop's carry.

    Attributes:
        state: the problem's state after the last step taken.
        step: number of steps taken so far, hence the number of the next one.
        stop_step: the step that was not taken because its result is not finite, -1 if the initial
            state itself is at fault, or NEVER.
        loss_code: finiteness of the loss of the last step tried.
        state_code: finiteness of the state after the last step tried.
        initial_loss: loss of step 0.
        best_loss: smallest finite loss; NaN if there was none.
        final_loss: last finite loss; NaN if there was none.
        accuracy: accuracy at the last step with a finite loss; NaN if there was none.
        grad_norm_max: largest finite gradient norm; NaN if there was none.
        nonfinite_gradient_steps: number of steps whose gradient norm is not finite.
    """

    state: State
    step: Int32[AnyArray, " lanes"]
    stop_step: Int32[AnyArray, " lanes"]
    loss_code: Int8[AnyArray, " lanes"]
    state_code: Int8[AnyArray, " lanes"]
    initial_loss: Float64[AnyArray, " lanes"]
    best_loss: Float64[AnyArray, " lanes"]
    final_loss: Float64[AnyArray, " lanes"]
    accuracy: Float64[AnyArray, " lanes"]
    grad_norm_max: Float64[AnyArray, " lanes"]
    nonfinite_gradient_steps: Int32[AnyArray, " lanes"]


def leaf_codes(state: State) -> Int8[Array, " leaves"]:
    """Return the finiteness code of each leaf of one lane's state."""
    codes = [array_code(leaf) for leaf in jax.tree.leaves(state)]
    return jnp.stack(codes) if codes else jnp.zeros(0, jnp.int8)


def outputs_code(codes: Int8[Array, " leaves"], watched: Bool[Array, " leaves"]) -> Int8[Array, ""]:
    """Return the code of a whole state: an inf counts in watched leaves only, a NaN in any."""
    counted = jnp.where(watched | (codes == NAN), codes, FINITE)
    return jnp.max(counted, initial=FINITE).astype(jnp.int8)


class LaneProgram:
    """One problem, compiled for any number of blocks of lanes.

    Attributes:
        problem: what the lanes train.
        block: lanes in a block.
        devices: number of devices that share the blocks.
        n_traces: number of times that each of its programs was traced, hence compiled; 1 at most.
        watched: (leaves,) bool, set by `start`: the leaves in which an inf is a fault.
    """

    def __init__(
        self, problem: Problem, devices: list[Device] | None = None, *, block: int | None = None
    ) -> None:
        devices = devices or jax.devices()
        self.problem = problem
        self.block = block or block_for(problem, devices[0])
        self._on_cpu = devices[0].platform == "cpu"
        self.devices = len(devices)
        self.n_traces: Counter[str] = Counter()
        self.watched: np.ndarray | None = None
        self._mesh = Mesh(np.array(devices), ("lanes",))
        self._start = self._over_blocks(self._start_block, of_lanes=1)
        self._run = self._over_blocks(self._run_block, of_lanes=2, shared=2)
        self._measure = self._over_blocks(self._measure_block, of_lanes=3)

    def start(self, lanes: Lanes) -> LaneState:
        """Return the lanes at their initial states; a fault there stops a lane at step -1."""
        carry, codes = self._start(lanes)
        if self.watched is None:
            host_codes = np.asarray(codes)
            deliberate = _constant_leaves(self.problem) & (host_codes == INF).any(axis=0)
            self.watched = ~deliberate
        state_code = np.where(self.watched | (codes == NAN), codes, FINITE).max(1, initial=FINITE)
        stop = np.where((state_code != FINITE) & (np.asarray(lanes.steps) > 0), -1, NEVER)
        return carry._replace(
            stop_step=stop.astype(np.int32), state_code=state_code.astype(np.int8)
        )

    def run(self, carry: LaneState, lanes: Lanes, *, stop_at: int) -> LaneState:
        """Run every lane to its end, or to the step whose outputs hold `stop_at` or worse.

        Args:
            carry: where the lanes start; its buffers are donated.
            lanes: the runs.
            stop_at: INF to freeze before the first fault, NAN to go on to the first NaN.

        Returns:
            The carry after the last step of each lane.
        """
        assert self.watched is not None, "call start first"
        return self._run(carry, lanes, self.watched, np.int8(stop_at))

    def observe(
        self, state: State, lanes: Lanes, step: Int32[AnyArray, " lanes"]
    ) -> Mapping[tuple[str, str], Float64[Array, " lanes"]]:
        """Measure the next step of each lane without taking it.

        Args:
            state: states of the lanes, unchanged.
            lanes: the runs.
            step: number of each lane's next step.

        Returns:
            The values of each (observable, layer).
        """
        return self._measure(state, lanes, step)

    def _over_blocks(
        self, function: Callable[..., Any], *, of_lanes: int, shared: int = 0
    ) -> Callable[..., Any]:
        # On each device, run `function` of one block over its blocks, one after another. Its first
        # `of_lanes` arguments have a leading axis of lanes; `shared` follow that all lanes share.
        def on_device(*arguments: Any) -> Any:
            self.n_traces[function.__name__] += 1
            blocks = jax.tree.map(
                lambda x: x.reshape(x.shape[0] // self.block, self.block, *x.shape[1:]),
                arguments[:of_lanes],
            )
            results = lax.map(lambda block: function(*block, *arguments[of_lanes:]), blocks)
            return jax.tree.map(lambda x: x.reshape(math.prod(x.shape[:2]), *x.shape[2:]), results)

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
            # A jitted function would be traced again where an argument is a host array that was
            # on the devices before. The compiled program copies host arrays to the devices itself,
            # in less than half the time that device_put takes.
            if not compiled:
                compiled.append(launch.lower(*arguments).compile())
            return compiled[0](*arguments)

        return run

    def _start_block(self, lanes: Lanes) -> tuple[LaneState, Int8[Array, "lanes leaves"]]:
        return jax.vmap(self._start_lane)(lanes)

    def _start_lane(self, lanes: Lanes) -> tuple[LaneState, Int8[Array, " leaves"]]:
        state = self.problem.init(lanes.knobs, init_key(lanes.seed))
        none, zero = jnp.float64(jnp.nan), jnp.int32(0)
        finite = jnp.int8(FINITE)
        carry = LaneState(
            state, zero, jnp.int32(NEVER), finite, finite, none, none, none, none, none, zero
        )
        return carry, leaf_codes(state)

    def _measure_block(self, state: State, lanes: Lanes, step: Array) -> Mapping[Any, Array]:
        return jax.vmap(self._measure_lane)(state, lanes, step)

    def _measure_lane(self, state: State, lanes: Lanes, step: Array) -> Mapping[Any, Array]:
        key = keys.for_step(step_key(lanes.seed), step)
        if self.problem.observe is not None:
            return self.problem.observe(state, lanes.knobs, key)
        _, metrics = self.problem.step(state, lanes.knobs, key)
        values = {"loss": metrics.loss, "gradient_norm": metrics.grad_norm,
                  "accuracy": metrics.accuracy}  # fmt: skip
        return {(n, ""): v.astype(jnp.float64) for n, v in values.items() if v is not None}

    def _run_block(
        self,
        carry: LaneState,
        lanes: Lanes,
        watched: Bool[Array, " leaves"],
        stop_at: Int8[Array, ""],
    ) -> LaneState:
        def any_live(carry: LaneState) -> Array:
            return jnp.any((carry.stop_step == NEVER) & (carry.step < lanes.steps))

        base = jax.vmap(step_key)(lanes.seed)
        advance = jax.vmap(self._advance, in_axes=(0, 0, 0, None, None))
        if self._on_cpu:
            advance = laid_out(advance)
        return lax.while_loop(any_live, lambda c: advance(c, lanes, base, watched, stop_at), carry)

    def _advance(
        self,
        carry: LaneState,
        lanes: Lanes,
        base: RandomKey,
        watched: Bool[Array, " leaves"],
        stop_at: Int8[Array, ""],
    ) -> LaneState:
        """Try one step of one lane, and take it unless its result stops the lane."""
        key = keys.for_step(base, carry.step)
        state, metrics = self.problem.step(carry.state, lanes.knobs, key)
        loss_code = array_code(metrics.loss)
        state_code = outputs_code(leaf_codes(state), watched)
        live = (carry.stop_step == NEVER) & (carry.step < lanes.steps)
        worst = jnp.maximum(loss_code, state_code)
        stop = live & (worst >= stop_at)
        taken = live & ~stop
        # A lane that stops at an inf is followed from there, and then tries this step again.
        once = taken | (stop & (worst == NAN))

        def choose(new: Array, old: Array) -> Array:
            return jnp.where(taken, new, old)

        return carry._replace(
            state=jax.tree.map(choose, state, carry.state),
            step=carry.step + taken,
            stop_step=jnp.where(stop, carry.step, carry.stop_step),
            loss_code=jnp.where(live, loss_code, carry.loss_code),
            state_code=jnp.where(live, state_code, carry.state_code),
            **_summaries(carry, metrics, live, once),
        )


def _summaries(
    carry: LaneState, metrics: Metrics, live: Bool[Array, ""], once: Bool[Array, ""]
) -> dict[str, Array]:
    # The running summaries after one more step, unchanged in a lane that is not live. `once` is
    # true where the step will not be tried again: only then is it counted.
    loss = metrics.loss.astype(jnp.float64)
    counts = live & jnp.isfinite(loss)
    values = {
        "initial_loss": jnp.where(live & (carry.step == 0), loss, carry.initial_loss),
        # fmin ignores the NaN that stands for "none so far".
        "best_loss": jnp.where(counts, jnp.fmin(loss, carry.best_loss), carry.best_loss),
        "final_loss": jnp.where(counts, loss, carry.final_loss),
    }
    if metrics.accuracy is not None:
        accuracy = metrics.accuracy.astype(jnp.float64)
        values["accuracy"] = jnp.where(counts, accuracy, carry.accuracy)
    if metrics.grad_norm is not None:
        norm = metrics.grad_norm
        finite = jnp.isfinite(norm)
        largest = jnp.fmax(norm, carry.grad_norm_max)
        values["grad_norm_max"] = jnp.where(live & finite, largest, carry.grad_norm_max)
        bad = (once & ~finite).astype(jnp.int32)
        values["nonfinite_gradient_steps"] = carry.nonfinite_gradient_steps + bad
    return values


def _constant_leaves(problem: Problem) -> Bool[np.ndarray, " leaves"]:
    # Leaves of the initial state that depend on neither knobs nor key. An inf there is written
    # into the program on purpose (a best loss so far, say); an inf anywhere else was computed.
    knobs = {name: jnp.float64(1.0) for name in problem.knobs}
    key = init_key(jnp.int64(0))
    return np.array(constant_outputs(problem.init, knobs, key), bool)
