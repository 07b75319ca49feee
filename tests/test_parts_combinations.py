"""The trainings of `test_parts_trained_*`: between them every entry of PARTS in every precision."""

import inspect
from collections import Counter
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nanlab.backend import keys
from nanlab.grid.compatibility import INCOMPATIBILITIES
from nanlab.grid.parameters import PARAMETERS
from nanlab.parts.listing import PARTS, readers
from nanlab.parts.losses import LOSSES
from nanlab.parts.models import MODELS
from nanlab.parts.norms import NORMS
from nanlab.parts.precision import PRECISIONS, STORAGES
from nanlab.parts.tasks import TASKS
from nanlab.problems.training import make_training

SIZES = {"depth": 2, "width": 8, "batch_size": 16, "sequence_length": 8, "image_size": 8}
STEPS = 3
# Small weights and steps, and divisors that half precision can hold: most entries train with them.
KNOBS = {
    "lr": 1e-3, "init_scale": 0.3, "optimizer_epsilon": 1e-3, "loss_epsilon": 1e-3,
    "clip_epsilon": 1e-3, "norm_epsilon": 1e-3, "loss_scale": 8.0, "outlier_scale": 3.0,
    "warmup_steps": 2.0, "decay_steps": 2.0, "drop_every": 1.0, "bias_scale": 0.1,
}  # fmt: skip

# (parameter, entry) -> what it takes to train, where that is in its nature; the reason beside it.
NEEDS = {
    ("loss", "kl_divergence_naive"): {"label_smoothing": 0.1},  # 0 * log 0 of a one-hot target
}
# An option that no training survives -> why.
FATAL = {"nan_fraction": "a NaN of the data is a NaN of the loss"}
OPTIONS = [
    name
    for name, each in PARAMETERS.items()
    if each.role == "option" and "training" in each.problems and name not in FATAL
]
SWITCHES = [name for name, each in PARAMETERS.items() if each.kinds == (bool,)]
# These compile longest, so no more of each than it takes, and of one hidden layer.
HEAVY = {"rnn": 1, "lstm": 1, "gru": 1, "transformer": 1, "neuron": 3, "cnn": 3, "muon": 1}
# Parameters in the order of choice: each has to fit those before it.
ORDER = ["activation", "task", "loss", "model", "norm"]
ORDER += [name for name in PARTS if name not in {*ORDER, "precision"}]


def is_told_to_be_unfit(statics, options):
    """Whether a grid of these values would be refused."""
    points = {"train_examples": 0, "imbalance": 0.0, "heads": 4, **SIZES, **statics, **options}
    told = [each for each in INCOMPATIBILITIES if set(each.names) <= set(points)]
    return any(each.clashes(*(points[name] for name in each.names)) for each in told)


def has_half_updates(statics):
    storage = STORAGES[statics["parameter_precision"]]
    stored = storage.dtype if storage.updates else None
    return (stored or statics["precision"]) == "float16"


# Entries that do not train together -> why, where that is in their nature.
UNFIT = {
    "one output's length is its size, whose square float16 does not hold": lambda model, loss: (
        MODELS[model].one_output and loss == "cosine_naive"
    ),
    "normalized weights are not as small as init_scale asks": lambda activation, norm: (
        activation == "exp" and NORMS[norm].of_weights
    ),
    "its 1e-30 is 0 in float16": lambda optimizer, parameter_precision, precision: (
        optimizer == "adafactor"
        and has_half_updates({"parameter_precision": parameter_precision, "precision": precision})
    ),
}  # fmt: skip
CLASHES = [(inspect.signature(clashes).parameters.keys(), clashes) for clashes in UNFIT.values()]


def fits(statics, options):
    if is_told_to_be_unfit(statics, options):
        return False
    for names, clashes in CLASHES:
        if names <= statics.keys() and clashes(*(statics[name] for name in names)):
            return False
    return True


def tables_of(number, offset, precision, used):
    """An entry of each table: the least used of those that fit, in turn from precision's own."""
    statics = {"precision": precision}
    for name in ORDER:
        table = list(PARTS[name])
        start = (number + offset * (1 + len(ORDER[: ORDER.index(name)]))) % len(table)
        turn = [*table[start:], *table[:start]]
        possible = [entry for entry in turn if fits({**statics, name: entry}, {})]
        enough = [entry for entry in possible if used[name, entry] < HEAVY.get(entry, np.inf)]
        possible = enough or possible
        statics[name] = min(possible, key=lambda entry: (used[name, entry], is_general(entry)))
    return statics


def is_general(entry):
    """Whether other trainings than this could have it as well: a loss of numbers and classes."""
    return entry in LOSSES and LOSSES[entry].targets == "any"


@cache
def combinations(precision):
    """As many trainings as the longest table has entries: (statics, options, their values)."""
    return list(combined(precision))


def combined(precision):
    used, offset = Counter(), list(PRECISIONS).index(precision)
    for number in range(max(map(len, PARTS.values()))):
        chosen = tables_of(number, offset, precision, used)
        used.update(entry for entry in chosen.items() if is_read(entry[0], chosen))
        statics = {**SIZES, **chosen}
        statics["train_examples"] = 18 if number % 5 == 0 else 0
        statics["apply_if_finite"] = 3 if number % 7 == 0 else 0
        statics["batch_size"] = "full" if number % 10 == 0 else 16
        for place, name in enumerate(SWITCHES):
            statics[name] = name == "standardize" or (number + place) % 3 == 0
        # A second hidden layer where it is of use: what is added to its output has its shape.
        is_heavy = not HEAVY.keys().isdisjoint(chosen.values())
        statics["depth"] = 2 if statics["residual"] and not is_heavy else 1
        asked = OPTIONS[(number + offset) % len(OPTIONS)]
        options = {asked: 0.1} if fits(chosen, {asked: 0.1}) else {}
        for entry in chosen.items():
            options.update(NEEDS.get(entry, {}))
        yield {**statics, **dict.fromkeys(options, True)}, options


def is_read(name, statics):
    """Whether a training reads the parameter: a pooling is a convolution's only."""
    return all(statics.get(other) in parts for other, parts in readers(name).items())


def told(statics):
    return "-".join(str(statics[name]) for name in ORDER)


def trainings_in(*precisions):
    """The cases of a test: statics and options."""
    made = [pair for precision in precisions for pair in combinations(precision)]
    names = [f"{statics['precision']}-{told(statics)}" for statics, _ in made]
    return pytest.mark.parametrize(("statics", "options"), made, ids=names)


def check_training(statics, options):
    """A few steps: the loss and the state stay finite, and the state what it is."""
    problem = make_training(statics)
    asked = {**KNOBS, **options}
    knobs = {name: asked.get(name, PARAMETERS[name].default) for name in problem.knobs}
    knobs = {name: jnp.float64(value) for name, value in knobs.items()}
    quick, key = {"xla_backend_optimization_level": 0}, keys.run_key(1)
    first = state = jax.jit(problem.init, compiler_options=quick)(knobs, key)
    step = jax.jit(problem.step, compiler_options=quick)
    for number in range(STEPS):
        state, metrics = step(state, knobs, keys.for_step(key, number))
        assert np.isfinite(float(metrics.loss)), (number, statics, options)
        assert np.isfinite(float(metrics.grad_norm)), (number, statics, options)
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), each) for each in (first, state)]
    assert shapes[0] == shapes[1]
    assert metrics.loss.shape == ()
    assert metrics.loss.dtype == jnp.dtype(statics["precision"])
    has_classes = TASKS[statics["task"]].targets == "classes"
    assert metrics.accuracy is None or has_classes
    assert not has_classes or 0 <= float(metrics.accuracy) <= 1
    columns = {name: np.array([float(value)]) for name, value in knobs.items()}
    assert np.isfinite(problem.baseline_losses(columns)).all()
    for leaf in jax.tree.leaves(state.params):
        assert np.isfinite(np.asarray(leaf, np.float64)).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PARTS)
def test_between_them_the_trainings_use_every_entry_of_a_table(name, precision):
    read = [statics for statics, _ in combinations(precision) if is_read(name, statics)]
    wanted = {precision} if name == "precision" else set(PARTS[name])
    assert {statics[name] for statics in read} == wanted


@pytest.mark.parametrize("name", [*OPTIONS, *SWITCHES, "train_examples", "apply_if_finite"])
def test_between_them_the_trainings_use_every_option_and_switch(name):
    for precision in PRECISIONS:
        assert any(statics.get(name) for statics, _ in combinations(precision)), precision


@pytest.mark.parametrize("name", PARTS)
def test_every_entry_has_a_sentence_and_a_source(name):
    for entry in PARTS[name].values():
        assert entry.doc.endswith(".")
        assert entry.doc == entry.doc.strip()
        assert entry.source.strip()


def test_a_training_of_data_that_are_nan_has_a_loss_that_is_nan():
    problem = make_training({**SIZES, "task": "wine", "nan_fraction": True})
    knobs = {name: jnp.float64(PARAMETERS[name].default) for name in problem.knobs}
    knobs["nan_fraction"] = jnp.float64(0.5)
    state = jax.jit(problem.init)(knobs, keys.run_key(0))
    assert np.isnan(float(jax.jit(problem.step)(state, knobs, keys.run_key(0))[1].loss))
