"""Planted faults in single operations and in every type of numbers, with their harmless twins.

The culprit's line ends in `# <-- culprit`; where only an inf is made, the origin's in
`# <-- origin`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import special

from corpus.transformed import Fault

F32, F64, F16, BF16 = np.float32, np.float64, np.float16, jnp.bfloat16
F8 = jnp.float8_e4m3fn


# ---- kernels: they are blamed as themselves ------------------------------------------------------


def cholesky(x):
    return lax.linalg.cholesky(x) + 1  # <-- culprit


def eigh(x):
    return lax.linalg.eigh(jnp.exp(x))[1]  # <-- culprit


def svd(x):
    return lax.linalg.svd(x / jnp.sum(x), full_matrices=False)[1]  # <-- culprit


def triangular_solve(a, b):
    return lax.linalg.triangular_solve(a, b, left_side=True, lower=True)  # <-- culprit


def lu(x):
    return lax.linalg.lu(jnp.exp(x))[0]  # <-- culprit


def solve(a, b):
    return jnp.linalg.solve(a, b)  # <-- origin


def fft(x):
    return jnp.fft.fft(jnp.exp(x))  # <-- culprit


def kernel_called_back(x):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return 2 * jax.pure_callback(  # <-- culprit
        lambda v: np.where(v < 0, np.float32(np.nan), v), shape, x, vmap_method="sequential"
    )


# ---- what moves and adds -------------------------------------------------------------------------


def scatter_add(x, at, what):
    return x.at[at].add(jnp.exp(what))  # <-- culprit


def reduction_by_axis(x):
    return jnp.sum(jnp.exp(x) * jnp.array([[1], [-1]], x.dtype), axis=0)  # <-- culprit


def largest(x):
    return jnp.max(1 / x, axis=0)  # <-- origin


def product(x):
    return jnp.prod(x)  # <-- origin


def cumulative_sum(x):
    return jnp.cumsum(x, axis=1)  # <-- origin


def cumulative_product(x):
    return lax.cumprod(x, axis=0, reverse=True)  # <-- origin


def cumulative_logsumexp(x):
    return lax.cumlogsumexp(jnp.log(x), axis=0)  # <-- culprit


def sorted_shares(x):
    low_first = jnp.sort(x)
    return low_first / low_first[0]  # <-- culprit


def sorted_by_key(x, values):
    return lax.sort((x, jnp.log(values)), num_keys=1)[1]  # <-- culprit


def dynamic_slices(x, start):
    part = lax.dynamic_slice(x, (start,), (2,))
    return lax.dynamic_update_slice(x, jnp.sqrt(part), (start,))  # <-- culprit


def gathered_outside(x, at):
    return x.at[at].get(mode="fill")  # <-- culprit


def convolution(x, kernel):
    return jnp.convolve(jnp.exp(x), kernel, mode="valid")  # <-- culprit


def batched_product(a, b):
    return jnp.einsum("bij,bkj->bik", jnp.exp(a), b)  # <-- culprit


def pooled(x):
    return nn.avg_pool(jnp.exp(x), (2,), (1,))  # <-- origin


def by_segment(x, segments):
    sums = jax.ops.segment_sum(x, segments, 3)
    return sums / jax.ops.segment_sum(jnp.ones_like(x), segments, 3)  # <-- culprit


def reduced_by_hand(x):
    return lax.reduce(x, F32(1), lambda a, b: a * b + 1, (0,))  # <-- origin


def best_two(x):
    return lax.top_k(1 / x, 2)[0]  # <-- origin


def spread(x):
    return jax.grad(jnp.std)(x)  # <-- culprit


def outer_power(a, b):
    return jnp.outer(a, b)  # <-- origin


# ---- special functions and random bits -----------------------------------------------------------


def log_gamma(x):
    return special.gammaln(x) - 1  # <-- origin


def inverse_erf(x):
    return special.erfinv(x) * 2  # <-- culprit


def bessel(x):
    return special.i0e(x) / special.i1e(x)  # <-- origin


def softmax_of_nothing(x, mask):
    return jax.nn.softmax(jnp.where(mask, x, -jnp.inf))  # <-- culprit


def typed_key(key, scale):
    draws = jax.random.uniform(key, (3,), jnp.float32)
    return jnp.log(draws - scale)  # <-- culprit


def split_keys(keys):
    draws = jax.vmap(lambda key: jax.random.normal(key, (2,), jnp.float32))(keys)
    return jnp.sqrt(jnp.abs(draws) - 10 * (len(keys) - 1))  # <-- culprit


def bit_trick(x, bits):
    filled = lax.bitcast_convert_type(x, jnp.uint32) | bits
    return lax.bitcast_convert_type(filled, jnp.float32) * 2  # <-- culprit


# ---- types ---------------------------------------------------------------------------------------


def whole_numbers(x, y):
    return (x // y) / (x % y)  # <-- culprit


def complex_numbers(z):
    return z / (z - 1)  # <-- culprit


def complex_log(x):
    return jnp.log(lax.complex(x, x * 0)).real  # <-- origin


def doubles(x):
    return jnp.exp(x)  # <-- origin


def small_type(x):
    return x * x  # <-- origin


def smallest_type(x):
    return (x * 16).astype(F8)  # <-- culprit


def type_without_inf(x):
    return x * x  # <-- culprit


def mixed_types(x, weights):
    return jnp.dot(x, weights, preferred_element_type=jnp.float32) + 1  # <-- origin


OPERATIONS = {
    "cholesky": Fault(
        function=cholesky, faulty=(F32([[1, 2], [2, 1]]),), harmless=(F32([[2, 1], [1, 2]]),),
        culprit=("cholesky", "opaque"),
    ),
    "eigh": Fault(
        function=eigh, faulty=(F32([[1, 200], [200, 1]]),), harmless=(F32([[1, 2], [2, 1]]),),
        culprit=("eigh", "opaque"), origin=("exp", "overflow"),
    ),
    "svd": Fault(
        function=svd, faulty=(F32([[1, -1], [2, -2]]),), harmless=(F32([[1, 1], [2, 2]]),),
        culprit=("svd", "opaque"), origin=("div", "pole"),
    ),
    "triangular_solve": Fault(
        function=triangular_solve, faulty=(F32([[1, 0], [1, 0]]), F32([[1], [1]])),
        harmless=(F32([[1, 0], [1, 1]]), F32([[1], [1]])),
        culprit=("triangular_solve", "opaque"),
    ),
    "lu": Fault(
        function=lu, faulty=(F32([[200, 200], [200, 200]]),),
        harmless=(F32([[1, 2], [2, 1]]),),
        culprit=("lu", "opaque"), origin=("exp", "overflow"),
    ),
    "solve": Fault(
        function=solve, faulty=(F32([[1, 1], [1, 1]]), F32([1, 2])),
        harmless=(F32([[1, 1], [1, 2]]), F32([1, 2])),
        culprit=None, origin=("triangular_solve", "opaque"),
    ),
    "fft": Fault(
        function=fft, faulty=(F32([1, 200, 1, 200]),), harmless=(F32([1, 2, 1, 2]),),
        culprit=("fft", "opaque"), origin=("exp", "overflow"),
    ),
    "pure_callback": Fault(
        function=kernel_called_back, faulty=(F32([1, -1]),), harmless=(F32([1, 1]),),
        culprit=("pure_callback", "opaque"),
    ),
    "scatter-add": Fault(
        function=scatter_add,
        faulty=(F32([-np.inf, 1]), np.int32([0, 0]), F32([1, 100])),
        harmless=(F32([3, 1]), np.int32([0, 0]), F32([1, 2])),
        culprit=("scatter-add", "inf-inf"), origin=("exp", "overflow"),
    ),
    "reduction by axis": Fault(
        function=reduction_by_axis, faulty=(F32([[1, 100], [1, 100]]),),
        harmless=(F32([[1, 10], [1, 10]]),),
        culprit=("reduce_sum", "inf-inf"), origin=("exp", "overflow"),
        met=((np.inf, -np.inf),),
    ),
    "maximum": Fault(
        function=largest, faulty=(F32([[1, 2], [0, 3]]),), harmless=(F32([[1, 2], [-1, 3]]),),
        culprit=None, origin=("div", "pole"), met=((1,), (0,)),
    ),
    "product": Fault(
        function=product, faulty=(F32([1e20, 2, 1e20]),), harmless=(F32([1e20, 2, 1e10]),),
        culprit=None, origin=("reduce_prod", "overflow"), met=((1e20, 1e20, 2),),
    ),
    "cumulative sum": Fault(
        function=cumulative_sum, faulty=(F32([[1, 2, 3], [3e38, 1e38, 1]]),),
        harmless=(F32([[1, 2, 3], [3e38, 1e37, 1]]),),
        culprit=None, origin=("cumsum", "overflow"), met=((3e38, 1e38),),
    ),
    "cumulative product, reversed": Fault(
        function=cumulative_product, faulty=(F32([1, 2, 1e20, 1e20]),),
        harmless=(F32([1, 2, 1e10, 1e20]),),
        culprit=None, origin=("cumprod", "overflow"), met=((1e20, 1e20, 2, 1),),
    ),
    "cumulative logsumexp": Fault(
        function=cumulative_logsumexp, faulty=(F32([1, -2, 1]),), harmless=(F32([1, 2, 1]),),
        culprit=("log", "domain"), met=((-2,),),
    ),
    "sort": Fault(
        function=sorted_shares, faulty=(F32([2, 0, 1]),), harmless=(F32([2, 3, 1]),),
        culprit=("div", "0/0"), met=((0,), (0,)),
    ),
    "sort by key": Fault(
        function=sorted_by_key, faulty=(np.int32([3, 1, 2]), F32([1, 2, -3])),
        harmless=(np.int32([3, 1, 2]), F32([1, 2, 3])), culprit=("log", "domain"),
        met=((-3,),),
    ),
    "dynamic slices": Fault(
        function=dynamic_slices, faulty=(F32([1, 2, -3]), np.int32(1)),
        harmless=(F32([1, 2, -3]), np.int32(0)), culprit=("sqrt", "domain"), met=((-3,),),
    ),
    "gather outside": Fault(
        function=gathered_outside, faulty=(F32([1, 2, 3]), np.int32([0, 3])),
        harmless=(F32([1, 2, 3]), np.int32([0, 2])), culprit=("gather", "fill"),
    ),
    "convolution": Fault(
        function=convolution, faulty=(F32([1, 100, 100, 1]), F32([1, -1])),
        harmless=(F32([1, 2, 3, 4]), F32([1, -1])),
        culprit=("conv_general_dilated", "inf-inf"), origin=("exp", "overflow"),
    ),
    "batched product": Fault(
        function=batched_product,
        faulty=(F32([[[1, 2]], [[1, 100]]]), F32([[[1, 1], [2, 2]], [[1, 1], [2, 0]]])),
        harmless=(F32([[[1, 2]], [[1, 10]]]), F32([[[1, 1], [2, 2]], [[1, 1], [2, 0]]])),
        culprit=("dot_general", "0*inf"), origin=("exp", "overflow"),
        met=((np.inf, np.e), (0, 2)),
    ),
    "pooling": Fault(
        function=pooled, faulty=(F32([1, 100, -100, 1]).reshape(1, 4, 1),),
        harmless=(F32([1, 10, -10, 1]).reshape(1, 4, 1),),
        culprit=None, origin=("exp", "overflow"), met=((100,),),
    ),
    "segments": Fault(
        function=by_segment, faulty=(F32([1, 2, 3]), np.int32([0, 0, 2])),
        harmless=(F32([1, 2, 3]), np.int32([0, 1, 2])),
        culprit=("div", "0/0"), met=((0,), (0,)),
    ),
    "a reduction of one's own": Fault(
        function=reduced_by_hand, faulty=(F32([1e20, 1e20, 1e20]),),
        harmless=(F32([1e10, 1e10, 1e10]),), culprit=None, origin=("reduce", "overflow"),
    ),
    "top_k": Fault(
        function=best_two, faulty=(F32([1, 2, 0]),), harmless=(F32([1, 2, -1]),),
        culprit=None, origin=("div", "pole"), met=((1,), (0,)),
    ),
    "standard deviation": Fault(
        function=spread, faulty=(F32([3, 3]),), harmless=(F32([3, 4]),),
        culprit=("mul", "0*inf"), origin=("div", "pole"), phase="backward",
    ),
    "outer product": Fault(
        function=outer_power, faulty=(F32([1, 1e20]), F32([1, 2, 1e20])),
        harmless=(F32([1, 1e20]), F32([1, 2, 1e10])), culprit=None,
        origin=("mul", "overflow"), met=((1e20,), (1e20,)),
    ),
    "lgamma": Fault(
        function=log_gamma, faulty=(F32([2, 0]),), harmless=(F32([2, 1]),),
        culprit=None, origin=("lgamma", "pole"), met=((0,),),
    ),
    "erf_inv": Fault(
        function=inverse_erf, faulty=(F32([0.5, 2]),), harmless=(F32([0.5, -0.5]),),
        culprit=("erf_inv", "domain"), met=((2,),),
    ),
    "bessel": Fault(
        function=bessel, faulty=(F32([0.5, 0]),), harmless=(F32([0.5, 1]),),
        culprit=None, origin=("div", "pole"), met=((1,), (0,)),
    ),
    "softmax of nothing": Fault(
        function=softmax_of_nothing, faulty=(F32([1, 2]), np.array([False, False])),
        harmless=(F32([1, 2]), np.array([True, False])),
        culprit=("sub", "inf-inf"), origin=("convert_element_type", "constant"),
        met=((-np.inf,), (-np.inf,)),
    ),
    "typed key": Fault(
        function=typed_key, faulty=(jax.random.key(0), F32(1)),
        harmless=(jax.random.key(0), F32(-1)), culprit=("log", "domain"),
    ),
    "uint32 keys": Fault(
        function=split_keys, faulty=(np.uint32([[0, 1], [0, 2]]),),
        harmless=(np.uint32([[0, 27]]),), culprit=("sqrt", "domain"),
    ),
    "bits taken for numbers": Fault(
        function=bit_trick, faulty=(F32([1.5, 0]), np.uint32(0x7F800000)),
        harmless=(F32([1.5, 2]), np.uint32(0)),
        culprit=("bitcast_convert_type", "opaque"),
    ),
    "whole numbers": Fault(
        function=whole_numbers, faulty=(np.int32([8, 0]), np.int32([2, 2])),
        harmless=(np.int32([9, 1]), np.int32([2, 2])), culprit=("div", "0/0"),
    ),
    "complex": Fault(
        function=complex_numbers, faulty=(np.complex64([2j, 1]),),
        harmless=(np.complex64([2j, 2]),), culprit=("div", "pole"),
    ),
    "complex, only an inf": Fault(
        function=complex_log, faulty=(F32([1, 0]),), harmless=(F32([1, 2]),),
        culprit=None, origin=("log", "pole"), met=((0,),),
    ),
    "float64": Fault(
        function=doubles, faulty=(F64([1, 710]),), harmless=(F64([1, 709]),),
        culprit=None, origin=("exp", "overflow"), met=((710,),),
    ),
    "bfloat16": Fault(
        function=small_type, faulty=(np.asarray([1, 3e20], BF16),),
        harmless=(np.asarray([1, 3e10], BF16),),
        culprit=None, origin=("mul", "overflow"), met=((3e20,), (3e20,)),
    ),
    "float16": Fault(
        function=small_type, faulty=(F16([1, 300]),), harmless=(F16([1, 200]),),
        culprit=None, origin=("mul", "overflow"), met=((300,), (300,)),
    ),
    "float8": Fault(
        function=smallest_type, faulty=(F32([1, 30]),), harmless=(F32([1, 20]),),
        culprit=("convert_element_type", "overflow"), met=((480,),),
    ),
    "float8 as an argument": Fault(
        function=type_without_inf, faulty=(np.asarray([1, 32], F8),),
        harmless=(np.asarray([1, 16], F8),),
        culprit=("mul", "overflow"), met=((32,), (32,)),
    ),
    "types mixed": Fault(
        function=mixed_types,
        faulty=(np.asarray([3e20, 1], BF16), np.asarray([3e20, 1], BF16)),
        harmless=(np.asarray([3e10, 1], BF16), np.asarray([3e20, 1], BF16)),
        culprit=None, origin=("dot_general", "overflow"), met=((3e20, 1), (3e20, 1)),
    ),
}  # fmt: skip
