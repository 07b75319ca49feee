"""Every test runs on two CPU devices, in x64, offline, and in an empty folder of its own."""

import gc
import os
import socket
import sys
import tempfile
import threading
import zlib
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.configuration
import pytest

# Processes that tests start inherit these three. What another run has compiled is not used.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
os.environ["NO_COLOR"] = "1"

# Hypothesis keeps what it finds in a folder that goes with the process.
_FOUND = tempfile.TemporaryDirectory(prefix="nanlab-tests-")
hypothesis.configuration.set_hypothesis_home_dir(_FOUND.name)
# The same examples on every machine, and no time limit on one: the first of them compiles.
hypothesis.settings.register_profile("nanlab", deadline=None, derandomize=True)
hypothesis.settings.load_profile("nanlab")


def pytest_configure(config: pytest.Config) -> None:
    """Set JAX up before any test module is imported; xdist's own process runs no test."""
    socket.socket.connect = _connect_here_only
    if hasattr(config, "workerinput") or not config.getoption("numprocesses"):
        from nanlab.backend.config import configure_lab

        configure_lab(devices=2)
        import jax

        # JAX starts here, so that no test that asks for a device a core gets another number.
        jax.devices()
        # A program that several tests compile is compiled once: kept beside this process alone.
        programs = tempfile.TemporaryDirectory(prefix="nanlab-tests-")
        config.add_cleanup(programs.cleanup)
        jax.config.update("jax_enable_compilation_cache", True)
        jax.config.update("jax_compilation_cache_dir", programs.name)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)
        _add_compiler_options()
        _share_contexts()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add two options of .ci/run."""
    parser.addoption(
        "--optimized", action="store_true", help="compile every test's programs as users do"
    )
    parser.addoption("--one-of", type=int, default=1, help="run one test of this number")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the files that are compiled as users compile first, so that a worker changes once."""
    every = config.getoption("one_of")
    items[:] = [item for item in items if zlib.crc32(item.nodeid.encode()) % every == 0]
    items.sort(key=lambda item: item.get_closest_marker("optimized") is None)


# What these tests compile runs for milliseconds: without LLVM's optimizations and the emitters of
# fused loops, and in one module, a training takes a tenth of the time to compile, an operation
# half of it.
_UNOPTIMIZED: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
_compiler_options: dict[str, Any] = {}


def _add_compiler_options() -> None:
    import jax
    from jax._src import compiler

    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=_UNOPTIMIZED)
    except jax.errors.JaxRuntimeError:  # JAX 0.12 has no other emitters
        del _UNOPTIMIZED["xla_cpu_use_fusion_emitters"]
    options_of = compiler.get_compile_options

    def with_ours(*args: Any, **kwargs: Any) -> Any:
        options = options_of(*args, **kwargs)
        overrides = [*_compiler_options.items(), *options.env_option_overrides]
        options.env_option_overrides = overrides
        return options

    compiler.get_compile_options = with_ours


def _share_contexts() -> None:
    """Let programs share an MLIR context: to make one takes longer than to lower most of them."""
    from jax._src.interpreters import mlir

    make, shared = mlir.make_ir_context, threading.local()

    def make_rarely() -> Any:
        if not getattr(shared, "uses", 0) % 100:
            shared.uses, shared.context = 0, make()
        shared.uses += 1
        return shared.context

    mlir.make_ir_context = make_rarely


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compile as users do in tests that are marked so, or in all; quickly in the others."""
    is_optimized = item.config.getoption("optimized") or item.get_closest_marker("optimized")
    options = {} if is_optimized else _UNOPTIMIZED
    if options == _compiler_options:
        return
    _compiler_options.clear()
    _compiler_options.update(options)
    # For processes that tests start: in this one XLA has read it already.
    os.environ["XLA_FLAGS"] = " ".join(f"--{name}={value}" for name, value in options.items())
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


def pytest_collection_finish() -> None:
    """Leave modules and tests out of garbage collection, and collect more rarely: a tenth less."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip, under `-m smoke`, files without such tests: importing them takes longer than these."""
    if config.option.markexpr != "smoke" or collection_path.suffix != ".py":
        return None
    return True if "mark.smoke" not in collection_path.read_text(encoding="utf-8") else None


_connect = socket.socket.connect


def _connect_here_only(self: socket.socket, address: Any) -> None:
    if isinstance(address, tuple) and address[0] not in {"127.0.0.1", "::1", "localhost"}:
        raise OSError(f"tests run offline, and one of them asked for {address[0]}")
    _connect(self, address)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout: sweeps/, results/, README.md."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is empty and this test's alone, so its results/ touches nobody's."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
