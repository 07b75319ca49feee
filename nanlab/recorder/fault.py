"""The exception that a fault is: the faulty step, its verdict, its arguments, the run-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanlab.blame.explain.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What is known of a fault.

    Attributes:
        step: number of the faulty call among its function's, from 0.
        call: its number among the calls of all watched functions.
        function: qualified name of the function.
        detected: number of calls that had been made when the fault was found.
        args: the exact positional arguments of that call.
        kwargs: its keyword arguments.
        is_state: for each positional argument whether it is state.
        names: names of the arguments' leaves.
        leaves: the arguments' leaves.
        history: the small outputs of the last calls, oldest first.
        run_up: how large the arguments of the last calls were.
        compared: number of logged metrics that the replay computed again.
        exact: whether these agree to the bit; None if there were none.
        verdict: what `nanlab.pinpoint` finds in that call; None if it cannot look into it.
        notes: what else has to be known.
        iteration: number of the faulty iteration of a call that is one long scan.
        length: number of its iterations.
        module: name of the module that the function is defined in.
        judged: names of the outputs that the fault is in; empty if all of them count.
    """

    step: int
    call: int
    function: str
    detected: int
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    is_state: Sequence[bool] = ()
    names: Sequence[str] = ()
    leaves: Sequence[Any] = ()
    history: Sequence[Mapping[str, Any]] = ()
    run_up: Sequence[Mapping[str, Any]] = ()
    compared: int = 0
    exact: bool | None = None
    verdict: Verdict | None = None
    notes: Sequence[str] = ()
    iteration: int | None = None
    length: int = 0
    module: str = ""
    judged: Sequence[str] = ()


class Fault(FloatingPointError):
    """A watched training step made an inf or a NaN that went into the state.

    Attributes:
        step: number of the faulty call, from 0, among the calls of its function.
        call: its number among the calls of all watched functions.
        function: qualified name of the function.
        arguments: the exact (args, kwargs) of that call.
        state: the positional arguments that are state; the argument itself if there is one.
        batch: the other positional arguments, in the same way.
        verdict: what `nanlab.pinpoint` finds in that call; None if it cannot look into it.
        history: the small outputs of the last calls, oldest first: a dict with "call", "step",
            "function", and the outputs by name.
        run_up: the arguments of up to 17 calls, from the last copy of the state on: "headroom"
            (decades from the largest magnitude to the type's maximum), "leaf" (the argument with
            the least), "norm" (of the state). With `Recorder(observe=True)` also "inside" (the
            headroom of all values that the call computes, without those that are never finite),
            "at" (the operation with the least), "gradient norm", and "layers" (the largest
            magnitude in the forward pass of each).
        exact: whether the replay's metrics are the logged ones to the bit; None if there are none.
        compared: number of metrics that were compared.
        detected: number of calls that had been made when the fault was found.
        notes: what else has to be known.
        folder: the bundle on disk, or None.
        iteration: number of the faulty iteration, from 0, of a call that is one long scan; -1 for
            what precedes the scan; None for other calls. `state` is then the leaves of the carry
            before it, `batch` the arrays that all iterations read and the slices that it reads.
    """

    def __init__(self, finding: Detection) -> None:
        self.finding, self.folder = finding, None
        self.step, self.call, self.function = finding.step, finding.call, finding.function
        self.arguments = finding.args, finding.kwargs
        self.state = _one([a for a, s in zip(finding.args, finding.is_state, strict=True) if s])
        self.batch = _one([a for a, s in zip(finding.args, finding.is_state, strict=True) if not s])
        self.verdict, self.history = finding.verdict, finding.history
        self.run_up = finding.run_up
        self.exact, self.compared = finding.exact, finding.compared
        self.detected, self.notes = finding.detected, list(finding.notes)
        self.iteration = finding.iteration
        super().__init__(self.headline)

    folder: Path | None

    @property
    def headline(self) -> str:
        """The sentence that says where the fault is."""
        about = self.finding
        return headline(self.step, self.function, about.iteration, about.length) + "."

    def __str__(self) -> str:
        return "\n".join([*self.lines(), "" if self.verdict is None else str(self.verdict)]).strip()

    def lines(self) -> list[str]:
        """Return the headline and what belongs to it, without the verdict."""
        lines = [self.headline]
        if self.exact:
            lines.append(f"Replayed exactly: {self.compared} logged values agree to the bit.")
        lines += [f"Note: {note}" for note in self.notes]
        if self.folder is not None:
            lines.append(f"Saved in {self.folder}: python -m nanlab.replay {self.folder}")
        return lines


def headline(step: int, function: str, iteration: int | None, length: int) -> str:
    """Return the sentence that says where a fault is, without its full stop."""
    place = f"Step {step} of {function}"
    if iteration is not None:
        part = f"Iteration {iteration} of {length}" if iteration >= 0 else "What precedes the scan"
        place = f"{part} in {place[0].lower()}{place[1:]}"
    return f"{place} is not finite"


def _one(arguments: list[Any]) -> Any:
    return arguments[0] if len(arguments) == 1 else tuple(arguments)
