"""Build the engine and a hand-written program for the same training, compiled and ready to time.

The hand-written side is the usual code without nanlab: a `lax.scan` trains one network and
`jit(vmap(...))` trains them all at once, without monitoring. The engine is called as a sweep calls
it: chunk by chunk, with monitoring, following and attribution.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array, lax

from nanlab.backend import keys
from nanlab.backend.keys import init_key, step_key
from nanlab.engine.block_width import launch_runs
from nanlab.engine.group_runner import ChunkOutcome, GroupRunner
from nanlab.engine.lanes import NEVER, Lanes
from nanlab.parts.tasks import Examples
from nanlab.plan.plan import chunks
from nanlab.problems import build as problems
from nanlab.problems.training import make_training

DEPTH, FEATURES, CLASSES, EXAMPLES, BATCH = 3, 8, 10, 2048, 64
LossName = Literal["softmax_cross_entropy", "mse"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """The training that both sides do."""

    runs: int
    steps: int
    width: int
    loss: LossName

    def examples(self) -> Examples:
        rng = np.random.default_rng(0)
        inputs = rng.standard_normal((EXAMPLES, FEATURES))
        return Examples(inputs, np.arange(EXAMPLES) % CLASSES)

    def healthy_lr(self) -> np.ndarray:
        """Return a learning rate per run; none of these runs fails."""
        return np.geomspace(1e-4, 0.1, self.runs)


@dataclass
class Timed:
    """Elapsed seconds, CPU seconds of all cores, and elapsed seconds by part."""

    wall_s: float = 0.0
    cores_s: float = 0.0
    parts_s: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> Timed:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = time.perf_counter() - self._began[0]
        self.cores_s = time.process_time() - self._began[1]


class Network(nn.Module):
    """The same network, hand-written; Linen's layer names address its random draws."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(DEPTH):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(CLASSES)(x)


Carry = tuple[Any, Any]
"""The parameters and the optimizer's state."""


def plain_start(task: Task) -> Callable[[Array, Array], Carry]:
    """Return the function (lr, seed) -> the initial carry of a run."""
    network, inputs = Network(task.width), jnp.asarray(task.examples().inputs, jnp.float32)

    def start(lr: Array, seed: Array) -> Carry:
        seed = jnp.asarray(seed, jnp.int64)
        params = network.init(keys.for_purpose(init_key(seed), "parameters"), inputs[:1])
        return params, optax.sgd(jnp.asarray(lr, jnp.float32)).init(params)

    return start


def plain_step(task: Task) -> Callable[[Carry, Array, Array, Array], tuple[Carry, Array]]:
    """Return the function (carry, lr, seed, t) -> (carry after step t, its loss) of one run."""
    examples, network = task.examples(), Network(task.width)
    inputs = jnp.asarray(examples.inputs, jnp.float32)
    targets = jnp.eye(CLASSES, dtype=jnp.float32)[examples.targets]

    def loss_of(params: Any, x: Array, y: Array) -> Array:
        outputs = network.apply(params, x)
        if task.loss == "mse":
            return jnp.mean(jnp.square(outputs - y))
        return optax.softmax_cross_entropy(outputs, y).mean()

    def step(carry: Carry, lr: Array, seed: Array, t: Array) -> tuple[Carry, Array]:
        params, opt_state = carry
        optimizer = optax.sgd(jnp.asarray(lr, jnp.float32))
        base = step_key(jnp.asarray(seed, jnp.int64))
        key = keys.for_purpose(keys.for_step(base, jnp.asarray(t, jnp.int32)), "batch")
        chosen = jax.random.randint(key, (BATCH,), 0, EXAMPLES, jnp.int32)
        loss, grads = jax.value_and_grad(loss_of)(params, inputs[chosen], targets[chosen])
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    return step


def plain_training(task: Task) -> Callable[[Array, Array], tuple[Any, Array]]:
    """Return the function (lr, seed) -> (parameters, losses by step) of one run."""
    start, one_step = plain_start(task), plain_step(task)

    def train(lr: Array, seed: Array) -> tuple[Any, Array]:
        def step(carry: Carry, t: Array) -> tuple[Carry, Array]:
            return one_step(carry, lr, seed, t)

        (params, _), losses = lax.scan(step, start(lr, seed), jnp.arange(task.steps))
        return params, losses

    return train


class Plain:
    """The hand-written side, compiled."""

    def __init__(self, task: Task) -> None:
        self.seeds = np.arange(task.runs)
        with Timed() as self.compiling:
            program = jax.jit(jax.vmap(plain_training(task)))
            self._compiled = program.lower(task.healthy_lr(), self.seeds).compile()

    def run(self, lr: np.ndarray) -> tuple[Timed, np.ndarray]:
        """Return the time, and the loss of each run at its last step."""
        with Timed() as timed:
            _, losses = jax.block_until_ready(self._compiled(lr, self.seeds))
        return timed, np.asarray(losses)[:, -1]


class Engine:
    """The sweep's engine on the same training, compiled."""

    def __init__(self, task: Task) -> None:
        self.task, self.seeds = task, np.arange(task.runs)
        statics = {
            "problem": "benchmark", "model": "mlp", "depth": DEPTH, "width": task.width,
            "activation": "relu", "initializer": "lecun_normal", "loss": task.loss,
            "optimizer": "sgd", "precision": "float32", "batch_size": BATCH,
        }  # fmt: skip
        problems.PROBLEMS["benchmark"] = partial(make_training, examples=task.examples())
        self.pieces = chunks(task.runs, chunk_runs=launch_runs(jax.devices()))
        largest = max(piece.stop - piece.start for piece in self.pieces)
        with Timed() as self.compiling:
            self.worker = GroupRunner(statics, runs=largest)
            # Zero steps per lane: this compiles both programs and runs next to nothing.
            steps = np.zeros(self.pieces[0].stop, np.int32)
            self.worker.run(self._lanes(task.healthy_lr(), self.seeds, steps, self.pieces[0]))
        self._parts_s: Counter[str] = Counter()
        self._time_part(self.worker.program, "start")
        self._time_part(self.worker, "_follow")
        self._time_part(self.worker, "_attribute")

    def run(self, lr: np.ndarray, seeds: np.ndarray | None = None) -> tuple[Timed, Endings]:
        """Return the time, and how each run ended."""
        seeds = self.seeds[: len(lr)] if seeds is None else seeds
        steps = np.full(len(lr), self.task.steps, np.int32)
        pieces = [piece for piece in self.pieces if piece.start < len(lr)]
        self._parts_s.clear()
        with Timed() as timed:
            done = [self.worker.run(self._lanes(lr, seeds, steps, p)) for p in pieces]
        timed.parts_s = Counter(self._parts_s)
        return timed, Endings(done)

    def _lanes(self, lr: np.ndarray, seeds: np.ndarray, steps: np.ndarray, piece: slice) -> Lanes:
        knobs = {name: np.ones(len(lr[piece])) for name in self.worker.problem.knobs}
        return Lanes({**knobs, "lr": lr[piece]}, seeds[piece], steps[piece])

    def _time_part(self, owner: Any, part: str) -> None:
        # Each of these functions waits for its own results, so its elapsed time is complete.
        function = getattr(owner, part)

        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments)
            self._parts_s[part] += time.perf_counter() - began
            return result

        setattr(owner, part, timed)


class Endings:
    """How the runs of several chunks ended, in order."""

    def __init__(self, done: Sequence[ChunkOutcome]) -> None:
        self.final_loss = np.concatenate([chunk.endings.final_loss for chunk in done])
        self.fault_step = np.concatenate([chunk.endings.fault_step for chunk in done])
        self.nan_step = np.concatenate([chunk.endings.nan_step for chunk in done])
        self.bad = np.concatenate([chunk.endings.bad_at_end for chunk in done])
        self.failed = self.fault_step != NEVER
        self.blames = sum(len(chunk.attributions) for chunk in done)
