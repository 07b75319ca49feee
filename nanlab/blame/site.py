"""One equation of a program in one loop iteration: its location and the numbers involved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanlab.blame.vocabulary import Mechanism, Phase

if TYPE_CHECKING:
    from nanlab.blame.diagnosis.contents import Contents


@dataclass(frozen=True, kw_only=True)
class Site:
    """One equation of a program in one loop iteration: its location and the numbers involved.

    Attributes:
        primitive: name of the primitive, as JAX prints it; "" for an argument or a constant that
            is returned as it is.
        phase: part of the training step: "init", "data", "forward", "backward" or "update".
        module: path of the enclosing module; "" outside modules.
        source: innermost frame outside installed libraries, "file:line" with the file relative to
            its package's root; "" if there is none.
        function: qualified name of that frame's function, or "".
        library: innermost frame in an installed library, "file:line" relative to the package's
            root, or "".
        mechanism: arithmetic by which the inf or the NaN arose.
        file: path of the frame's file, as Python knows it, or "".
        line: line number in that file, or 0.
        code: text of that line; "" if it cannot be read.
        library_code: text of the library's line; "" if it cannot be read.
        iterations: iterations of the enclosing loops, counted from 0, outermost first.
        lane: lane of the first bad element under `vmap`, a tuple (outermost first) if vmaps are
            nested; None outside a vmap, or if all lanes are bad.
        operands: contents of the operands; empty in a chain and in tables.
        results: contents of the results; empty in a chain and in tables.
        element: index, in the first result, of the element whose numbers are shown.
        cure: what usually cures the fault, in view of its whole chain, or of its equation alone in
            a finding of `nanlab.lint`; empty in a chain and in tables.

    Example:
        >>> import jax.numpy as jnp
        >>> import nanlab
        >>> site = nanlab.pinpoint(lambda x: jnp.sqrt(x - 2), jnp.array([3.0, 1.0])).culprit
        >>> site.primitive, str(site.mechanism), str(site.phase), site.element
        ('sqrt', 'domain', 'forward', (1,))
        >>> site.operands[0].expression, site.operands[0].there
        ('x - 2.0', (-1.0,))
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
    library_code: str = ""
    iterations: tuple[int, ...] = ()
    lane: int | tuple[int, ...] | None = None
    operands: tuple[Contents, ...] = ()
    results: tuple[Contents, ...] = ()
    element: tuple[int, ...] | None = None
    cure: str = ""
