"""A fault -> folder: arguments without pickle, verdict as text and JSON, script, reproducer."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nanlab.backend.jaxpr import is_key
from nanlab.blame.watch.fault import WatchedFault


def save_fault(fault: WatchedFault, folder: Path, script: Path | None) -> Path:
    """Write what belongs to a fault into a new folder.

    `arguments.npz` holds the arrays a0, a1, ... (types that NumPy lacks as raw integers, random
    keys as their data), `verdict.json` their names and types and the verdict, `verdict.txt` the
    text, `reproduce.py` the culprit alone.

    Args:
        fault: the fault.
        folder: folder to write; it appears when it is complete.
        script: the script that was run, which is copied.

    Returns:
        The folder.

    Raises:
        OSError: it exists or cannot be written; nothing is left behind.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        _write(fault, partial)
        if script is not None:
            shutil.copyfile(script, partial / f"script-{script.name}")
        for path in partial.iterdir():
            _flush(path)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write(fault: WatchedFault, folder: Path) -> None:
    arguments = fault.arguments()
    stored = {f"a{i}": _plain(x) for i, x in enumerate(arguments.values())}
    with (folder / "arguments.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **stored)
    about = {
        name: {"array": array, "type": str(x.dtype), "shape": list(x.shape)}
        for (name, x), array in zip(arguments.items(), stored, strict=True)
    }
    text = json.dumps({**fault.to_dict(), "arguments": about}, indent=1, default=str)
    (folder / "verdict.json").write_text(text + "\n", encoding="utf-8")
    (folder / "verdict.txt").write_text(f"{fault}\n", encoding="utf-8")
    if fault.verdict is not None:
        with suppress(ValueError):  # there is no site that can run alone
            fault.verdict.save(folder)


def _plain(leaf: Any) -> np.ndarray[Any, Any]:
    if is_key(leaf):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    is_numpys = array.dtype.kind in "fciub"
    return array if is_numpys else array.view(np.dtype(f"u{array.dtype.itemsize}"))
