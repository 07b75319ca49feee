"""The first fault of a watched program, and the exception that stops the program there."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nanlab.backend.finiteness import NAN
from nanlab.blame.explain.verdict import Verdict
from nanlab.blame.vocabulary import Mechanism


@dataclass(kw_only=True)
class WatchedFault:
    """A computation that made an inf or a NaN.

    Attributes:
        name: qualified name of the function, or the operation's.
        kind: "jitted function", "pmapped function" or "compiled function"; "operation" if it is
            one of JAX's own, "piece" if it belongs to a function that is transformed eagerly.
        call: number of calls of the function so far, this one included.
        code: INF or NAN, what the outputs hold.
        place: file and line of the user's that made the call; empty if unknown.
        verdict: what is wrong with it; None if it could not be explained.
        notes: what else has to be known.
        arguments: returns the arrays that it was handed, by name.
    """

    name: str
    kind: str
    call: int
    code: int
    place: str = ""
    verdict: Verdict | None = None
    notes: list[str] = field(default_factory=list[str])
    arguments: Callable[[], Mapping[str, Any]] = field(default=dict, repr=False, compare=False)

    @property
    def headline(self) -> str:
        """The sentence that says where the fault is."""
        if self.kind == "operation":
            place = f" at {self.place}" if self.place else ""
            return f"The fault is in the operation {self.name}{place}, outside jitted functions."
        if self.kind == "piece":
            place = f" at {self.place}" if self.place else ""
            return f"The fault is in {self.name}, transformed outside jitted functions{place}."
        return f"The fault is in call {self.call} of the {self.kind} {self.name}."

    def __str__(self) -> str:
        notes = "".join(f"Note: {note}\n" for note in self.notes)
        body = self.without_verdict if self.verdict is None else self.verdict
        return f"{self.headline}\n{notes}{body}"

    @property
    def without_verdict(self) -> str:
        """What is known without a verdict."""
        place = f", called at {self.place}" if self.place else ""
        return f"There is {'a NaN' if self.code == NAN else 'an inf'} in its output{place}."

    def annotations(self) -> list[str]:
        """Return the fault as annotations of a GitHub workflow: its line, and the inf's behind."""
        verdict = self.verdict
        sites = [] if verdict is None else [verdict.culprit, verdict.origin]
        sites = list(dict.fromkeys(site for site in sites if site is not None))
        said = [f"{self.headline} {site.primitive}: {site.mechanism}" for site in sites]
        said = said or [f"{self.headline} {self.without_verdict}"]
        places = [(site.file, site.line) for site in sites] or [(self.place.rpartition(":")[0], 0)]
        levels = ["error", *["notice"] * len(said)]
        return [
            f"::{level} {_properties(file, line)}title=nanlab::{_escaped(text)}"
            for level, text, (file, line) in zip(levels, said, places, strict=False)
        ]

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def _repr_html_(self) -> str:
        lines = [self.headline, *(f"Note: {note}" for note in self.notes)]
        lines += [self.without_verdict] if self.verdict is None else []
        head = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
        if self.verdict is None:
            return head
        from nanlab.blame.explain.text import verdict_html

        return head + verdict_html(self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict's dictionary, and which computation it is about."""
        verdict: dict[str, Any] = {} if self.verdict is None else self.verdict.to_dict()
        about = {"function": self.name, "kind": self.kind, "call": self.call, "place": self.place}
        notes = [*verdict.get("notes", ()), *self.notes]
        return {**verdict, "fault": True, "notes": notes, **about}


def _properties(file: str, line: int) -> str:
    path = Path(file)
    if not file or not path.is_file():
        return ""
    path = path.resolve()
    name = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    escaped = _escaped(name.as_posix()).replace(":", "%3A").replace(",", "%2C")
    return f"file={escaped}," + f"line={line}," * bool(line)


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


class FaultFound(BaseException):
    """A watched computation is at fault; no `except Exception` of the program stops this.

    Attributes:
        fault: the fault.
    """

    def __init__(self, fault: WatchedFault) -> None:
        super().__init__(str(fault))
        self.fault = fault

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of the traceback of a cell."""
        return [self.fault.headline]


def found(fault: WatchedFault) -> FaultFound:
    """Return the exception to raise; in a test of pytest's one that it shows as the verdict."""
    outcomes: Any = sys.modules.get("_pytest.outcomes")
    if outcomes is None or "PYTEST_CURRENT_TEST" not in os.environ:
        return FaultFound(fault)

    class FoundInTest(FaultFound, outcomes.Failed):
        """Fails the test with the verdict as its message, without a traceback."""

        __module__, __qualname__ = "builtins", "Failed"  # as pytest writes its own

        def __init__(self, fault: WatchedFault) -> None:
            FaultFound.__init__(self, fault)
            self.msg, self.pytrace = str(fault), False

        def __repr__(self) -> str:
            return self.msg

        __str__ = __repr__

    return FoundInTest(fault)


def traced_back(verdict: Verdict | None, maker: Verdict | None) -> Verdict | None:
    """Return the verdict on a NaN with the site that made its inf in an earlier computation.

    Args:
        verdict: on the computation that made the NaN.
        maker: on the computation that made the inf that it received.

    Returns:
        The verdict, with the maker's origin and advice in place of an argument; the same one if
        the NaN did not come from an argument, or the maker is not known.
    """
    if verdict is None or maker is None or verdict is maker:
        return verdict
    site, own, culprit = maker.origin or maker.culprit, verdict.origin, verdict.culprit
    if own is None or culprit is None or own.mechanism is not Mechanism.INPUT or culprit is own:
        return verdict
    if site is None or site.mechanism in (Mechanism.INPUT, Mechanism.CONSTANT):
        return verdict
    return replace(
        verdict,
        origin=site,
        culprit=replace(culprit, cure=site.cure),
        chain=(*maker.chain, *verdict.chain),
        input_faults=(),
        inputs=(),
    )


def mechanism(verdict: Verdict | None) -> str:
    """Return the mechanism of the culprit, else of the origin; empty if there is neither."""
    main = None if verdict is None else verdict.culprit or verdict.origin
    return "" if main is None else main.mechanism
