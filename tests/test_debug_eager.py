"""`python -m nanlab.debug`: bad values between eager operations, each array by itself."""

import os
import subprocess
import sys
from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nanlab import debug
from nanlab.blame.watch.fault import FaultFound
from nanlab.blame.watch.watch import Watch


@jax.jit
def loss(w):
    """A loss and a statistic that are NaN where w is negative; the gradient is finite."""
    return jnp.sum(jnp.log(w) * 2.0), {"norm": jnp.sum(w**2), "root": jnp.sqrt(w)}


@jax.jit
def masked(w):
    """What it returns is finite, as is its derivative; what that needs is not."""
    safe = jnp.where(w > 0, w, 1.0)
    return jnp.sum(jnp.where(w > 0, jnp.log(safe), 0.0)), jnp.where(w > 0, 1 / w, 0.0)


@jax.jit
def half(w):
    """Half of it is masked with its derivative, which is infinite."""
    return jnp.sum(w**2), jnp.where(w > 0, jnp.sqrt(jnp.where(w > 0, w, 0.0)), 0.0)


def first(w):
    return loss(w)[0]


def watched(act):
    """Run a function under a watch; returns the watch."""
    watch = Watch()
    with watch.watching():
        with suppress(FaultFound):
            act()
        watch.finish()
    return watch


W = np.array([-3.0, 2.0], np.float32)
BAD = {
    "value_and_grad": lambda: jax.value_and_grad(first)(W),
    "of the jitted function": lambda: jax.value_and_grad(jax.jit(first))(W),
    "with aux": lambda: jax.value_and_grad(loss, has_aux=True)(W),
    "aux alone": lambda: jax.value_and_grad(
        jax.jit(lambda w: (jnp.sum(w**2), jnp.log(w))), has_aux=True
    )(W),
    "jvp": lambda: jax.jvp(loss, (W,), (W,)),
    "vjp": lambda: jax.vjp(first, W)[1](jnp.float32(1)),
    "linearize": lambda: jax.linearize(first, W)[1](W),
    "vmap": lambda: jax.vmap(jax.jit(jnp.log))(W),
    "vmap of value_and_grad": lambda: jax.vmap(jax.value_and_grad(first))(W[:, None]),
    "value_and_grad of vmap": lambda: jax.value_and_grad(
        lambda w: jnp.sum(jax.vmap(loss)(w[:, None])[0])
    )(W),
    "an inf": lambda: jax.value_and_grad(jax.jit(lambda w: jnp.log(jax.nn.relu(w)).sum()))(-W),
    "one output masked": lambda: jnp.nan_to_num(jax.vmap(loss)(W[:, None])[0]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_array_that_nothing_has_read_is_a_fault(name):
    fault = watched(BAD[name]).fault
    assert fault is not None
    assert fault.verdict.culprit or name == "an inf"
    site = fault.verdict.culprit or fault.verdict.origin
    assert (site.primitive, site.mechanism) in {
        ("log", "domain"), ("sqrt", "domain"), ("log", "pole"),
    }  # fmt: skip
    assert site.phase == "forward"


def test_each_step_of_a_loop_counts():
    def train():
        w = jnp.array([1.0, 1.0])
        for _ in range(4):
            _, gradient = jax.value_and_grad(jax.jit(lambda w: jnp.sum(jnp.log(w))))(w)
            w = w - 1.5 * gradient

    fault = watched(train).fault
    assert fault is not None
    assert (fault.verdict.culprit.primitive, fault.verdict.culprit.mechanism) == ("log", "domain")


def read_all():
    value, statistics = jax.vmap(loss)(W[:, None])
    jnp.nan_to_num(value)
    jnp.nanmean(statistics["root"])


GOOD = {
    "every bad output is masked": read_all,
    "a read twice": lambda: [jnp.nan_to_num(x) for x in [jnp.log(W)] * 2],
    "aux that needs no derivative": lambda: jax.value_and_grad(masked, has_aux=True)(
        np.array([0.0, 2.0], np.float32)
    ),
    "linearized and not used": lambda: jax.linearize(masked, np.zeros(2, np.float32)),
    "second derivatives": lambda: jax.hessian(lambda w: half(w)[0])(np.zeros(2, np.float32)),
    "second derivatives with aux": lambda: jax.jacfwd(jax.grad(half, has_aux=True), has_aux=True)(
        np.zeros(2, np.float32)
    ),
    "gradient of a gradient": lambda: jax.grad(lambda w: jax.grad(half, has_aux=True)(w)[0].sum())(
        np.zeros(2, np.float32)
    ),
    "pulled back and not used": lambda: jax.vjp(masked, np.zeros(2, np.float32)),
    "each of a batch": lambda: jax.vmap(lambda w: jax.value_and_grad(masked, has_aux=True)(w))(
        np.zeros((2, 2), np.float32)
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_masked_or_reaches_no_output_is_harmless(name):
    watch = watched(GOOD[name])
    assert watch.fault is None
    assert watch.masked
    assert "all was finite" not in watch.summary("it")


# Whose inf it was.


def pole(w):
    return jnp.max(1 / jnp.maximum(w, 0.0))


ORIGINS = {
    "value_and_grad": lambda: jax.value_and_grad(jax.jit(pole))(-1.0),
    "vjp": lambda: jax.vjp(jax.jit(pole), -1.0)[1](1.0),
    "an operation, then a call": lambda: jax.jit(lambda x: jnp.sum(x * 0))(
        jnp.float32(1) / jnp.zeros(2)
    ),
    "pieces": lambda: jax.grad(lambda w: jax.jit(pole)(w) * 2)(-1.0),
}


@pytest.mark.parametrize("name", ORIGINS)
def test_the_inf_behind_a_nan_is_found_in_the_computation_that_made_it(name):
    fault = watched(ORIGINS[name]).fault
    verdict = fault.verdict
    assert (verdict.culprit.primitive, verdict.culprit.mechanism) == ("mul", "0*inf")
    assert (verdict.origin.primitive, verdict.origin.mechanism) == ("div", "pole")
    assert not verdict.input_faults
    assert "the inf behind it was made by" in str(fault)
    assert "passed in" not in str(fault)
    assert "divisor is 0" in verdict.culprit.cure


def test_an_inf_of_the_users_stays_an_argument():
    given = np.full(2, np.inf, np.float32)
    fault = watched(lambda: jax.jit(lambda x: jnp.sum(x * 0))(given)).fault
    assert fault.verdict.origin.mechanism == "input"


# The script's own names, and its end.

NAMES = """
import sys
names = [__name__, __file__, __package__, type(__loader__).__name__, __spec__, __cached__]
names += [(lambda: 0).__code__.co_filename, sys.argv, __loader__.path, __loader__.name]
print(names, __builtins__, sys.modules["__main__"].__file__, open(__file__).read(9))
"""


def output(*command, folder):
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["script.py", "./inside/../script.py", "absolute"])
def test_a_script_has_the_names_that_python_gives_it(own_folder, name):
    (own_folder / "inside").mkdir()
    (own_folder / "script.py").write_text(NAMES)
    name = str(own_folder / "script.py") if name == "absolute" else name
    plain = output(name, "a", folder=own_folder)
    watched_ = output("-m", "nanlab.debug", name, "a", folder=own_folder)
    assert plain[0] == 0
    assert watched_[1] == plain[1]


def test_a_script_that_changes_its_folder_is_explained_and_saved(own_folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (own_folder / "script.py").write_text(
        "import os, jax, jax.numpy as jnp\n"
        "f = jax.jit(lambda x: jnp.log(x))\n"
        "os.chdir('/')\n"
        "f(-1.0)\n"
    )
    folder = os.getcwd()
    try:
        status = debug.main(["--save", "fault", "--json=verdict.json", "script.py"])
    finally:
        os.chdir(folder)
    shown = capsys.readouterr()
    assert status == debug.FAULT
    assert "script.py:2" in (own_folder / "fault/verdict.txt").read_text()
    assert "f = jax.jit(lambda x: jnp.log(x))" in shown.out
    assert (own_folder / "fault/script-script.py").is_file()
    assert (own_folder / "verdict.json").is_file()


def test_a_fault_in_an_exit_handler_shows_the_verdict_alone(own_folder):
    (own_folder / "script.py").write_text(
        "import atexit, jax, jax.numpy as jnp\n"
        "f = jax.jit(lambda x: jnp.log1p(x))\n"
        "atexit.register(lambda: 1 / 0)\n"
        "atexit.register(lambda: f(-4.0))\n"
    )
    status, said, errors = output("-m", "nanlab.debug", "script.py", folder=own_folder)
    assert status == debug.FAULT
    assert "log1p, domain" in said
    assert "nanlab/" not in errors and "FaultFound" not in errors
    assert "ZeroDivisionError" in errors, "the script's own errors are shown"
