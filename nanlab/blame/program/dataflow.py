"""Program -> who feeds whom, whatever its values hold: data flow through loops and branches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from nanlab.blame.program.program import Equation, Program


def feeders(program: Program, value: int, *, around: bool) -> Iterator[int]:
    """The values that go straight into `value`.

    Args:
        program: the program.
        value: by number.
        around: whether what a loop's iteration leaves goes into the next one.
    """
    about = program.values[value]
    if about.argument is not None:
        yield from _feeders_of_argument(program, about.frame, about.argument, around=around)
    elif about.equation is not None:
        equation = program.equations[about.equation]
        if equation.opened is None:
            yield from equation.operands
        else:
            yield from _feeders_of_result(program, equation, equation.results.index(value))


def _feeders_of_argument(
    program: Program, frame_index: int, place: int, *, around: bool
) -> Iterator[int]:
    frame = program.frames[frame_index]
    if frame.parent is None:
        return
    equation = program.equations[frame.parent]
    assert equation.opened is not None
    branch = equation.frames.index(frame_index)
    yield equation.operands[equation.opened.operands[branch][place]]
    carried = place - equation.opened.consts
    if around and frame.kind in ("scan", "while") and 0 <= carried < equation.opened.carry:
        yield frame.results[carried]


def _feeders_of_result(program: Program, equation: Equation, place: int) -> Iterator[int]:
    assert equation.opened is not None
    yield from (program.frames[index].results[place] for index in equation.frames)
    if equation.opened.kind == "cond":
        yield equation.operands[0]  # it chooses the branch
    elif place < equation.opened.carry:  # a loop may run no iteration
        yield equation.operands[equation.opened.operands[0][equation.opened.consts + place]]


def upstream(
    program: Program, values: Iterable[int], *, through: Callable[[Equation], bool], around: bool
) -> set[int]:
    """These values and all that goes into them, by way of equations that pass `through`.

    Args:
        program: the program.
        values: by number.
        through: a value that an equation makes which does not pass is left out.
        around: whether what a loop's iteration leaves goes into the next one.
    """
    found: set[int] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        made_by = program.values[value].equation
        if value in found or (made_by is not None and not through(program.equations[made_by])):
            continue
        found.add(value)
        stack += feeders(program, value, around=around)
    return found


def downstream(program: Program, values: Iterable[int]) -> set[int]:
    """These values and all that they go into; an iteration of a loop does not reach the next."""
    fed: dict[int, list[int]] = {}
    for value in range(len(program.values)):
        for feeder in feeders(program, value, around=False):
            fed.setdefault(feeder, []).append(value)
    found: set[int] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        if value not in found:
            found.add(value)
            stack += fed.get(value, [])
    return found
