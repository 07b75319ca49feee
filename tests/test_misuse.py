"""Misuse of `nanlab.pinpoint` ends in a sentence that says what to do and names the user's line."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import checkify

import nanlab

X = np.float32([1, -1])
HERE = Path(__file__).name


def branches(x):
    return jnp.log(x) if x[0] > 0 else x  # <-- here


def loops(x):
    while x.sum() < 3:  # <-- here
        x = x * 2
    return x


def asserts(x):
    assert jnp.all(x > 0)  # <-- here
    return x


def converts(x):
    return x * float(x[0])  # <-- here


def takes_an_item(x):
    return x * x[0].item()  # <-- here


def lists(x):
    return jnp.array(x.tolist())  # <-- here


def uses_numpy(x):
    return np.log(x)  # <-- here


def leaves_jax(x):
    return jnp.asarray(np.asarray(x))  # <-- here


def counts(x):
    return [x for _ in range(x.astype(int)[0])]  # <-- here


def selects(x):
    return x[x > 0].sum()  # <-- here


@jax.jit
def nested(x):
    return lax.scan(lambda c, v: (c, jnp.log(v) if v > 0 else v), 0, x)[1]  # <-- here


def marked(function):
    """The line of a function that is marked."""
    code = getattr(function, "__wrapped__", function).__code__
    lines = Path(code.co_filename).read_text().splitlines()
    return 1 + next(i for i in range(code.co_firstlineno, len(lines)) if "<-- here" in lines[i])


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (branches, "Use jnp.where"),
        (loops, "lax.while_loop"),
        (asserts, "assert"),
        (converts, "Leave it an array"),
        (takes_an_item, ".item()"),
        (lists, ".tolist()"),
        (uses_numpy, "Use jax.numpy"),
        (leaves_jax, "Use jax.numpy"),
        (counts, "Pass a Python int"),
        (selects, "jnp.where(mask, x, 0)"),
        (nested, "Use jnp.where"),
    ],
)
def test_a_function_that_cannot_be_traced_is_named_with_its_line(function, advice):
    with pytest.raises((TypeError, IndexError)) as caught:
        nanlab.pinpoint(function, X)
    said = str(caught.value)
    name = getattr(function, "__wrapped__", function).__name__
    assert said.startswith(f"{name} cannot be traced: at ")
    assert f"{HERE}:{marked(function)}" in said
    assert "<-- here" in said
    assert advice in said
    assert "call.py" not in said
    assert "\n" not in said


def sums(x, y, *, scale=1.0):
    return jnp.sum(x * y) * scale


def yields(x):
    yield jnp.log(x)


async def awaits(x):
    return x


class Model:
    def loss(self, x):
        return jnp.sum(x)


sizes = jax.jit(lambda x, shape: x.reshape(shape), static_argnums=1)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: nanlab.pinpoint(jnp.log(X)), r"got an array, float32\[2\]: pass the function"),
        (lambda: nanlab.pinpoint({"loss": jnp.log(X)}, X), "got a dict: pass the function itself"),
        (lambda: nanlab.pinpoint(None, X), "got None: pass"),
        (lambda: nanlab.pinpoint("loss", X), "got 'loss': pass"),
        (lambda: nanlab.pinpoint(float(np.exp(1.0)), X), r"got 2\.718.*: pass"),
        (
            lambda: nanlab.pinpoint(jax.jit(jnp.log).lower(X).compile(), X),
            "pass the function that was compiled",
        ),
        (lambda: nanlab.pinpoint(jax.jit(jnp.log).lower(X), X), "pass the function that was"),
        (lambda: nanlab.pinpoint(yields, X), "yields is a generator function"),
        (lambda: nanlab.pinpoint(awaits, X), "awaits is an async function"),
        (lambda: nanlab.pinpoint(sums, X), "sums.*missing a required argument: 'y'"),
        (lambda: nanlab.pinpoint(sums, X, X, X), "sums.*too many positional arguments"),
        (lambda: nanlab.pinpoint(sums, X, X, factor=2), "unexpected keyword argument 'factor'"),
        (lambda: nanlab.pinpoint(jax.jit(sums), X), "missing a required argument: 'y'"),
        (lambda: nanlab.pinpoint(partial(sums, X)), "missing a required argument: 'y'"),
        (lambda: nanlab.pinpoint(Model.loss, X), "missing a required argument: 'x'"),
        (lambda: jax.jit(lambda x: nanlab.pinpoint(jnp.log, x).fault)(X), "Call it outside"),
        (lambda: jax.vmap(lambda x: nanlab.pinpoint(jnp.log, x).fault)(X), "Call it outside"),
        (
            lambda: jax.grad(lambda x: nanlab.pinpoint(jnp.log, x).fault * x.sum())(X),
            r"pinpoint\(jax.grad\(f\), x\)",
        ),
        (lambda: jax.jit(lambda x: nanlab.pinpoint(lambda: x + 1).fault)(X), "Call it outside"),
        (lambda: nanlab.pinpoint(sum, (x for x in X)), "is a generator"),
        (lambda: nanlab.pinpoint(sizes, X, [2, 1]), "pass a tuple"),
        (lambda: nanlab.pinpoint(sizes, X, X), "cannot be hashed"),
        (lambda: nanlab.pinpoint(lambda x: "done", X), "the lambda returns a str"),
        (lambda: nanlab.pinpoint(lambda x: {"state": object()}, X), "returns an object"),
    ],
)
def test_misuse_ends_in_a_sentence_that_names_the_line_of_the_call(call, reason):
    with pytest.raises((TypeError, ValueError), match=reason) as caught:
        call()
    (line,) = re.findall(rf"\(called at [^ ]*{HERE}:(\d+)\)$", str(caught.value))
    assert int(line) >= call.__code__.co_firstlineno
    assert "\n" not in str(caught.value)


def test_strings_keys_and_methods_can_be_passed():
    verdict = nanlab.pinpoint(lambda x, name: getattr(jnp, name)(x), X, "log")
    assert verdict.culprit.primitive == "log"
    key = jax.random.key(0)
    verdict = nanlab.pinpoint(lambda x, key: jnp.log(x) + jax.random.normal(key), X, key)
    assert verdict.culprit.primitive == "log"
    assert nanlab.pinpoint(Model().loss, X).status == "clean"


# ---- checkify ------------------------------------------------------------------------------------


def checked(x):
    checkify.check(jnp.all(x > 0), "negative: {x}", x=x)
    return jnp.log(x)  # <-- here


CHECKED = {
    "plain": checked,
    "jitted": jax.jit(checked),
    "in a scan": lambda x: lax.scan(lambda c, v: (c, checked(v)), 0, x),
    "in a while loop": lambda x: lax.while_loop(
        lambda s: s[0] < 2, lambda s: (s[0] + 1, checked(s[1])), (0, x)
    ),
    "in a branch": lambda x: lax.cond(x[0] > 0, checked, lambda x: x, x),
    "vmapped": jax.vmap(checked),
    "with its value and gradient": jax.value_and_grad(lambda x: checked(x).sum()),
    "functionalized": checkify.checkify(checked),
}


@pytest.mark.parametrize("name", CHECKED)
def test_a_function_with_checks_gets_a_verdict(name):
    verdict = nanlab.pinpoint(CHECKED[name], X)
    assert (verdict.status, verdict.culprit.primitive) == ("reproduced", "log")
    assert (verdict.culprit.mechanism, verdict.culprit.line) == ("domain", marked(checked))
    said = "the conditions of checkify.check were not examined" in str(verdict)
    assert said == (name != "functionalized")
    assert not nanlab.pinpoint(CHECKED[name], np.float32([20, 20])).fault
