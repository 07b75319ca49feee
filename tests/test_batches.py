"""Which examples a run's batches hold: every row is one of the task's, with its own target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nanlab.grid.defaults import default_statics
from nanlab.parts.tasks import Examples
from nanlab.problems.batches import FAULTS, Data, DataState

CLASSES, EXAMPLES = 3, 12
INPUTS = np.arange(EXAMPLES * 2.0).reshape(EXAMPLES, 2)
TARGETS = np.arange(EXAMPLES) % CLASSES
KEY = jax.random.key(3)


def data_of(examples=None, dtype="float32", **statics):
    statics = {**default_statics("training"), "batch_size": 5, **statics}
    examples = examples or Examples(INPUTS, TARGETS)
    return Data(statics, examples, jnp.dtype(dtype), dict)


def batch(data, own=None, **knobs):
    asked = {"input_scale": 1.0, "imbalance": 0.0, "label_smoothing": 0.0} | knobs
    inputs, targets = data.batch(own, {k: jnp.asarray(v) for k, v in asked.items()}, KEY)
    return np.asarray(inputs), np.asarray(targets)


def rows_of(inputs):
    """The number of each example of a batch, by its first feature."""
    return (inputs[:, 0] / 2).astype(int)


def test_a_batch_holds_examples_with_their_own_targets_in_the_type_of_the_group():
    inputs, targets = batch(data_of(dtype="float16"))
    assert (inputs.dtype, targets.dtype) == (np.float16, np.float16)
    rows = rows_of(inputs)
    np.testing.assert_array_equal(inputs, INPUTS[rows])
    np.testing.assert_array_equal(targets, np.eye(CLASSES)[TARGETS[rows]])
    assert len(rows) == 5


def test_a_full_batch_is_every_example_in_order_scaled():
    data = data_of(batch_size="full")
    inputs, targets = batch(data, input_scale=3.0)
    np.testing.assert_array_equal(inputs, 3 * INPUTS)
    np.testing.assert_array_equal(targets, np.eye(CLASSES)[TARGETS])
    assert data.batch_examples == EXAMPLES and data.drawn(KEY) is None


def test_a_run_with_a_share_of_the_examples_sees_no_others():
    data = data_of(train_examples=4, batch_size="full")
    own = data.drawn(KEY)
    assert own.rows.dtype == jnp.int32 and own.key is None
    assert len(set(own.rows.tolist())) == 4
    inputs, _ = batch(data, own)
    assert rows_of(inputs).tolist() == own.rows.tolist()
    small = data_of(train_examples=4)
    inputs, targets = batch(small, own)
    assert set(rows_of(inputs)) <= set(own.rows.tolist())
    np.testing.assert_array_equal(targets.argmax(axis=1), TARGETS[rows_of(inputs)])


def test_where_classes_are_imbalanced_to_the_limit_only_the_first_comes():
    data = data_of(imbalance=True)
    _, targets = batch(data, imbalance=1.0)
    assert set(targets.argmax(axis=1)) == {0}
    own = DataState(jnp.array([0, 1, 2, 4], jnp.int32), None)
    inputs, _ = batch(data_of(imbalance=True, train_examples=4), own, imbalance=1.0)
    assert set(rows_of(inputs)) == {0}


def test_smoothed_targets_are_shares_that_add_up_to_one():
    _, targets = batch(data_of(label_smoothing=True), label_smoothing=0.3)
    np.testing.assert_allclose(np.unique(targets), [0.1, 0.8], rtol=1e-6)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_whose_examples_are_changed_has_a_key_of_its_own_for_that(fault):
    own = data_of(**{fault: True}).drawn(KEY)
    assert own.rows is None and own.key.dtype == jnp.uint32


def test_targets_that_are_numbers_are_left_as_they_are():
    numbers = np.linspace(-1, 1, EXAMPLES)[:, None]
    data = data_of(Examples(INPUTS, numbers), label_smoothing=True)
    assert (data.has_classes, data.output_shape) == (False, (1,))
    inputs, targets = batch(data, label_smoothing=0.3)
    np.testing.assert_array_equal(targets, numbers[rows_of(inputs)].astype(np.float32))


def test_more_examples_than_the_task_has_are_refused():
    with pytest.raises(ValueError, match="train_examples = 13: the task has 12"):
        data_of(train_examples=13)
