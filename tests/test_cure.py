"""Rewrites of a user's lines: what is proposed, what is refused, and what it computes."""

import importlib.util
import re
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import nanlab
from nanlab.backend.jaxpr import split_constants
from nanlab.blame.program.call import call_of
from nanlab.blame.program.program import flatten_closed
from nanlab.curing.approach import limits_of
from nanlab.curing.candidates import written
from nanlab.curing.forms import form_of
from nanlab.curing.guards import guards_of
from nanlab.curing.idioms import idioms_of
from nanlab.curing.inputs import Inputs
from nanlab.curing.limits import Tolerances
from nanlab.curing.reference import Found
from nanlab.curing.source import Source, Span, source_of
from nanlab.curing.stepwise import run_stepwise

HEAD = "import jax\nimport jax.numpy as jnp\nfrom jax import lax\n\n\n"

# What fails, and the kinds of rewrite that mend it (one of them has to come first).
FAULTS = {
    "masked root": (
        "def f(x):\n    return jnp.sum(jnp.where(x < 1, x, jnp.sqrt(x)))\n\n\nrun = jax.grad(f)\n",
        [jnp.array([0.0, 4.0])], {"double-where", "clip", "eps"},
    ),
    "log of a sigmoid, named": (
        "def run(z):\n    p = jax.nn.sigmoid(z)\n    return -jnp.mean(jnp.log(1.0 - p))\n",
        [jnp.array([1.0, 200.0])], {"log space"},
    ),
    "own softmax": (
        "@jax.jit\ndef run(s):\n    e = jnp.exp(s)\n"
        "    return e / jnp.sum(e, axis=-1, keepdims=True)\n",
        [jnp.array([[0.0, 2000.0], [1.0, 2.0]])], {"log space"},
    ),
    "distance": (
        "def f(a, b):\n    return jnp.linalg.norm(a - b)\n\n\nrun = jax.jit(jax.grad(f))\n",
        [jnp.ones(3), jnp.ones(3)], {"double-where"},
    ),
    "loop": (
        "def run(xs):\n    def body(c, x):\n        return c + x * jnp.log(x), c\n\n"
        "    return lax.scan(body, 0.0, xs)\n",
        [jnp.array([0.5, 0.0, 2.0])], {"clip", "eps", "xlogx", "xlogy", "zero wins"},
    ),
    "method": (
        "class Scale:\n    def __call__(self, x):\n        return x / x.std(0)\n\n\n"
        "@jax.jit\ndef run(x):\n    return jnp.where(jnp.isnan(x), 0, Scale()(x))\n",
        [jnp.stack([jnp.zeros(4), jnp.arange(4.0)], 1)], {"clip", "eps", "double-where"},
    ),
    "lambda": (
        "run = jax.vmap(lambda x: jnp.sum(x * jnp.log(x)))\n",
        [jnp.array([[0.0, 1.0], [0.5, 0.5]])], {"clip", "eps", "xlogx", "xlogy", "zero wins"},
    ),
}  # fmt: skip


def module_of(path, text):
    """A module with this text, imported from this file."""
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def patched(text, diff):
    """The text after a unified diff."""
    lines, out, at = text.splitlines(keepends=True), [], 0
    for line in diff.splitlines(keepends=True)[2:]:
        if hunk := re.match(r"@@ -(\d+)", line):
            start = int(hunk[1]) - 1
            out += lines[at:start]
            at = start
        elif line[0] == "+":
            out.append(line[1:])
        else:
            assert lines[at] == line[1:], "the diff is of another text"
            at += 1
            out += [line[1:]] if line[0] == " " else []
    return "".join(out + lines[at:])


def bits_of(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


SLOW = ("distance", "method", "lambda", "own softmax")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in FAULTS]
)
def test_the_diff_written_into_the_file_computes_the_bits_of_apply(name, tmp_path):
    text, arguments, kinds = FAULTS[name]
    module = module_of(tmp_path / f"before_{abs(hash(name))}.py", HEAD + text)
    cures = nanlab.cure(module.run, *arguments)
    assert cures and cures[0].kind in kinds, str(cures)
    for number, cure in enumerate(cures):
        assert cure.checks.is_checked
        result = cure.apply(module.run)(*arguments)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))
        after = patched(HEAD + text, cure.diff)
        other = module_of(tmp_path / f"after_{number}_{abs(hash(name))}.py", after)
        assert bits_of(other.run(*arguments)) == bits_of(result)
    # The function itself is what it was.
    assert nanlab.pinpoint(module.run, *arguments)
    assert (tmp_path / f"before_{abs(hash(name))}.py").read_text() == HEAD + text


def test_what_apply_returns_is_jitted_and_differentiated_like_the_function(tmp_path):
    module = module_of(
        tmp_path / "applied.py", HEAD + "def f(x):\n    return jnp.sum(jnp.sqrt(x)) + x[0]\n"
    )
    x = jnp.array([0.0, 4.0])
    cure = nanlab.cure(jax.grad(module.f), x)[0]
    mended = cure.apply(module.f)
    plain = jax.grad(mended)(x)
    assert np.isfinite(plain).all() and plain[1] == 0.25
    np.testing.assert_array_equal(jax.jit(jax.grad(mended))(x), plain)
    np.testing.assert_array_equal(jax.vmap(jax.grad(mended))(x[None])[0], plain)
    assert not np.isfinite(jax.grad(module.f)(x)).all()


CROSS_ENTROPY = """\
import jax
import jax.numpy as jnp


def step(w, x, labels):
    def loss(w):
        p = jax.nn.softmax(x @ w)
        return -jnp.mean(jnp.log(p[jnp.arange(2), labels]))

    return w - 0.1 * jax.grad(loss)(w)
"""


def test_a_clipped_probability_is_refused_since_its_gradient_is_not_the_limit(own_folder):
    module = module_of(own_folder / "entropy.py", CROSS_ENTROPY)
    w, x = jnp.float32([[1, -1]]), jnp.float32([[100], [-100]])
    cures = nanlab.cure(module.step, w, x, jnp.array([1, 0]))
    assert [cure.kind for cure in cures] == ["log space"], str(cures)
    assert "jax.nn.log_softmax(x @ w)[jnp.arange(2), labels]" in cures[0].diff
    # The gradient of the mean loss by the logits is (p - y) / 2: with x, (100, -100) by w.
    expected = w - 0.1 * jnp.array([[100.0, -100.0]])
    np.testing.assert_array_equal(cures[0].apply(module.step)(w, x, jnp.array([1, 0])), expected)


def rewritten(line, *, idioms=True, dtype="float32"):
    """The rewrites of the outermost expression of a line of a function of a, b, x, y and z."""
    text = f"{HEAD}def f(a, b, x, y, z):\n    {line}\n"
    source = Source("f.py", text)
    last = text.splitlines()[-1]
    column = last.index("return ") + len("return ")
    number = len(text.splitlines())
    node = source.at(Span(number, number, column, len(last)))
    form = form_of(source, node)
    from nanlab.curing.forms import numbers_of

    rules = idioms_of(form) if idioms else guards_of(form, numbers_of(dtype))
    sources = [written(form, rule, dtype) for rule in rules]
    return [s.text.splitlines()[-1].split("return ")[1] for s in sources if s is not None]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("return jnp.log(jax.nn.sigmoid(z))", "jax.nn.log_sigmoid(z)"),
        ("p = 1 / (1 + jnp.exp(-z)); return jnp.log(p)", "jax.nn.log_sigmoid(z)"),
        ("return jnp.log(1 - jax.nn.sigmoid(z))", "jax.nn.log_sigmoid(-z)"),
        ("return jnp.log(jax.nn.softmax(z, axis=0))", "jax.nn.log_softmax(z, axis=0)"),
        ("p = jax.nn.softmax(z); return jnp.log(p[1:])", "jax.nn.log_softmax(z)[1:]"),
        ("return jnp.log(jnp.take(1 - jax.nn.sigmoid(z), 0))",
         "jnp.take(jax.nn.log_sigmoid(-z), 0)"),
        ("return jnp.log((1 - x).reshape(-1))", "jnp.log1p(-x).reshape(-1)"),
        ("return jnp.log(jnp.sum(jnp.exp(z), -1))", "jax.nn.logsumexp(z, -1)"),
        ("return jnp.log(jnp.exp(a) + jnp.exp(b))", "jnp.logaddexp(a, b)"),
        ("return jnp.log(1 + jnp.exp(z))", "jax.nn.softplus(z)"),
        ("return jnp.log1p(jnp.exp(z))", "jax.nn.softplus(z)"),
        ("return jnp.log(jnp.prod(x))", "jnp.sum(jnp.log(x))"),
        ("return jnp.log(1 - jnp.tanh(z) ** 2)",
         "2 * (jnp.log(2.0) - z - jax.nn.softplus(-2 * z))"),
        ("return 1 / (1 + jnp.exp(-z))", "jax.nn.sigmoid(z)"),
        ("return jnp.exp(z) / jnp.sum(jnp.exp(z))", "jax.nn.softmax(z, axis=None)"),
        ("return jnp.mean(x**2, 0) - jnp.mean(x, 0) ** 2", "jnp.var(x, 0)"),
        ("return jnp.exp(z) - 1", "jnp.expm1(z)"),
        ("return jnp.exp(a) / jnp.exp(b)", "jnp.exp(a - (b))"),
        ("return jnp.exp(jnp.cumsum(jnp.log(x)))", "jnp.cumprod(x)"),
        ("return jnp.log(jnp.cosh(z))", "jnp.logaddexp(z, -(z)) - jnp.log(2.0)"),
        ("return jnp.log(jnp.cumsum(jnp.exp(z)))", "lax.cumlogsumexp(z, axis=0)"),
        ("return jnp.log(jnp.expm1(z))", "z + jnp.log(-jnp.expm1(-z))"),
        ("y = jnp.float32([1, 0, 1])\n    p = jax.nn.sigmoid(z)\n"
         "    return jnp.log(y * p + (1 - y) * (1 - p))", "jax.nn.log_sigmoid((2 * y - 1) * (z))"),
        ("return jnp.sum(x) / x.size", "jnp.sum(x / x.size)"),
        ("return jnp.mean(x)", "jnp.sum(x / float(x.size))"),
        ("return jnp.sum(x**2) / 3 - (jnp.sum(x) / 3) ** 2", "jnp.var(x)"),
        ("return jnp.sin(x) / x", "jnp.sinc(x / jnp.pi)"),
        ("return jnp.sqrt(x**2 + y**2)", "jnp.hypot(x, y)"),
        ("return jnp.sqrt(jnp.exp(z))", "jnp.exp((z) / 2)"),
        ("return jnp.prod(x) ** (1 / 3)", "jnp.exp((1 / 3) * jnp.sum(jnp.log(x)))"),
        ("return z * jnp.exp(z) / (1 + jnp.exp(z))", "z * jax.nn.sigmoid(z)"),
        ("return (jnp.exp(z) - jnp.exp(-z)) / (jnp.exp(z) + jnp.exp(-z))", "jnp.tanh(z)"),
        ("p = jax.nn.sigmoid(z); return jnp.log(p / (1 - p))",
         "jax.nn.log_sigmoid(z) - (jax.nn.log_sigmoid(-z))"),
        ("return jnp.log(jnp.sum(x * jnp.exp(z), 0) / 3)",
         "jax.nn.logsumexp(jnp.log(x) + (z), 0) - (jnp.log(3))"),
    ],
)  # fmt: skip
def test_an_idiom_has_another_formula_with_the_same_numbers(line, expected):
    line = line.replace("; ", "\n    ")
    assert expected in rewritten(line)
    names = "a, b, x, y, z"
    values = [jnp.array([0.3, 0.6, 0.2], jnp.float32) + 0.1 * i for i in range(5)]
    results = []
    for body in (line, f"return {expected}"):
        scope = {"jax": jax, "jnp": jnp, "lax": lax}
        bound = "y = jnp.float32([1, 0, 1])\n    " if "(2 * y - 1)" in body else ""
        exec(f"def f({names}):\n    {bound}{body}", scope)
        results.append(scope["f"](*values))
    np.testing.assert_allclose(*results, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(
    "line",
    [
        "x = jnp.exp(z)\n    x = x + 1\n    return jnp.log(x)",  # two bindings
        "x = jnp.exp(x)\n    return jnp.log(x)",  # a parameter that is bound again
        "return jnp.log(y - jax.nn.sigmoid(z))",
        "return y / jnp.sum(jnp.exp(y))",
        "return jnp.mean(x**2) - jnp.mean(y) ** 2",
    ],
)
def test_what_only_looks_like_an_idiom_is_none(line):
    assert not [text for text in rewritten(line) if "nn." in text or "var" in text]


def test_numbers_that_are_known_while_tracing_are_not_guarded():
    assert not rewritten("return x / jnp.sqrt(x.shape[-1])", idioms=False)
    assert not rewritten("return jnp.sqrt(float(x.size))", idioms=False)
    assert rewritten("return jnp.sqrt((x**2).sum(-1))", idioms=False)


# What only some checks make possible, the kind of the best cure, and what it was compared with.
MENDED = {
    "the gradient of what is normalized is 0 but for rounding": (
        "run = jax.vmap(lambda c: (c - c.mean()) / c.std(), in_axes=1)\n",
        [jnp.array([[1.0, 3.0], [2.0, 3.0], [4.0, 3.0]])], "eps", "eps limit",
    ),
    "no input has other numbers on the diagonal": (
        "def f(z):\n    d = z[:, None] - z\n    return jnp.sum(jnp.sqrt(jnp.sum(d * d, -1)))\n"
        "\n\nrun = jax.grad(f)\n",
        [jnp.array([[1.0, 2.0], [3.0, 5.0], [2.0, -1.0]])], "double-where", "eps limit",
    ),
    "near a 0 of the targets the mask is another one": (
        "def run(s, t):\n    lp = jax.nn.log_softmax(jnp.where(t > 0, s, -jnp.inf))\n"
        "    return -jnp.sum(t * lp)\n",
        [jnp.array([0.5, 1.0, 2.0]), jnp.array([0.0, 0.4, 0.6])], "finite mask", "",
    ),
    "a cast to a type that is too narrow": (
        "def run(x):\n    h = (x * x).astype(jnp.float16)\n"
        "    return jax.nn.logsumexp(h) - h[1].astype(jnp.float32)\n",
        [jnp.array([300.0, 1.0])], "wider type", "float64",
    ),
    "float64 rounds next to the pole as well": (
        "def run(u):\n    return -jnp.log(1 - jnp.tanh(u) ** 2)\n",
        [jnp.array([1.0, 20.0], jnp.float32)], "log space", "infinite limit and limit",
    ),
    "a ratio of probabilities overflows": (
        "def run(logp):\n    return jnp.exp(logp[0] - logp[1]).mean()\n",
        [jnp.array([[0.0, 90.0], [0.0, -30.0]], jnp.float32)], "clip", "infinite limit",
    ),
    "a product that leaves the range of the type": (
        "def run(x, gain):\n    def body(y, g):\n        y = y * g\n        return y, None\n\n"
        "    return lax.scan(body, x, gain)[0]\n",
        [jnp.float32(1), jnp.full(5, 1e10)], "saturate", "infinite limit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MENDED)
def test_a_right_rewrite_is_not_refused(name, tmp_path):
    text, arguments, kind, limit = MENDED[name]
    module = module_of(tmp_path / f"mended_{abs(hash(name))}.py", HEAD + text)
    cures = nanlab.cure(module.run, *arguments)
    assert cures and (cures[0].kind, cures[0].checks.limit) == (kind, limit), str(cures)
    assert cures[0].checks.is_checked


def test_a_long_operand_is_computed_once_and_a_module_is_imported_if_need_be():
    (first, *_) = rewritten("return jnp.sqrt(jnp.sum(x * y))", idioms=False)
    assert first == (
        "jnp.where((arg := jnp.sum(x * y)) > 0, jnp.sqrt(jnp.where(arg > 0, arg, 1)), 0)"
    )
    source = Source("f.py", "from jax.numpy import log\n\ndef f(x):\n    return log(x)\n")
    node = source.at(Span(4, 4, 11, 17))
    form = form_of(source, node)
    from nanlab.curing.forms import numbers_of

    after = written(form, next(guards_of(form, numbers_of("float32"))), "float32")
    assert after.text.splitlines()[3:] == [
        "    import jax.numpy as jnp", "    return log(jnp.maximum(x, 1e-37))",
    ]  # fmt: skip


def compare(run, leaf, new, *, value=True, **more):
    """What a limit check says of `new` in place of what `run` gives at `leaf`."""

    def reference(arrays, shift=0.0):
        x = np.asarray(arrays[0], np.float64)
        found = run(np.where(x == 0, shift, x) if shift and "shifted" in more else x)
        steepest = more.get("steepest", 0.0)
        masks = [more["masks"](x)] if "masks" in more else []
        return Found([np.asarray(found)], steepest, masks)

    call = call_of(lambda x: x, (jnp.asarray(leaf),), {})
    inputs = Inputs(call, flatten_closed(call.closed, None), [])
    with np.errstate(all="ignore"):
        failing = [x.astype(np.float64) for x in reference([leaf]).outputs]
        limits = limits_of(reference, inputs, failing, [3e38])
    same = Tolerances(limit=0.03, unchanged=1e-5, floor=1e-7, values=[value], n_values=1)
    return limits.compare([np.asarray(new, np.float64)], failing, same)


@pytest.mark.parametrize(
    ("run", "new", "limit", "is_right"),
    [
        (lambda x: np.sin(x) / x, [1.0], "limit", True),
        (lambda x: np.sin(x) / x, [0.0], "limit", False),
        (lambda x: -np.log(x), [16.0], "infinite limit", True),
        (lambda x: -np.log(x), [0.0], "infinite limit", False),
        (lambda x: -np.log(x), [-16.0], "infinite limit", False),
        (lambda x: x * np.log(x), [0.0], "limit", True),
        (lambda x: np.full(1, np.nan), [0.0], "", True),
        # A limit of each direction: none in all, but no larger number either.
        (lambda x: x / np.abs(x), [0.0], "", True),
        (lambda x: x / np.abs(x), [7.0], "limit", False),
    ],
)
def test_a_finite_number_that_is_not_the_limit_is_refused(run, new, limit, is_right):
    found = compare(run, np.zeros(1, np.float32), new)
    assert found["limit"] == limit
    assert bool(found.get("failure")) != is_right


def test_each_number_that_grows_without_a_limit_has_to_be_large():
    negative_log = lambda x: -np.log(x)  # noqa: E731
    assert compare(negative_log, np.zeros(2, np.float32), [16.0, 0.0])["failure"]
    assert not compare(negative_log, np.zeros(2, np.float32), [16.0, 16.0]).get("failure")


def test_of_the_limits_of_all_directions_the_one_with_a_moved_pole_is_chosen():
    jump = lambda x: np.where(x == 0, np.nan, np.where(abs(x) < 1e-7, 0, np.sign(x)))  # noqa: E731
    for new, failure in (([0.0], ""), ([0.5], "another number than the limit")):
        found = compare(jump, np.zeros(1, np.float32), new, shifted=True)
        assert found.get("failure", "") == failure
    assert not compare(jump, np.zeros(1, np.float32), [0.5]).get("failure")  # without one


def test_where_a_mask_becomes_another_one_nearby_is_another_function():
    masked = lambda x: np.where(x == 0, np.nan, 5.0)  # noqa: E731
    count = lambda x: 2 * (x != 0) + 1  # noqa: E731
    assert compare(masked, np.zeros(1, np.float32), [0.0])["failure"]
    assert compare(masked, np.zeros(1, np.float32), [0.0], masks=count)["limit"] == ""


def test_steps_of_gradients_beyond_the_type_need_not_be_those_of_float64():
    args = np.zeros(1, np.float32), [0.0]
    run = lambda x: np.where(x == 0, np.nan, 1.0)  # noqa: E731
    for value, steepest, is_refused in (
        (False, 1e60, False),
        (False, 1.0, True),
        (True, 1e60, True),
    ):
        found = compare(run, *args, value=value, steepest=steepest)
        assert bool(found.get("failure")) == is_refused


@pytest.mark.parametrize(("new", "is_right"), [(2e38, True), (1e36, True), (1e18, False)])
def test_what_is_next_to_overflow_may_saturate_and_may_not_become_small(new, is_right):
    reference = lambda arrays, shift: Found([np.array([2e38])])  # noqa: E731
    at = SimpleNamespace(leaves=[jnp.zeros(1)])
    limits = limits_of(reference, at, [np.array([np.inf])], [3.4e38])
    same = Tolerances(limit=0.03, unchanged=1e-5, floor=1e-7, values=[True], n_values=1)
    found = limits.compare([np.array([new])], [np.array([np.inf])], same)
    assert bool(found.get("failure")) != is_right


def test_a_program_run_by_operation_computes_what_it_computes_compiled():
    def run(x, ok):
        def body(c, row):
            return c * 0.5 + row, jnp.tanh(c)

        carry, ys = lax.scan(body, x[0], x, reverse=True)
        picked = lax.cond(ok, lambda v: v + 1, jnp.square, carry)
        return lax.while_loop(lambda v: v.sum() < 9, lambda v: v * 2 + 1, picked), ys

    x = jnp.linspace(-1, 1, 12).reshape(4, 3)
    closed = jax.make_jaxpr(jax.jit(run))(x, True)
    for ok in (True, False):
        found = run_stepwise(*split_constants(closed), [x, jnp.asarray(ok)])
        for new, old in zip(found, jax.tree.leaves(run(x, ok)), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-6)


def test_healthy_inputs_have_other_masks_and_other_constants(tmp_path):
    text = (
        "mask = jnp.array([[True, False], [False, False]])\n\n\n"
        "def run(x):\n    return jax.nn.softmax(jnp.where(mask, x, -jnp.inf))\n"
    )
    module = module_of(tmp_path / "masked.py", HEAD + text)
    cures = nanlab.cure(module.run, jnp.ones((2, 2)))
    assert cures and cures[0].checks.healthy == 3, str(cures)


def test_a_weighted_mean_without_weight_is_cured(tmp_path):
    text = "def run(x, w):\n    return jnp.sum(w * x) / jnp.sum(w)\n"
    module = module_of(tmp_path / "weighted.py", HEAD + text)
    cures = nanlab.cure(module.run, jnp.arange(3.0), jnp.zeros(3))
    assert cures and cures[0].checks.healthy
    assert float(cures[0].apply(module.run)(jnp.arange(3.0), jnp.zeros(3))) == 0


def test_outputs_that_were_finite_may_not_change():
    run = lambda x: np.array([7.0, np.nan])  # noqa: E731
    assert compare(run, np.zeros(1, np.float32), [8.0, 0.0])["failure"] == "finite outputs change"
    assert not compare(run, np.zeros(1, np.float32), [7.0, 0.0]).get("failure")


def test_a_fill_of_zero_for_the_log_of_zero_is_refused_and_a_small_eps_is_not(tmp_path):
    text = "def run(p):\n    return -jnp.mean(jnp.log(p))\n"
    module = module_of(tmp_path / "fill.py", HEAD + text)
    cures = nanlab.cure(module.run, jnp.array([0.0, 0.5]), healthy=[(jnp.array([0.2, 0.5]),)])
    assert {cure.kind for cure in cures} <= {"clip", "eps"} and cures
    assert "infinite limit" in cures[0].checks.limit
    assert "With 1 healthy inputs" in str(cures)


def test_healthy_arguments_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shapes.*pass healthy=\[\(a, b\)"):
        nanlab.cure(jnp.log, jnp.zeros(2), healthy=[(jnp.ones(3),)])


def test_the_reasons_for_no_cure_are_sentences(tmp_path):
    healthy = nanlab.cure(jnp.exp, jnp.zeros(2))
    assert not healthy and str(healthy).startswith("Every output is finite")
    with pytest.raises(IndexError, match="there is no cure"):
        healthy[0]
    data = nanlab.cure(jnp.sin, jnp.array([jnp.nan]))
    assert "came with x" in data.reason or "came with" in data.reason
    scope = {"jnp": jnp}
    exec("def f(x):\n    return jnp.log(x)", scope)
    unread = nanlab.cure(scope["f"], jnp.zeros(2))
    assert not unread and "cannot be read as Python" in unread.reason


def test_a_verdict_finds_the_cures_of_its_call(tmp_path):
    module = module_of(tmp_path / "verdict.py", HEAD + "def run(x):\n    return x * jnp.log(x)\n")
    verdict = nanlab.pinpoint(module.run, jnp.array([0.0, 1.0]))
    assert verdict.cures()
    assert "call" not in verdict.to_dict()
    with pytest.raises(ValueError, match=r"use nanlab\.cure"):
        nanlab.Verdict(status=verdict.status).cures()


def test_a_line_of_a_library_is_cured_by_apply_and_the_text_says_so():
    import optax

    tx = optax.adam(1e-3)
    w = {"w": jnp.ones(2, jnp.float16)}

    def step(w, state):
        updates, state = tx.update({"w": jnp.zeros(2, jnp.float16)}, state)
        return optax.apply_updates(w, updates), state

    cures = nanlab.cure(step, w, tx.init(w))
    assert cures
    mended, _ = cures[0].apply(step)(w, tx.init(w))
    assert np.isfinite(np.asarray(mended["w"], np.float32)).all()
    library = [cure for cure in cures if cure.is_library]
    assert all("use apply()" in str(cure) for cure in library)


def test_a_file_that_cannot_be_read_has_no_source(tmp_path):
    assert source_of(str(tmp_path / "nothing.py")) is None
    (tmp_path / "broken.py").write_text("%matplotlib\n")
    assert source_of(str(tmp_path / "broken.py")) is None


# A quotient 0/0 without a limit, where nearby inputs may look as if it had one.
DIRECTED = {
    "precision": ("tp / (tp + fp)", "tp, fp", [[0.0, 3.0], [0.0, 1.0]]),
    "recall": ("tp / (tp + fn)", "tp, fn", [[0.0, 1.0], [0.0, 1.0]]),
    "accuracy without a row": ("(ok * on).sum() / on.sum()", "ok, on", [[1.0] * 3, [0.0] * 3]),
    "mean of equal numbers": ("jnp.dot(x, on) / jnp.sum(on)", "x, on", [[2.0] * 4, [0.0] * 4]),
    "smape": ("jnp.abs(a - b) / (jnp.abs(a) + jnp.abs(b))", "a, b", [[0.0, 1.0], [0.0, 2.0]]),
    "smape of a mask": ("(jnp.abs(a - b) / (a + b)).mean()", "a, b", [[0.0, 1.0], [0.0, 1.0]]),
}


@pytest.mark.parametrize("name", DIRECTED)
def test_of_a_quotient_without_a_limit_nothing_is_said_to_agree_with_one(name, tmp_path):
    text, names, arrays = DIRECTED[name]
    source = f"{HEAD}def run({names}):\n    return {text}\n"
    module = module_of(tmp_path / f"directed_{names[:2].strip(',')}_{len(text)}.py", source)
    arguments = [jnp.array(x) for x in arrays]
    cures = nanlab.cure(module.run, *arguments)
    assert cures, cures.reason
    for found in cures:
        assert float(jnp.ravel(found.apply(module.run)(*arguments))[0]) < 1e-3
        assert "the limit of nearby" not in str(found)


def test_the_limit_of_a_mean_over_many_numbers_is_not_that_of_normal_ones():
    def ratio(x):
        return np.array([np.abs(x).mean() / np.sqrt((x * x).mean())])

    assert compare(ratio, np.zeros(500, np.float32), [0.0])["limit"] == ""
    assert compare(lambda x: np.sin(x) / x, np.zeros(50, np.float32), np.ones(50))["limit"]
