"""What `nanlab.hunt` found: the input, what was changed in it, and the verdict on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import jax

    from nanlab.blame.explain.verdict import Verdict

SHOWN = 5
"""Number of changed arrays that are listed before the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What was changed in one array of the given input.

    Attributes:
        name: name of the array, such as "batch['x']".
        count: number of elements that were changed.
        size: number of its elements.
        element: index of the element that was changed the most.
        before: the given number there.
        after: the number there on which the function fails.
        is_new_sign: whether it has negative numbers, and the given array has none.
    """

    name: str
    count: int
    size: int
    element: tuple[int, ...]
    before: complex | float | int | bool
    after: complex | float | int | bool
    is_new_sign: bool = False

    def __str__(self) -> str:
        place = f"{list(self.element)}" if self.element else ""
        text = f"{self.name}{place}: {_number(self.before)} -> {_number(self.after)}"
        text += "" if self.size == 1 else f" ({self.count} of {self.size} elements)"
        return text + ("; nowhere negative before" if self.is_new_sign else "")


@dataclass(frozen=True, kw_only=True, repr=False)
class Found:
    """What `nanlab.hunt` found. `print` it to read it.

    It is true if there is an input on which the function fails. If it is false, the search has
    found none, which proves nothing: `nanlab.lint` proves.

    Attributes:
        args: positional arguments on which the function fails; the given ones if nothing is found.
        kwargs: keyword arguments on which it fails.
        verdict: what `nanlab.pinpoint` reports of this call; None if nothing is found.
        moved: what was changed in the given input, array by array.
        share: share of the starts that fail, up to the first round with one that does.
        starts: number of these starts.
        tried: number of inputs on which the function has run, with those of the shrinking.
        errors: number of those on which it has raised an error of its own.
        is_given: whether the given input itself fails, so that nothing was searched.
        function: name of the function.
        arrays: the arrays among the arguments, by name.

    Example:
        >>> import jax.numpy as jnp
        >>> import nanlab
        >>> found = nanlab.hunt(lambda x: jnp.log(1 + x), jnp.ones(3))
        >>> bool(found), len(found.args), found.verdict.origin.primitive
        (True, 1, 'log')
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    verdict: Verdict | None
    moved: tuple[Moved, ...] = ()
    share: float
    starts: int
    tried: int
    errors: int = 0
    is_given: bool = False
    function: str
    arrays: dict[str, jax.Array] = field(compare=False)

    def __bool__(self) -> bool:
        """Return whether there is an input on which the function fails."""
        return self.verdict is not None

    def __repr__(self) -> str:
        return f"Found({self._sentence()})"

    def __str__(self) -> str:
        lines = [self._sentence()]
        if self.moved:
            lines += ["", "Changed in the given input:"]
            lines += [f"  {moved}" for moved in self.moved[:SHOWN]]
        if len(self.moved) > SHOWN:
            lines.append(f"  and {len(self.moved) - SHOWN} more arrays")
        return "\n".join([*lines, *(["", str(self.verdict)] if self.verdict else [])])

    def _sentence(self) -> str:
        if self.is_given:
            return f"{self.function} fails on the given input itself; nothing was searched."
        refused = f", {self.errors:,} of them refused with an error" if self.errors else ""
        if self.verdict is None:
            return (
                f"No failure of {self.function} found: {self.tried:,} inputs were tried{refused}, "
                "and no output was an inf or a NaN. This proves nothing; nanlab.lint may."
            )
        arrays = "1 array" if len(self.moved) == 1 else f"{len(self.moved)} arrays"
        count = sum(moved.count for moved in self.moved)
        elements = "1 element" if count == 1 else f"{count:,} elements"
        return (
            f"{self.function} fails with {elements} of {arrays} changed; "
            f"{self.share:.0%} of {self.starts} starts fail."
        )

    def save(self, folder: str | Path) -> Path:
        """Write the input and the verdict, readable without JAX.

        `arguments.npz` holds the arrays a0, a1, ...; `found.json` their names and types, what was
        changed and the verdict; `verdict.txt` this text; `reproduce.py` runs the culprit alone.

        Args:
            folder: folder for these files; created if missing.

        Returns:
            The folder.

        Raises:
            ValueError: nothing was found, so that there is nothing to save.
        """
        from nanlab.blame.explain.reproducer import for_disk

        if self.verdict is None:
            raise ValueError("nothing was found, so there is no input to save")
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        stored = [for_disk(array) for array in self.arrays.values()]
        arrays = {f"a{i}": array for i, (array, _) in enumerate(stored)}
        np.savez(path / "arguments.npz", allow_pickle=False, **arrays)
        about = {
            "function": self.function,
            "names": list(self.arrays),
            "types": [kind for _, kind in stored],
            "moved": [str(moved) for moved in self.moved],
            "share": self.share,
            "starts": self.starts,
            "tried": self.tried,
            "verdict": self.verdict.to_dict(),
        }
        (path / "found.json").write_text(json.dumps(about, indent=1, allow_nan=False), "utf-8")
        (path / "verdict.txt").write_text(f"{self}\n", "utf-8")
        with suppress(ValueError):  # it has no site that can run alone
            self.verdict.save(path)
        return path


def moved_between(
    names: Sequence[str], given: Sequence[np.ndarray], found: Sequence[np.ndarray]
) -> tuple[Moved, ...]:
    """Return what differs between arrays."""
    moved: list[Moved] = []
    for name, before, after in zip(names, given, found, strict=True):
        changed = differs(before, after)
        with np.errstate(all="ignore"):
            distance = np.where(changed, np.abs(after * 1.0 - before * 1.0), -1.0)
        if changed.any():
            element = np.unravel_index(int(np.argmax(distance)), before.shape)
            moved.append(
                Moved(
                    name=name, count=int(changed.sum()), size=before.size,
                    element=tuple(map(int, element)),
                    before=before[element].item(), after=after[element].item(),
                    is_new_sign=_has_negative(after) and not _has_negative(before),
                )
            )  # fmt: skip
    return tuple(moved)


def _number(number: complex | float | int | bool) -> str:
    return f"{number:.6g}" if isinstance(number, float | complex) else str(number)


def _has_negative(numbers: np.ndarray) -> bool:
    return numbers.dtype.kind == "f" and bool((numbers < 0).any())


def differs(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return where two arrays differ; a NaN is the same as a NaN."""
    return (before != after) & ~((before != before) & (after != after))
