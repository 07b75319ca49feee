"""Softmax and attention, as they are written by hand."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from corpus.case import Built, case, initial, normal


@case(
    title="flax encoder block: -inf bias masks a whole padding row",
    source="huggingface/transformers#19897, #20666; pytorch/pytorch#41508",
    primitive="sub",
    mechanism="inf-inf",
    phase="forward",
    causal_inf="constant",
    module="Encoder/block_0/attn",
)
def attention_masked_row() -> Built:
    class Attn(nn.Module):
        @nn.compact
        def __call__(self, x, mask):
            q, k, v = (nn.Dense(8, name=n)(x) for n in "qkv")
            s = jnp.einsum("btd,bsd->bts", q, k) / 8**0.5
            s = s + jnp.where(mask, 0.0, -jnp.inf)
            return nn.Dense(8, name="o")(jax.nn.softmax(s) @ v)  # <-- culprit

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, mask):
            x = x + Attn(name="attn")(nn.LayerNorm()(x), mask)
            return x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))

    class Encoder(nn.Module):
        @nn.compact
        def __call__(self, x, mask):
            for i in range(2):
                x = nn.remat(Block)(name=f"block_{i}")(x, mask)
            return nn.Dense(3)(x)

    net, tx = Encoder(), optax.adamw(1e-3)
    x = normal(13, 2, 5, 8)
    keep = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    mask = keep[:, :, None] & keep[:, None, :]
    params = initial(net, jax.random.PRNGKey(0), x, mask)

    def loss(p):
        logits = net.apply(p, x, mask)
        return jnp.mean(jnp.where(keep, jax.nn.logsumexp(logits, -1) - logits[..., 0], 0.0))

    @jax.jit
    def step(p, s):
        value, g = jax.value_and_grad(loss)(p)
        u, s = tx.update(g, s, p)
        return optax.apply_updates(p, u), s, value

    return step, (params, tx.init(params))


@case(
    title="adding finfo(float16).min to scores below -16 overflows to -inf",
    source="huggingface/transformers#17306, #17437",
    primitive="sub",
    mechanism="inf-inf",
    phase="forward",
    first_inf="add",
)
def attention_finfo_min_add() -> Built:
    def attend(scores, pad):
        bias = jnp.where(pad, jnp.finfo(jnp.float16).min, jnp.float16(0))
        s = scores + bias
        return jax.nn.softmax(s, axis=-1)  # <-- culprit

    scores = jnp.array([[-30.0, -40.0], [1.0, 2.0]], jnp.float16)
    pad = jnp.array([[True, True], [False, True]])
    return attend, (scores, pad)


@case(
    title="graph attention: masked edge overflows exp, then is multiplied by a 0.0 mask",
    source="deepmodeling/deepmd-kit#5717",
    primitive="mul",
    mechanism="0*inf",
    phase="forward",
    first_inf="exp",
)
def segment_softmax_masked() -> Built:
    @jax.jit
    def seg_softmax(data, seg, mask):
        m = jax.ops.segment_max(jnp.where(mask > 0, data, -1e9), seg, 2)
        e = jnp.exp(data - m[seg])
        e = e * mask  # <-- culprit
        z = jax.ops.segment_sum(e, seg, 2)
        return e / z[seg]

    return seg_softmax, (
        jnp.array([0.1, 0.3, 200.0, 1.0]),
        jnp.array([0, 0, 0, 1]),
        jnp.array([1.0, 1.0, 0.0, 1.0]),
    )


@case(
    title="1/(1+exp(-x)) for very negative x, gradient",
    source="jax-ml/jax#777",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    first_inf="exp",
)
def sigmoid_exp_grad() -> Built:
    def sig(x):
        e = jnp.exp(-x)  # <-- culprit
        return jnp.sum(1.0 / (1.0 + e))

    return jax.grad(jax.jit(sig)), (jnp.array([-200.0, -1.0, 0.0]),)


@case(
    title="remat with a policy: exp of unscaled attention logits overflows to inf/inf",
    source=(
        "attention without 1/sqrt(d) or max subtraction in low-level kernels; DeepStability softmax"
    ),
    primitive="div",
    mechanism="inf/inf",
    phase="forward",
    first_inf="exp",
    iterations=(1,),
)
def remat_policy_attention_large_logits() -> Built:
    tx = optax.sgd(1e-3)
    params = {
        "qk": jnp.stack([jnp.eye(6) * 0.5, jnp.eye(6) * 30.0, jnp.eye(6)]),
        "v": normal(68, 3, 6, 6) * 0.3,
    }
    x = normal(69, 5, 6) * 1.5

    @partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable)
    def layer(h, w):
        s = (h @ w["qk"]) @ h.T
        e = jnp.exp(s)
        a = e / jnp.sum(e, -1, keepdims=True)  # <-- culprit
        return h + a @ (h @ w["v"])

    def loss(p):
        h, _ = lax.scan(lambda h, w: (layer(h, w), None), x, p)
        return jnp.mean(h**2)

    @jax.jit
    def step(p, s):
        value, g = jax.value_and_grad(loss)(p)
        u, s = tx.update(g, s)
        return optax.apply_updates(p, u), s, value

    return step, (params, tx.init(params))


CASES = (
    attention_masked_row,
    attention_finfo_min_add,
    segment_softmax_masked,
    sigmoid_exp_grad,
    remat_policy_attention_large_logits,
)
