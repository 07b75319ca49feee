"""Linear algebra: degenerate spectra, matrices that are not positive definite."""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from corpus.case import Built, case, f32, normal


@case(
    title="gradient through an SVD with repeated singular values",
    source="jax-ml/jax#2311, #8732",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    first_inf="div",
    also=("dot_general", "sub"),
)
def svd_degenerate() -> Built:
    def f(a):
        u, s, vt = jnp.linalg.svd(a, full_matrices=False)  # <-- culprit
        return jnp.sum(jnp.abs((u * s) @ vt) ** 2) + u[0, 0]

    return jax.grad(f), (jnp.diag(jnp.array([1.0, 1.0, 2.0])),)


@case(
    title="gradient of eigenvectors of a matrix with repeated eigenvalues",
    source="jax-ml/jax#669, #4646",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    first_inf="integer_pow",
    also=("dot_general", "sub"),
)
def eigh_degenerate() -> Built:
    @jax.jit
    def f(m):
        _, v = jnp.linalg.eigh(m)  # <-- culprit
        return v[0, 2]

    return jax.grad(f), (jnp.diag(jnp.array([4.0, 1.0, 1.0])),)


@case(
    title="GP marginal likelihood without jitter: Cholesky of a numerically singular kernel",
    source="GPflow/GPflow#900; facebook/Ax#749",
    primitive="cholesky",
    mechanism="opaque",
    phase="forward",
)
def gp_cholesky_no_jitter() -> Built:
    x = jnp.linspace(0, 1, 12)
    y = jnp.sin(6 * x)
    tx = optax.adam(1e-2)

    def nll(p):
        d = (x[:, None] - x[None]) / jnp.exp(p["ls"])
        K = jnp.exp(p["amp"]) * jnp.exp(-0.5 * d * d)
        L = jnp.linalg.cholesky(K)  # <-- culprit
        a = jax.scipy.linalg.cho_solve((L, True), y)
        return 0.5 * y @ a + jnp.sum(jnp.log(jnp.diag(L)))

    @jax.jit
    def step(p, s):
        value, g = jax.value_and_grad(nll)(p)
        u, s = tx.update(g, s)
        return optax.apply_updates(p, u), s, value

    p = {"ls": f32(0.5), "amp": f32(0.0)}
    return step, (p, tx.init(p))


@case(
    title="recursive covariance downdate loses positive definiteness at step 4",
    source="Kalman/CMA-ES covariance updates (sqrt filters exist for this); GPyOpt#187 class",
    primitive="cholesky",
    mechanism="opaque",
    phase="forward",
    iterations=(4,),
)
def covariance_downdate_scan() -> Built:
    e = jnp.array([1.0, 0.0, 0.0])

    def run(P0, zs):
        def body(P, z):
            L = jnp.linalg.cholesky(P)  # <-- culprit
            P = P - 0.3 * jnp.outer(e, e)
            return P, L @ z

        return lax.scan(body, P0, zs)

    return jax.jit(run), (jnp.eye(3), normal(49, 7, 3))


CASES = (
    svd_degenerate,
    eigh_degenerate,
    gp_cholesky_no_jitter,
    covariance_downdate_scan,
)
