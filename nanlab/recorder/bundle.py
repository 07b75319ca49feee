"""A fault <-> a folder: arguments as .npz, the rest as JSON and text. Readable without JAX.

`run.nan/step-41327/` holds `arguments.npz` (a0, a1, ...), `fault.json` (their names and types, the
step, the history, the verdict), `verdict.txt`, and a script that reproduces the culprit. A bundle
is written under another name and renamed: it is complete, or it is not there.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanlab.recorder.fault import headline

if TYPE_CHECKING:
    from nanlab.recorder.fault import Detection

_FAULT, _ARGUMENTS, _VERDICT = "fault.json", "arguments.npz", "verdict.txt"
_FORMAT = 1


class BundleError(Exception):
    """A folder is no bundle that can be read."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A fault that was read from disk.

    Attributes:
        folder: where it is.
        about: `fault.json`: "step", "iteration", "length", "call", "function", "names", "types",
            "history", "run_up", "exact", "compared", "notes", "versions", "verdict", "module",
            "judged" (names of the outputs at fault), "structure" of (args, kwargs) and, if that
            is null, why ("unstructured").
        arguments: the arguments of the faulty call by name. Types that NumPy lacks (bfloat16) are
            raw integers; "types" has their names. What is no array is its text.
        verdict: the verdict as text; empty without one.
    """

    folder: Path
    about: dict[str, Any]
    arguments: dict[str, np.ndarray[Any, Any]]
    verdict: str

    def __str__(self) -> str:
        about = self.about
        place = about.get("iteration"), about.get("length", 0)
        lines = [f"{headline(about['step'], about['function'], *place)} ({self.folder})."]
        if about["exact"]:
            lines.append(f"Replayed exactly: {about['compared']} logged values agree to the bit.")
        lines += [f"Note: {note}" for note in about["notes"]]
        lines += _history_lines(about["history"], about["call"])
        if not self.verdict:
            return "\n".join(lines)
        function = about["function"]
        cures = f"Cures: python -m nanlab.replay {self.folder} --cure"
        is_local = about.get("module", "") in ("", "__main__") or "<" in function
        if is_local or about["structure"] is None or about["iteration"] is not None:
            cures = f"Cures: fault.verdict.cures() in the training, or nanlab.cure({function}, "
            cures += f"*arguments) with those in {self.folder / _ARGUMENTS}."
        return "\n".join([*lines, "", self.verdict, "", cures])


def save(finding: Detection, folder: Path) -> Path:
    """Write a bundle.

    Returns:
        Its folder.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    name = _unused(folder, f"step-{finding.step}")
    partial = folder / f".{name}.{os.getpid()}.partial"
    try:
        partial.mkdir(parents=True)
        _write(finding, partial)
        for path in [*partial.rglob("*"), partial]:
            _flush(path)
        partial.rename(folder / name)
        _flush(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder / name


def _unused(folder: Path, name: str) -> str:
    names = (name if n == 1 else f"{name}-{n}" for n in range(1, sys.maxsize))
    return next(candidate for candidate in names if not (folder / candidate).exists())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(finding: Detection, folder: Path) -> None:
    from nanlab.blame.explain.reproducer import for_disk

    stored = [for_disk(leaf) for leaf in finding.leaves]
    arrays = {f"a{i}": array for i, (array, _) in enumerate(stored)}
    with (folder / _ARGUMENTS).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    verdict = finding.verdict
    about = {
        "format": _FORMAT,
        "step": finding.step,
        "call": finding.call,
        "function": finding.function,
        "iteration": finding.iteration,
        "length": finding.length,
        "detected": finding.detected,
        "exact": finding.exact,
        "compared": finding.compared,
        "notes": list(finding.notes),
        "names": list(finding.names),
        "types": [kind for _, kind in stored],
        "history": [{k: _plain(v) for k, v in row.items()} for row in finding.history],
        "run_up": [{k: _plain(v) for k, v in row.items()} for row in finding.run_up],
        "versions": _versions(),
        "module": finding.module,
        "judged": list(finding.judged),
        **_structure(finding),
        "verdict": None if verdict is None else verdict.to_dict(),
    }
    (folder / _FAULT).write_text(json.dumps(about, indent=1, allow_nan=False), encoding="utf-8")
    if verdict is not None:
        (folder / _VERDICT).write_text(f"{verdict}\n", encoding="utf-8")
        with suppress(ValueError):  # it has no site that can run alone
            verdict.save(folder)


def _structure(finding: Detection) -> dict[str, Any]:
    """Return how the arguments are built from their leaves, and why that is not known."""
    from nanlab.recorder.structure import described

    try:
        return {"structure": described((finding.args, dict(finding.kwargs))), "unstructured": ""}
    except Exception as error:  # a class of the user's may do anything
        return {"structure": None, "unstructured": str(error)}


def _plain(value: Any) -> Any:
    """Return a number as JSON has it; an inf or a NaN as text."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.ravel().tolist()]
    if isinstance(value, dict):
        items: dict[str, Any] = value
        return {name: _plain(item) for name, item in items.items()}
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, complex):
        return str(value)
    number = float(value)
    return number if np.isfinite(number) else str(number)


def _versions() -> dict[str, str]:
    import jax

    import nanlab

    return {
        "nanlab": nanlab.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": sys.version.partition(" ")[0],
        "platform": jax.default_backend(),
    }


def bundles_in(folder: Path) -> list[Path]:
    """Return the bundles of a recorder's folder, oldest first, or the folder if it is one."""
    if (folder / _FAULT).is_file():
        return [folder]
    found = [path.parent for path in folder.glob(f"step-*/{_FAULT}")]
    return sorted(found, key=lambda path: (path / _FAULT).stat().st_mtime_ns)


def is_recording(folder: Path) -> bool:
    """Return whether a path looks like a recorder's folder, or like one of its bundles."""
    return folder.suffix == ".nan" or bool(bundles_in(folder))


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle, or the last one of a recorder's folder.

    Returns:
        The bundle.

    Raises:
        BundleError: there is none, or it cannot be read.
    """
    found = bundles_in(folder)
    if not found:
        raise BundleError(f"{folder} holds no bundle of nanlab.Recorder (step-N/{_FAULT})")
    path = found[-1]
    try:
        about = json.loads((path / _FAULT).read_text(encoding="utf-8"))
        with np.load(path / _ARGUMENTS, allow_pickle=False) as stored:
            arguments = {name: stored[f"a{i}"] for i, name in enumerate(about["names"])}
        text = path / _VERDICT
        verdict = text.read_text(encoding="utf-8").rstrip() if text.exists() else ""
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
    return Bundle(folder=path, about=about, arguments=arguments, verdict=verdict)


def _history_lines(history: list[dict[str, Any]], call: int, count: int = 5) -> list[str]:
    """Return the last rows of the history up to the faulty call, a line each."""
    lines = []
    for row in [row for row in history if row["call"] <= call][-count:]:
        about = ("call", "step", "function", "iteration")
        values = [f"{k} = {v}" for k, v in row.items() if k not in about]
        place = f"iteration {row['iteration']}" if "iteration" in row else f"step {row['step']}"
        lines.append(f"  {place} of {row['function']}: {', '.join(values)}")
    return ["Up to it:", *lines] if lines else []
