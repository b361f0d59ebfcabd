"""The operator algebra in which processes and samplers are written.

A process states its marginal as u_t = A_t x0 + L_t e with linear operators A and L. What an operator is depends on the
process: a number (VP, VE, bridges), a diagonal in a fixed basis (blurring), a 2x2 block (critically damped Langevin).
Samplers only compose, invert, transpose, factor and apply; they never ask which kind they hold.

Every operator carries a leading batch of times: one for each sample in training, one for each step in a sampler's plan.
Numbers mix with every kind (isotropic noise beside a signal that depends on frequency); other kinds do not mix.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffexp.core.transfer import to_device


class Operator(abc.ABC):
    """A linear map on states, or a batch of them over times; immutable, float64 until `cast`.

    Algebra: ``a @ b`` composes (b acts first), ``a + b`` and ``a - b`` add, ``c * a`` scales by a number or by a tensor
    of one number for each time. TypeError for operators of kinds that do not mix.

    Attributes:
        commutes: whether any two operators of this kind commute.
    """

    commutes: bool = True

    def __matmul__(self, other: Operator) -> Operator:
        left, right = _alike(self, other)
        return left._compose(right)

    def __add__(self, other: Operator) -> Operator:
        left, right = _alike(self, other)
        return left._plus(right)

    def __sub__(self, other: Operator) -> Operator:
        return self + (-1.0) * other

    def geometric(self, other: Operator, f: float | Tensor) -> Operator:
        """self^(1 - f) other^f for non-negative operators that commute; f is a number, or one for each time.

        Raises:
            ValueError: for 2x2 blocks, which do not commute in general.
        """
        left, right = _alike(self, other)
        return left._geometric(right, f)

    def covariance(self) -> Operator:
        """self self^T, the covariance of self applied to unit noise."""
        return self @ self.transpose()

    @property
    @abc.abstractmethod
    def batch(self) -> torch.Size:
        """The shape of the times: () or (n,)."""

    @abc.abstractmethod
    def apply(self, u: Tensor) -> Tensor:
        """The image of `u` (B, *), a new tensor: the operator's batch is () or (B,)."""

    @abc.abstractmethod
    def __rmul__(self, number: float | Tensor) -> Operator: ...

    @abc.abstractmethod
    def inverse(self) -> Operator:
        """The inverse; a singular operator gives entries that are not finite, as division does."""

    @abc.abstractmethod
    def transpose(self) -> Operator:
        """The transpose with respect to the pixel-wise inner product."""

    @abc.abstractmethod
    def factor(self) -> Operator:
        """A lower-triangular L (in the operator's own basis) with L L^T = self, for a symmetric non-negative operator.

        Rounding may leave a variance slightly below zero where it vanishes; such entries are taken as zero.
        """

    @abc.abstractmethod
    def exp(self) -> Operator:
        """The exponential of the operator."""

    @abc.abstractmethod
    def identity(self) -> Operator:
        """The identity of this kind and batch."""

    @abc.abstractmethod
    def is_zero(self) -> bool:
        """True when every entry is exactly zero: then no noise need be drawn for it."""

    @abc.abstractmethod
    def is_identity(self) -> bool:
        """True when every operator of the batch is exactly the identity."""

    @abc.abstractmethod
    def log_det(self, shape: Sequence[int]) -> Tensor:
        """log |det| of the operator on one state of `shape` (C, H, W): float64 of the batch's shape.

        Raises:
            ValueError: for a shape on which the operator does not act.
        """

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Operator:
        """The operator at one time of the batch."""

    @abc.abstractmethod
    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Operator:
        """The same operator ready for states of this type and device: done once, before a loop."""

    @staticmethod
    @abc.abstractmethod
    def combine(terms: Sequence[tuple[Operator, Tensor]]) -> Tensor:
        """The sum of operators of this kind, or numbers, applied to states, with few passes over memory."""

    @abc.abstractmethod
    def _isotropic(self, scalar: Scalar) -> Operator:
        """A number as an operator of this kind."""

    @abc.abstractmethod
    def _compose(self, other: Operator) -> Operator:
        """self other, for an operator of the same kind."""

    @abc.abstractmethod
    def _plus(self, other: Operator) -> Operator:
        """self + other, for an operator of the same kind."""

    @abc.abstractmethod
    def _geometric(self, other: Operator, f: float | Tensor) -> Operator:
        """`geometric`, for an operator of the same kind."""


def combine(terms: Sequence[tuple[Operator, Tensor]]) -> Tensor:
    """sum_i operator_i(state_i), a new tensor, for operators of one kind and numbers; see `Operator.combine`."""
    kind = next((operator for operator, _ in terms if not isinstance(operator, Scalar)), terms[0][0])
    return kind.combine(terms)


def _alike(left: Operator, right: Operator) -> tuple[Operator, Operator]:
    """Both as operators of one kind."""
    if type(left) is type(right):
        return left, right
    if isinstance(left, Scalar):
        return right._isotropic(left), right
    if isinstance(right, Scalar):
        return left, left._isotropic(right)
    raise unlike(type(left), right)


def unlike(kind: type[Operator], other: Operator) -> TypeError:
    """The error for two kinds that do not mix."""
    return TypeError(f"operators of different kinds do not mix: {kind.__name__} and {type(other).__name__}")


def over(number: float | Tensor, trailing: int) -> float | Tensor:
    """A number, or a tensor of one number for each time, shaped to stand before `trailing` further axes."""
    return number.reshape(number.shape + (1,) * trailing) if isinstance(number, Tensor) else number


class Scalar(Operator):
    """Multiplication by a number: the operators of VP, VE and the bridges.

    Args:
        value: float64 tensor () or (n,), one number for each time.
    """

    def __init__(self, value: Tensor | float) -> None:
        self.value = torch.as_tensor(value, dtype=torch.float64) if not isinstance(value, Tensor) else value
        # A single number on a cast operator is kept as a Python float: tensor-times-number needs no broadcast, no copy
        # to the device and no synchronisation.
        self.number = float(self.value) if self.value.ndim == 0 and self.value.device.type == "cpu" else None

    def __repr__(self) -> str:
        return f"Scalar({self.value.tolist()})"

    @property
    def batch(self) -> torch.Size:
        return self.value.shape

    def shaped(self, u: Tensor) -> Tensor | float:
        """The number, or the numbers shaped to multiply a state `u` (B, *)."""
        return self.number if self.number is not None else over(self.value, u.ndim - self.value.ndim)

    def apply(self, u: Tensor) -> Tensor:
        return u * self.shaped(u)

    def __rmul__(self, number: float | Tensor) -> Scalar:
        return Scalar(number * self.value)

    def inverse(self) -> Scalar:
        return Scalar(1.0 / self.value)

    def transpose(self) -> Scalar:
        return self

    def factor(self) -> Scalar:
        return Scalar(self.value.clamp_min(0.0).sqrt())

    def exp(self) -> Scalar:
        return Scalar(self.value.exp())

    def identity(self) -> Scalar:
        return Scalar(torch.ones_like(self.value))

    def is_zero(self) -> bool:
        return not bool(self.value.any())

    def is_identity(self) -> bool:
        return bool((self.value == 1.0).all())

    def log_det(self, shape: Sequence[int]) -> Tensor:
        return math.prod(shape) * self.value.to(torch.float64).abs().log()

    def __getitem__(self, index: int) -> Scalar:
        return Scalar(self.value[index])

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Scalar:
        # A number stays in float64 on the CPU: arithmetic with a Python float keeps the tensor's own type.
        return self if self.number is not None else Scalar(to_device(self.value, device, dtype))

    @staticmethod
    def combine(terms: Sequence[tuple[Operator, Tensor]]) -> Tensor:
        (first, state), *rest = terms
        return add_scaled(first.apply(state), rest)

    def _isotropic(self, scalar: Scalar) -> Scalar:
        return scalar

    def _compose(self, other: Scalar) -> Scalar:
        return Scalar(self.value * other.value)

    def _plus(self, other: Scalar) -> Scalar:
        return Scalar(self.value + other.value)

    def _geometric(self, other: Scalar, f: float | Tensor) -> Scalar:
        return Scalar(self.value ** (1.0 - f) * other.value**f)


def add_scaled(total: Tensor, terms: Sequence[tuple[Operator, Tensor]]) -> Tensor:
    """`total` with numbers times states added in place, one pass for each."""
    for operator, state in terms:
        if not isinstance(operator, Scalar):
            raise unlike(Scalar, operator)
        weight = operator.shaped(state)
        if isinstance(weight, float):
            total.add_(state, alpha=weight)
        else:
            total.addcmul_(state, weight)
    return total
