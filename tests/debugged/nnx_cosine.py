"""The cosine of padded positions is 0/0, first in the step whose batch holds padding."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.inner = nnx.Linear(width, 2 * width, use_bias=False, dtype=jnp.bfloat16, rngs=rngs)
        self.outer = nnx.Linear(2 * width, width, use_bias=False, dtype=jnp.bfloat16, rngs=rngs)

    def __call__(self, x):
        return x + self.outer(nnx.gelu(self.inner(x)))


class Model(nnx.Module):
    def __init__(self, vocab, width, layers, rngs):
        self.embed = nnx.Embed(vocab, width, dtype=jnp.bfloat16, rngs=rngs)
        self.blocks = nnx.List([Block(width, rngs) for _ in range(layers)])

    def __call__(self, tokens):
        x = self.embed(tokens) * (tokens > 0)[..., None].astype(jnp.bfloat16)
        features = []
        for block in self.blocks:
            x = nnx.remat(lambda block, x: block(x))(block, x)
            features.append(x)
        return jnp.stack(features)


def feature_loss(student_features, teacher_features):
    distances = optax.cosine_distance(  # <-- culprit
        student_features.astype(jnp.float32), teacher_features.astype(jnp.float32)
    )
    return distances.mean()


@nnx.jit
def distill(student, optimizer, teacher, tokens):
    target = jax.lax.stop_gradient(teacher(tokens))

    def loss_fn(student):
        return feature_loss(student(tokens), target)

    loss, grads = nnx.value_and_grad(loss_fn)(student)
    optimizer.update(student, grads)
    return loss


def batch(i):
    tokens = jax.random.randint(jax.random.key(i), (4, 8), 1, 50)
    return tokens.at[1, 5:].set(0) if i >= 2 else tokens


def setup():
    student = Model(50, 16, 2, nnx.Rngs(0))
    teacher = Model(50, 16, 2, nnx.Rngs(1))
    optimizer = nnx.Optimizer(student, optax.adamw(1e-3), wrt=nnx.Param)
    return student, optimizer, teacher


if __name__ == "__main__":
    student, optimizer, teacher = setup()
    for i in range(4):
        print(i, distill(student, optimizer, teacher, batch(i)))
