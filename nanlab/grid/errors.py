"""Problems of a grid -> sentences: each names the place, the value and the way out.

Pydantic finds what is wrong with a value; the wording is entirely nanlab's.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails

from nanlab.grid.toml import Path, value_text

MAX_COMPLAINTS = 1000
SHOWN_COMPLAINTS = 50
SHOWN_CHARACTERS = 60
SHOWN_NAMES = 8

ALIASES: Mapping[str, str] = {
    "xavier": "glorot_uniform", "xavier_uniform": "glorot_uniform",
    "xavier_normal": "glorot_normal", "glorot": "glorot_uniform",
    "kaiming": "he_normal", "kaiming_normal": "he_normal", "kaiming_uniform": "he_uniform",
    "he": "he_normal", "lecun": "lecun_normal", "trunc_normal": "truncated_normal",
    "swish": "silu", "hard_swish": "hard_silu", "logistic": "sigmoid", "linear": "identity",
    "l1": "mae", "l2": "mse", "cross_entropy": "softmax_cross_entropy",
    "categorical_crossentropy": "softmax_cross_entropy",
    "binary_crossentropy": "sigmoid_cross_entropy", "bce": "sigmoid_cross_entropy",
    "fp16": "float16", "half": "float16", "fp32": "float32", "single": "float32",
    "fp64": "float64", "double": "float64", "bf16": "bfloat16", "tf32": "tensorfloat32",
    "batch_norm": "batch", "batchnorm": "batch", "layer_norm": "layer", "layernorm": "layer",
    "rms_norm": "rms", "rmsnorm": "rms", "weight_norm": "weight",
    "learning_rate": "lr", "eta": "lr", "beta1": "b1", "beta_1": "b1", "beta2": "b2",
    "beta_2": "b2", "eps": "optimizer_epsilon", "wd": "weight_decay", "dtype": "precision",
    "dataset": "task", "data": "task", "architecture": "model", "num_layers": "depth",
    "layers": "depth", "hidden_size": "width", "hidden_dim": "width", "num_heads": "heads",
    "dropout_rate": "dropout", "init": "initializer", "random_seed": "seed", "bs": "batch_size",
    "normalization": "norm", "lr_schedule": "schedule", "scheduler": "schedule",
}  # fmt: skip
"""Names that other libraries use, and nanlab's name for the same thing."""


@dataclass(frozen=True, kw_only=True)
class Complaint:
    """One problem of a grid.

    Attributes:
        key: dotted path of the place (`axes.lr.num`); "" is the file itself.
        value: value at that place as TOML, or None where only the place is wrong.
        line: line in the file, or None where a flag set the value or there is no such line.
        column: column, for syntax errors of TOML.
        flag: command-line flag that set the value.
        sentence: what would be accepted, with a suggestion where there is a close one.
    """

    key: str = ""
    value: str | None = None
    line: int | None = None
    column: int | None = None
    flag: str | None = None
    sentence: str

    def __str__(self) -> str:
        """Return `axes.lr.num = 0 (line 13): must be 1 or more`."""
        place = self.flag or ("" if self.line is None else f"line {self.line}")
        place += "" if self.column is None else f", column {self.column}"
        value = "" if self.value is None else f" = {self.value}"
        subject = self.key + value + (f" ({place})" if place else "") if self.key else place
        return f"{subject}: {self.sentence}" if subject else self.sentence


def in_order(complaints: Iterable[Complaint]) -> list[Complaint]:
    """Return the complaints in the order of the file's lines; those without a line come last."""
    return sorted(complaints, key=lambda complaint: (complaint.line is None, complaint.line or 0))


class GridError(Exception):
    """A grid that cannot be run, with all of its problems.

    Checking stops after `MAX_COMPLAINTS` problems.

    Attributes:
        path: path of the file, as given.
        complaints: the problems, in the order of the file.
    """

    def __init__(self, path: str, complaints: Sequence[Complaint]) -> None:
        super().__init__(path, complaints)
        self.path = path
        self.complaints = tuple(complaints)

    def __str__(self) -> str:
        """Return a headline and a line for each complaint."""
        n_problems = len(self.complaints)
        more = " or more" if n_problems >= MAX_COMPLAINTS else ""
        lines = [f"{self.path}: {counted(n_problems, 'problem')}{more}"]
        lines += [f"  {complaint}" for complaint in self.complaints[:SHOWN_COMPLAINTS]]
        if n_problems > SHOWN_COMPLAINTS:
            lines.append(f"  ... and {n_problems - SHOWN_COMPLAINTS} more")
        return "\n".join(lines)


def shown(value: object) -> str:
    """Return `value` as TOML, truncated if it is long."""
    text = value_text(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


def counted(n: int, noun: str) -> str:
    """Return `1 value`, `2 values`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def dotted(path: Path) -> str:
    """Return the path as on the command line, `axes.lr.num`."""
    return ".".join(str(part) for part in path)


def suggestion(word: object, known: Iterable[str]) -> str | None:
    """Return the one of `known` that `word` most likely means, or None."""
    known = list(known)
    plain = str(word).lower().replace("-", "_")
    if (name := ALIASES.get(plain, plain)) in known:
        return name
    near = difflib.get_close_matches(str(word), known, n=1)
    return near[0] if near else None


def one_of(names: Sequence[str]) -> str:
    """Return `"relu"`, or `one of "relu", "tanh"`."""
    quoted = ", ".join(f'"{name}"' for name in names)
    return quoted if len(names) == 1 else f"one of {quoted}"


def unknown_key(key: object, known: Sequence[str]) -> str:
    """Return the sentence about a key that is not among `known`."""
    near = suggestion(key, known)
    if near is not None:
        return f'unknown key; did you mean "{near}"?'
    return f"unknown key; known here: {', '.join(known)}"


def _choice(context: Mapping[str, Any], value: object) -> str:
    names = context["names"]
    near = suggestion(value, names) if isinstance(value, str) else None
    sentence = f"must be {one_of(names[:SHOWN_NAMES])}"
    if len(names) > SHOWN_NAMES:
        sentence += f" or {len(names) - SHOWN_NAMES} more (python -m nanlab.parts lists them)"
    if context.get("user_code"):
        sentence += f', or your own, as "{context["user_code"]}"'
    return sentence if near is None else f'{sentence}; did you mean "{near}"?'


_SENTENCES: Mapping[str, str] = {
    "sentence": "{sentence}",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be finite",
    "bool_type": "must be true or false",
    "string_type": "must be text in quotes",
    "list_type": "must be a list",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "missing": "is missing",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "too_short": "must have {min_length} or more values",
    "too_long": "must have {max_length} or fewer values",
}
"""Templates by pydantic's error type.  A test raises each type that our models can raise."""


def sentence_of(error: ErrorDetails) -> str:
    """Return the sentence for one of pydantic's errors, "extra_forbidden" excepted."""
    context = error.get("ctx", {})
    if error["type"] == "choice":
        return _choice(context, error["input"])
    plain = {key: f"{v:g}" if isinstance(v, float) else v for key, v in context.items()}
    return _SENTENCES.get(error["type"], "is not accepted here").format(**plain)
