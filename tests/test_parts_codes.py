"""What a step says of itself: the gradient's norm, and an array's code, beside NumPy."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from sampled import sampled

from nanlab.backend.finiteness import FINITE, INF, NAN, array_code, largest_magnitude
from nanlab.problems.metrics import accuracy, gradient_norm


def draws():
    """Random numbers, the same for each test whichever others run."""
    return np.random.default_rng(0)


# ---- the gradient's norm and the accuracy --------------------------------------------------------

F32, F16 = np.float32, np.float16
BIG, SMALL = float(np.finfo(F32).max), float(np.finfo(F32).tiny)
NORMS = {
    "two leaves": ([F32([3.0]), F32([[4.0, 0.0]])], 5.0),
    "all zero": ([np.zeros(3, F32), F32(0)], 0.0),
    "a scalar": ([F32(-7.0)], 7.0),
    "squares overflow": ([F32([3e30, 4e30])], 5e30),
    "squares underflow": ([F32([3e-30, 4e-30])], 5e-30),
    "the norm itself overflows float32": ([np.full(4, BIG, F32)], 2.0 * BIG),
    "the smallest normal number": ([F32([SMALL])], SMALL),
    "half precision": ([F16([3e4, 4e4])], 5e4),
    "bfloat16": ([np.array([3.0, 4.0], ml_dtypes.bfloat16)], 5.0),
    "two precisions": ([F16([3.0]), F32([4.0])], 5.0),
    "double": ([np.float64([3e300, 4e300])], 5e300),
    "an inf": ([F32([1.0]), F32([np.inf, 2.0])], np.inf),
    "a minus inf": ([F32([-np.inf])], np.inf),
    "a NaN": ([F32([1.0, np.nan])], np.nan),
    "an inf and a NaN": ([F32([np.inf]), F32([np.nan])], np.nan),
    "a NaN and an inf": ([F32([np.nan, np.inf]), F32([0.0])], np.nan),
}


@pytest.mark.parametrize(("leaves", "wanted"), NORMS.values(), ids=NORMS)
def test_the_gradient_norm_is_exact_where_squares_are_not(leaves, wanted):
    tree = {str(number): jnp.asarray(leaf) for number, leaf in enumerate(leaves)}
    lanes = jax.tree.map(lambda leaf: jnp.stack([jnp.zeros_like(leaf), leaf]), tree)
    alone = jax.jit(gradient_norm)(tree)
    beside_zeros = jax.jit(jax.vmap(gradient_norm))(lanes)
    assert alone.dtype == jnp.float64
    np.testing.assert_allclose([alone, *beside_zeros], [wanted, 0.0, wanted], rtol=1e-6)


def test_the_gradient_norm_of_many_numbers_is_numpys():
    rng = draws()
    leaves = [rng.standard_normal(shape) * 1e25 for shape in [(64, 32), (32,), (32, 10)]]
    wanted = np.sqrt(sum(np.sum(leaf**2) for leaf in leaves))
    got = gradient_norm([jnp.asarray(leaf, jnp.float32) for leaf in leaves])
    np.testing.assert_allclose(float(got), wanted, rtol=1e-6)


ACCURACIES = [
    ([[1.0, 2.0]], [[0.0, 1.0]], 1.0),
    ([[1.0, 2.0]], [[1.0, 0.0]], 0.0),
    ([[1.0, 1.0]], [[1.0, 0.0]], 1.0),  # a tie counts as right
    ([[0.0, 3.0, 1.0], [5.0, 0.0, 0.0]], [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], 0.5),
    ([[[1.0, 2.0], [2.0, 1.0]]], [[[0.0, 1.0], [0.0, 1.0]]], 0.5),  # of each step
    ([[np.nan, 2.0]], [[0.0, 1.0]], 0.0),
]


@pytest.mark.parametrize(("outputs", "targets", "wanted"), ACCURACIES)
def test_the_accuracy_is_the_share_that_is_right(outputs, targets, wanted):
    assert float(accuracy(jnp.asarray(outputs), jnp.asarray(targets))) == wanted


# ---- codes ---------------------------------------------------------------------------------------

DTYPES = [
    "float64", "float32", "bfloat16", "float16", "complex64", "complex128", "float8_e4m3fn",
    "float8_e5m2",
]  # fmt: skip
SHAPES = [[], [65], [3, 5, 7], [64, 64]]
LANES = 64


def numpy_code(x):
    if x.dtype.kind not in "fc":
        x = x.astype(np.float32)
    return NAN if np.isnan(x).any() else FINITE if np.isfinite(x).all() else INF


def lanes_with(contents, shape, dtype):
    """64 arrays of which each holds none, one or two of `contents` at random places."""
    rng = draws()
    arrays = rng.standard_normal((LANES, *shape)).astype(jnp.dtype(dtype))
    for lane in range(LANES):
        flat = arrays[lane : lane + 1].reshape(-1)
        for value in rng.permutation(contents)[: lane % 3]:
            flat[rng.integers(flat.size)] = value.astype(jnp.dtype(dtype))
    return arrays


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", sampled(SHAPES, 2, first=1), ids=str)
def test_an_arrays_code_is_numpys(dtype, shape):
    lanes = lanes_with([np.inf, -np.inf, np.nan, -np.nan], shape, dtype)
    wanted = [numpy_code(lane) for lane in lanes]
    assert np.asarray(jax.jit(jax.vmap(array_code))(lanes)).tolist() == wanted


@pytest.mark.parametrize(
    "x", [np.arange(3), np.array([True]), np.zeros((0, 3), np.float32), np.uint8(255)]
)
def test_an_array_that_cannot_be_bad_is_finite(x):
    code = array_code(jnp.asarray(x))
    assert code == FINITE
    assert code.dtype == jnp.int8


def test_a_nan_counts_whatever_its_sign_and_payload():
    bits = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0xFF812345], np.uint32)
    lanes = np.zeros((len(bits), 64, 64), np.float32)
    lanes[:, 40, 33] = bits.view(np.float32)
    assert (np.asarray(jax.jit(jax.vmap(array_code))(lanes)) == NAN).all()
    infinite = np.array([0x7F800000, 0xFF800000], np.uint32).view(np.float32)
    assert np.asarray(jax.jit(jax.vmap(array_code))(infinite)).tolist() == [INF, INF]


# Results that XLA knows to be no less than 0, and whose NaN has its sign bit set on x86.
NOT_NEGATIVE = {
    "x * x": lambda x: (x - x) * (x - x),
    "square": lambda x: jnp.square(x - x),
    "x ** 2": lambda x: (x - x) ** 2,
    "abs": lambda x: jnp.abs(x - x),
    "exp": lambda x: jnp.exp(x - x),
    "sqrt": lambda x: jnp.sqrt(x * 0),
    "sum of squares": lambda x: jnp.sum(jnp.square(x - x), axis=-1),
    "maximum": lambda x: jnp.maximum(x - x, 0),
}


@pytest.mark.parametrize("function", NOT_NEGATIVE.values(), ids=NOT_NEGATIVE)
@pytest.mark.parametrize("dtype", sampled(["float32", "float64", "float16"], 3))
def test_a_nan_counts_where_the_compiler_drops_an_abs(function, dtype):
    lanes = draws().standard_normal((LANES, 64, 10)).astype(dtype)
    lanes[np.arange(1, LANES, 2), 63, 9] = np.inf

    def code(x):
        return array_code(function(x))

    codes = np.asarray(jax.jit(jax.vmap(code))(lanes))
    assert (codes[::2] == FINITE).all()
    assert (codes[1::2] == NAN).all()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_the_largest_magnitude_is_numpys(dtype):
    for contents in ([0.0], [np.inf, -np.inf], [-np.inf, -0.0], [np.nan, np.inf], [-300.0]):
        lanes = lanes_with(contents, (33, 5), dtype)
        wanted = np.abs(lanes.astype(np.float64)).max(axis=(1, 2))
        got = jax.jit(jax.vmap(largest_magnitude))(lanes)
        assert got.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(np.asarray(got, np.float64), wanted)
