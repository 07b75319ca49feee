"""pytest's plugin: a test that makes a NaN in JAX fails with the verdict as its message.

`--nan-check` watches every test, the marker `nanlab` or the fixture of that name one test. When
neither is used, nothing is imported and no test runs differently.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nanlab.blame.watch.watch import Watch


class Watched:
    """The watch on one test: the value of the fixture `nanlab`.

    Attributes:
        watch: the watch; None as long as JAX is not imported.
    """

    def __init__(self) -> None:
        self.watch: Watch | None = None

    @property
    def fault(self) -> Any:
        """What was found so far, a `Fault`; None if nothing was."""
        self.check()
        return self.watch and self.watch.fault

    def check(self) -> None:
        """Wait for what was called so far and look at it."""
        if self.watch is not None:
            self.watch.finish()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--nan-check`."""
    parser.getgroup("nanlab").addoption(
        "--nan-check",
        action="store_true",
        help="watch all that JAX computes in each test: a test in which a jitted call returns an "
        "inf or a NaN that it made fails with nanlab's verdict",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "nanlab(check=True): fail this test if a jitted call in it makes an inf or a NaN; "
        "check=False exempts it from --nan-check",
    )


@pytest.fixture
def nanlab() -> Watched:
    """Fail this test if a jitted call in it makes an inf or a NaN."""
    return Watched()


def _is_watched(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("nanlab")
    if marker is not None:
        return bool(marker.kwargs.get("check", marker.args[0] if marker.args else True))
    fixtures = getattr(item, "fixturenames", ())
    return "nanlab" in fixtures or bool(item.config.getoption("nan_check"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Run a test, watched if it is to be."""
    if not _is_watched(item):
        return (yield)
    from nanlab.cli.guest import when_imported

    __tracebackhide__ = True
    watched = getattr(item, "funcargs", {}).get("nanlab")
    watched = watched if isinstance(watched, Watched) else Watched()

    def start() -> None:
        from nanlab.blame.watch.watch import Watch

        watched.watch = Watch()
        stack.enter_context(watched.watch.watching())

    with ExitStack() as stack:
        stack.enter_context(when_imported("jax", start))
        try:
            result = yield
        except BaseException as error:
            _raise_fault(watched, error)
            raise
        _raise_fault(watched, None)
    return result


def _raise_fault(watched: Watched, error: BaseException | None) -> None:
    """Raise what was found, whatever the test has made of it."""
    __tracebackhide__ = True
    fault = watched.fault
    if fault is None:
        return
    from nanlab.blame.watch.fault import FaultFound, found

    if not isinstance(error, FaultFound):
        raise found(fault) from error
