"""`nanlab.hunt` on the corpus, each defect from a harmless input, next to uniformly random inputs.

python benchmarks/hunt.py [--seconds S] [--random | --vmapped | --without-gradients]
                          [--cases FILE | --corners] [NAME ...]

FILE is another corpus: a Python file with CASES, each with `id`, `kind` and `build()`. The harmless
input is the failing one with one array (or, failing that, all) replaced by ordinary numbers; a case
without one is left out. `--random` searches uniformly within the same limits in the same time;
`--vmapped` compares the first round in one vmapped program with one input after the other.
`--corners` takes 40 functions of 4 to 256 numbers that fail near one corner of the limits only.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nanlab
from nanlab.backend import jaxpr as _jax
from nanlab.blame.program.call import Call, call_of
from nanlab.blame.program.program import flatten_closed
from nanlab.hunting import climb, starts
from nanlab.hunting.space import variables_of
from nanlab.hunting.trials import Trials

Built = tuple[str, Callable[..., Any], tuple[Any, ...]]


def defects(file: str | None) -> Iterator[Built]:
    """The programs with a fault: name, function, arguments on which it fails."""
    if file is None:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
        from corpus import CASES

        yield from ((c.name, *c.built) for c in CASES.values() if not c.name.startswith("ctl_"))
        return
    spec = importlib.util.spec_from_file_location("other_corpus", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield from ((c.id, *c.build()) for c in module.CASES.values() if c.kind != "control")


ENDS: dict[str, Callable[[Any, float], Any]] = {
    "log": lambda m, end: jnp.log(end - m),
    "sqrt": lambda m, end: jnp.sqrt(end - m),
    "exp": lambda m, end: jnp.exp(88.8 * m / end),
    "acosh": lambda m, end: jnp.arccosh(1 + end - m),
    "rsqrt": lambda m, end: jax.lax.rsqrt(end - m),
}


def corners() -> Iterator[Built]:
    """Functions of x that fail where a sum, or a layer of tanh, exceeds half of its maximum."""
    for size, (name, end), is_tanh in product((4, 16, 64, 256), ENDS.items(), (False, True)):
        rng = np.random.RandomState(size)
        w = jnp.asarray(rng.randn(size), jnp.float32)
        layer = jnp.asarray(rng.randn(size, size) / size**0.5 / 10, jnp.float32)
        half = 0.5 * float(jnp.abs(w).sum()) * (1 if is_tanh else 10)
        x = jnp.asarray(0.1 * rng.randn(size), jnp.float32)

        def function(x, w=w, layer=layer, half=half, end=end, is_tanh=is_tanh):
            return end((jnp.tanh(x @ layer) if is_tanh else x) @ w, half)

        yield f"{name} of {size}{' tanh' * is_tanh}", partial(function), (x,)


def is_inexact(array: Any) -> bool:
    return not _jax.is_key(array) and jnp.issubdtype(array.dtype, jnp.inexact)


def is_finite(outputs: Any) -> bool:
    """Whether all numbers are finite, by NumPy alone."""
    return all(
        np.isfinite(np.asarray(leaf).astype(np.complex128)).all()
        for leaf in jax.tree.leaves(outputs)
        if hasattr(leaf, "dtype") and is_inexact(leaf)
    )


def ordinary(shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Ordinary numbers."""
    rng = np.random.default_rng(1)
    yield 0.3 * rng.normal(size=shape)
    yield 0.5 + 0.1 * rng.uniform(-1, 1, shape)
    yield np.ones(shape)
    yield np.linspace(0.2, 0.8, int(np.prod(shape))).reshape(shape)


def harmless(call: Call) -> tuple[list[Any], list[int]] | None:
    """The arrays of a harmless input near the failing one, and which of them are other ones."""
    compiled = call.traced.lower().compile()
    if is_finite(compiled(*call.arrays)):
        return call.arrays, []
    inexact = [i for i, array in enumerate(call.arrays) if is_inexact(array) and array.size]
    for chosen in [*([i] for i in inexact), inexact]:
        drawn = zip(*(ordinary(call.arrays[i].shape) for i in chosen), strict=True)
        for numbers in drawn:
            arrays = list(call.arrays)
            for i, x in zip(chosen, numbers, strict=True):
                arrays[i] = jnp.asarray(x, arrays[i].dtype)
            for masks in (arrays, [_allowed(x) for x in arrays]):
                if is_finite(compiled(*masks)):
                    return masks, chosen
    return None


def _allowed(array: Any) -> Any:
    is_mask = not _jax.is_key(array) and array.dtype == jnp.bool_
    return jnp.ones_like(array) if is_mask else array


def settings(call: Call, changed: list[int]) -> dict[str, Any]:
    """What to vary, and how far: as far as the failing input, and at least 10."""
    largest = [
        float(np.abs(x[np.isfinite(x)]).max(initial=0))
        for x in (np.asarray(a).astype(np.float64) for a in call.arrays if is_inexact(a))
    ]
    options: dict[str, Any] = {"bound": max([10.0, *largest])}
    varied = {variable.index for variable in variables_of(call, None, 10.0)}
    if set(changed) - varied:  # the state of an optimizer
        options["vary"] = sorted({name.partition("[")[0].partition(".")[0] for name in call.names})
    return options


def uniformly(function: Callable[[], Any]) -> Any:
    """Search with uniformly random numbers in place of structured starts."""
    moves = dict(starts._MOVES)
    try:
        starts._MOVES.clear()
        starts._MOVES.update(dict.fromkeys(map(str, range(starts.ROUND)), starts._uniform))
        climb.STEPS = 0
        return function()
    finally:
        starts._MOVES.clear()
        starts._MOVES.update(moves)


def hunted(built: Built, options: argparse.Namespace) -> dict[str, Any] | None:
    """What the search finds in one program; None if it has no harmless input."""
    name, function, args = built
    call = call_of(function, args, {})
    near = harmless(call)
    if near is None:
        return None
    arguments, keywords = call.restored(near[0])
    chosen = settings(call, near[1])
    start = time.perf_counter(), time.process_time()

    def search() -> Any:
        return nanlab.hunt(function, *arguments, seconds=options.seconds, **chosen, **keywords)

    found = uniformly(search) if options.random else search()
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    is_real = bool(found) and not is_finite(jax.jit(function)(*found.args, **found.kwargs))
    return {"name": name, "found": found, "is_real": is_real, "wall": wall, "cpu": cpu}


def compared(built: Built) -> tuple[str, float, float, int, int] | None:
    """CPU time of the first round, one by one and vmapped, and how many inputs fail."""
    name, function, args = built
    call = call_of(function, args, {})
    near = harmless(call)
    if near is None:
        return None
    chosen = settings(call, near[1])
    call = replace(call, arrays=near[0])
    program = flatten_closed(call.closed, call.traced.out_info)
    variables = variables_of(call, chosen.get("vary"), chosen["bound"])
    inputs = starts.Starts(variables, program, 0)
    jaxpr, constants = _jax.split_constants(call.closed)
    jax.clear_caches()
    begin = time.process_time()
    trials = Trials(call, program, variables)
    alone = sum(trials.fails(inputs[number]) for number in range(starts.ROUND))
    middle = time.process_time()
    rows = [trials.call_with(inputs[number]).arrays for number in range(starts.ROUND)]
    stacked = [jnp.stack(column) for column in zip(*rows, strict=True)]
    run = jax.vmap(lambda *arrays: _jax.run_jaxpr(jaxpr, constants, list(arrays)))
    outputs = [x for x in jax.jit(run)(*stacked) if is_inexact(x)]
    good = [np.isfinite(np.asarray(x).astype(np.complex128)).reshape(len(x), -1) for x in outputs]
    together = int((~np.concatenate(good, 1).all(1)).sum())
    return name, middle - begin, time.process_time() - middle, alone, together


def compare(programs: Iterable[Built]) -> None:
    rows = []
    for built in programs:
        try:
            row = compared(built)
        except Exception as error:
            print(f"{built[0]:32} {type(error).__name__}", flush=True)
            continue
        if row is not None:
            rows.append(row)
            print("{:32} {:6.2f} {:6.2f} s CPU, {:3} {:3} fail".format(*row), flush=True)
    ratios = [together / alone for _, alone, together, *_ in rows]
    print(f"\n| programs | {len(rows)} |")
    print(f"| CPU time of the vmapped round / one by one, median | {np.median(ratios):.2f} |")
    print(f"| the same inputs fail | {sum(row[3] == row[4] for row in rows)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--vmapped", action="store_true")
    parser.add_argument("--without-gradients", action="store_true")
    parser.add_argument("--corners", action="store_true")
    parser.add_argument("--cases")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    rows, without = [], 0
    if options.without_gradients:
        climb.STEPS = 0
    found = corners() if options.corners else defects(options.cases)
    programs = [built for built in found if not options.names or built[0] in options.names]
    if options.vmapped:
        compare(programs)
        return
    for built in programs:
        row = hunted(built, options)
        if row is None:
            without += 1
            continue
        rows.append(row)
        print(
            f"{row['name']:32} {row['cpu']:6.2f} s CPU {row['wall']:6.2f} s wall "
            f"{row['found'].tried:7} tried {row['found'].share:4.0%} {row['is_real']} "
            f"{row['found']!r} {'; '.join(map(str, row['found'].moved[:3]))}",
            flush=True,
        )
    found = [row for row in rows if row["found"]]
    print(f"\n| programs | {len(rows)} ({without} more have no harmless input) |")
    print(f"| found | {len(found)} |\n| not real | {sum(not row['is_real'] for row in found)} |")
    print(f"| median time | {np.median([row['cpu'] for row in rows]):.2f} s of CPU |")
    print(f"| missed | {[row['name'] for row in rows if not row['found']]} |")


if __name__ == "__main__":
    main()
