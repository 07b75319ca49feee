"""What `nanlab.pinpoint` reports: the fault, where it began, and how it reached the outputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanlab.blame.site import Site
from nanlab.blame.vocabulary import Status

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nanlab import Cure, Cures
    from nanlab.blame.diagnosis.contents import Contents
    from nanlab.blame.explain.reproducer import Evidence


@dataclass(frozen=True, kw_only=True, repr=False)
class Verdict:
    """What `nanlab.pinpoint` found. `print` it, or show it in a notebook, to read it.

    It is true if there is a fault: `assert not nanlab.pinpoint(step, state)` fails for one, and
    `raise_if_fault` raises it.

    Attributes:
        status: "clean": every output is finite. "reproduced": the instrumented program fails in
            the same way as the compiled function. "compiled-only": the compiled function fails
            and the instrumented program does not, or differently; the sites are those of the
            latter, if any. "rewritten-away": operation by operation there is a fault that XLA's
            rewriting removes; the function's outputs are finite.
        origin: first site on the causal chain that makes an inf or a NaN from finite operands.
        culprit: first site on it that makes a NaN from NaN-free operands; None without a NaN.
        chain: sites from the origin to a bad output.
        benign: sites that make an inf or a NaN that reaches no output, neither itself nor by its
            derivative; in large programs, only those that were measured.
        input_faults: names of arguments that contain an inf or a NaN.
        inputs: contents of these arguments; the one with which the fault began comes first.
        output_faults: names of outputs that contain an inf or a NaN.
        nan_outputs: names of outputs that contain a NaN.
        notes: remarks on how to read this verdict.
        evidence: the equation and operands that `save` writes.
        call: the function, its positional and its keyword arguments; None where only a program or
            a record of the call is at hand.

    Example:
        >>> import jax.numpy as jnp
        >>> import nanlab
        >>> verdict = nanlab.pinpoint(lambda x: {"loss": jnp.log(x)}, jnp.array([1.0, -1.0]))
        >>> verdict.fault, str(verdict.status), verdict.nan_outputs
        (True, 'reproduced', ("output['loss']",))
        >>> print(verdict)
        There is a NaN in output['loss'].
        <BLANKLINE>
        The NaN: log, domain (an argument outside the function's domain)
        ...
    """

    status: Status
    origin: Site | None = None
    culprit: Site | None = None
    chain: tuple[Site, ...] = ()
    benign: tuple[Site, ...] = ()
    input_faults: tuple[str, ...] = ()
    inputs: tuple[Contents, ...] = ()
    output_faults: tuple[str, ...] = ()
    nan_outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    evidence: Evidence | None = field(default=None, repr=False, compare=False)
    call: tuple[Any, ...] | None = field(default=None, repr=False, compare=False)

    @property
    def fault(self) -> bool:
        """Whether the compiled function has an output that is not finite."""
        return self.status in (Status.REPRODUCED, Status.COMPILED_ONLY)

    def __bool__(self) -> bool:
        """Return `fault`, for `if nanlab.pinpoint(...):` and `assert not nanlab.pinpoint(...)`."""
        return self.fault

    def raise_if_fault(self) -> None:
        """Raise an error whose message is this verdict if there is a fault.

        Raises:
            FloatingPointError: there is a fault.
        """
        if self.fault:
            raise FloatingPointError(str(self))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as dicts, lists, strings and numbers; inf and NaN become strings."""
        fields = asdict(replace(self, evidence=None, call=None))
        del fields["evidence"], fields["call"]
        return _plain({"fault": self.fault, **fields})

    def save(self, folder: str | Path) -> Path:
        """Write a script that reproduces the culprit (the origin, without a NaN) using JAX alone.

        Args:
            folder: folder for the script and an .npz of the operands; created if missing.

        Returns:
            Path of the script.

        Raises:
            ValueError: there is no site to reproduce, or it cannot run outside its program.
        """
        from nanlab.blame.explain.reproducer import save_reproducer

        return save_reproducer(self, Path(folder))

    def cures(self, **options: Any) -> Cures[Cure]:
        """Find rewrites of the user's lines that mend this fault, as `nanlab.cure` does.

        Args:
            **options: `healthy` and `seconds` of `nanlab.cure`.

        Returns:
            The cures, best first.

        Raises:
            ValueError: the call is not at hand, as in the verdict of a recorded run.
        """
        import nanlab

        if self.call is None:
            raise ValueError(
                "this verdict does not hold its call: use nanlab.cure(function, *arguments)"
            )
        function, args, kwargs = self.call
        return nanlab.cure(function, *args, **options, **kwargs)

    def __repr__(self) -> str:
        from nanlab.blame.explain.text import verdict_line

        return f"Verdict({verdict_line(self)})"

    def __str__(self) -> str:
        from nanlab.blame.explain.text import verdict_text

        return verdict_text(self)

    def __rich__(self) -> RenderableType:
        from nanlab.blame.explain.text import renderable

        return renderable(self)

    def _repr_html_(self) -> str:
        from nanlab.blame.explain.text import verdict_html

        return verdict_html(self)


def _plain(thing: Any) -> Any:
    if isinstance(thing, dict):
        return {str(k): _plain(v) for k, v in thing.items()}
    if isinstance(thing, list | tuple):
        return [_plain(item) for item in thing]
    if isinstance(thing, complex):
        return str(thing)
    if isinstance(thing, float) and (thing != thing or thing in (float("inf"), -float("inf"))):
        return str(thing)
    return str(thing) if isinstance(thing, str) else thing
