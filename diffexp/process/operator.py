"""The operator algebra in which processes and samplers are written.

A process states its marginal as u_t = A_t x0 + L_t e with linear operators A and L. What an operator is depends on the
process: a number (VP, VE, bridges), a diagonal in a fixed basis (blurring), a 2x2 block (critically damped Langevin).
Samplers only compose, invert, transpose, factor and apply; they never ask which kind they hold.

Every operator carries a leading batch of times: one for each sample in training, one for each step in a sampler's plan.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
from torch import Tensor

from diffexp.core.transfer import to_device


class Operator(abc.ABC):
    """A linear map on states, or a batch of them over times; immutable, float64 until `cast`.

    Algebra: ``a @ b`` composes (b acts first), ``a + b`` and ``a - b`` add, ``c * a`` scales by a number or by a tensor
    of one number for each time.
    """

    @abc.abstractmethod
    def apply(self, u: Tensor) -> Tensor:
        """The image of `u` (B, *): the operator's batch is () or (B,)."""

    @abc.abstractmethod
    def __matmul__(self, other: Operator) -> Operator: ...

    @abc.abstractmethod
    def __add__(self, other: Operator) -> Operator: ...

    @abc.abstractmethod
    def __rmul__(self, number: float | Tensor) -> Operator: ...

    def __sub__(self, other: Operator) -> Operator:
        return self + (-1.0) * other

    @abc.abstractmethod
    def inverse(self) -> Operator:
        """The inverse; a singular operator gives infinities, as division does."""

    @abc.abstractmethod
    def transpose(self) -> Operator:
        """The transpose with respect to the pixel-wise inner product."""

    @abc.abstractmethod
    def factor(self) -> Operator:
        """A lower-triangular L with L L^T = self, for a symmetric non-negative operator.

        Rounding may leave a variance slightly below zero where it vanishes; such entries are taken as zero.
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
        """The sum of operators applied to states, with as few passes over memory as the kind allows."""

    @abc.abstractmethod
    def is_zero(self) -> bool:
        """True when every entry is exactly zero: then no noise need be drawn for it."""

    def covariance(self) -> Operator:
        """self self^T, the covariance of self applied to unit noise."""
        return self @ self.transpose()


def combine(terms: Sequence[tuple[Operator, Tensor]]) -> Tensor:
    """sum_i operator_i(state_i) for operators of one kind; see `Operator.combine`."""
    return terms[0][0].combine(terms)


class Scalar(Operator):
    """Multiplication by a number: the operators of VP, VE and the bridges.

    Args:
        value: float64 tensor () or (n,), one number for each time.
    """

    def __init__(self, value: Tensor | float) -> None:
        self.value = torch.as_tensor(value, dtype=torch.float64) if not isinstance(value, Tensor) else value
        # A single number on a cast operator is kept as a Python float: tensor-times-number needs no broadcast, no copy
        # to the device and no synchronisation.
        self._number = float(self.value) if self.value.ndim == 0 and self.value.device.type == "cpu" else None

    def __repr__(self) -> str:
        return f"Scalar({self.value.tolist()})"

    def _shaped(self, u: Tensor) -> Tensor | float:
        if self._number is not None:
            return self._number
        return self.value.reshape(self.value.shape + (1,) * (u.ndim - self.value.ndim))

    def apply(self, u: Tensor) -> Tensor:
        return u * self._shaped(u)

    def __matmul__(self, other: Operator) -> Scalar:
        return Scalar(self.value * _scalar(other).value)

    def __add__(self, other: Operator) -> Scalar:
        return Scalar(self.value + _scalar(other).value)

    def __rmul__(self, number: float | Tensor) -> Scalar:
        return Scalar(number * self.value)

    def inverse(self) -> Scalar:
        return Scalar(1.0 / self.value)

    def transpose(self) -> Scalar:
        return self

    def factor(self) -> Scalar:
        return Scalar(self.value.clamp_min(0.0).sqrt())

    def __getitem__(self, index: int) -> Scalar:
        return Scalar(self.value[index])

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Scalar:
        # A number stays in float64 on the CPU: arithmetic with a Python float keeps the tensor's own type.
        return self if self._number is not None else Scalar(to_device(self.value, device, dtype))

    @staticmethod
    def combine(terms: Sequence[tuple[Operator, Tensor]]) -> Tensor:
        (first, state), *rest = terms
        total = first.apply(state)
        for operator, other in rest:
            weight = _scalar(operator)._shaped(other)
            if isinstance(weight, float):
                total.add_(other, alpha=weight)
            else:
                total.addcmul_(other, weight)
        return total

    def is_zero(self) -> bool:
        return not bool(self.value.any())


def _scalar(operator: Operator) -> Scalar:
    if not isinstance(operator, Scalar):
        raise TypeError(f"operators of different kinds do not mix: Scalar and {type(operator).__name__}")
    return operator
