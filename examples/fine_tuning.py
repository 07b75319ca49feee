"""A Flax fine-tuning script as in model libraries: which number is safe in an attention mask?

    python -m nanlab.sweep examples/fine_tuning.toml

The mask adds this number to the attention scores of padding. A row of nothing but padding has no
other scores: if the number is -inf, or becomes -inf in float16, its softmax computes inf - inf.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, struct, traverse_util
from flax.training import train_state

import nanlab

IGNORED = -100
ROWS, LENGTH, BATCH = 96, 6, 8
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(1, 16, (ROWS, LENGTH)).astype(np.int32)
LENGTHS = RNG.integers(2, LENGTH + 1, ROWS)
LENGTHS[50] = 0  # an empty text


@dataclass(frozen=True)
class Config:
    vocab_size: int = 16
    hidden_size: int = 8
    num_attention_heads: int = 2
    num_labels: int = 3
    hidden_dropout_prob: float = 0.1


@struct.dataclass
class Output:
    logits: jax.Array


class SelfAttention(linen.Module):
    config: Config
    dtype: jnp.dtype

    @linen.compact
    def __call__(self, hidden, attention_mask, mask_value):
        size, heads = self.config.hidden_size, self.config.num_attention_heads
        joint = linen.Dense(3 * size, use_bias=False, dtype=self.dtype, name="joint")(hidden)
        query, key, value = jnp.split(joint.reshape(*hidden.shape[:2], heads, -1), 3, axis=-1)
        bias = jnp.where(attention_mask > 0, 0.0, mask_value).astype(self.dtype)
        weights = linen.attention.dot_product_attention_weights(
            query, key, bias=bias[:, None, None, :], dtype=self.dtype
        )
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(hidden.shape)
        return linen.Dense(size, use_bias=False, dtype=self.dtype, name="output")(mixed)


class TokenClassifierModule(linen.Module):
    config: Config
    dtype: jnp.dtype

    @linen.compact
    def __call__(self, input_ids, attention_mask, mask_value, deterministic=True):
        config = self.config
        embed = linen.Embed(config.vocab_size, config.hidden_size, dtype=self.dtype, name="embed")
        attention = SelfAttention(config, self.dtype, name="attention")
        dropout = linen.Dropout(config.hidden_dropout_prob, deterministic=deterministic)
        hidden = embed(input_ids)
        hidden += dropout(attention(hidden, attention_mask, mask_value))
        hidden = linen.RMSNorm(dtype=self.dtype, name="layer_norm")(hidden)
        return linen.Dense(config.num_labels, dtype=self.dtype, name="classifier")(hidden)


class TokenClassifier:
    """A module with its fixed settings; the parameters are passed at each call."""

    def __init__(self, config, mask_value, dtype=jnp.float32):
        self.module, self.mask_value = TokenClassifierModule(config, dtype), mask_value

    def init_weights(self, rng):
        tokens = jnp.ones((1, LENGTH), jnp.int32)
        return self.module.init(rng, tokens, tokens, self.mask_value)["params"]

    def __call__(self, input_ids, attention_mask, *, params, dropout_rng=None, train=False):
        rngs = {"dropout": dropout_rng} if train else {}
        inputs = input_ids, attention_mask, self.mask_value
        return Output(self.module.apply({"params": params}, *inputs, not train, rngs=rngs))


class TrainState(train_state.TrainState):
    dropout_rng: jax.Array


def decay_mask(params):
    """Select the parameters for weight decay: all but biases and layer norms."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
        {path: path[-1] != "bias" and not path[-2].endswith("norm") for path in flat}
    )


def optimizer(lr, weight_decay, steps, warmup):
    rise = optax.linear_schedule(0.0, lr, warmup)
    fall = optax.linear_schedule(lr, 0.0, steps - warmup)
    schedule = optax.join_schedules([rise, fall], [warmup])
    adamw = optax.adamw(schedule, weight_decay=weight_decay, mask=decay_mask)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)


def train_step(state, batch):
    dropout_rng, next_rng = jax.random.split(state.dropout_rng)
    labels = batch.pop("labels")

    def loss_of(params):
        logits = state.apply_fn(**batch, params=params, dropout_rng=dropout_rng, train=True).logits
        real = labels != IGNORED
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits.astype(jnp.float32), jnp.where(real, labels, 0)
        )
        right = jnp.sum((logits.argmax(-1) == labels) & real) / jnp.sum(real)
        return jnp.sum(losses * real) / jnp.sum(real), right

    (loss, accuracy), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    with jax.named_scope("update"):
        state = state.apply_gradients(grads=gradient, dropout_rng=next_rng)
    return state, {"loss": loss, "accuracy": accuracy}


def batches():
    """Return the data as a loader yields them: padded rows by batch, in training order."""
    real = np.arange(LENGTH) < LENGTHS[:, None]
    data = {
        "input_ids": np.where(real, TOKENS, 0),
        "attention_mask": real.astype(np.int32),
        "labels": np.where(real, TOKENS % 3, IGNORED).astype(np.int32),
    }
    return {name: rows.reshape(-1, BATCH, LENGTH) for name, rows in data.items()}


def make_problem(precision: str = "float32", train_steps: int = 60):
    data = batches()

    def model_of(knobs):
        return TokenClassifier(Config(), knobs["mask_value"], jnp.dtype(precision))

    def state_of(knobs, params, dropout_rng):
        tx = optimizer(knobs["lr"], knobs["weight_decay"], train_steps, train_steps // 10)
        model = model_of(knobs)
        return TrainState.create(apply_fn=model, params=params, tx=tx, dropout_rng=dropout_rng)

    def arrays_of(state):
        # A new TrainState's step is a Python int.
        count = jnp.asarray(state.step, jnp.int32)
        return count, state.params, state.opt_state, state.dropout_rng

    def init(knobs, key):
        weights, dropout = jax.random.split(key)
        params = model_of(knobs).init_weights(weights)
        # The state must consist of numeric arrays, so a typed key is stored as its raw data.
        return arrays_of(state_of(knobs, params, jax.random.key_data(dropout)))

    def step(arrays, knobs, key):
        count, params, opt_state, dropout_rng = arrays
        state = state_of(knobs, params, dropout_rng).replace(step=count, opt_state=opt_state)
        turn = count % (ROWS // BATCH)
        state, metrics = train_step(state, {k: jnp.asarray(v)[turn] for k, v in data.items()})
        return arrays_of(state), nanlab.Metrics(metrics["loss"], accuracy=metrics["accuracy"])

    knobs = {"lr": 0.03, "weight_decay": 0.01, "mask_value": -1e4}
    return nanlab.Problem(init=init, step=step, knobs=knobs)
