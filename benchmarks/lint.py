"""`nanlab.lint` on programs with a fault, without one, and with a guard taken out.

python benchmarks/lint.py [--most N] [corpus] [healthy] [ablation] [mutation] [speed]

Without a name, all of them; --most takes the first N programs without a fault only.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from copy import copy
from itertools import islice
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import nanlab
from nanlab.backend import jaxpr as _jax
from nanlab.blame.program.call import call_of
from nanlab.blame.program.program import Program, flatten_closed
from nanlab.linting.analysis import ALL_PARTS, Parts, RangeAnalysis
from nanlab.linting.arguments import abstract_argument, assumptions_of
from nanlab.linting.lint import lint_call

F32 = jnp.float32
REACHES = (10.0, 100.0, 1000.0)
X = jnp.asarray(np.random.RandomState(0).randn(4, 6), F32)
LABELS = jnp.array([0, 2, 1, 5])
ONE_HOT = jax.nn.one_hot(LABELS, 6)
WEIGHTS = jnp.asarray(np.random.RandomState(1).randn(6, 6), F32)
QKV = tuple(jnp.asarray(np.random.RandomState(i).randn(2, 5, 2, 4), F32) for i in range(3))

ACTIVATIONS = (
    "relu",
    "relu6",
    "sigmoid",
    "softplus",
    "silu",
    "log_sigmoid",
    "leaky_relu",
    "hard_sigmoid",
    "hard_swish",
    "elu",
    "celu",
    "selu",
    "gelu",
    "glu",
    "squareplus",
    "mish",
    "hard_tanh",
    "soft_sign",
    "softmax",
    "log_softmax",
    "logsumexp",
    "standardize",
    "sparse_plus",
)
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exact gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "tanh": jnp.tanh,
    "logistic loss": lambda x: jnp.logaddexp(x, 0.0),
    "variance": lambda x: (x - x.mean(1, keepdims=True)) / jnp.sqrt(x.var(1, keepdims=True) + 1e-5),
    "safe norm": lambda x: x / jnp.sqrt((x * x).sum(1, keepdims=True) + 1e-6),
    "optax safe norm": lambda x: optax.safe_norm(x, 1e-6, axis=1),
    "clipped norm": lambda x: x / jnp.maximum(jnp.sqrt((x * x).sum() + 1e-12), 1.0),
    "double where": lambda x: jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)), 0.0),
    "double where root": lambda x: jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, jnp.abs(x)))),
    "eps log": lambda x: jnp.log(jnp.abs(x) + 1e-6),
    "clipped log": lambda x: jnp.log(jnp.clip(jax.nn.sigmoid(x), 1e-6, 1 - 1e-6)),
    "entropy": lambda x: -(jax.nn.softmax(x) * jax.nn.log_softmax(x)).sum(1),
    "log1p exp": lambda x: jnp.log1p(jnp.exp(-jnp.abs(x))) + jnp.maximum(x, 0),
    "gaussian nll": lambda x: (
        x**2 / (jax.nn.softplus(x) + 1e-3) + jnp.log(jax.nn.softplus(x) + 1e-3)
    ),
    "vae kl": lambda x: jnp.exp(jnp.clip(x, -10, 10)) + x**2 - 1 - jnp.clip(x, -10, 10),
    "clipped ratio": lambda x: jnp.minimum(jnp.exp(jnp.clip(x, -5, 5)), 1.2),
    "dice": lambda x: (
        1
        - (2 * (jax.nn.sigmoid(x) * ONE_HOT).sum() + 1)
        / (jax.nn.sigmoid(x).sum() + ONE_HOT.sum() + 1)
    ),
    "cosine": lambda x: (
        (x @ x.T) / (jnp.sqrt((x * x).sum(1) + 1e-6)[:, None] * jnp.sqrt((x * x).sum(1) + 1e-6))
    ),
    "contrastive": lambda x: jax.nn.log_softmax(
        (x / jnp.sqrt((x * x).sum(1, keepdims=True) + 1e-6)) @ x.T / 0.1
    ),
    "mixture": lambda x: jax.nn.logsumexp(jax.nn.log_softmax(x) - 0.5 * x**2, 1),
    "temperature": lambda x: jax.nn.softmax(x / (jax.nn.softplus(x.mean()) + 0.1)),
    "arccos clipped": lambda x: jnp.arccos(jnp.clip(x, -0.999, 0.999)),
    "arctanh of tanh": lambda x: jnp.arctanh(0.99 * jnp.tanh(x)),
    "sinusoid": lambda x: jnp.sin(x) / jnp.sqrt(1 + x**2),
    "sinc": lambda x: jnp.sinc(x),
    "angle": lambda x: jnp.arctan2(x, 1 + jnp.abs(x)),
    "cumulative softmax": lambda x: jnp.cumsum(jax.nn.softmax(x), 1),
    "top two": lambda x: lax.top_k(jax.nn.softmax(x), 2)[0],
    "masked mean": lambda x: (x * (x > 0)).sum() / jnp.maximum((x > 0).sum(), 1),
    "masked softmax": lambda x: jax.nn.softmax(jnp.where(jnp.arange(6) < 3, x, -jnp.inf)),
    "where softmax": lambda x: jax.nn.softmax(x, where=jnp.arange(6) < 3),
    "finite only": lambda x: jnp.where(jnp.isfinite(x), x, 0.0).sum(),
    "nan to num": lambda x: jnp.nan_to_num(x) / 3,
    "huber by hand": lambda x: jnp.where(jnp.abs(x) < 1, 0.5 * x**2, jnp.abs(x) - 0.5),
    "hardened exp": lambda x: jnp.exp(x - lax.stop_gradient(x.max(1, keepdims=True))),
    "power": lambda x: (jnp.abs(x) + 0.1) ** 0.7,
    "harmonic": lambda x: 1 / (1 / (jnp.abs(x) + 1)).sum(1),
    "scan mean": lambda x: lax.scan(lambda c, r: (0.9 * c + 0.1 * r, c), x[0], x)[1],
    "scan log": lambda x: lax.scan(lambda c, r: (jnp.logaddexp(c, r), c), x[0], x)[0],
    "while tanh": lambda x: lax.fori_loop(0, 3, lambda i, c: jnp.tanh(c + x), x),
    "cond": lambda x: lax.cond(x[0, 0] > 0, lambda v: 1 / (1 + v**2), jnp.tanh, x),
    "batch matmul": lambda x: jnp.tanh(x @ WEIGHTS) @ WEIGHTS,
    "bce with logits": lambda x: jnp.maximum(x, 0) - x * ONE_HOT + jnp.log1p(jnp.exp(-jnp.abs(x))),
    "rms": lambda x: x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6),
    "quantile": lambda x: jnp.maximum(0.9 * x, -0.1 * x),
    "spherical": lambda x: x * jnp.tanh(jnp.sqrt((x * x).sum(1, keepdims=True) + 1e-3)),
    "geometric mean": lambda x: jnp.exp(jnp.mean(jnp.log(jnp.clip(jnp.abs(x), 1e-3, 1e3)), 1)),
}
LOSSES: dict[str, Callable[..., Any]] = {
    "l2": optax.losses.l2_loss,
    "squared error": optax.losses.squared_error,
    "huber": optax.losses.huber_loss,
    "log cosh": optax.losses.log_cosh,
    "cosine similarity": lambda x: optax.losses.cosine_similarity(x, ONE_HOT, epsilon=1e-6),
    "cosine distance": lambda x: optax.losses.cosine_distance(x, ONE_HOT, epsilon=1e-6),
    "sigmoid cross-entropy": lambda x: optax.losses.sigmoid_binary_cross_entropy(x, ONE_HOT),
    "softmax cross-entropy": lambda x: optax.softmax_cross_entropy(x, ONE_HOT),
    "integer labels": lambda x: optax.softmax_cross_entropy_with_integer_labels(x, LABELS),
    "smooth labels": lambda x: optax.softmax_cross_entropy(
        x, optax.losses.smooth_labels(ONE_HOT, 0.1)
    ),
    "hinge": lambda x: optax.losses.hinge_loss(x, 2 * ONE_HOT - 1),
    "focal": lambda x: optax.losses.sigmoid_focal_loss(x, ONE_HOT),
    "poly": lambda x: optax.losses.poly_loss_cross_entropy(x, ONE_HOT),
    "kl": lambda x: optax.losses.kl_divergence(
        jax.nn.log_softmax(x), optax.losses.smooth_labels(ONE_HOT, 0.1)
    ),
    "kl of logs": lambda x: optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(x), jax.nn.log_softmax(2 * x)
    ),
    "ctc": lambda x: optax.losses.ctc_loss(
        x[None], jnp.zeros((1, 4)), jnp.array([[1, 2]]), jnp.zeros((1, 2))
    ),
    "ranking": lambda x: optax.losses.ranking_softmax_loss(x, ONE_HOT),
    "perceptron": lambda x: optax.losses.perceptron_loss(x, 2 * ONE_HOT - 1),
    "multiclass hinge": lambda x: optax.losses.multiclass_hinge_loss(x, LABELS),
    "safe softmax": lambda x: optax.losses.safe_softmax_cross_entropy(x, ONE_HOT),
}


def attention(q, k, v, *, scores=lambda s: s):
    s = scores(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(s), v)


def online(q, k, v):
    """Attention by blocks, with a running maximum, as flash attention computes it."""

    def block(carry, kv):
        m, z, acc = carry
        s = jnp.einsum("bqhd,bhd->bqh", q, kv[0]) / 2
        new = jnp.maximum(m, s)
        old, p = jnp.exp(m - new), jnp.exp(s - new)
        return (new, z * old + p, acc * old[..., None] + p[..., None] * kv[1][:, None]), None

    first = jnp.einsum("bqhd,bhd->bqh", q, k[:, 0]) / 2
    start = (first, jnp.ones_like(first), jnp.broadcast_to(v[:, :1], q.shape))
    (_, z, acc), _ = lax.scan(block, start, (k[:, 1:].swapaxes(0, 1), v[:, 1:].swapaxes(0, 1)))
    return acc / jnp.maximum(z, 1e-6)[..., None]


CAUSAL = jnp.tril(jnp.ones((5, 5), bool))
ATTENTIONS: dict[str, Callable[..., Any]] = {
    "attention": attention,
    "causal": lambda *a: attention(*a, scores=lambda s: jnp.where(CAUSAL, s, -jnp.inf)),
    "large negative": lambda *a: attention(*a, scores=lambda s: jnp.where(CAUSAL, s, -1e9)),
    "soft cap": lambda *a: attention(*a, scores=lambda s: 30 * jnp.tanh(s / 30)),
    "jax": lambda q, k, v: jax.nn.dot_product_attention(q, k, v),
    "jax causal": lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True),
    "online": online,
    "linear": lambda q, k, v: jnp.einsum(
        "bqhd,bhde->bqhe", jax.nn.elu(q) + 1, jnp.einsum("bkhd,bkhe->bhde", jax.nn.elu(k) + 1, v)
    ),
}


class Net(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x):
        layers = {
            "relu": nn.relu,
            "gelu": nn.gelu,
            "tanh": nn.tanh,
            "silu": nn.silu,
            "layer norm": lambda h: nn.LayerNorm()(nn.relu(h)),
            "rms norm": lambda h: nn.RMSNorm()(nn.silu(h)),
            "group norm": lambda h: nn.GroupNorm(num_groups=2)(nn.gelu(h)),
            "attention": lambda h: (
                h + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(h)[None])[0]
            ),
            "gru": lambda h: nn.RNN(nn.GRUCell(8))(h[None])[0],
            "lstm": lambda h: nn.RNN(nn.LSTMCell(8))(h[None])[0],
            "conv": lambda h: nn.relu(nn.Conv(8, (3,))(h[None])[0]),
            "glu": lambda h: nn.glu(jnp.concatenate([h, h], -1)),
        }
        for _ in range(2):
            x = layers[self.kind](nn.Dense(8)(x))
        return nn.Dense(6)(x)


OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, 0.9, nesterov=True),
    "adam": optax.adam(1e-3),
    "adamw": optax.adamw(1e-3),
    "rmsprop": optax.rmsprop(1e-3),
    "adagrad": optax.adagrad(1e-2),
    "lion": optax.lion(1e-4),
    "adabelief": optax.adabelief(1e-3),
    "nadam": optax.nadam(1e-3),
    "amsgrad": optax.amsgrad(1e-3),
}
STEPS = [
    ("relu", "sgd"),
    ("gelu", "momentum"),
    ("tanh", "adam"),
    ("silu", "adamw"),
    ("layer norm", "adamw"),
    ("rms norm", "lion"),
    ("group norm", "rmsprop"),
    ("attention", "adamw"),
    ("gru", "adam"),
    ("lstm", "nadam"),
    ("conv", "momentum"),
    ("glu", "adabelief"),
    ("layer norm", "adagrad"),
    ("relu", "amsgrad"),
    ("attention", "sgd"),
    ("rms norm", "adam"),
]


def train_step(kind: str, optimizer: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    net, tx = Net(kind), optax.chain(optax.clip_by_global_norm(1.0), OPTIMIZERS[optimizer])
    shapes = jax.eval_shape(net.init, jax.random.key(0), X)
    params = jax.tree.map(lambda s: jnp.full(s.shape, -0.1, s.dtype), shapes)

    def step(params, state, x, labels):
        def loss(p):
            logits = net.apply(p, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return step, (params, tx.init(params), X, LABELS)


def healthy() -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """Programs without a fault, and their gradients."""
    named = {f"jax.nn.{name}": getattr(jax.nn, name) for name in ACTIVATIONS}
    named |= FUNCTIONS | {f"loss {name}": loss for name, loss in LOSSES.items()}
    for name, function in named.items():
        yield name, function, (X,)
        yield f"{name}, gradient", jax.grad(lambda x, f=function: jnp.sum(f(x))), (X,)
    for name, function in ATTENTIONS.items():
        yield name, function, QKV
        total = lambda q, k, v, f=function: jnp.sum(f(q, k, v))  # noqa: E731
        yield f"{name}, gradient", jax.grad(total, (0, 1, 2)), QKV
    for kind, optimizer in STEPS:
        yield f"step {kind}, {optimizer}", *train_step(kind, optimizer)


def row(what: str, result: object) -> None:
    print(f"| {what} | {result} |", flush=True)


def arguments_within(call: Any, reach: float) -> list[Any]:
    """Arguments within plus and minus `reach`; those that are not negative stay so."""
    found = []
    for array, known in zip(
        call.arrays, assumptions_of(call.names, call.arrays, None), strict=True
    ):
        value = abstract_argument(array, known)
        if known is not None and jnp.issubdtype(array.dtype, jnp.floating):
            value.lo, value.hi = (
                np.full_like(value.lo, 0 if known.lo == 0 else -reach),
                np.full_like(value.hi, reach),
            )
        found.append(value)
    return found


def dangers(call: Any, reach: float, parts: Parts = ALL_PARTS) -> list[str]:
    """The dangers of a call that reach an output."""
    program = flatten_closed(call.closed, None)
    results = RangeAnalysis(program, parts).run(arguments_within(call, reach))
    return sorted(program.equations[i].primitive for i in results.dangers.keys() & results.reaching)


def run_healthy(calls: dict[str, Any]) -> None:
    for reach in REACHES:
        bad = {name: found for name, call in calls.items() if (found := dangers(call, reach))}
        row(f"healthy, inputs within {reach:g}: with a danger", f"{len(bad)} of {len(calls)} {bad}")


def run_ablation(calls: dict[str, Any]) -> None:
    parts = {
        "all": ALL_PARTS,
        "without relations": Parts(relations=False),
        "without guards": Parts(guards=False),
        "without elements": Parts(elements=False),
        "plain intervals": Parts(relations=False, guards=False, elements=False),
    }
    for name, chosen in parts.items():
        count = sum(bool(dangers(call, 10.0, chosen)) for call in calls.values())
        row(f"healthy, {name}: with a danger", f"{count} of {len(calls)}")


def run_corpus() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from corpus import CASES

    count: Counter[str] = Counter()
    for case in CASES.values():
        function, arguments = case.built
        report = nanlab.lint(function, *arguments)
        if case.name.startswith("ctl_"):
            count["control"] += 1
            if report.findings:
                count["control with a finding"] += 1
                print("  control", case.name, *report.findings, sep="\n    ")
            continue
        lines = case.marked("culprit", "also", "origin", "decoy", "fused")
        verdict = nanlab.pinpoint(function, *arguments)
        lines |= {site.source for site in (verdict.origin, verdict.culprit) if site}
        where = {f.site.source for f in report.findings} & lines
        grown = {f.site.source for f in report.growth} & lines
        kind = "danger" if where else "growth" if grown else "missed"
        count[kind] += 1
        if not where:
            print(f"  {kind}: {case.name}")
    row("corpus", dict(count))


# A guard taken out: an equation that hands on its operand.


def mutants(program: Program) -> Iterator[tuple[int, int]]:
    """Equations of the top frame that guard, and the operand that they would hand on."""
    for index in program.frames[0].equations:
        equation = program.equations[index]
        constant = [program.values[v].is_constant for v in equation.operands]
        shapes = [program.values[v].shape for v in equation.operands]
        if equation.primitive in ("max", "min", "add") and sum(constant) == 1:
            operand = constant.index(False)
            number = np.asarray(program.values[equation.operands[1 - operand]].constant)
            if equation.primitive != "add" or 0 < np.max(np.abs(number)) <= 1e-2:
                yield index, operand
        elif equation.primitive == "clamp":
            yield index, 1
        elif equation.primitive == "sub" and shapes[0] != () and not any(constant):
            yield index, 0
        elif equation.primitive == "select_n" and len(constant) == 3:
            yield from ((index, k) for k in (1, 2) if not constant[k])


def without(program: Program, index: int, operand: int) -> Program:
    """The program in which this equation hands on its operand."""
    equation = program.equations[index]
    result, source = equation.results[0], equation.operands[operand]
    if program.values[result].shape != program.values[source].shape:
        return program
    changed, renamed = (
        copy(program),
        lambda values: tuple(source if v == result else v for v in values),
    )
    changed.equations, changed.frames = (
        [copy(e) for e in program.equations],
        [copy(f) for f in program.frames],
    )
    for item in changed.equations:
        item.operands = renamed(item.operands)
    for frame in changed.frames:
        frame.results = renamed(frame.results)
        frame.equations = [i for i in frame.equations if i != index]
    return changed


def inputs(call: Any, reach: float) -> Iterator[list[Any]]:
    """Harmless inputs: zeros, ends, one large element, numbers of every size."""
    rng = np.random.default_rng(0)
    kinds = (
        lambda shape: np.zeros(shape),
        lambda shape: np.full(shape, reach),
        lambda shape: np.full(shape, -reach),
        lambda shape: rng.normal(size=shape),
        lambda shape: rng.choice([-reach, 0, reach], shape),
        lambda shape: rng.uniform(-reach, reach, shape),
        lambda shape: rng.choice([0, 0, reach], shape),
        lambda shape: rng.normal(size=shape) * 1e-6,
    )
    for kind in kinds:
        yield [
            jnp.asarray(kind(a.shape), a.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a
            for a in call.arrays
        ]


def is_finite(program: Program, arrays: list[Any]) -> bool:
    env: dict[int, Any] = dict(zip(program.frames[0].arguments, arrays, strict=True))
    read = lambda v: env[v] if v in env else program.values[v].constant  # noqa: E731
    for index in program.frames[0].equations:
        equation = program.equations[index]
        env.update(
            zip(
                equation.results,
                _jax.bind(equation.eqn, [read(v) for v in equation.operands]),
                strict=True,
            )
        )
    return all(
        np.isfinite(np.asarray(read(v), np.float64)).all() for v in program.frames[0].results
    )


def run_mutation(calls: dict[str, Any], reach: float = 100.0) -> None:
    real, found = 0, 0
    for name, call in calls.items():
        program = flatten_closed(call.closed, None)
        if len(program.equations) > 120 or dangers(call, reach):
            continue
        given = arguments_within(call, reach)
        healthy_analysis = RangeAnalysis(program)
        healthy_analysis.run(given)
        for index, operand in mutants(program):
            if healthy_analysis.of(program.equations[index].operands[operand]).empty.all():
                continue  # what it would hand on is a NaN or an inf of its own
            changed = without(program, index, operand)
            if changed is program or all(
                is_finite(changed, arrays) for arrays in inputs(call, reach)
            ):
                continue
            results = RangeAnalysis(changed).run(given)
            real += 1
            hit = bool(results.dangers.keys() & results.reaching)
            found += hit
            if not hit:
                print(f"  missed: {name} without {program.equations[index].primitive} {index}")
    row("removed guards that are found", f"{found} of {real}")


def transformer() -> Any:
    """A train step of 11 million parameters."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = x + nn.MultiHeadDotProductAttention(num_heads=6)(nn.LayerNorm()(x))
            return x + nn.Dense(384)(nn.gelu(nn.Dense(1536)(nn.LayerNorm()(x))))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, ids):
            x = nn.Embed(1000, 384)(ids)
            for _ in range(6):
                x = Block()(x)
            return nn.Dense(1000)(nn.LayerNorm()(x))

    net, tx, ids = Model(), optax.adamw(1e-3), jnp.zeros((4, 64), jnp.int32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), ids)
    params = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    row("transformer's parameters", sum(x.size for x in jax.tree.leaves(params)))

    def step(params, state, ids):
        def loss(p):
            return optax.softmax_cross_entropy_with_integer_labels(net.apply(p, ids), ids).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return call_of(step, (params, tx.init(params), ids), {})


def run_speed(calls: dict[str, Any]) -> None:
    def seconds(call: Any) -> float:
        start = time.process_time()
        lint_call(call)
        return time.process_time() - start

    times = {name: seconds(call) for name, call in calls.items()}
    order = sorted(times, key=times.get)
    middle, worst = times[order[len(order) // 2]], times[order[-1]]
    row("time after tracing", f"median {middle * 1e3:.1f} ms, worst {worst:.2f} s ({order[-1]})")
    call = transformer()
    row("transformer", f"{min(seconds(call) for _ in range(2)):.2f} s")


def main(arguments: list[str]) -> None:
    most = int(arguments[arguments.index("--most") + 1]) if "--most" in arguments else None
    names = [name for name in arguments if name.isalpha()]
    calls = {n: call_of(function, args, {}) for n, function, args in islice(healthy(), most)}
    runs = {
        "healthy": run_healthy,
        "ablation": run_ablation,
        "mutation": run_mutation,
        "speed": run_speed,
    }
    print("| what | result |\n|---|---|")
    for name in names or ["corpus", *runs]:
        run_corpus() if name == "corpus" else runs[name](calls)


if __name__ == "__main__":
    main(sys.argv[1:])
