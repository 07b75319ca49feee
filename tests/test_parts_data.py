"""Tasks beside scikit-learn's own, made data, and the faults of data that a run may have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets
from sampled import sampled
from sklearn.preprocessing import StandardScaler

from nanlab.backend import keys
from nanlab.grid.defaults import default_statics
from nanlab.grid.parameters import PARAMETERS
from nanlab.parts.tasks import TASKS, Examples, load_examples, standardized
from nanlab.problems.training import make_training

STATICS = {**default_statics("training"), "sequence_length": 12, "image_size": 8, "n_features": 5}


def loaded(task, **statics):
    return load_examples({**STATICS, "task": task, "standardize": False, **statics})


# ---- tasks ---------------------------------------------------------------------------------------

LOADERS = {
    "digits": sklearn.datasets.load_digits,
    "breast_cancer": sklearn.datasets.load_breast_cancer,
    "wine": sklearn.datasets.load_wine,
    "iris": sklearn.datasets.load_iris,
    "diabetes": lambda: sklearn.datasets.load_diabetes(scaled=False),
    "linnerud": sklearn.datasets.load_linnerud,
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_task_is_scikit_learns_own_data_to_the_bit(name):
    theirs, ours = LOADERS[name](), loaded(name)
    assert ours.inputs.tobytes() == np.ascontiguousarray(theirs.data).tobytes()
    if TASKS[name].targets == "classes":
        assert ours.targets.tolist() == theirs.target.tolist()
    else:
        wanted = StandardScaler().fit_transform(theirs.target.reshape(len(theirs.data), -1))
        np.testing.assert_allclose(ours.targets, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_of_the_sizes_that_its_entry_says(name):
    task, ours = TASKS[name], loaded(name)
    assert len(ours.inputs) == len(ours.targets) == task.examples
    assert ours.outputs[-1] == task.outputs
    assert ours.classes == (task.outputs if task.targets == "classes" else 0)
    assert ours.inputs.dtype == np.float64
    assert ours.natural is None or np.prod(ours.natural) == ours.inputs.shape[1]
    if task.targets == "classes":
        assert set(np.unique(ours.targets)) == set(range(task.outputs))


@pytest.mark.parametrize("name", TASKS)
def test_a_tasks_data_are_the_same_at_every_call(name):
    first, second = loaded(name), loaded(name)
    assert first.inputs.tobytes() == second.inputs.tobytes()
    assert first.targets.tobytes() == second.targets.tobytes()


@pytest.mark.parametrize("name", TASKS)
def test_standardized_data_are_what_standard_scaler_makes(name):
    plain, ours = loaded(name).inputs, loaded(name, standardize=True).inputs
    assert ours.shape == plain.shape
    theirs, ours = (
        StandardScaler().fit_transform(plain.reshape(-1, plain.shape[-1])),
        ours.reshape(-1, plain.shape[-1]),
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_what_is_not_finite_counts_in_no_mean_and_no_deviation():
    inputs = np.array([[1.0, np.nan, 5.0], [3.0, 2.0, 5.0], [np.inf, 4.0, 5.0]])
    got = standardized(Examples(inputs, np.zeros(3, np.int64))).inputs
    wanted = [[-1.0, np.nan, 0.0], [1.0, -1.0, 0.0], [np.inf, 1.0, 0.0]]
    np.testing.assert_array_equal(got, wanted)


# ---- made data -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 3, 12, 33])
def test_the_target_of_adding_is_the_sum_of_the_two_marked(length):
    examples = loaded("adding", sequence_length=length)
    numbers, marks = np.moveaxis(examples.inputs, -1, 0)
    assert numbers.shape == (1024, length)
    assert ((numbers >= 0) & (numbers <= 1)).all()
    assert set(np.unique(marks)) <= {0.0, 1.0}
    half = length // 2
    assert (marks[:, :half].sum(axis=1) == 1).all()
    assert (marks[:, half:].sum(axis=1) == 1).all()
    np.testing.assert_allclose(examples.targets[:, 0], (numbers * marks).sum(axis=1))


@pytest.mark.parametrize("length", [4, 12, 33])
def test_the_targets_of_copy_are_the_first_symbols_at_the_end(length):
    examples, many = loaded("copy", sequence_length=length), length // 4
    shown = np.argmax(examples.inputs, axis=-1)
    assert (examples.inputs.sum(axis=-1) == 1).all()
    assert examples.targets.shape == (1024, length)
    assert set(np.unique(shown[:, :many])) == set(range(1, 9))
    assert (examples.targets[:, -many:] == shown[:, :many]).all()
    assert not examples.targets[:, :-many].any()
    rest = np.delete(shown, length - many - 1, axis=1)[:, many:]
    assert (shown[:, length - many - 1] == 9).all()
    assert not rest.any()


@pytest.mark.parametrize("size", [2, 8, 28])
def test_made_pictures_are_whole_numbers_from_0_to_255(size):
    examples = loaded("images", image_size=size)
    assert examples.natural == (size, size, 1)
    assert examples.inputs.shape == (512, size * size)
    assert (examples.inputs == np.round(examples.inputs)).all()
    assert 0 <= examples.inputs.min() < 30
    assert 225 < examples.inputs.max() <= 255


def test_the_teachers_class_is_that_of_a_network_and_its_number_is_standardized():
    numbers, classes = loaded("teacher"), loaded("teacher_classes")
    assert numbers.inputs.shape == classes.inputs.shape == (1024, 5)
    np.testing.assert_allclose([numbers.targets.mean(), numbers.targets.std()], [0, 1], atol=1e-12)
    assert np.bincount(classes.targets).min() > 100


# ---- a run's own data ----------------------------------------------------------------------------


def batches(statics, seeds=(0,), steps=(0,), **knobs):
    """Inputs and targets of each seed and step: (seeds, steps, examples, ...)."""
    problem = make_training(
        {"standardize": True, "model": "mlp", "depth": 1, "width": 2, **statics}
    )
    full = {name: knobs.get(name, PARAMETERS[name].default) for name in problem.knobs}
    full = {name: jnp.float64(value) for name, value in full.items()}
    init, batch, made = jax.jit(problem.init), jax.jit(problem.batch), []
    for seed in seeds:
        key = keys.run_key(seed)
        state = init(full, key)
        made.append([batch(state, full, keys.for_step(key, step)) for step in steps])
    inputs, targets = (np.array([[np.asarray(b[i]) for b in run] for run in made]) for i in (0, 1))
    return inputs, targets


FULL = {"task": "digits", "batch_size": "full"}


def faults(option, fraction, seeds=(0, 1), steps=(0, 1), statics=FULL, **knobs):
    """Where a fault of the data changed something; inputs, then targets."""
    clean = batches(statics)
    dirty = batches({**statics, option: True}, seeds, steps, **{option: fraction}, **knobs)
    return [~((d == c) | (np.isnan(d) & np.isnan(c))) for d, c in zip(dirty, clean, strict=True)]


@pytest.mark.parametrize("fraction", sampled([0.7, 0.0, 0.1, 1.0], 2))
@pytest.mark.parametrize("option", ["outlier_fraction", "nan_fraction"])
def test_a_share_of_entries_is_hit_the_same_at_every_step_and_others_by_another_seed(
    option, fraction
):
    # Multiplied by 100, an entry that is 0 stays 0: iris has none.
    changed, targets = faults(option, fraction, statics={"task": "iris", "batch_size": "full"})
    assert changed.mean() == pytest.approx(fraction, abs=0.05)
    assert not targets.any()
    assert (changed[:, 0] == changed[:, 1]).all()
    assert (changed[0] == changed[1]).all() == (fraction in {0.0, 1.0})


def test_outliers_are_multiplied_and_the_missing_are_nan():
    statics = {"task": "iris", "batch_size": "full"}
    clean = batches(statics)[0]
    got = batches({**statics, "outlier_fraction": True}, outlier_fraction=1.0, outlier_scale=7.0)[0]
    np.testing.assert_allclose(got, 7 * clean, rtol=1e-6)
    missing = batches({**statics, "nan_fraction": True}, nan_fraction=1.0)[0]
    assert np.isnan(missing).all()


def test_a_share_of_features_is_1_in_every_example():
    statics = {**FULL, "constant_fraction": True}
    inputs = batches(statics, (0, 1), (0, 1), constant_fraction=0.4)[0]
    is_one = (inputs == 1).all(axis=2)
    assert is_one.mean() == pytest.approx(0.4, abs=0.15)
    assert (is_one[:, 0] == is_one[:, 1]).all()
    assert (is_one[0] != is_one[1]).any()


@pytest.mark.parametrize("fraction", sampled([0.3, 0.0, 1.0], 3))
def test_a_share_of_examples_has_another_class(fraction):
    changed = faults("label_noise", fraction)[1].any(axis=-1)
    assert changed.mean() == pytest.approx(fraction, abs=0.03)
    assert (changed[:, 0] == changed[:, 1]).all()
    assert (changed[0] == changed[1]).all() == (fraction in {0.0, 1.0})
    targets = batches({**FULL, "label_noise": True}, label_noise=fraction)[1]
    assert (targets.sum(axis=-1) == 1).all()
    assert set(np.unique(targets)) == {0.0, 1.0}


def test_a_share_of_numbers_has_its_sign_turned():
    statics = {"task": "diabetes", "batch_size": "full"}
    clean, dirty = (
        batches({**statics, "label_noise": noisy}, label_noise=0.3)[1] for noisy in (False, True)
    )
    turned = dirty == -clean
    assert (turned | (dirty == clean)).all()
    assert turned.mean() == pytest.approx(0.3, abs=0.07)


def test_an_example_has_the_same_fault_in_every_batch_that_it_is_in():
    statics = {"task": "iris", "batch_size": 32, "standardize": False}
    clean = batches(statics, steps=range(30))[0].reshape(-1, 4)
    statics = {**statics, "outlier_fraction": True}
    dirty = batches(statics, steps=range(30), outlier_fraction=0.3)[0].reshape(-1, 4)
    own = loaded("iris").inputs.astype(np.float32)
    known = {}
    for before, after in zip(clean, dirty, strict=True):
        same = np.flatnonzero((own == before).all(axis=1))
        if len(same) == 1:  # two irises are the same flower
            assert known.setdefault(int(same[0]), after.tobytes()) == after.tobytes()
    assert len(known) > 100


@pytest.mark.parametrize("imbalance", sampled([0.5, 0.0, 0.9], 3))
def test_class_k_comes_as_often_as_the_imbalance_says(imbalance):
    statics = {"task": "iris", "batch_size": 2000, "imbalance": True}
    targets = batches(statics, steps=range(3), imbalance=imbalance)[1]
    wanted = (1 - imbalance) ** np.arange(3)
    shares = targets.reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(shares, wanted / wanted.sum(), atol=0.025)


def test_a_runs_own_examples_are_a_subset_without_repetition_that_differs_by_seed():
    statics = {**FULL, "train_examples": 50, "standardize": False}
    inputs = batches(statics, (0, 1), (0, 1))[0]
    everything = {row.tobytes() for row in loaded("digits").inputs.astype(np.float32)}
    own = [[row.tobytes() for row in inputs[seed, 0]] for seed in (0, 1)]
    assert inputs.shape == (2, 2, 50, 64)
    assert (inputs[:, 0] == inputs[:, 1]).all()
    assert all(len(set(rows)) == 50 and set(rows) <= everything for rows in own)
    assert set(own[0]) != set(own[1])
    few = batches({**statics, "batch_size": 32}, (0,), range(20))[0].reshape(-1, 64)
    assert {row.tobytes() for row in few} == set(own[0])


def test_more_examples_than_there_are_is_refused():
    with pytest.raises(ValueError, match="train_examples = 151: the task has 150 examples"):
        make_training({"task": "iris", "train_examples": 151})


def test_smoothed_targets_and_scaled_inputs_are_what_is_asked():
    statics = {"task": "iris", "batch_size": "full"}
    clean = batches(statics)
    asked = {**statics, "label_smoothing": True}
    got = batches(asked, label_smoothing=0.3, input_scale=5.0)
    np.testing.assert_allclose(got[0], 5 * clean[0], rtol=1e-6)
    np.testing.assert_allclose(got[1], 0.7 * clean[1] + 0.1, rtol=1e-6)


def test_batches_differ_by_step_and_by_seed_and_are_the_same_again():
    statics = {"task": "digits", "batch_size": 16}
    first, again = (batches(statics, (0, 1), (0, 1))[0] for _ in range(2))
    assert first.tobytes() == again.tobytes()
    flat = first.reshape(4, -1)
    assert len({row.tobytes() for row in flat}) == 4
