"""`python -m nanlab.debug`: scripts that fail, scripts that do not, and scripts that are wrong."""

import json
import os
import re
import subprocess
import sys
from textwrap import dedent
from types import SimpleNamespace

import jax
import pytest
from sampled import sampled

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

    def go(text, *arguments, before=()):
        (own_folder / "script.py").write_text(dedent(text))
        status = debug.main([*before, "script.py", *arguments])
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
    assert "The argument data already holds NaN: 1 of 2 values, first at [1]." in output


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
        (["--jsn", "script.py"], 2, "unknown option --jsn"),
        (["--after", "soon", "script.py"], 2, "--after soon: must be a number of calls"),
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
        pattern = pattern.replace(r"\.\.\.", ".*")
        # Another machine may round differently.
        pattern = re.sub(r"(\\-)?\d\\\.\d{3,}", r"-?[0-9.e-]+", pattern)
        assert any(re.fullmatch(pattern, line) for line in said), wanted


# What is caught, and what comes at a script's end.

BAD = """
    import jax, jax.numpy as jnp
    step = jax.jit(lambda x: jnp.log(x))
"""


@pytest.fixture
def run_process(own_folder):
    """Run a script's text in a process of its own: (exit status, output, errors)."""

    def go(text, *arguments, before=()):
        (own_folder / "script.py").write_text(dedent(text))
        done = subprocess.run(
            [sys.executable, "-m", "nanlab.debug", *before, *(arguments or ["script.py"])],
            capture_output=True,
            text=True,
            cwd=own_folder,
            timeout=240,
            # A pytest that the script starts is not the one that runs these tests: it has other
            # options, and prints what it prints to a person, not to continuous integration.
            env=dict(os.environ, COLUMNS="100", PYTEST_ADDOPTS="", CI="", BUILD_NUMBER=""),
        )
        return done.returncode, done.stdout, done.stderr

    return go


@pytest.mark.parametrize(
    "rest",
    [
        """
        for i in range(3):
            try:
                step(jnp.float32(-i))
            except:
                print("saving a checkpoint")
        """,
        """
        import sys
        try:
            step(-1.0)
        finally:
            sys.exit(0)
        """,
        """
        from contextlib import suppress
        with suppress(BaseException):
            step(-1.0)
        raise SystemExit(7)
        """,
        """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(2) as pool:
            pool.submit(step, -1.0)
        """,
        """
        import asyncio
        async def task():
            step(-1.0)
        async def main():
            await asyncio.gather(task(), return_exceptions=True)
        asyncio.run(main())
        """,
        """
        def batches():
            try:
                yield step(-1.0)
            except BaseException:
                yield 0.0
        print(list(batches()))
        """,
        """
        try:
            step(-1.0)
        except BaseException:
            raise KeyboardInterrupt
        """,
        """
        try:
            step(-1.0)
        except BaseException:
            raise ValueError("no more")
        """,
    ],
)
def test_whoever_catches_the_exception_the_verdict_comes_and_the_status(run, rest):
    status, output, errors = run(dedent(BAD) + dedent(rest))
    assert status == debug.FAULT
    assert "call 1 of the jitted function <lambda>" in output
    assert re.search("log, (domain|pole)", output)
    assert "finite" not in errors
    assert ("no more" in errors) == ("no more" in rest)


@pytest.mark.parametrize(
    "rest",
    sampled(
        [
            "import os\ntry: step(-1.0)\nexcept BaseException: os._exit(0)",
            "import atexit\natexit.register(lambda: step(-1.0))",
            """
        import threading, time
        def work():
            time.sleep(0.3)
            step(-1.0)
        threading.Thread(target=work).start()
        """,
        ],
        3,
    ),
)
def test_what_happens_while_the_process_ends_is_watched(run_process, rest):
    status, output, _ = run_process(dedent(BAD) + dedent(rest))
    assert status == debug.FAULT
    assert "log, domain" in output
    assert "step = jax.jit(lambda x: jnp.log(x))" in output


def test_under_pytest_the_test_fails_with_the_verdict_and_without_our_source(
    run_process, own_folder
):
    (own_folder / "test_it.py").write_text(
        dedent(BAD) + "def test_a(): step(-1.0)\ndef test_b(): step(1.0)\n"
    )
    status, output, _ = run_process("", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert status == debug.FAULT
    assert "1 failed, 1 passed" in output
    assert "Failed: The fault is in call 1" in output
    assert output.count("log, domain") == 2  # by pytest, and at the end
    assert "nanlab/" not in output
    assert "__tracebackhide__" not in output


def test_once_a_fault_was_found_nothing_else_is_watched(run):
    status, output, errors = run(
        dedent(BAD)
        + dedent("""
        for x in (-1.0, -2.0):
            try:
                print("value", step(x))
            except BaseException:
                print("caught")
        """)
    )
    assert status == debug.FAULT
    assert output.startswith("caught\nvalue nan\nThe fault is in call 1")
    assert "nothing was watched after this fault" in errors


def test_an_error_of_jax_debug_nans_is_the_scripts_and_the_verdict_comes(run):
    status, output, _ = run("""
        import jax, jax.numpy as jnp
        with jax.debug_nans(True):
            try:
                jax.jit(lambda x: jnp.log(x))(-1.0)
            except FloatingPointError:
                print("its own")
    """)
    assert status == debug.FAULT
    assert "its own" in output
    assert "log, domain" in output


# What is watched.


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("jax.pmap(f)(-jnp.ones((1, 3)))", "pmapped function f"),
        ("jax.jit(f).lower(jnp.ones(3)).compile()(-jnp.ones(3))", "compiled function f"),
        ("jax.jit(f).trace(jnp.ones(3)).lower().compile()(-jnp.ones(3))", "compiled function f"),
        ("jax.jit(jax.jit(f))(-jnp.ones(3))", "jitted function f"),
        ("jax.jit(jax.vmap(jax.jit(f)))(-jnp.ones(3))", "jitted function f"),
        ("jit(f)(-jnp.ones(3))", "jitted function f"),
        ("jax.jit(jnp.log)(-jnp.ones(3))", "jitted function log"),
        ("jax.export.export(jax.jit(f))(jnp.ones(3)).call(-jnp.ones(3))", "call_exported"),
        ("jax.lax.map(f, -jnp.ones(3))", "operation scan"),
        ("optax.sgd(f).update(jnp.ones(3), optax.sgd(f).init(jnp.ones(3)))", "operation log"),
        ("print(jnp.log(-jnp.ones(3)))", "operation log at script.py:5"),
        (
            "print(jax.vmap(f)(-jnp.ones(3)))",
            "log, transformed outside jitted functions at script.py:4",
        ),
    ],
)
def test_all_that_jax_computes_is_watched(run, text, kind):
    status, output, errors = run(f"""
        import jax, jax.numpy as jnp, optax
        from jax import jit
        def f(x): return jnp.log(x - 1)
        {text}
    """)
    assert status == debug.FAULT, errors
    assert kind in output
    assert "log, domain" in output or "call_exported, opaque" in output
    assert "finite" not in errors


def test_a_program_that_was_compiled_elsewhere_is_watched_and_cannot_be_explained(run, monkeypatch):
    compiled = jax.jit(lambda x: jax.numpy.log(x)).lower(1.0).compile()
    monkeypatch.setitem(sys.modules, "elsewhere", SimpleNamespace(compiled=compiled))
    status, output, _ = run("""
        from elsewhere import compiled
        compiled(-1.0)
    """)
    assert status == debug.FAULT
    assert "There is a NaN in its output, called at script.py:3." in output
    assert "its program is not known" in output


def test_a_call_that_raises_is_not_told_as_finite(run, capsys):
    with pytest.raises(TypeError):
        run("""
            import jax
            compiled = jax.jit(lambda x: x).lower(1.0).compile()
            compiled(1.0)
            compiled("text")
        """)
    assert "all was finite in 1 call of jitted functions until the script failed" in (
        capsys.readouterr().err
    )


def test_an_operation_whose_nan_another_masks_is_harmless(run):
    status, _, errors = run("""
        import jax.numpy as jnp
        x = jnp.arange(3.0)
        print(jnp.where(x > 1, jnp.log(x - 1), 0.0), jnp.nan_to_num(x / x))
    """)
    assert status == 0
    assert "2 values were not finite, and what used them is finite" in errors
    assert "no fault in" in errors and "all was finite" not in errors


@pytest.mark.parametrize(
    "text",
    [
        "history = jnp.full(3, jnp.nan)\nhistory = history.at[0].set(1.0)",
        "best = jnp.full((), -jnp.inf)\nbest = jnp.maximum(best, -jnp.inf)",
        "data = jnp.array([1.0, jnp.nan])\nprint(jnp.nanmean(data))",
        "mask = jnp.where(jnp.arange(3) > 1, 0.0, -jnp.inf)\nprint(jnp.exp(mask))",
    ],
)
def test_numbers_that_are_bad_on_purpose_are_no_faults(run, text):
    assert run("import jax.numpy as jnp\n" + text)[0] == 0


def test_an_operation_that_makes_a_call_bad_is_the_one_named(run):
    status, output, _ = run("""
        import jax, jax.numpy as jnp
        total = jax.jit(lambda w: (w * 2).sum())
        w = jnp.arange(3.0)
        w = w / w
        total(w)
    """)
    assert status == debug.FAULT
    assert "operation true_divide at script.py:5, outside jitted functions" in output
    assert "It reached call 1 of the jitted function <lambda> as w." in output
    assert "div, 0/0" in output


def test_an_eager_loop_is_stopped_when_no_operation_masks_its_nan(run):
    status, output, _ = run("""
        import jax, jax.numpy as jnp
        @jax.jit
        def loss(w): return jnp.sum(jnp.sqrt(w) * 0.0)
        w = jnp.zeros(3)
        for i in range(100_000):
            w = w - 0.1 * jax.grad(loss)(w)
    """)
    assert status == debug.FAULT
    assert "The fault is in loss, transformed outside jitted functions" in output
    assert "the inf behind it was made by loss at script.py:7" in output
    assert "mul, 0*inf" in output
    assert "in the backward pass" in output


def test_donated_arguments_are_donated_and_explained(run):
    status, output, errors = run("""
        import jax, jax.numpy as jnp
        from functools import partial
        @partial(jax.jit, donate_argnums=0)
        def step(state, rate): return {"w": state["w"] - rate / state["w"]}
        state = {"w": jnp.array([2.0, 1.0])}
        first = state["w"]
        state = step(state, 1.0)
        print("deleted", first.is_deleted())
        step(state, 1.0)
    """)
    assert status == debug.FAULT
    assert "deleted True" in output
    assert "state['w']" in output
    assert "div, pole" in output
    assert "donat" not in errors


@pytest.mark.parametrize("decorator", ["eqx.filter_jit", "eqx.filter_jit(donate='all')"])
def test_under_filter_jit_arguments_and_modules_have_their_names(run, decorator):
    status, output, _ = run(f"""
        import equinox as eqx, jax, jax.numpy as jnp
        class Net(eqx.Module):
            head: eqx.nn.Linear
            log_scale: jax.Array
            def __call__(self, x):
                return self.head(x) / jnp.log(self.log_scale)
        @{decorator}
        def step(net, batch):
            return eqx.filter_grad(lambda n: jnp.mean(jax.vmap(n)(batch["x"]) ** 2))(net)
        net = Net(eqx.nn.Linear(3, 2, key=jax.random.key(0)), jnp.ones(()))
        step(net, {{"x": jnp.ones((4, 3))}})
    """)
    assert status == debug.FAULT
    assert "net.log_scale" in output
    assert "net.head.weight" in output
    assert "in Net" in output
    assert "_impl" not in output


def test_under_nnx_jit_arguments_have_their_names(run):
    status, output, _ = run("""
        from flax import nnx
        import jax.numpy as jnp
        class Net(nnx.Module):
            def __init__(self, rngs):
                self.head = nnx.Linear(3, 2, rngs=rngs)
                self.scale = nnx.Param(jnp.ones(()))
            def __call__(self, x):
                return self.head(x) / jnp.log(self.scale[...])
        @nnx.jit
        def step(net, batch):
            return nnx.value_and_grad(lambda n: jnp.mean(n(batch) ** 2))(net)
        step(Net(nnx.Rngs(0)), jnp.ones((4, 3)))
    """)
    assert status == debug.FAULT
    assert "net['scale']" in output or "net.scale" in output
    assert "in Net" in output


# What it does not change.


def test_jax_reads_the_environment_that_the_script_sets(run_process):
    status, output, errors = run_process("""
        import os
        os.environ["JAX_ENABLE_X64"] = "1"
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=3"
        import jax, jax.numpy as jnp
        print(jax.jit(lambda x: x / 3)(1.0).dtype, len(jax.devices()))
    """)
    assert status == 0
    assert output == "float64 3\n"
    assert "all was finite in 1 call" in errors


# JAX 0.10's fast path, which the watch keeps empty, words one refusal in a way of its own.
DIFFERS = {
    "used after donation": {"RuntimeError", "ValueError"},
}


@pytest.mark.parametrize("first", sampled(range(12), 12))
def test_a_watched_script_computes_the_same_as_the_unwatched_one(first, repository, own_folder):
    script = repository / "tests/compositions.py"
    commands = {"plain": [], "watched": ["-m", "nanlab.debug"]}
    running = {
        name: subprocess.Popen(
            [sys.executable, *way, str(script), f"{name}.json", "12", str(first)],
            cwd=own_folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, way in commands.items()
    }
    said = {name: process.communicate(timeout=400)[0] for name, process in running.items()}
    assert {name: process.returncode for name, process in running.items()} == {
        "plain": 0,
        "watched": 0,
    }, said
    assert "nanlab.debug: all was finite in" in said["watched"]
    plain, watched = (json.loads((own_folder / f"{name}.json").read_text()) for name in commands)
    assert plain.keys() == watched.keys()
    assert len(plain) > 12
    for name, outcome in plain.items():
        kinds = DIFFERS.get(name.removesuffix(", again"))
        if kinds:
            assert {outcome["raised"], watched[name]["raised"]} <= kinds
        else:
            assert outcome == watched[name], name


# The command line.


def test_json_holds_the_verdict(run, own_folder):
    status, output, _ = run(dedent(BAD) + "step(-1.0)", before=["--json=verdict.json"])
    verdict = json.loads((own_folder / "verdict.json").read_text())
    assert status == verdict["exit_status"] == debug.FAULT
    assert verdict["fault"]
    assert verdict["function"] == "<lambda>"
    assert verdict["call"] == 1
    assert verdict["culprit"]["primitive"] == "log"
    assert verdict["place"] == "script.py:4"
    assert "log, domain" in output
    status, output, _ = run(dedent(BAD) + "step(-1.0)", before=["--json"])
    assert json.loads(output)["culprit"]["primitive"] == "log"
    status, output, _ = run(dedent(BAD) + "step(1.0)", before=["--json"])
    assert json.loads(output) == {"fault": False, "calls": 1, "operations": 0, "exit_status": 0}


def test_after_leaves_out_the_first_calls(run):
    text = dedent(BAD) + "for x in (-1.0, 1.0, -2.0): print('value', step(x))"
    status, output, _ = run(text, before=["--after", "1"])
    assert status == debug.FAULT
    assert "value nan\nvalue 0.0\nThe fault is in call 3" in output
    status, _, errors = run(text, before=["--after=3"])
    assert status == debug.UNWATCHED
    assert "--after 3 left out all of 3 calls of jitted functions: nothing was watched" in errors


def test_what_could_not_be_read_is_not_told_as_finite(run, monkeypatch):
    from nanlab.blame.watch.outputs import OutputReader

    monkeypatch.setattr(OutputReader, "finish", lambda self, reading, original: None)
    status, _, errors = run(dedent(BAD) + "step(1.0)")
    assert status == debug.UNWATCHED
    assert "the outputs of 1 computations could not be read" in errors


def test_a_fault_that_cannot_be_explained_is_a_fault(run):
    status, output, _ = run("""
        import jax, jax.numpy as jnp
        box = jax.new_ref(jnp.zeros(()))
        @jax.jit
        def step(x):
            box[...] += x
            return jnp.log(box[...])
        step(-1.0)
    """)
    assert status == debug.FAULT
    assert "call 1 of the jitted function step" in output


def test_a_value_that_came_bad_from_outside_jax_is_said_with_the_call_before(run):
    status, output, _ = run("""
        import jax, jax.numpy as jnp, numpy as np
        gradient = jax.jit(lambda w: 2 * w)
        update = jax.jit(lambda w, g: w - g)
        g = np.asarray(gradient(jnp.zeros(3)))
        with np.errstate(all="ignore"):
            update(jnp.zeros(3), g / np.sqrt((g**2).sum()))
    """)
    assert status == debug.FAULT
    assert "g was bad when call 2 of <lambda>, called at script.py:7, got it" in output
    assert "it comes from outside JAX" in output
    assert "The outputs of call 1 of <lambda>, the last one before, were finite" in output


def test_what_nanlab_itself_computes_is_not_the_scripts(run):
    status, output, errors = run("""
        import jax, jax.numpy as jnp, nanlab
        root = jax.jit(jax.grad(lambda x: jnp.sqrt(x).sum()))
        verdict = nanlab.pinpoint(root, jnp.array([0.0, 1.0]))
        print(verdict.culprit or verdict.origin)
        print(nanlab.lint(root, jnp.array([1.0, 1.0])).findings[0].sentence)
        print(root(jnp.array([4.0, 1.0])))
    """)
    assert status == 0, output + errors
    assert "pole" in output and "nanlab.debug: all was finite in" in output + errors
    status, output, _ = run("""
        import jax, jax.numpy as jnp, nanlab
        root = jax.jit(jax.grad(lambda x: jnp.sqrt(x).sum()))
        nanlab.pinpoint(root, jnp.array([0.0, 1.0]))
        root(jnp.array([0.0, 1.0])).block_until_ready()
    """)
    assert status == debug.FAULT, "the script's own call is watched as before"
