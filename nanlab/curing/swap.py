"""Rewritten files -> the functions that are alive run the rewritten code, while a block is open.

A program is traced from its Python functions: while the code of those functions is that of the
rewritten file, what is traced is the rewritten program, derivatives included.
"""

from __future__ import annotations

import gc
import hashlib
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import CodeType, FunctionType
from typing import Any

import jax

from nanlab.backend.jaxpr import RETRACED, clear_fast_paths
from nanlab.curing.source import Source

_LOCK = threading.RLock()
_REWRITTEN: Any = jax.make_user_context(None) if hasattr(jax, "make_user_context") else None
"""A part of the key of every cached trace and program."""

_Key = tuple[str, int, tuple[int, int]]


class NotApplicable(Exception):
    """A rewritten file cannot take the place of the code that runs."""


class Swap:
    """The code of some files, and the rewritten code.

    Args:
        pairs: for each file, what it is and what it becomes.
    """

    def __init__(self, pairs: Mapping[str, tuple[Source, Source]]) -> None:
        self.pairs = dict(pairs)
        self._new: dict[str, dict[_Key, CodeType]] = {}
        text = "\0".join(f"{file}\0{new.text}" for file, (_, new) in sorted(pairs.items()))
        self._digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        for file, (old, new) in self.pairs.items():
            try:
                codes = zip(_codes(old), _codes(new), strict=True)
                changed = {_key(before): after for before, after in codes if before != after}
            except (SyntaxError, ValueError) as error:
                raise NotApplicable(str(error)) from error
            self._new[file] = changed

    @contextmanager
    def open(self) -> Generator[None]:
        """Run the rewritten code, in every thread, while this is open.

        Yields:
            Nothing.

        Raises:
            NotApplicable: no function that is alive comes from these lines, or it cannot read a
                name that the rewrite needs.
        """
        with _LOCK, ExitStack() as stack:
            for file, codes in self._new.items():
                count = 0
                for function in _functions_of(file):
                    new = codes.get(_key(function.__code__))
                    if new is None:
                        continue
                    if new.co_freevars != function.__code__.co_freevars:
                        raise NotApplicable("the rewrite reads a name of an enclosing function")
                    stack.callback(setattr, function, "__code__", function.__code__)
                    function.__code__ = new
                    count += 1
                if not count:
                    raise NotApplicable(f"no function of {file} runs these lines")
            stack.enter_context(_traced_apart(self._digest))
            yield


@contextmanager
def _traced_apart(digest: str) -> Generator[None]:
    """Trace and compile apart from what was, while this is open."""
    if _REWRITTEN is not None:
        with _REWRITTEN(digest):
            yield
        return
    # JAX < 0.9 has no public part of the key. Delete when the floor is 0.9.
    clear_fast_paths()
    with RETRACED(f"{RETRACED.value or ''}(?!){digest}"):
        yield
    clear_fast_paths()


def _codes(source: Source) -> Iterator[CodeType]:
    """Yield the code objects of a file in the order in which they are nested, without its own."""

    def inside(code: CodeType) -> Iterator[CodeType]:
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield constant
                yield from inside(constant)

    yield from inside(compile(source.text, source.file, "exec", dont_inherit=True))


def _key(code: CodeType) -> _Key:
    # Two lambdas on one line differ in where they end.
    is_lambda = code.co_name == "<lambda>"
    ends = [(end, column) for _, end, _, column in code.co_positions() if end and column]
    end = max(ends, default=(0, 0)) if is_lambda else (0, 0)
    return code.co_qualname, code.co_firstlineno, end


def _functions_of(file: str) -> list[FunctionType]:
    return [
        x for x in gc.get_objects() if type(x) is FunctionType and x.__code__.co_filename == file
    ]
