"""Loops and recurrences."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from corpus.case import Built, case, f32, initial, normal


@case(
    title="sLSTM-like cell with an unstabilised exponential gate: inf/inf in c/n at t=5",
    source="muditbhargava66/PyxLSTM#26",
    primitive="div",
    mechanism="inf/inf",
    phase="forward",
    first_inf="exp",
    iterations=(5,),
    module="Seq/Cell_0",
)
def xlstm_exp_gate() -> Built:
    class Cell(nn.Module):
        @nn.compact
        def __call__(self, c, x):
            cell, n = c
            i = jnp.exp(nn.Dense(6, name="ig", kernel_init=nn.initializers.constant(0.5))(x))
            f = nn.sigmoid(nn.Dense(6, name="fg")(x))
            z = nn.tanh(nn.Dense(6, name="zg")(x))
            cell, n = f * cell + i * z, f * n + i
            h = cell / n  # <-- culprit
            return (cell, n), h

    class Seq(nn.Module):
        @nn.compact
        def __call__(self, xs):
            S = nn.scan(Cell, variable_broadcast="params", split_rngs={"params": False})
            _, hs = S(name="Cell_0")((jnp.zeros(6), jnp.ones(6)), xs)
            return nn.Dense(1)(hs)

    net, tx = Seq(), optax.adam(1e-3)
    xs = jnp.abs(normal(51, 9, 4)).at[5].set(60.0)
    params = initial(net, jax.random.PRNGKey(0), xs)

    @jax.jit
    def step(p, s):
        value, g = jax.value_and_grad(lambda q: jnp.mean(net.apply(q, xs) ** 2))(p)
        u, s = tx.update(g, s)
        return optax.apply_updates(p, u), s, value

    return step, (params, tx.init(params))


@case(
    title=(
        "Sinkhorn in the primal domain: a kernel row underflows, a/0=inf, then 0*inf in the matvec"
    ),
    source="PythonOT/POT#54, #34; google-research/ott#6",
    primitive="dot_general",
    mechanism="0*inf",
    phase="forward",
    first_inf="div",
    iterations=(0,),
)
def sinkhorn_underflow() -> Built:
    def sinkhorn(C, a, b):
        K = jnp.exp(-C / 1e-3)

        def body(uv, _):
            u, v = uv
            u = a / (K @ v)
            s = K.T @ u  # <-- culprit
            return (u, b / s), None

        (u, v), _ = lax.scan(body, (jnp.ones(3), jnp.ones(3)), None, length=10)
        return jnp.sum(u[:, None] * K * v * C)

    C = jnp.array([[0.0, 0.1, 0.2], [0.1, 0.0, 0.3], [1.0, 1.2, 1.1]])
    return jax.jit(sinkhorn), (C, jnp.ones(3) / 3, jnp.ones(3) / 3)


@case(
    title="EM for a Gaussian mixture: an outlier has zero density under every component",
    source="GMM/EM responsibilities without logsumexp (mlberkeley/scae-pytorch#4 class)",
    primitive="div",
    mechanism="0/0",
    phase="forward",
    iterations=(0,),
)
def gmm_em_outlier() -> Built:
    def em(x, mu, sd):
        def body(c, _):
            mu, sd = c
            pdf = jnp.exp(-0.5 * ((x[:, None] - mu) / sd) ** 2) / sd
            r = pdf / pdf.sum(1, keepdims=True)  # <-- culprit
            n = r.sum(0)
            mu = (r * x[:, None]).sum(0) / n
            sd = jnp.sqrt((r * (x[:, None] - mu) ** 2).sum(0) / n + 1e-6)
            return (mu, sd), None

        return lax.scan(body, (mu, sd), None, length=5)[0]

    x = jnp.concatenate([normal(52, 8), normal(53, 8) + 4.0, jnp.array([1e3])])
    return jax.jit(em), (x, jnp.array([0.0, 4.0]), jnp.ones(2))


@case(
    title="lax.cond uses >= instead of >: x*log(x) at x=0 in the taken branch",
    source="boundary mistakes in guarded logs (jax-ml/jax#5798 answers)",
    primitive="mul",
    mechanism="0*inf",
    phase="forward",
    first_inf="log",
)
def cond_unsafe_branch() -> Built:
    @jax.jit
    def f(x):
        def pos(v):
            return v * jnp.log(v)  # <-- culprit

        return lax.cond(x >= 0, pos, lambda v: v, x)

    return f, (f32(0.0),)


@case(
    title="linear recurrence by associative_scan: products overflow, then inf*0",
    source="S4/Mamba-style parallel scans with decay>1",
    primitive="mul",
    mechanism="0*inf",
    phase="forward",
    first_inf="mul",
)
def associative_scan_products() -> Built:
    @jax.jit
    def recur(a, b):
        def op(left, right):
            la, lb = left
            ra, rb = right
            carry = ra * lb  # <-- culprit
            return la * ra, carry + rb

        return lax.associative_scan(op, (a, b))[1]

    return recur, (jnp.full((16,), 1e15), jnp.zeros(16).at[15].set(1.0))


@case(
    title="compounded growth: a cumulative product as a scan",
    source="antoinecarme/pyaf#180",
    origin="mul",
    mechanism="overflow",
    phase="forward",
    iterations=(7,),
)
def compounded_growth() -> Built:
    @jax.jit
    def grow(ratios):
        def body(level, ratio):
            level = level * ratio  # <-- origin
            return level, level

        return lax.scan(body, f32(1.0), ratios)[1]

    return grow, (jnp.full((10,), 1e5),)


@case(
    title="power iteration that never normalises its vector",
    source="matrix powers in a while loop without rescaling (class)",
    origin="dot_general",
    mechanism="overflow",
    phase="forward",
    iterations=(9,),
)
def power_iteration() -> Built:
    def iterate(matrix, vector):
        def going(state):
            return state[0] < 12

        def body(state):
            count, v = state
            return count + 1, matrix @ v  # <-- origin

        return lax.while_loop(going, body, (0, vector))[1]

    return iterate, (jnp.full((2, 2), 5e3), jnp.ones(2))


CASES = (
    xlstm_exp_gate,
    sinkhorn_underflow,
    gmm_em_outlier,
    cond_unsafe_branch,
    associative_scan_products,
    compounded_growth,
    power_iteration,
)
