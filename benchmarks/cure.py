"""`nanlab.cure` on reported faults: how many get a rewrite that passes its checks, at what price.

python benchmarks/cure.py [--more FILE] [--control | --written [--all]] [--part I/N]
                          [--seconds S] [NAME ...]

Without names, all faults of tests/corpus that are no growth; --more adds those of a file of cases.
--control tries rewrites of the same kinds at other lines of the program in place of the fault's.
--written also patches a copy of the file with the best cure's diff, or with that of each (--all),
and compares the bits.
--seconds S is the time of one search: processor time on a busy machine counts for less.
"""

from __future__ import annotations

import importlib.util
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nanlab
from nanlab.blame.program.call import call_of
from nanlab.blame.program.program import flatten_closed
from nanlab.curing.candidates import Candidates, places_at, places_of
from nanlab.curing.swap import NotApplicable, Swap
from nanlab.curing.trial import Trial

WRITTEN = "--written" in sys.argv
SECONDS = float(sys.argv[sys.argv.index("--seconds") + 1]) if "--seconds" in sys.argv else 20.0
GROWTH = {
    "adam_moment_overflow", "associative_scan_products", "dynamic_scale_to_inf",
    "global_norm_overflow", "loss_scale_too_large", "second_step_only", "sgd_lr_too_high",
}  # fmt: skip


def faults(more: str | None) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and builder of the faults."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from corpus import CASES

    for case in CASES.values():
        if not case.name.startswith("ctl_") and case.name not in GROWTH:
            yield case.name, case.build
    if more:
        for name, case in module_of(Path(more)).CASES.items():
            if case.kind == "bug" and name not in GROWTH and name not in CASES:
                yield name, case.build


def is_same_when_written(name: str, cure: Any, function: Any, arguments: Any) -> bool:
    """Whether the file with the printed diff computes the bits of `apply`."""
    ((file, _),) = cure.swap.pairs.items()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(file, folder))
        subprocess.run(["patch", "-s", copy], input=cure.diff, text=True, check=True)
        cases = module_of(copy).CASES
    cases = cases.values() if isinstance(cases, dict) else cases
    written, others = next(case for case in cases if case.name == name).build()
    results = [cure.apply(function)(*arguments), written(*others)]
    bits = [[bits_of(x) for x in jax.tree.leaves(result)] for result in results]
    return bits[0] == bits[1]


def bits_of(x: Any) -> bytes:
    x = (
        jax.random.key_data(x)
        if jnp.issubdtype(getattr(x, "dtype", int), jax.dtypes.prng_key)
        else x
    )
    return np.asarray(x).tobytes()


def module_of(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"cases_{file.stem}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def cured(name: str, build: Callable[[], Any]) -> dict[str, Any] | None:
    function, arguments = build()
    start, begin = time.process_time(), time.monotonic()
    cures = nanlab.cure(function, *arguments, seconds=SECONDS)
    spent, wall = time.process_time() - start, time.monotonic() - begin
    if not cures and cures.verdict is None:  # the compiler of another machine makes this fault
        return None
    best = cures[0] if cures else None
    checks = best.checks if best else None
    print(f"{name}: {best.kind if best else cures.reason} | {spent:.1f} s, {cures.n_tried} tried"
          + (f" | healthy {checks.healthy}, {checks.limit or 'no limit'}" if checks else ""),
          flush=True)  # fmt: skip
    if best and "--diff" in sys.argv:
        print(best.diff, flush=True)
    own = [c for c in cures if not c.is_library and len(c.swap.pairs) == 1]
    own = own if "--all" in sys.argv else own[:1]
    same = [is_same_when_written(name, c, function, arguments) for c in own] if WRITTEN else []
    if not all(same):
        print(f"{name}: other bits when it is written: {same}", flush=True)
    return {
        "accepted": best is not None, "checked": best is not None and best.checks.is_checked,
        "library": best is not None and best.is_library, "seconds": spent,
        "wall": wall, "written": len(same), "same": sum(same),
    }  # fmt: skip


def placebo(name: str, build: Callable[[], Any], draws: random.Random) -> list[bool]:
    """Whether rewrites at lines of the program that the fault has nothing to do with pass."""
    function, arguments = build()
    call = call_of(function, arguments, {})
    verdict = nanlab.pinpoint(function, *arguments)
    if not verdict:
        return []
    program = flatten_closed(call.closed, None)
    near = {(r.before.file, r.line) for r in Candidates({}).of(places_of(program, verdict))}
    sites = [e for e in program.equations if e.opened is None]
    draws.shuffle(sites)
    trial, found = Trial(call), []
    for equation in sites:
        if len(found) == 2:
            break
        elsewhere = [r for r in Candidates({}).of(places_at(program, equation))
                     if (r.before.file, r.line) not in near]  # fmt: skip
        if not elsewhere:
            continue
        rewrite = draws.choice(elsewhere)
        near.add((rewrite.before.file, rewrite.line))
        try:
            swap = Swap({rewrite.before.file: (rewrite.before, rewrite.after)})
            with swap.open():
                changed = call_of(function, arguments, {})
            found.append(not trial.check(changed).failure)
        except NotApplicable:
            continue
        except Exception:  # it does not fit its operands
            continue
        print(f"{name}: {rewrite.kind} at {rewrite.line}: {found[-1]}", flush=True)
    return found


def main(arguments: list[str]) -> None:
    more = arguments[arguments.index("--more") + 1] if "--more" in arguments else None
    part, parts = 0, 1
    if "--part" in arguments:
        part, parts = map(int, arguments[arguments.index("--part") + 1].split("/"))
        part %= parts
    cases = dict(faults(more))
    named = [name for name in arguments if name in cases] or sorted(cases)
    random.Random(1).shuffle(named)  # a run that is stopped has seen a sample
    chosen = {name: cases[name] for name in named[part::parts]}
    if "--control" in arguments:
        draws = random.Random(0)
        passed = [ok for name, build in chosen.items() for ok in placebo(name, build, draws)]
        print(f"random rewrites elsewhere that pass: {sum(passed)} of {len(passed)}")
        return
    rows = [row for name, build in chosen.items() if (row := cured(name, build))]
    accepted = [row for row in rows if row["accepted"]]
    times, count = [row["seconds"] for row in rows], lambda key: sum(row[key] for row in accepted)
    print(f"accepted {len(accepted)} of {len(rows)}, checked {count('checked')}, "
          f"in a library {count('library')}")  # fmt: skip
    walls = [row["wall"] for row in rows]
    print(f"{statistics.median(times):.1f} s of CPU, at most {max(times):.1f}; "
          f"{statistics.median(walls):.1f} s of wall time")  # fmt: skip
    if WRITTEN:
        print(f"written by its diff, the same bits: {count('same')} of {count('written')}")


if __name__ == "__main__":
    main(sys.argv[1:])
