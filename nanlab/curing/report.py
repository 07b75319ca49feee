"""What `nanlab.cure` returns: rewrites, with what running them showed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar, overload

from nanlab.blame.explain.verdict import Verdict
from nanlab.blame.source_path import cell_of, displayed
from nanlab.curing.candidates import Rewrite
from nanlab.curing.source import Source
from nanlab.curing.swap import Swap
from nanlab.curing.trial import Checks


@dataclass(frozen=True, kw_only=True, repr=False)
class Cure:
    """A rewrite that mends a fault. `print` it to read it.

    Attributes:
        rewrites: rewritten lines, in the order in which they were found.
        checks: what running the rewritten program showed.
        swap: the code of the files before and after.

    Example:
        >>> import jax.numpy as jnp
        >>> import nanlab
        >>> def entropy(p):
        ...     return -jnp.sum(p * jnp.log(p))
        >>> best = nanlab.cure(entropy, jnp.array([0.0, 1.0]))[0]
        >>> best.kind, best.checks.finite, best.is_library
        ('clip', True, False)
    """

    rewrites: tuple[Rewrite, ...]
    checks: Checks
    swap: Swap = field(repr=False)

    @property
    def kind(self) -> str:
        """What it does, in a word or two: "clip", "log space"."""
        return " and ".join(dict.fromkeys(rewrite.kind for rewrite in self.rewrites))

    @property
    def is_library(self) -> bool:
        """Whether a line of an installed library is rewritten: then use `apply`, not the diff."""
        return any(rewrite.is_library for rewrite in self.rewrites)

    @property
    def diff(self) -> str:
        """Unified diff of the files, with paths as from the current folder."""
        return "".join(_diff(old, new) for old, new in self.swap.pairs.values())

    def apply(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its lines rewritten.

        It can be jitted, differentiated and called as before. While it runs, or is traced,
        functions of the rewritten file run the rewritten code in all threads; nothing is written
        to a file.

        Args:
            function: the function that was cured, or another one that runs these lines.

        Returns:
            The function.
        """

        @wraps(function)
        def mended(*args: Any, **kwargs: Any) -> Any:
            with self.swap.open():
                return function(*args, **kwargs)

        return mended

    def __repr__(self) -> str:
        lines = ", ".join(f"{displayed(r.before.file)}:{r.line}" for r in self.rewrites)
        return f"Cure({self.kind}, {lines})"

    def __str__(self) -> str:
        return f"{self.kind}\n{self.diff}{_indented(sentences_of(self))}\n"


AnyCure = TypeVar("AnyCure")


class Cures(Sequence[AnyCure]):
    """The cures of a call or of a training, best first. `print` them to read them.

    Attributes:
        reason: why there is none; "" if there is one.
        verdict: what `nanlab.pinpoint` found.
        n_tried: the number of rewrites that were tried.

    Example:
        >>> import jax.numpy as jnp
        >>> import nanlab
        >>> cures = nanlab.cure(jnp.exp, jnp.array([1.0]))
        >>> len(cures), cures.reason
        (0, 'Every output is finite: there is nothing to cure.')
    """

    def __init__(
        self, cures: Sequence[AnyCure], *, reason: str = "", verdict: Verdict | None = None,
        n_tried: int = 0,
    ) -> None:  # fmt: skip
        self._cures = tuple(cures)
        self.reason, self.verdict, self.n_tried = reason, verdict, n_tried

    @overload
    def __getitem__(self, index: int) -> AnyCure: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[AnyCure]: ...
    def __getitem__(self, index: int | slice) -> AnyCure | Sequence[AnyCure]:
        if not self._cures:
            raise IndexError(f"there is no cure. {self.reason}")
        return self._cures[index]

    def __len__(self) -> int:
        return len(self._cures)

    def __repr__(self) -> str:
        return f"Cures({', '.join(map(repr, self)) or self.reason})"

    def __str__(self) -> str:
        if not self:
            return self.reason
        count = f"{len(self)} of {self.n_tried} cures that were tried mend it, best first."
        return "\n".join([count, *(f"\n{i}. {cure}" for i, cure in enumerate(self, 1))])


def sentences_of(cure: Cure) -> list[str]:
    """Return what was checked, a sentence each."""
    checks = cure.checks
    finite = "All outputs are finite with the failing arguments"
    lines = [finite + (", and so is their gradient by the first one." if checks.gradients else ".")]
    if checks.healthy:
        change = "nothing" if checks.change == 0 else f"at most {checks.change:.0e} of an output"
        lines.append(f"With {checks.healthy} healthy inputs, {change} changes.")
    else:
        lines.append("Not checked on healthy inputs: none was found; pass healthy=[(...), ...].")
    lines.append(_limit_sentence(checks))
    more, before = checks.extra
    lines.append(f"Cost: {abs(more)} operations {'more' if more >= 0 else 'fewer'} than {before}.")
    if cure.is_library:
        lines.append("The line is a library's: use apply(), or report it there.")
    return lines


def _limit_sentence(checks: Checks) -> str:
    if not checks.limit:
        return "Not compared with a limit: the function has none that could be computed."
    error = "" if math.isnan(checks.error) else f", up to {checks.error:.0e}"
    parts = {
        "float64": f"What was not finite agrees with float64{error}.",
        "limit": f"What was not finite agrees with the limit of nearby inputs{error}.",
        "eps limit": "What was not finite agrees with float64 with 1e-12 in place of 0 at poles.",
        "infinite limit": "Where the limit is infinite, the output is large with its sign.",
    }
    return " ".join(text for kind, text in parts.items() if kind in checks.limit.split(" and "))


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def _diff(old: Source, new: Source) -> str:
    name = cell_of(old.file) or displayed(old.file)
    lines = (source.text.splitlines(keepends=True) for source in (old, new))
    lines = [[x if x.endswith("\n") else x + "\n" for x in text] for text in lines]
    return "".join(difflib.unified_diff(*lines, fromfile=name, tofile=name, n=1))
