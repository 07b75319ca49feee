"""Name -> case: real reports of NaN and inf, rewritten as small JAX programs (tests only)."""

from corpus import (
    controls,
    data,
    lanes,
    layers,
    linalg,
    logs,
    loops,
    nested,
    optimizers,
    overflows,
    sampling,
    softmax,
    special,
    where,
)
from corpus.case import Case

FILES = (
    where, logs, softmax, layers, optimizers, special, linalg, loops, sampling, data, nested,
    overflows, lanes, controls,
)  # fmt: skip
CASES: dict[str, Case] = {case.name: case for file in FILES for case in file.CASES}
