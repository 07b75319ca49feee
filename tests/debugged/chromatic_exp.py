"""The branch of a where that is not taken overflows, and the backward pass multiplies it by 0."""

import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", True)

TIMES = jnp.linspace(-4115.0, 800.0, 300)


def delay(params, times):
    since = times - params["t0"]
    tau = 10.0 ** params["log10_tau"]
    decay = jnp.exp(-since / tau)  # <-- origin
    return jnp.where(since > 0, -(10.0 ** params["log10_amp"]) * decay, 0.0)


def neg_log_prob(params, residuals):
    r = residuals - delay(params, TIMES)
    return 0.5 * jnp.sum((r / 1e-6) ** 2) / r.shape[0] + 2.0 * params["log10_tau"]


@jax.jit
def leapfrog(params, momenta, residuals):
    def body(_, carry):
        params, momenta = carry
        grads = jax.grad(neg_log_prob)(params, residuals)
        momenta = jax.tree.map(lambda m, g: m - 0.01 * g, momenta, grads)
        params = jax.tree.map(lambda p, m: p + 0.01 * m, params, momenta)
        return params, momenta

    return jax.lax.fori_loop(0, 40, body, (params, momenta))


batched = jax.jit(jax.vmap(leapfrog, in_axes=(0, 0, 0)))


def data():
    params = {
        "t0": jnp.zeros(3),
        "log10_tau": jnp.array([1.5, 0.9, 1.2]),
        "log10_amp": jnp.full(3, -6.5),
    }
    momenta = {
        "t0": jnp.zeros(3),
        "log10_tau": jnp.array([0.0, -1.0, 0.0]),
        "log10_amp": jnp.zeros(3),
    }
    residuals = 1e-7 * jax.random.normal(jax.random.key(0), (3, 300))
    return params, momenta, residuals


if __name__ == "__main__":
    params, momenta = batched(*data())
    print(params)
