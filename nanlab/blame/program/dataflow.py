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
    elif about.site is not None:
        site = program.sites[about.site]
        if site.opened is None:
            yield from site.operands
        else:
            yield from _feeders_of_result(program, site, site.results.index(value))


def _feeders_of_argument(
    program: Program, frame_index: int, place: int, *, around: bool
) -> Iterator[int]:
    frame = program.frames[frame_index]
    if frame.parent is None:
        return
    site = program.sites[frame.parent]
    assert site.opened is not None
    branch = site.frames.index(frame_index)
    yield site.operands[site.opened.operands[branch][place]]
    carried = place - site.opened.consts
    if around and frame.kind in ("scan", "while") and 0 <= carried < site.opened.carry:
        yield frame.results[carried]


def _feeders_of_result(program: Program, site: Equation, place: int) -> Iterator[int]:
    assert site.opened is not None
    yield from (program.frames[index].results[place] for index in site.frames)
    if site.opened.kind == "cond":
        yield site.operands[0]  # it chooses the branch
    elif place < site.opened.carry:  # a loop may run no iteration
        yield site.operands[site.opened.operands[0][site.opened.consts + place]]


def upstream(
    program: Program, values: Iterable[int], *, through: Callable[[Equation], bool], around: bool
) -> set[int]:
    """These values and all that goes into them, by way of sites that pass `through`.

    Args:
        program: the program.
        values: by number.
        through: a value that a site makes which does not pass is left out.
        around: whether what a loop's iteration leaves goes into the next one.
    """
    found: set[int] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        made_by = program.values[value].site
        if value in found or (made_by is not None and not through(program.sites[made_by])):
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
