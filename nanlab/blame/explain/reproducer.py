"""Verdict -> a short script and an .npz that reproduce the NaN using JAX alone."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.backend.finiteness import NAN
from nanlab.backend.jaxpr import JaxprEqn

if TYPE_CHECKING:
    from nanlab.blame.explain.verdict import Verdict

SCRIPT, OPERANDS = "reproduce.py", "operands.npz"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One equation and its operands.

    Attributes:
        eqn: JAX's equation.
        operands: its operands, on the host.
        worst: what it computes from them, INF or NAN.
    """

    eqn: JaxprEqn
    operands: Sequence[np.ndarray]
    worst: int


def save_reproducer(verdict: Verdict, folder: Path) -> Path:
    """Write the script and its operands; see `Verdict.save`."""
    evidence, site = verdict.evidence, verdict.culprit or verdict.origin
    if evidence is None or site is None:
        raise ValueError("no site computed an inf or a NaN, so there is nothing to reproduce")
    call = _call(evidence.eqn)
    folder.mkdir(parents=True, exist_ok=True)
    stored = {f"operand{i}": _storable(x) for i, x in enumerate(evidence.operands)}
    np.savez(folder / OPERANDS, allow_pickle=False, **stored)
    types = [str(x.dtype) for x in evidence.operands]
    where = f"{Path(site.file).name}:{site.line}: {site.code}" if site.file else "JAX"
    script = _SCRIPT.format(
        what="a NaN" if evidence.worst == NAN else "an inf",
        mechanism=site.mechanism,
        where=where.replace("\\", "\\\\").replace('"""', "'''"),  # it goes into a docstring
        primitive=evidence.eqn.primitive.name,
        call=call,
        x64=bool(jax.config.read("jax_enable_x64")),
        operands=OPERANDS,
        public_primitives=_jax.PUBLIC_PRIMITIVES,
        types=types,
        check="isnan" if evidence.worst == NAN else "isinf",
    )
    (folder / SCRIPT).write_text(script)
    return folder / SCRIPT


def _call(eqn: JaxprEqn) -> str:
    """Return an equation as a Python call.

    Raises:
        ValueError: it cannot be written as source, or cannot run outside its program.
    """
    name, params = eqn.primitive.name, dict(eqn.params)
    function = f"primitives.{_jax.public_name(eqn.primitive)}.bind"
    if name.startswith("scatter"):
        # lax.scatter_add and the like imply the jaxpr that combines two updates of an element.
        function = f"lax.{name.replace('-', '_')}"
        params = {k: v for k, v in params.items() if k not in ("update_jaxpr", "update_consts")}
    elif _jax.public_name(eqn.primitive) is None:
        raise ValueError(f"{name} cannot be reproduced alone: it is not part of JAX's public API")
    if _jax.names_axes(eqn):
        raise ValueError(f"{name} cannot be reproduced alone: it communicates with other devices")
    written = {k: _source(v) for k, v in params.items()}
    for parameter, source in written.items():
        if source is None:
            raise ValueError(
                f"{name} cannot be reproduced alone: its parameter {parameter} cannot be written "
                "into a script"
            )
    return f"{function}({', '.join(['*operands', *(f'{k}={v}' for k, v in written.items())])})"


_SCRIPT = '''"""{primitive} makes {what} ({mechanism}). It came from {where}"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
{public_primitives}

jax.config.update("jax_enable_x64", {x64})
stored = np.load(Path(__file__).with_name("{operands}"))
types = {types}
# Types unknown to NumPy are stored as raw bytes.
operands = [
    jnp.asarray(x.view(jnp.dtype(t)) if x.dtype.kind == "u" and "float" in t else x)
    for x, t in zip((stored[f"operand{{i}}"] for i in range(len(types))), types)
]


@jax.jit
def culprit(*operands):
    return {call}


results = culprit(*operands)
results = results if isinstance(results, list | tuple) else [results]
for operand in operands:
    print("operand", operand.dtype, operand.shape, operand, sep="  ")
for result in results:
    print("result", result.dtype, result.shape, result, sep="  ")
is_bad = any(bool(jnp.{check}(result).any()) for result in results)
print("reproduced" if is_bad else "not reproduced")
raise SystemExit(0 if is_bad else 1)
'''


def _storable(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "fciub":
        return array
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def for_disk(leaf: Any) -> tuple[np.ndarray, str]:
    """Return a leaf as an array that .npz holds without pickle, and the name of its type.

    Of an array of several processes, it is this process's first shard.
    """
    if not isinstance(leaf, np.ndarray | np.generic | jax.Array):
        return np.asarray(repr(leaf)), "text"
    kind = str(leaf.dtype)
    if isinstance(leaf, jax.Array) and _jax.is_key(leaf):
        kind, leaf = f"key<{jax.random.key_impl(leaf)}>", jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = leaf.addressable_shards[0].data
    return _storable(np.asarray(leaf)), kind


def _source(thing: Any) -> str | None:
    """Return a parameter as Python source; None if that is not possible."""
    if isinstance(thing, float) and not np.isfinite(thing):
        return f'float("{thing}")'
    if thing is None or isinstance(thing, bool | int | float | str):
        return repr(thing)
    if isinstance(thing, enum.Enum):
        home = type(thing).__name__
        return f"lax.{home}.{thing.name}" if hasattr(jax.lax, home) else None
    if isinstance(thing, np.dtype):
        return f'jnp.dtype("{thing.name}")'
    if isinstance(thing, tuple):
        parts = [_source(item) for item in thing]
        if any(part is None for part in parts):
            return None
        inside = ", ".join(map(str, parts))
        home = type(thing).__name__
        if home != "tuple":
            return f"lax.{home}({inside})" if hasattr(jax.lax, home) else None
        return f"({inside},)" if parts else "()"
    return None
