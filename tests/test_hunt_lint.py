"""What `nanlab.hunt` finds is real, and is nothing that `nanlab.lint` has proved impossible."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corpus import CASES
from sampled import sampled
from test_lint_soundness import STEPS

import nanlab
from nanlab.blame.program.call import call_of
from nanlab.hunting.space import Kind, variables_of

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks/hunt.py"
spec = importlib.util.spec_from_file_location("benchmark_of_hunt", BENCHMARK)
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)

# Of no other input does it fail than one that holds a NaN.
NOT_REACHABLE = {"masked_nan_targets"}
FAULTY = [name for name in CASES if not name.startswith("ctl_")]


def kind_of(site):
    return site.source, site.primitive, site.phase


def proved_and_found(function, args, found, **options):
    """Where a find begins, if lint has proved that harmless within the same limits; the report.

    What can happen only after another finding is no finding of lint's, so the culprit may be one.
    """
    variables = variables_of(call_of(function, args, {}), options.get("vary"), options["bound"])
    assume = {v.name: (v.least, v.hi) for v in variables if v.kind != Kind.BOOLEANS}
    report = nanlab.lint(function, *args, assume=assume)
    warned = {kind_of(finding.site) for finding in (*report.findings, *report.growth)}
    proved = {kind_of(proof.site) for proof in report.proved} - warned
    site = found.verdict.origin or found.verdict.culprit
    return site if kind_of(site) in proved else None, report


@pytest.mark.parametrize("name", sampled(FAULTY, 50, 1))
def test_faults_of_the_corpus_are_found_from_harmless_inputs(name):
    function, args = CASES[name].built
    with jax.enable_x64(False):
        options = SimpleNamespace(seconds=10.0, random=False)
        row = benchmark.hunted((name, function, args), options)
        if row is None:
            pytest.skip("no harmless input is at hand")
        assert bool(row["found"]) == (name not in NOT_REACHABLE)
        if not row["found"]:
            return
        assert row["is_real"]
        call = call_of(function, args, {})
        near, changed = benchmark.harmless(call)
        arguments, _ = call.restored(near)
        chosen = benchmark.settings(call, changed)
        wrong, _ = proved_and_found(function, arguments, row["found"], **chosen)
        assert not wrong, wrong


DANGERS = {
    "log": jnp.log,
    "root": jnp.sqrt,
    "inverse": lambda x: 1 / x,
    "exp": lambda x: jnp.exp(x * 10),
    "centred": lambda x: x / x.std(1, keepdims=True),
    "norm": lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True),
    "log of a softmax": lambda x: jnp.log(jax.nn.softmax(x * 20)),
    "angle": lambda x: jnp.arccos(x / jnp.sqrt(1e-3 + (x * x).sum(1, keepdims=True))),
    "power": lambda x: jnp.abs(x) ** 0.5,
    "atanh": lambda x: jnp.arctanh(jnp.tanh(x)),
    "half": lambda x: (x * 3e3).astype(jnp.float16),
}


@pytest.mark.parametrize("seed", sampled(range(60), 30))
def test_what_lint_proves_of_random_programs_is_not_found(seed):
    rng = np.random.default_rng(seed)
    steps = STEPS | DANGERS
    names = [*rng.choice(sorted(steps), 3), *rng.choice(sorted(DANGERS), 1)]
    rng.shuffle(names)

    def run(x):
        for name in names:
            x = steps[name](x).astype(x.dtype)
        return x

    function = jax.grad(lambda x: run(x).sum()) if seed % 2 else run
    x = jnp.asarray(0.5 + 0.1 * rng.normal(size=(4, 5)), jnp.float32)
    found = nanlab.hunt(function, x, bound={"x": 10.0}, seconds=1.0)
    if found:
        wrong, report = proved_and_found(function, (x,), found, bound={"x": 10.0})
        assert not wrong, (names, wrong)
        assert report.findings or report.growth, names
