"""pytest's plugin: tests of a stranger's project, in processes of their own."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from textwrap import dedent

import pytest

PLUGIN = "nanlab.cli.pytest_plugin"
# Where nanlab is installed, pytest loads the plugin by itself, and refuses to do so twice.
IS_INSTALLED = any(point.value == PLUGIN for point in entry_points(group="pytest11"))
TESTS = """
    import pytest

    def test_makes_a_nan():
        import jax, jax.numpy as jnp
        step = jax.jit(lambda x: jnp.log(x) * 2)
        step(jnp.float32(-1.0))

    def test_catches_everything():
        import jax, jax.numpy as jnp
        try:
            jax.jit(lambda x: jnp.sqrt(x))(jnp.float32(-1.0))
        except BaseException:
            pass

    def test_compares_with_nan():
        import jax, jax.numpy as jnp
        value = jax.jit(lambda x: x / x)(jnp.float32(0.0))
        assert value == 1.0

    def test_is_finite():
        import jax
        assert jax.jit(lambda x: x + 1)(1.0) == 2.0

    def test_without_jax():
        assert 1 + 1 == 2

    @pytest.mark.nanlab(check=False)
    def test_means_its_nan():
        import jax, jax.numpy as jnp
        assert jnp.isnan(jax.jit(lambda x: jnp.log(x))(-1.0))

    def test_fails_by_itself():
        assert 1 + 1 == 3
"""


@pytest.fixture
def run_pytest(own_folder):
    """Run a file of tests: (exit status, output)."""

    def go(text, *options, autoload=False):
        (own_folder / "test_it.py").write_text(dedent(text))
        # The plugins of these tests take as long to import as JAX.
        environment = dict(os.environ, COLUMNS="100", PYTEST_ADDOPTS="", CI="", BUILD_NUMBER="")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *(() if IS_INSTALLED and autoload else ("-p", PLUGIN)),
                *options,
            ],
            capture_output=True,
            text=True,
            cwd=own_folder,
            timeout=240,
            env=environment | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "" if autoload else "1"},
        )
        return done.returncode, done.stdout + done.stderr

    return go


@pytest.mark.parametrize("options", [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)])
def test_with_nan_check_each_test_that_makes_a_nan_fails_with_its_verdict(run_pytest, options):
    status, output = run_pytest(TESTS, "--nan-check", *options, autoload=bool(options))
    assert status == 1, output
    assert "4 failed, 3 passed" in output
    for name, what in (("makes_a_nan", "log, domain"), ("catches_everything", "sqrt, domain"),
                       ("compares_with_nan", "div, 0/0")):  # fmt: skip
        assert f"test_{name}" in output
        assert what in output
    assert "test_it.py:6" in output
    assert "step = jax.jit(lambda x: jnp.log(x) * 2)" in output
    assert "assert (1 + 1) == 3" in output
    assert "nanlab/blame" not in output


def test_without_it_nothing_is_watched_and_nothing_imported(run_pytest):
    status, output = run_pytest(
        """
        import sys
        def test_nothing_heavy():
            own = sorted(m for m in sys.modules if m.startswith("nanlab"))
            assert own == ["nanlab", "nanlab.cli", "nanlab.cli.pytest_plugin"]
        def test_nan():
            import jax, jax.numpy as jnp
            from jax._src import pjit
            assert pjit._run_python_pjit.__module__ == "jax._src.pjit"
            assert jnp.isnan(jax.jit(lambda x: jnp.log(x))(-1.0))
        """,
        autoload=True,
    )
    assert (status, "2 passed" in output) == (0, True), output
    heavy = "{'jax', 'numpy', 'rich'} & set(sys.modules)"
    # Other plugins may import these.
    script = f"import sys, {PLUGIN}; assert not {heavy}"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


def test_the_marker_and_the_fixture_watch_one_test(run_pytest):
    status, output = run_pytest(
        """
        import pytest, jax, jax.numpy as jnp
        step = jax.jit(lambda x: jnp.log(x))
        @pytest.mark.nanlab
        def test_marked(): step(-1.0)
        def test_fixture(nanlab): step(-2.0)
        def test_asks(nanlab):
            step(1.0)
            assert nanlab.fault is None
            assert nanlab.watch.calls == 1
        def test_not_watched(): step(-3.0)
        def test_eager(nanlab): print(jnp.sqrt(-jnp.ones(3)))
        """,
        "--strict-markers",
    )
    assert status == 1, output
    assert "3 failed, 2 passed" in output
    assert "operation sqrt at test_it.py:12" in output
