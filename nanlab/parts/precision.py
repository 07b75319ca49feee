"""Tables of floating-point types: of the computation, of stored parameters, of matrix products."""

from __future__ import annotations

from dataclasses import dataclass

from nanlab.parts.entry import Entry


@dataclass(frozen=True)
class Precision(Entry):
    """A precision of the computation.

    Attributes:
        dtype: name of the arrays' dtype.
        traced: name of the knobs' dtype, that of a Python float next to such arrays.
    """

    dtype: str
    traced: str


@dataclass(frozen=True)
class Storage(Entry):
    """A storage of parameters between steps.

    Attributes:
        dtype: name of their dtype; None for the computation's.
        updates: whether the optimizer works in that dtype, not in the computation's.
    """

    dtype: str | None
    updates: bool = True


@dataclass(frozen=True)
class MatmulPrecision(Entry):
    """A precision of matrix products; `name` is an argument of `jax.default_matmul_precision`."""

    name: str | None


PRECISIONS: dict[str, Precision] = {
    "float64": Precision("53 bits, up to 1.8e308.", "IEEE 754", "float64", "float64"),
    "float32": Precision("24 bits, up to 3.4e38.", "IEEE 754", "float32", "float32"),
    "bfloat16": Precision("8 bits, up to 3.4e38.", "Wang and Kanwar 2019", "bfloat16", "float32"),
    "float16": Precision("11 bits, up to 65,504.", "IEEE 754", "float16", "float32"),
}

STORAGES: dict[str, Storage] = {
    "same": Storage("As in the computation.", "nanlab", None),
    "float64": Storage("53 bits, up to 1.8e308.", "IEEE 754", "float64"),
    "float32": Storage("24 bits: master weights.", "Micikevicius et al. 2018", "float32"),
    "bfloat16": Storage("8 bits, up to 3.4e38.", "Wang and Kanwar 2019", "bfloat16"),
    "float16": Storage("11 bits, up to 65,504.", "IEEE 754", "float16"),
    "float8_e4m3fn": Storage(
        "4 bits, up to 448, no inf: what is larger is NaN.",
        "Micikevicius et al. 2022",
        "float8_e4m3fn",
        updates=False,
    ),
    "float8_e5m2": Storage(
        "3 bits, up to 57,344.", "Micikevicius et al. 2022", "float8_e5m2", updates=False
    ),
}

MATMUL_PRECISIONS: dict[str, MatmulPrecision] = {
    "default": MatmulPrecision("The device's default.", "jax.default_matmul_precision", None),
    "bfloat16": MatmulPrecision(
        "Operands rounded to bfloat16, where the device can.",
        "jax.default_matmul_precision",
        "bfloat16",
    ),
    "tensorfloat32": MatmulPrecision(
        "Operands rounded to 11 bits or 3 bfloat16 products, where the device can.",
        "jax.default_matmul_precision",
        "tensorfloat32",
    ),
    "float32": MatmulPrecision("All bits of float32.", "jax.default_matmul_precision", "float32"),
}
