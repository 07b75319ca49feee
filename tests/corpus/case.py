"""Program, labels -> case: one reported failure, small, with the culprit marked on its line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

f32 = jnp.float32
Built = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A function and its arguments, and what is wrong with them.

    The line to name ends in `# <-- culprit`: for a NaN of the backward pass the forward line whose
    derivative emits it, for library code the line here that calls it. `# <-- also` marks a second
    right answer (a shared helper's call, or a custom derivative's), `# <-- decoy` a harmless NaN.

    Where a product and the sum that it feeds are fused, the infs' lines end in `# <-- fused`.

    A fault that is inf without a NaN has no culprit: its line ends in `# <-- origin`, and
    `mechanism`, `phase`, `iterations`, `module` and `lane` are those of the origin.

    Attributes:
        name: the builder's.
        title, source: what it is, and who reported it.
        build: returns the function and its arguments; call it without x64.
        primitive: the first to make a NaN that reaches an output; None if none does.
        mechanism, phase: its arithmetic and the part of the mathematical program (what a
            derivative rule prepares in the forward sweep is backward).
        iterations: iterations of the enclosing loops, outermost first; () if not labelled.
        module: the Flax path that the culprit's must hold; "" if not labelled.
        decoy: the first primitive in time to make a NaN, if that one is harmless.
        origin: of a fault without a NaN, the primitive that made the inf; "constant" if none did.
        first_inf: the first in time to make an inf, if that is before the first NaN and is not
            `origin`.
        causal_inf: what made the inf that the culprit met, if that is not `first_inf`: a
            primitive (the culprit's own, if it met none), or "constant" or "input".
        lane: under `vmap`, the lane that goes bad, of several the first; of nested ones a tuple.
        also, also_phases: other answers that are right.
        reaches_output: for a control, whether a NaN reaches an output op by op.
        fused: the type of a square that overflows and is then subtracted. Where XLA's CPU compiler
            fuses the two into one multiply-add, as processors with arithmetic of this type have
            it, the square is not rounded in between: the difference is inf, and no NaN.
        rewritten_away: whether XLA rewrites the program so that the NaN goes.
        note: what is special.
    """

    name: str
    title: str
    source: str
    build: Callable[[], Built]
    primitive: str | None = None
    mechanism: str = ""
    phase: str = ""
    iterations: tuple[int, ...] = ()
    module: str = ""
    decoy: str | None = None
    origin: str | None = None
    first_inf: str | None = None
    causal_inf: str | None = None
    lane: int | tuple[int, ...] | None = None
    also: tuple[str, ...] = ()
    also_phases: tuple[str, ...] = ()
    reaches_output: bool = False
    fused: Any = None
    rewritten_away: bool = False
    note: str = ""

    def marked(self, *marks: str) -> set[str]:
        """The lines with one of these marks, as findings write them."""
        return marked_lines(self.build, *marks)

    @cached_property
    def built(self) -> Built:
        """What `build` returns, in the types that people's programs have."""
        with jax.enable_x64(False):
            return self.build()


def marked_lines(function: Callable[..., Any], *marks: str) -> set[str]:
    """The lines of a function's source that end in `# <-- mark`, as "package/file.py:line"."""
    source, start = inspect.getsourcelines(function)
    file = Path(inspect.getfile(function))
    written = f"corpus/{file.name}" if file.parent.name == "corpus" else file.name
    ends = tuple(f"# <-- {mark}" for mark in marks)
    numbered = enumerate(source, start)
    return {f"{written}:{number}" for number, line in numbered if line.rstrip().endswith(ends)}


def case(**labels: Any) -> Callable[[Callable[[], Built]], Case]:
    """Turn a builder into a case with these labels."""

    def labelled(build: Callable[[], Built]) -> Case:
        return Case(name=build.__name__, build=build, **labels)

    return labelled


def normal(seed: int, *shape: int, scale: float = 1.0, dtype: Any = np.float32) -> jax.Array:
    """Standard normal numbers, the same on every machine, times `scale`."""
    draws = np.random.RandomState(seed).randn(*shape).astype(np.float32)
    return jnp.asarray(draws * scale, dtype)


def initial(model: nn.Module, rngs: Any, *inputs: Any) -> Any:
    """A model's initial variables, compiled as one: op by op it takes seconds."""
    return jax.jit(model.init)(rngs, *inputs)
