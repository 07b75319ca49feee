"""`python -m nanlab.debug`: scripts that fail, scripts that do not, and scripts that are wrong."""

import re
import subprocess
import sys
from textwrap import dedent

import jax
import pytest

from nanlab import debug

TRAINING = """
    import sys
    from functools import partial
    import jax, jax.numpy as jnp

    @partial(jax.jit, donate_argnums=0)
    def step(w, x):
        def loss(w):
            return jnp.mean(jnp.log(w * x))
        value, gradient = jax.value_and_grad(loss)(w)
        return w - float(sys.argv[1]) * gradient, value

    w, x = jnp.ones(3), jnp.arange(1.0, 4.0)
    for number in range(4):
        w, value = step(w, x)
        print("step", number)
"""


@pytest.fixture
def run(own_folder, monkeypatch, capsys):
    """Run a script's text under nanlab.debug: (exit status, output, errors)."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    own_jit = jax.jit

    def go(text, *arguments):
        (own_folder / "script.py").write_text(dedent(text))
        status = debug.main(["script.py", *arguments])
        assert jax.jit is own_jit, "the watch was left on"
        return (status, *capsys.readouterr())

    return go


def test_the_first_faulty_call_is_told_and_the_script_stops_there(run):
    # w is 1 - 6 / 3 = -1 after the first call.
    status, output, errors = run(TRAINING, "6.0")
    assert status == debug.FAULT
    assert "step 0" in output
    assert "step 1" not in output
    assert "call 2 of the jitted function step" in output
    assert "log, domain" in output
    assert "script.py:9" in output
    assert "return jnp.mean(jnp.log(w * x))" in output
    assert not errors


def test_a_script_whose_numbers_are_finite_runs_to_its_end(run):
    status, output, errors = run(TRAINING, "0.001")
    assert status == 0
    assert "step 3" in output
    assert "all was finite in 4 calls of jitted functions" in errors


def test_a_script_without_a_jitted_call_is_told_that_nothing_was_watched(run):
    status, _, errors = run("print('hello')")
    assert status == debug.UNWATCHED
    assert "computed nothing with JAX, so nothing was watched" in errors


def test_an_inf_that_is_handed_on_is_meant(run):
    status, _, errors = run("""
        import jax, jax.numpy as jnp
        best = jax.jit(lambda: (jnp.full((), jnp.inf), jnp.zeros(2)))()
        keep = jax.jit(lambda best, loss: jnp.where(loss < -1, loss, best[0]))
        keep(best, 1.0)
    """)
    assert status == 0
    assert "all was finite in 2 calls" in errors


def test_a_nan_that_is_handed_in_is_told_as_such(run):
    status, output, _ = run("""
        import jax, jax.numpy as jnp
        data = jnp.array([1.0, jnp.nan])
        jax.jit(lambda data: data.sum())(data)
    """)
    assert status == debug.FAULT
    assert "Came in with an inf or a NaN: data" in output


def test_methods_static_arguments_decorator_forms_and_inner_calls_work(run):
    status, _, errors = run("""
        import jax, jax.numpy as jnp

        @jax.jit
        def inner(x):
            return x + 1

        class Model:
            @jax.jit(static_argnums=(0, 2))
            def __call__(self, x, power):
                return inner(x) ** power

        assert float(Model()(jnp.float32(1), 3)) == 8
        assert float(jax.grad(inner)(2.0)) == 1
        assert float(jax.vmap(inner)(jnp.ones(2)).sum()) == 4
        assert inner.lower(1.0).compile()
        assert inner.__name__ == "inner"
    """)
    assert status == 0
    # Under grad and vmap a jitted function is no outermost call.
    assert "in 1 call of" in errors


def test_no_except_of_the_script_hides_the_fault(run):
    status, output, _ = run("""
        import jax, jax.numpy as jnp
        try:
            jax.jit(lambda x: jnp.sqrt(x))(-1.0)
        except Exception:
            print("hidden")
    """)
    assert status == debug.FAULT
    assert "hidden" not in output
    assert "sqrt, domain" in output


def test_the_scripts_own_exit_status_is_kept(run):
    assert run("raise SystemExit(7)")[0] == 7
    status, _, errors = run("raise SystemExit('no data')")
    assert status == 1
    assert "no data" in errors


def test_ctrl_c_is_answered_with_what_was_seen_until_then(run):
    status, _, errors = run("""
        import jax
        jax.jit(lambda x: x + 1)(1.0)
        raise KeyboardInterrupt
    """)
    assert status == debug.INTERRUPTED
    assert "all was finite in 1 call of jitted functions until it was stopped" in errors


def test_the_scripts_own_error_is_its_own(run):
    with pytest.raises(ZeroDivisionError):
        run("1 / 0")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "usage: python -m nanlab.debug"),
        (["--help"], 0, "usage: python -m nanlab.debug"),
        (["nowhere.py"], 2, "there is no script nowhere.py"),
        (["-m"], 2, "needs the name of a module"),
        (["-m", "nowhere.at_all"], 2, "there is no module nowhere.at_all"),
    ],
)
def test_what_it_cannot_run_is_said_in_a_sentence(arguments, status, said, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert debug.main(arguments) == status
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


def test_a_module_runs_from_the_current_folder(own_folder):
    (own_folder / "trains.py").write_text("import jax\njax.jit(lambda x: 1 / x)(0.0)\n")
    done = subprocess.run(
        [sys.executable, "-m", "nanlab.debug", "-m", "trains"],
        capture_output=True,
        text=True,
        cwd=own_folder,
        timeout=120,
    )
    assert done.returncode == debug.FAULT
    assert "There is an inf in output." in done.stdout
    assert "trains.py:2" in done.stdout
    assert "Traceback" not in done.stderr


def test_what_the_readme_shows_is_what_the_example_says(repository, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "88")
    text = (repository / "examples/nan_in_a_where.py").read_text()
    with jax.enable_x64(False):
        status, output, _ = run(text)
    assert status == debug.FAULT
    shown = (repository / "README.md").read_text().partition("```text\n")[2].partition("```")[0]
    said = [line.rstrip() for line in output.replace("script.py", "nan_in_a_where.py").splitlines()]
    for wanted in shown.replace("examples/", "").splitlines():
        pattern = re.sub(r"(\\ )+", " +", re.escape(wanted))
        # Another machine may round differently.
        pattern = re.sub(r"(\\-)?\d\\\.\d{3,}", r"-?[0-9.e-]+", pattern)
        assert any(re.fullmatch(pattern, line) for line in said), wanted
