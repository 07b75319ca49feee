"""`nanlab.lint`: what it finds, says, proves and assumes, and its command."""

import json
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from corpus import CASES
from jax import lax
from sampled import sampled

import nanlab
from nanlab.__main__ import find_main

X = jnp.linspace(-2.0, 3.0, 12, dtype=jnp.float32).reshape(4, 3)
POSITIVE = jnp.linspace(0.1, 3.0, 12, dtype=jnp.float32).reshape(4, 3)


def found(function, *args, **kwargs):
    return {
        f"{f.site.primitive}: {f.site.mechanism}"
        for f in nanlab.lint(function, *args, **kwargs).findings
    }


# program -> (the program, its findings); the guarded twin of each has none.
DANGERS = {
    "log": (
        lambda x: jnp.log(x),
        {"log: pole", "log: domain"},
        lambda x: jnp.log(jnp.maximum(x, 1e-6)),
    ),
    "log of a share": (
        lambda x: jnp.log(jax.nn.softmax(x * 50)),
        {"log: pole"},
        jax.nn.log_softmax,
    ),
    "log1p": (lambda x: jnp.log1p(x), {"log1p"}, lambda x: jnp.log1p(jnp.abs(x))),
    "inverse": (
        lambda x: 1 / x,
        {"div"},
        lambda x: jnp.where(x == 0, 0, 1 / jnp.where(x == 0, 1, x)),
    ),
    "norm": (
        lambda x: x / jnp.linalg.norm(x),
        {"div"},
        lambda x: x / jnp.sqrt(jnp.sum(x * x) + 1e-6),
    ),
    "root": (lambda x: jnp.sqrt(x), {"sqrt: domain"}, lambda x: jnp.sqrt(x * x)),
    "gradient of a root": (
        jax.grad(lambda x: jnp.sqrt(jnp.sum(x * x))),
        {"div"},
        jax.grad(lambda x: jnp.sqrt(jnp.sum(x * x) + 1e-6)),
    ),
    "variance by squares": (
        lambda x: lax.rsqrt(jnp.mean(x * x) - jnp.mean(x) ** 2 + 1e-6),
        {"rsqrt"},
        lambda x: lax.rsqrt(jnp.mean((x - jnp.mean(x)) ** 2) + 1e-6),
    ),
    "exp": (
        lambda x: jnp.exp(x * 100),
        {"exp: overflow"},
        lambda x: jnp.exp(x * 100 - jnp.max(x * 100)),
    ),
    "power": (lambda x: x**1.5, {"pow"}, lambda x: jnp.abs(x) ** 1.5),
    "angle": (lambda x: jnp.arccos(x), {"acos: domain"}, lambda x: jnp.arccos(jnp.clip(x, -1, 1))),
    "atanh": (lambda x: jnp.arctanh(x), {"atanh"}, lambda x: jnp.arctanh(jnp.tanh(x) * 0.9)),
    "cast": (
        lambda x: (x * 1e5).astype(jnp.float16),
        {"convert_element_type: overflow"},
        lambda x: jnp.clip(x * 1e5, -6e4, 6e4).astype(jnp.float16),
    ),
    "float16 square": (
        lambda x: (x.astype(jnp.float16) * 60) ** 2,
        {"integer_pow: overflow"},
        lambda x: (x.astype(jnp.float16) * 6) ** 2,
    ),
    "index": (
        lambda x: jnp.take(x, jnp.array([0, 9]), axis=0),
        {"gather: fill"},
        lambda x: jnp.take(x, jnp.array([0, 9]), axis=0, mode="clip"),
    ),
    "where after": (
        jax.grad(lambda x: jnp.where(x > 0, jnp.sqrt(x), 0).sum()),
        {"div", "sqrt: domain"},
        jax.grad(lambda x: jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0).sum()),
    ),
    "masked row": (
        lambda x: jax.nn.softmax(jnp.where(jnp.zeros((4, 3), bool), x, -jnp.inf)),
        {"sub: inf-inf", "div: 0/0"},
        lambda x: jax.nn.softmax(jnp.where(jnp.zeros((4, 3), bool), x, -1e9)),
    ),
    "in a scan": (
        lambda x: lax.scan(lambda c, r: (c + jnp.log(r), c), x[0] * 0, x)[0],
        {"log"},
        lambda x: lax.scan(lambda c, r: (c + jnp.log(r * r + 1e-3), c), x[0] * 0, x)[0],
    ),
    "cond": (
        lambda x: lax.cond(x[0, 0] > 0, lambda v: v, lambda v: 1 / v, x[0, 0]),
        {"div"},
        lambda x: lax.cond(x[0, 0] > 0, lambda v: 1 / v, lambda v: v, x[0, 0]),
    ),
}


@pytest.mark.parametrize("name", sampled(DANGERS, 2))
def test_a_danger_is_found_and_its_guarded_twin_is_proved(name):
    bad, expected, good = DANGERS[name]
    names = found(bad, X)
    assert names
    assert all(any(n.startswith(e) for e in expected) for n in names), names
    assert not found(good, X)


def test_growth_is_reported_apart():
    report = nanlab.lint(lambda x: (x * 1e30) ** 2, X)
    assert not report.findings
    assert [f.site.primitive for f in report.growth] == ["integer_pow"]
    assert "growth" not in report.text().partition("\n")[2]
    assert "growth" in report.text(growth=True).partition("\n")[2]
    assert report.growth[0].is_growth


def test_a_healthy_train_step_has_no_finding():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(3):
                x = nn.LayerNorm()(nn.gelu(nn.Dense(8)(x)))
            return nn.Dense(3)(x)

    net, tx = Net(), optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    params = jax.eval_shape(net.init, jax.random.key(0), X)
    params = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), params)

    def step(params, state, x, labels):
        def loss(p):
            logits = net.apply(p, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    report = nanlab.lint(step, params, tx.init(params), X, jnp.array([0, 1, 2, 0]))
    assert not report.findings, str(report)
    assert len(report.proved) > 10
    assert not report.unknown


# Faults of the corpus: the finding is on the line where the inf or the NaN begins.
@pytest.mark.parametrize("name", sampled(["where_sqrt_grad", "bce_naive", "pow_negative_base"], 2))
def test_a_fault_of_the_corpus_is_named_at_its_line(name):
    function, arguments = CASES[name].built
    with jax.enable_x64(False):
        lines = {f.site.source for f in nanlab.lint(function, *arguments).findings}
    assert lines & CASES[name].marked("culprit", "origin", "also")


# Sentences.


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (
            lambda x: jnp.log(jax.nn.softmax(x * 50)),
            "log's argument can be 0: softmax(x * 50.0) lies in [0, 1], "
            "and 0 is reached once logits differ by more than 103.",
        ),
        (
            lambda x: jnp.log(1 - jnp.tanh(x) ** 2),
            "log's argument can be 0: 1.0 - (tanh(x) ** 2) "
            "lies in [0, 1], and 0 is reached once |x| exceeds 9.01.",
        ),
        (
            lambda x: jnp.exp(x * 100),
            "exp's argument can exceed 88.7: x * 100.0 lies in [-1e+03, 1e+03].",
        ),
        (
            lambda x: (x * 1e4).astype(jnp.float16),
            "a number can exceed 6.55e+04, the largest "
            "float16: x * 10000.0 lies in [-1e+05, 1e+05].",
        ),
        (lambda x: x / jnp.sum(x * x), "div's divisor can be 0: sum(x * x) lies in [0, 1.2e+03]."),
        (
            lambda x: x - jnp.inf + jnp.exp(x * 100),
            "exp's argument can exceed 88.7: x * 100.0 lies in [-1e+03, 1e+03].",
        ),
    ],
)
def test_a_finding_says_what_would_have_to_happen(function, sentence):
    with jax.enable_x64(False):
        assert nanlab.lint(function, X).findings[0].sentence == sentence


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda x: jnp.exp(x * 100), "exp overflows above 88.7 in float32: bound its argument"),
        (lambda x: (x * 1e5).astype(jnp.float16), "fit into float16, which ends at 65,504"),
        (jax.grad(lambda x: jnp.log(x).sum()), "Find the function behind it on this line"),
        (lambda x: x / jnp.sum(x * x), "The divisor is 0: make it safe before dividing"),
        (lambda x: jnp.take(x, jnp.array([9]), axis=0), 'or say mode="clip"'),
        (
            lambda x: optax.softmax_cross_entropy_with_integer_labels(x, jnp.full(4, 3)),
            "labels must be in [0, classes)",
        ),
        (lambda x: optax.cosine_similarity(x, x), "pass epsilon=1e-6 to the cosine loss"),
        (lambda x: x - jnp.inf - jnp.exp(x * 100), "exp overflows"),
    ],
)
def test_a_finding_says_what_usually_cures_it(function, sentence):
    with jax.enable_x64(False):
        report = nanlab.lint(function, X)
    assert any(sentence in finding.cure for finding in report.findings), report
    assert all(finding.cure for finding in report.findings)


def test_what_can_happen_only_after_another_finding_is_none():
    report = nanlab.lint(lambda x: jnp.log(jnp.exp(jax.nn.softmax(jnp.exp(x * 100)))), X)
    assert {f.site.primitive for f in report.findings} == {"exp"}
    assert len(report.findings) == 1


# Assumptions.


@pytest.mark.parametrize(
    ("function", "is_returned"),
    [
        (lambda x: jnp.where(x > 0, x, -jnp.inf), True),
        (lambda x: jax.ops.segment_max(x, jnp.int32(x), 2), True),
        (lambda x: jax.nn.softmax(jnp.where(jnp.arange(3) > 0, x, -jnp.inf)), False),
        (lambda x: jax.lax.fori_loop(0, 3, lambda i, m: jnp.minimum(m, x[i]), jnp.inf), False),
        (lambda x: jnp.argmax(jnp.where(x > 0, x, -jnp.inf)), False),
    ],
)
def test_an_inf_of_the_program_is_a_finding_if_it_can_be_returned(function, is_returned):
    findings = nanlab.lint(function, jnp.ones(3)).findings
    assert [f.site.mechanism for f in findings] == ["constant"] * is_returned


def test_assumptions_change_what_can_happen():
    def loss(params, batch):
        return jnp.log(params["w"] + batch["x"]).sum()

    arguments = {"w": jnp.ones(3)}, {"x": jnp.ones(3)}
    assert found(loss, *arguments)
    report = nanlab.lint(loss, *arguments, assume={"batch['x']": (1, 5), "params": 0.5 + 0.5})
    assert report.findings
    report = nanlab.lint(loss, *arguments, assume={"batch['x']": (1, 5), "params": (0, 1)})
    assert not report.findings
    assert {(a.name, a.lo, a.hi, a.source) for a in report.assumed} == {
        ("params['w']", 0, 1, "assume"),
        ("batch['x']", 1, 5, "assume"),
    }
    assert report.proved[0].rests_on == ("params['w']", "batch['x']")


def test_assumptions_that_do_not_fit_are_reported_all_at_once():
    wrong = {"y": 3, "x": (2, 1), "bach": 1.0}
    with pytest.raises(ValueError, match="do not fit") as raised:
        nanlab.lint(lambda x, batch: x + batch, X, X, assume=wrong)
    text = str(raised.value)
    assert "assume['y']: no argument has this name" in text
    assert 'did you mean "batch"?' in text
    assert "assume['x'] = (2, 1): must be finite, the least number first" in text
    with pytest.raises(
        ValueError, match=r"x: the example lies in \[-2, 3\], outside of the assumed"
    ):
        nanlab.lint(jnp.sin, X, assume={"x": 1.0})
    with pytest.raises(ValueError, match="must be a number or a pair"):
        nanlab.lint(lambda x: x, X, assume={"x": "small"})


def test_a_primitive_without_a_rule_is_reported_and_its_results_are_finite():
    report = nanlab.lint(lambda x: jnp.log(jnp.abs(jnp.linalg.eigvals(x[:3]).real) + 1), X)
    assert [u.primitive for u in report.unknown] == ["eig"]
    assert "finite results of eig" in str(report)
    assert any("eig" in proof.rests_on for proof in report.proved)


def test_an_inf_or_a_nan_of_the_example_stands_where_it_is():
    x = X.at[0, 0].set(jnp.nan)
    assert not found(lambda x: jnp.nanmean(x, axis=0), x)
    assert found(lambda x: x - jnp.max(x, axis=1, keepdims=True), X.at[1].set(-jnp.inf))


def test_nothing_is_computed_and_the_function_is_traced_once():
    calls = []

    def function(x):
        calls.append(x)
        return jnp.log(x)

    nanlab.lint(function, X)
    assert len(calls) == 1
    assert all(isinstance(x, jax.core.Tracer) for x in calls)


def test_a_report_is_text_and_a_dict():
    report = nanlab.lint(lambda x: jnp.log(jax.nn.softmax(x * 50)), X)
    text = str(report)
    assert text.startswith("An inf or a NaN can arise in 1 place.")
    assert "test_lint.py:" in text
    assert repr(report) == f"Report(findings=1, growth=0, proved={len(report.proved)}; print it)"
    told = json.loads(json.dumps(report.to_dict()))
    assert told["findings"][0]["primitive"] == "log"
    cure = told["findings"][0]["cure"]
    assert cure.startswith("The argument of log is 0: keep it above 0, log(maximum(x, eps))")
    assert f"Usual cure: {cure}" in text
    assert told["assumed"][0]["name"] == "x"


# The command, and the function of its name.

SCRIPT = """
import jax, jax.numpy as jnp

@jax.jit
def loss(x):
    return -jnp.log(jax.nn.softmax(x * 500)).mean()  # here

@jax.jit
def healthy(x):
    return jnp.tanh(x)

for _ in range(2):
    {call}
"""


@pytest.fixture(scope="module")
def command():
    return find_main("lint")


def script(call: str) -> str:
    Path("train.py").write_text(SCRIPT.format(call=call))
    return "train.py"


def test_the_command_lints_each_jitted_function_once(command, capsys):
    assert command(["--json", script("loss(healthy(jnp.ones(3)))"), "own"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert [f["function"] for f in told["functions"]] == ["healthy", "loss"]
    assert [len(f["findings"]) for f in told["functions"]] == [0, 1]
    assert told["functions"][1]["findings"][0]["line"] == 6
    assert told["exit_status"] == 4


def test_the_command_writes_annotations(command, capsys):
    assert command(["--format", "github", script("loss(jnp.ones(3))")]) == 4
    out = capsys.readouterr().out
    assert out.startswith(
        "::warning file=train.py,line=6,title=log%3A pole::log's argument can be 0"
    )


@pytest.mark.parametrize(
    ("call", "status", "text"),
    [
        ("healthy(jnp.ones(3))", 0, "No inf or NaN can arise"),
        ("jnp.ones(3)", 5, "called no jitted function"),
        ("raise SystemExit(7)", 7, ""),
        ("loss(jnp.ones(3)); raise SystemExit(7)", 4, "log's argument"),
    ],
)
def test_exit_statuses(command, capsys, call, status, text):
    assert command([script(call)]) == status
    assert text in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("span", "status", "text"),
    [
        ("x=0.05", 0, "[-0.05, 0.05] as you assume: x"),
        ("x=-9:9", 4, "log's argument can be 0"),
        ("x=2:3", 5, "the assumptions do not fit x: the example lies in [0.01"),
        ("y=1", 2, "--assume y: no argument has this name; there are x"),
    ],
)
def test_the_command_takes_ranges(command, capsys, span, status, text):
    assert command(["--assume", span, script("loss(jnp.full(3, 0.01))")]) == status
    assert text in "".join(capsys.readouterr())


def test_a_script_that_raises_is_reported_and_raises(command, capsys):
    with pytest.raises(ZeroDivisionError):
        command([script("loss(jnp.ones(3)); 1 / 0")])
    assert "log's argument" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--nope", "x.py"], "unknown option --nope"),
        (["none.py"], "there is no script none.py"),
        (["--format", "xml", "x.py"], '--format xml: must be "github" or "text"'),
        (["--assume", "x=a", "x.py"], "--assume x=a: must be NAME=NUMBER or NAME=LEAST:MOST"),
        (["--assume", "5", "x.py"], "--assume 5: must be NAME=NUMBER or NAME=LEAST:MOST"),
        (["-m"], "-m needs the name of a module"),
        (["--json"], "no script"),
    ],
)
def test_misuse_is_a_sentence(command, capsys, arguments, sentence):
    assert command(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_the_function_and_the_command_share_a_name():
    code = (
        "import nanlab, pytest\n"
        "with pytest.raises(ImportError, match='nanlab.lint is a function'): import nanlab.lint\n"
        "from nanlab.__main__ import main\n"
        "assert main(['lint', '--help']) == 0\n"
        "assert callable(nanlab.lint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m nanlab.lint")


def test_misuse_of_the_function_is_a_sentence_with_the_users_line():
    with pytest.raises(TypeError, match=r"nanlab\.lint needs a function.*test_lint\.py:\d+"):
        nanlab.lint(3)
    with pytest.raises(jax.errors.ConcretizationTypeError, match=r"at .*test_lint\.py:\d+, `"):
        nanlab.lint(lambda x: float(x), jnp.ones(()))
    with pytest.raises(TypeError, match="lint takes them after the function"):
        nanlab.lint(lambda x: x, 1.0, 2.0)
