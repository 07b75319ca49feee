"""Static data flow of a program, through loops and branches, whatever the values are.

`iterated` follows the carry of a loop into its previous iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from nanlab.blame.program.program import Equation, Program


def feeders(program: Program, value: int, *, iterated: bool) -> Iterator[int]:
    """Yield the values from which `value` is computed directly."""
    info = program.values[value]
    if info.argument is not None:
        yield from _feeders_of_argument(program, info.frame, info.argument, iterated=iterated)
    elif info.equation is not None:
        equation = program.equations[info.equation]
        if equation.opened is None:
            yield from equation.operands
        else:
            yield from _feeders_of_result(program, equation, equation.results.index(value))


def _feeders_of_argument(
    program: Program, frame_index: int, index: int, *, iterated: bool
) -> Iterator[int]:
    frame = program.frames[frame_index]
    if frame.parent is None:
        return
    equation = program.equations[frame.parent]
    assert equation.opened is not None
    branch = equation.frames.index(frame_index)
    yield equation.operands[equation.opened.operands[branch][index]]
    carried = index - equation.opened.consts
    if iterated and frame.kind in ("scan", "while") and 0 <= carried < equation.opened.carry:
        yield frame.results[carried]


def _feeders_of_result(program: Program, equation: Equation, index: int) -> Iterator[int]:
    assert equation.opened is not None
    yield from (program.frames[frame].results[index] for frame in equation.frames)
    if equation.opened.kind == "cond":
        yield equation.operands[0]  # the branch index
    elif index < equation.opened.carry:  # a loop may run no iteration
        yield equation.operands[equation.opened.operands[0][equation.opened.consts + index]]


def upstream(
    program: Program,
    values: Iterable[int],
    *,
    through: Callable[[Equation], bool],
    iterated: bool,
) -> set[int]:
    """Return these values and all from which they are computed by equations that pass `through`."""
    found: set[int] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        maker = program.values[value].equation
        if value in found or (maker is not None and not through(program.equations[maker])):
            continue
        found.add(value)
        stack += feeders(program, value, iterated=iterated)
    return found


def downstream(program: Program, values: Iterable[int]) -> set[int]:
    """Return these values and all computed from them within one iteration of each loop."""
    fed: dict[int, list[int]] = {}
    for value in range(len(program.values)):
        for feeder in feeders(program, value, iterated=False):
            fed.setdefault(feeder, []).append(value)
    found: set[int] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        if value not in found:
            found.add(value)
            stack += fed.get(value, [])
    return found
