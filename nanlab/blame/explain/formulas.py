"""Values -> the formulas that they are part of, as people write them: softmax, norm, log(det)."""

from __future__ import annotations

from collections.abc import Iterator

from nanlab.blame.explain.library import functions_around
from nanlab.blame.explain.surroundings import Surroundings
from nanlab.blame.program.program import Equation

_STEPS = 4


class Formulas:
    """Recognizes formulas written by hand that a library has in a safe form.

    Args:
        around: the surroundings of the program's values.
    """

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    def is_square(self, value: int) -> bool:
        """Return whether a value is a square."""
        maker = self._around.made_by(value, "square", "integer_pow", "mul")
        if maker is None or maker.primitive == "square":
            return maker is not None
        if maker.primitive == "integer_pow":
            return maker.eqn.params["y"] == 2
        return self._are_one(maker)

    def _are_one(self, product: Equation) -> bool:
        return len({*map(self._around.root, product.operands)}) == 1

    def is_norm(self, root: Equation) -> bool:
        """Return whether a square root is that of a squared length."""
        is_known = {"jax.norm", "optax.global_norm"} & functions_around(root)
        return bool(is_known) or self._is_sum_of_squares(root.operands[0])

    def _is_sum_of_squares(self, value: int) -> bool:
        maker = self._around.made_by(value, "reduce_sum", "add", "dot_general", "max")
        if maker is None:
            return False
        if maker.primitive == "reduce_sum":
            return self.is_square(maker.operands[0])
        if maker.primitive == "dot_general":
            return self._are_one(maker)
        parts = [self.is_square(v) or self._is_sum_of_squares(v) for v in maker.operands]
        return all(parts)

    def is_spread(self, root: Equation) -> bool:
        """Return whether a square root is a standard deviation."""
        names = {"jax.std", "jax._std", "jax.nanstd", "jax.var", "jax._var"}
        if names & functions_around(root):
            return True
        maker = self._around.maker(root.operands[0])
        return maker is not None and bool(names & functions_around(maker))

    def feeds_norm(self, equation: Equation) -> bool:
        """Return whether squares are summed under a root."""
        current = [equation]
        for _ in range(_STEPS):
            users = [u for e in current for v in e.results for u in self._around.forward_users(v)]
            if any(user.primitive == "sqrt" and self.is_norm(user) for user in users):
                return True
            current = [user for user in users if user.primitive in ("reduce_sum", "add")]
        return False

    def is_maximum(self, value: int) -> bool:
        """Return whether a value is a maximum along an axis."""
        for _ in range(_STEPS):
            maker = self._around.maker(value)
            if maker is None:
                return False
            if maker.primitive in ("reduce_max", "argmax", "cummax"):
                return True
            if maker.primitive not in ("max", "select_n"):
                return False
            value = maker.operands[-1]
        return False

    def of_exp(self, at: Equation) -> str:
        """Return the formula that an exponential is part of: softmax, logsumexp, ... or ""."""
        around = self._around
        values = [twin.results[0] for twin in around.twins(at)]
        users = [(user, v) for v in values for user in around.forward_users(v)]
        formulas = [self._of_user_of_exp(user, value) for user, value in users]
        return next(filter(None, formulas), "")

    def _of_user_of_exp(self, user: Equation, value: int) -> str:
        around = self._around
        if user.primitive == "log1p":
            return "softplus"
        if user.primitive == "reduce_sum":
            return self._of_sum(user, value)
        if user.primitive in ("add", "sub") and self._is_tanh(user):
            return "tanh"
        others = [v for v in user.operands if around.root(v) != around.root(value)]
        is_plus = user.primitive == "add" and bool(others) and around.constant(others[0]) == 1
        return self._of_one_plus(user) if is_plus else ""

    def _of_sum(self, total: Equation, value: int) -> str:
        around = self._around
        for user in self._through_eps(total):
            if user.primitive == "div" and around.are_same(user.operands[0], value):
                return "softmax"
            if user.primitive == "log":
                return "logsumexp"
        return ""

    def _through_eps(self, total: Equation) -> Iterator[Equation]:
        """Yield the users of a sum, and those of the sum plus a constant."""
        around = self._around
        for user in around.forward_users(total.results[0]):
            yield user
            if user.primitive == "add" and any(around.constant(v) for v in user.operands):
                yield from around.forward_users(user.results[0])

    def _of_one_plus(self, plus: Equation) -> str:
        around = self._around
        for user in around.forward_users(plus.results[0]):
            if user.primitive == "log":
                return "softplus"
            above = around.constant(user.operands[0]) if user.primitive == "div" else None
            is_exp = user.primitive == "div" and around.made_by(user.operands[0], "exp")
            if above == 1 or is_exp:
                return "sigmoid"
        return ""

    def _is_tanh(self, user: Equation) -> bool:
        around = self._around
        if not all(around.made_by(v, "exp") for v in user.operands):
            return False
        for ratio in around.forward_users(user.results[0]):
            if ratio.primitive == "div":
                parts = [around.maker(v) for v in ratio.operands]
                names = [part.primitive if part else "" for part in parts]
                return names == ["sub", "add"]
        return False

    def of_log(self, argument: int) -> str:
        """Return the formula that a logarithm is taken of, or ""."""
        around = self._around
        maker = around.maker(argument)
        if maker is None:
            return ""
        functions = functions_around(maker)
        less = maker if maker.primitive == "sub" else None
        if less is not None and around.constant(less.operands[0]) == 1:
            return self._of_log_of_rest(less.operands[1])
        if maker.primitive == "div" and self._is_softmax(maker):
            return "log_softmax"
        if {"jax.prod", "jax._reduce_prod"} & functions:
            return "log product"
        if {"jax.det", "jax._det"} & functions:
            return "log det"
        if {"jax.cdf", "jax.ndtr", "jax._ndtr"} & functions:
            return "log cdf"
        if maker.primitive == "mul" and around.made_by(maker.operands[-1], "erfc", "erf"):
            return "log cdf"
        return {
            "logistic": "log_sigmoid", "reduce_prod": "log product", "cumprod": "log product",
            "one_minus_square": "tanh squared" if self._is_tanh_of(maker.operands) else "",
        }.get(maker.primitive, "")  # fmt: skip

    def _of_log_of_rest(self, taken: int) -> str:
        """Return the formula of log(1 - taken), or ""."""
        around = self._around
        if around.made_by(taken, "logistic"):
            return "log_sigmoid"
        if around.made_by(taken, "exp"):
            return "log1mexp"
        square = around.maker(taken) if self.is_square(taken) else None
        return "tanh squared" if square and self._is_tanh_of(square.operands) else ""

    def of_log1p(self, argument: int) -> str:
        """Return the formula that log1p is taken of, or ""."""
        minus = self._around.made_by(argument, "neg")
        return "" if minus is None else self._of_log_of_rest(minus.operands[0])

    def _is_tanh_of(self, operands: tuple[int, ...]) -> bool:
        return self._around.made_by(operands[0], "tanh") is not None

    def _is_softmax(self, ratio: Equation) -> bool:
        around, (above, below) = self._around, ratio.operands
        total = around.made_by(below, "reduce_sum")
        if total is None and (plus := around.made_by(below, "add")) is not None:
            total = around.made_by(plus.operands[0], "reduce_sum")
        is_exp = around.made_by(above, "exp") is not None
        return is_exp and total is not None and around.are_same(total.operands[0], above)

    def is_entropy(self, logarithm: Equation) -> bool:
        """Return whether a logarithm is multiplied by its own argument."""
        around, argument = self._around, logarithm.operands[0]
        for user in around.forward_users(logarithm.results[0]):
            if user.primitive in ("mul", "dot_general"):
                makers = [around.made_by(v, "neg") for v in user.operands]
                factors = [
                    m.operands[0] if m else v for m, v in zip(makers, user.operands, strict=True)
                ]
                if any(around.are_same(v, argument) for v in factors):
                    return True
        return False

    def is_length(self, divisor: int) -> bool:
        """Return whether a divisor is the length of a vector, or a product of lengths."""
        product = self._around.made_by(divisor, "mul")
        if product is not None:
            return any(map(self.is_length, product.operands))
        root = self._around.made_by(divisor, "sqrt")
        return root is not None and self.is_norm(root)

    def is_variance(self, value: int) -> bool:
        """Return whether a value is a difference of squares, as E[x^2] - E[x]^2."""
        less = self._around.made_by(value, "sub")
        is_square = less is not None and self.is_square(less.operands[1])
        return is_square and less is not None and self._around.constant(less.operands[0]) is None

    def of_divisor(self, division: Equation) -> str:
        """Return what a number is divided by, or ""."""
        around, (above, divisor) = self._around, division.operands
        if around.is_empty(above) or around.constant(divisor) == 0:
            return "empty"
        if self.is_length(divisor):
            return "unit"
        root, total = around.made_by(divisor, "sqrt"), around.made_by(divisor, "reduce_sum")
        if root is not None and self.is_spread(root):
            return "standardize"
        if total is not None and around.is_mask(total.operands[0]):
            return "count"
        less = around.made_by(divisor, "sub")
        is_range = less is not None and all(
            around.made_by(v, "reduce_max", "reduce_min") for v in less.operands
        )
        return "range" if is_range else ""
