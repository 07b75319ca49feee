"""`nanlab.cure` on reported faults: how many get a rewrite that passes its checks, at what price.

python benchmarks/cure.py [--more FILE] [--control] [--part I/N] [NAME ...]

Without names, all faults of tests/corpus that are no growth; --more adds those of a file of cases.
--control tries rewrites of the same kinds at other lines of the program in place of the fault's.
"""

from __future__ import annotations

import importlib.util
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nanlab
from nanlab.blame.program.call import call_of
from nanlab.blame.program.program import flatten_closed
from nanlab.curing.candidates import Candidates, places_at, places_of
from nanlab.curing.swap import NotApplicable, Swap
from nanlab.curing.trial import Trial

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
        spec = importlib.util.spec_from_file_location("more_cases", more)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules["more_cases"] = module
        spec.loader.exec_module(module)
        for name, case in module.CASES.items():
            if case.kind == "bug" and name not in GROWTH and name not in CASES:
                yield name, case.build


def cured(name: str, build: Callable[[], Any]) -> dict[str, Any] | None:
    function, arguments = build()
    start = time.process_time()
    cures = nanlab.cure(function, *arguments)
    spent = time.process_time() - start
    if not cures and cures.verdict is None:  # the compiler of another machine makes this fault
        return None
    best = cures[0] if cures else None
    checks = best.checks if best else None
    print(f"{name}: {best.kind if best else cures.reason} | {spent:.1f} s, {cures.n_tried} tried"
          + (f" | healthy {checks.healthy}, {checks.limit or 'no limit'}" if checks else ""),
          flush=True)  # fmt: skip
    if best and "--diff" in sys.argv:
        print(best.diff, flush=True)
    return {
        "accepted": best is not None, "checked": best is not None and best.checks.is_checked,
        "library": best is not None and best.is_library, "seconds": spent,
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
    print(f"{statistics.median(times):.1f} s of CPU, at most {max(times):.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
