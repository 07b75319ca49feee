"""What `nanlab.pinpoint` says of Flax and Equinox: modules are named, objects stay as they were."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

import nanlab

F32 = np.float32


def cause_of(site):
    return site and (site.primitive, site.mechanism)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.log(nn.Dense(3)(x))


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(Block()(nn.relu(nn.Dense(3)(x))))


def test_a_linen_module_is_named_by_its_path():
    model, x = MLP(), np.ones((2, 3), F32)
    variables = jax.tree.map(jnp.ones_like, jax.jit(model.init)(jax.random.key(0), x))
    verdict = nanlab.pinpoint(model.apply, variables, x)
    assert not verdict.fault
    variables["params"]["Block_0"]["Dense_0"]["bias"] -= 1e3
    culprit = nanlab.pinpoint(model.apply, variables, x).culprit
    assert (cause_of(culprit), culprit.module) == (("log", "domain"), "MLP/Block_0")
    variables["params"]["Dense_1"]["kernel"] *= 3e38
    variables["params"]["Block_0"]["Dense_0"]["bias"] += 2e3
    origin = nanlab.pinpoint(model.apply, variables, x).origin
    assert (cause_of(origin), origin.module) == (("dot_general", "overflow"), "MLP/Dense_1")
    assert "['params']['Dense_1']['kernel']" in origin.operands[1].expression


def test_a_linen_modules_gradient_is_told_with_its_module():
    model, x = MLP(), np.ones((2, 3), F32)
    variables = jax.tree.map(jnp.ones_like, jax.jit(model.init)(jax.random.key(0), x))

    def loss(variables):
        out = model.apply(variables, x)
        return jnp.sum(jnp.sqrt(out - lax.stop_gradient(out)))

    verdict = nanlab.pinpoint(jax.value_and_grad(loss), variables)
    assert cause_of(verdict.origin) == ("div", "pole")
    assert (verdict.origin.phase, verdict.origin.module) == ("backward", "")
    assert verdict.fault


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(2, 3, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(3, 3, rngs=rngs), nnx.Linear(3, 1, rngs=rngs)])
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls[...] += 1
        x = nnx.relu(self.first(x))
        for block in self.blocks:
            x = block(x)
        return x


def train_step(model, optimizer, x):
    def loss(model):
        return jnp.mean(jnp.log(model(x)) ** 2)

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


def leaves_of(*objects):
    return [np.asarray(leaf).copy() for leaf in jax.tree.leaves(nnx.state(objects))]


@pytest.mark.parametrize(
    "wrapped",
    [pytest.param(False, id="plain", marks=pytest.mark.slow), pytest.param(True, id="nnx.jit")],
)
def test_nnx_objects_are_read_and_are_not_changed(wrapped):
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)
    for block in (model.first, *model.blocks):
        block.kernel[...] = jnp.ones_like(block.kernel[...])
    before = leaves_of(model, optimizer)
    function = nnx.jit(train_step) if wrapped else train_step
    for number, is_bad in ((1, False), (-1, True)):
        model.blocks[1].kernel[...] = jnp.full((3, 1), number, F32)
        before = leaves_of(model, optimizer)
        verdict = nanlab.pinpoint(function, model, optimizer, np.ones((2, 2), F32))
        assert verdict.fault == is_bad
        for old, new in zip(before, leaves_of(model, optimizer), strict=True):
            np.testing.assert_array_equal(old, new)
    assert cause_of(verdict.culprit) == ("log", "domain")
    assert verdict.culprit.code == "return jnp.mean(jnp.log(model(x)) ** 2)"
    # What the call leaves in the objects is output too: the update spoils them.
    assert len(verdict.output_faults) > 1


def test_an_nnx_module_is_named_by_its_fields():
    model = Net(nnx.Rngs(0))
    for block in (model.first, *model.blocks):
        block.kernel[...] = jnp.full_like(block.kernel[...], 1e15)
    origin = nanlab.pinpoint(lambda model, x: model(x), model, np.ones((2, 2), F32)).origin
    assert cause_of(origin) == ("dot_general", "overflow")
    assert origin.module.startswith("Net/")
    assert "kernel" in origin.operands[1].expression
    assert Net.__call__.__qualname__ == "Net.__call__"
    model.first.kernel[...] *= 1e15
    origin = nanlab.pinpoint(lambda model, x: model(x), model, 1e9 * np.ones((2, 2), F32)).origin
    assert (cause_of(origin), origin.module) == (("dot_general", "overflow"), "Net/first")


def test_an_nnx_module_in_a_list_is_named_by_its_place():
    model = Net(nnx.Rngs(0))
    for block in (model.first, *model.blocks):
        block.kernel[...] = jnp.full_like(block.kernel[...], 1e15)
    origin = nanlab.pinpoint(lambda model, x: model(x), model, np.ones((2, 2), F32)).origin
    assert origin.module == "Net/blocks_1"


def test_an_equinox_module_is_named():
    model = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))
    verdict = nanlab.pinpoint(lambda model, x: jnp.log(model(x) * 0 - 1), model, np.ones(2, F32))
    assert cause_of(verdict.culprit) == ("log", "domain")
    bad = jax.tree.map(lambda x: abs(x) * 1e200 if eqx.is_array(x) else x, model)
    origin = nanlab.pinpoint(lambda m, x: m(x), bad, np.ones(2, F32)).origin
    assert "layers_1" in origin.module.split("/")


def test_an_equinox_module_may_be_returned_with_the_functions_that_it_holds():
    model = eqx.nn.MLP(2, 1, 3, 1, activation=jnp.sqrt, key=jax.random.key(0))

    def step(model, x):
        arrays, rest = eqx.partition(model, eqx.is_array)
        gradient = jax.grad(lambda a: eqx.combine(a, rest)(x).sum())(arrays)
        return eqx.apply_updates(model, gradient), x.sum()

    x = np.full(2, -1e3, np.float32)
    verdict = nanlab.pinpoint(step, model, x)
    assert cause_of(verdict.origin) == ("sqrt", "domain")
    assert any(
        site.primitive == "sqrt" for site in (f.site for f in nanlab.lint(step, model, x).findings)
    )
    with pytest.raises(TypeError, match="which is no array"):
        nanlab.pinpoint(lambda x: jnp.sqrt, x)


def test_scopes_of_libraries_are_no_modules():
    def attend(x):
        with jax.named_scope("attention"):
            return jnp.log(jnp.einsum("ij,jk->ik", x, x) - jnp.einsum("ij,kj->ik", x, x) - 1)

    x = np.ones((2, 2), np.float32)
    assert nanlab.pinpoint(attend, x).culprit.module == "attention"
    huge = nanlab.pinpoint(lambda x: jnp.einsum("ij,jk->ik", x, x), x * np.float32(1e30))
    assert huge.origin.module == ""


def test_a_librarys_helper_objects_are_no_modules():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        head: eqx.nn.Linear

        def loss(self, x):
            return jnp.log(self.head(x)).sum()

    net = Net(eqx.nn.Linear(2, 1, key=jax.random.key(0)))
    method = eqx.filter_jit(net.loss)
    assert nanlab.pinpoint(method, -1e9 * jnp.ones(2, jnp.float32)).culprit.module == ""
    assert nanlab.pinpoint(lambda n, x: n.head(x) * 1e300, net, jnp.full(2, 1e20, jnp.float32))


def test_a_field_of_a_users_module_is_named_whoever_wrote_its_class():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        gate: eqx.nn.Lambda

        def __call__(self, x):
            return self.gate(x)

    verdict = nanlab.pinpoint(Net(eqx.nn.Lambda(jnp.log)), -jnp.ones(2, jnp.float32))
    assert verdict.culprit.module == "Net/gate"
