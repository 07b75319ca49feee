"""What the detective tells of one call: the fault, where it began, and how it got out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanlab.blame.site import Site
from nanlab.blame.vocabulary import Status

if TYPE_CHECKING:
    from nanlab.blame.explain.reproducer import Evidence


@dataclass(frozen=True, kw_only=True, repr=False)
class Verdict:
    """What `nanlab.pinpoint` found.

    Attributes:
        status: "clean": every output is finite. "reproduced": the instrumented program's outputs
            are bad in the same way as the compiled function's. "compiled-only": the function's
            outputs are bad and the instrumented program's are not so in the same way; the sites
            are what the latter shows, or None. "rewritten-away": the instrumented program has a
            fault which XLA's rewriting has taken out of the function's own; its outputs are
            finite.
        origin: the first site on the causal chain that makes an inf or a NaN of finite operands.
        culprit: the first that makes a NaN of NaN-free ones; None if there is no NaN.
        chain: the sites from the origin to the bad output.
        benign: sites that make an inf or a NaN that reaches no output; of large programs those
            only whose values were measured.
        input_faults: the arguments that came in with an inf or a NaN.
        output_faults: the outputs that have one.
        nan_outputs: those of them that have a NaN.
        notes: what else has to be known to read this.
    """

    status: Status
    origin: Site | None = None
    culprit: Site | None = None
    chain: tuple[Site, ...] = ()
    benign: tuple[Site, ...] = ()
    input_faults: tuple[str, ...] = ()
    output_faults: tuple[str, ...] = ()
    nan_outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    evidence: Evidence | None = field(default=None, repr=False, compare=False)

    @property
    def fault(self) -> bool:
        """Whether the function, compiled, has an output that is not finite."""
        return self.status in (Status.REPRODUCED, Status.COMPILED_ONLY)

    def to_dict(self) -> dict[str, Any]:
        """All of it in dicts, lists, strings and numbers; `float("nan")` is "nan"."""
        told = asdict(replace(self, evidence=None))
        del told["evidence"]
        return _plain({"fault": self.fault, **told})

    def save(self, folder: str | Path) -> Path:
        """Write a reproducer of the culprit (of the origin, if there is no NaN).

        A script and an .npz with its operands, which make the NaN again with nothing but JAX.

        Args:
            folder: is made if it is not there.

        Returns:
            The script.

        Raises:
            ValueError: there is no site to reproduce, or it is one that cannot be run alone.
        """
        from nanlab.blame.explain.reproducer import save_reproducer

        return save_reproducer(self, Path(folder))

    def __repr__(self) -> str:
        sites = {"origin": self.origin, "culprit": self.culprit}
        told = [f"{role}={site.primitive}:{site.line}" for role, site in sites.items() if site]
        return f"Verdict({', '.join([self.status, *told])}; print it)"

    def __str__(self) -> str:
        from nanlab.blame.explain.text import verdict_text

        return verdict_text(self)

    def __rich__(self) -> Any:
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
    return thing
