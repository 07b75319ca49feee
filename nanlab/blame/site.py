"""One equation of a program, in one iteration of the loops around it: where, and what met there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanlab.blame.vocabulary import Mechanism, Phase

if TYPE_CHECKING:
    from nanlab.blame.diagnosis.contents import Contents


@dataclass(frozen=True, kw_only=True)
class Site:
    """One equation of the program, with its loop iteration: where, and what met there.

    Attributes:
        primitive: its name, as JAX prints it; "" if an argument or a constant is an output as
            it is.
        phase: "data", "forward", "backward" or "update".
        module: the path of the module around it, "" outside modules.
        source: the innermost frame outside installed libraries as tables write it, "file:line"
            with the file from its package's root; "" if there is none.
        function: the qualified name of that frame's function, or "".
        file, line: the frame's file as Python knows it, and its line; "" and 0 if there is none.
        code: the text of that line, "" if it cannot be read.
        library: "file:line" of the library's frame below it, from its package's root, or "".
        mechanism: the arithmetic.
        iterations: of the loops around it, counted from 0, outermost first.
        lane: under `vmap`, the index of the first bad element's lane; of nested ones a tuple,
            outermost first; None where there is none, or all went bad.
        operands, results: what they held; empty for the links of a chain and in tables.
        element: the index, in the first result, of the element whose numbers are shown.
    """

    primitive: str
    phase: Phase
    module: str
    source: str
    function: str
    library: str
    mechanism: Mechanism
    file: str = ""
    line: int = 0
    code: str = ""
    iterations: tuple[int, ...] = ()
    lane: int | tuple[int, ...] | None = None
    operands: tuple[Contents, ...] = ()
    results: tuple[Contents, ...] = ()
    element: tuple[int, ...] | None = None

    @property
    def cure(self) -> str:
        """What usually cures this mechanism at this primitive."""
        from nanlab.blame.explain.remedies import cure

        is_nan = any(result.nans for result in self.results)
        dtype = self.results[0].dtype if self.results else ""
        return cure(self.mechanism, self.primitive, self.phase, dtype=dtype, is_nan=is_nan)
