"""Operators that are diagonal in an orthonormal basis of the image plane: blurring, one number for each frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffexp.core.transfer import to_device
from diffexp.process.dct import DCT
from diffexp.process.operator import Operator, Scalar, add_scaled, over, unlike


class Diagonal(Operator):
    """Multiplication by one number for each frequency, the same for every channel; acts on pixels (B, C, H, W).

    A combination of several states transforms them together once and comes back once; numbers in it are added in
    pixels and need no transform. On a device whose matrix products round to TF32 the transform does so too.

    Args:
        values: float64 (H, W) or (n, H, W), row and column frequency last.
        basis: the transform between pixels and frequencies.
    """

    def __init__(self, values: Tensor, basis: DCT | None = None) -> None:
        if values.ndim not in (2, 3):
            raise ValueError(f"a diagonal operator has values (H, W) or (n, H, W), got {tuple(values.shape)}")
        self.values = values
        self.basis = basis if basis is not None else DCT()

    def __repr__(self) -> str:
        return f"Diagonal({tuple(self.values.shape)}, {self.basis})"

    @property
    def batch(self) -> torch.Size:
        return self.values.shape[:-2]

    def _with(self, values: Tensor) -> Diagonal:
        return Diagonal(values, self.basis)

    def _shaped(self, u: Tensor) -> Tensor:
        """The values shaped to multiply a state `u` (B, *, H, W)."""
        self._check(u.shape)
        between = (1,) * (u.ndim - 2 - len(self.batch))
        return self.values.reshape(self.batch + between + self.values.shape[-2:])

    def _check(self, shape: Sequence[int]) -> None:
        side = tuple(self.values.shape[-2:])
        if tuple(shape[-2:]) != side:
            raise ValueError(f"an operator on images of {side[0]}x{side[1]} pixels met a state of shape {tuple(shape)}")

    def apply(self, u: Tensor) -> Tensor:
        values = self._shaped(u)
        return self.basis.backward(self.basis.forward(u) * values)

    def __rmul__(self, number: float | Tensor) -> Diagonal:
        return self._with(over(number, 2) * self.values)

    def inverse(self) -> Diagonal:
        return self._with(1.0 / self.values)

    def transpose(self) -> Diagonal:
        return self

    def factor(self) -> Diagonal:
        return self._with(self.values.clamp_min(0.0).sqrt())

    def exp(self) -> Diagonal:
        return self._with(self.values.exp())

    def identity(self) -> Diagonal:
        return self._with(torch.ones_like(self.values))

    def is_zero(self) -> bool:
        return not bool(self.values.any())

    def is_identity(self) -> bool:
        return bool((self.values == 1.0).all())

    def log_det(self, shape: Sequence[int]) -> Tensor:
        self._check(shape)
        return math.prod(shape[:-2]) * self.values.to(torch.float64).abs().log().sum((-2, -1))

    def __getitem__(self, index: int) -> Diagonal:
        if not self.batch:
            raise IndexError("an operator at one time has no batch to index")
        return self._with(self.values[index])

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Diagonal:
        return self._with(to_device(self.values, device, dtype))

    @staticmethod
    def combine(terms: Sequence[tuple[Operator, Tensor]]) -> Tensor:
        own = [(operator, state) for operator, state in terms if isinstance(operator, Diagonal)]
        numbers = [(operator, state) for operator, state in terms if not isinstance(operator, Diagonal)]
        strange = next((operator for operator, _ in numbers if not isinstance(operator, Scalar)), None)
        if strange is not None:
            raise unlike(Diagonal, strange)
        basis = own[0][0].basis
        states = [state for _, state in own]
        spectra = basis.forward(torch.stack(states) if len(states) > 1 else states[0][None]).unbind()
        total = spectra[0] * own[0][0]._shaped(states[0])
        for (operator, state), spectrum in zip(own[1:], spectra[1:], strict=True):
            operator._require(basis)
            total.addcmul_(spectrum, operator._shaped(state))
        return add_scaled(basis.backward(total), numbers)

    def _require(self, basis: DCT) -> None:
        if self.basis != basis:
            raise TypeError(f"diagonal operators in different bases do not mix: {basis} and {self.basis}")

    def _isotropic(self, scalar: Scalar) -> Diagonal:
        side = self.values.shape[-2:]
        return self._with(over(scalar.value, 2).expand(scalar.batch + side))

    def _compose(self, other: Diagonal) -> Diagonal:
        other._require(self.basis)
        return self._with(self.values * other.values)

    def _plus(self, other: Diagonal) -> Diagonal:
        other._require(self.basis)
        return self._with(self.values + other.values)

    def _geometric(self, other: Diagonal, f: float | Tensor) -> Diagonal:
        other._require(self.basis)
        share = over(f, 2)
        return self._with(self.values ** (1.0 - share) * other.values**share)
