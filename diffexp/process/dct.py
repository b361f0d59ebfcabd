"""The two-dimensional cosine transform (DCT-II, orthonormal) as a product with matrices.

    y = M_H x M_W^T,   M_kj = sqrt(2 / n) cos(pi k (2 j + 1) / (2 n)),   row 0 divided by sqrt(2)

M is orthogonal, so the inverse is the transpose, unit noise stays unit noise, and any side will do, even or odd.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from diffexp.core.precision import without_autocast


class DCT:
    """The orthonormal DCT-II over the last two axes. All instances are equal: it has no settings."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DCT)

    def __hash__(self) -> int:
        return hash(DCT)

    def __repr__(self) -> str:
        return "DCT()"

    @staticmethod
    def matrix(n: int) -> Tensor:
        """M for a side of n pixels: float64 (n, n) on the CPU, rows are frequencies."""
        # Reduced modulo a full turn in integers: the cosine of a large argument would carry its rounding.
        turns = torch.outer(torch.arange(n), 2 * torch.arange(n) + 1) % (4 * n)
        matrix = torch.cos(turns.to(torch.float64) * (math.pi / (2 * n))) * math.sqrt(2.0 / n)
        matrix[0] = 1.0 / math.sqrt(n)
        return matrix

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (..., H, W) to frequencies, in the type of `x`."""
        rows, columns = self._matrices(x)
        return self._product(rows, x, columns.mT)

    def backward(self, y: Tensor) -> Tensor:
        """Frequencies (..., H, W) to pixels, in the type of `y`."""
        rows, columns = self._matrices(y)
        return self._product(rows.mT, y, columns)

    def _matrices(self, x: Tensor) -> tuple[Tensor, Tensor]:
        height, width = x.shape[-2:]
        return _cast_matrix(height, x.dtype, x.device), _cast_matrix(width, x.dtype, x.device)

    def _product(self, rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
        # Autocast would do these products in half precision, and with them the state itself.
        with without_autocast(x.device):
            return rows @ (x @ columns)


@functools.lru_cache(maxsize=64)
def _cast_matrix(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """M in the states' type, made once; an ordinary tensor even when it is first needed in inference mode."""
    with torch.inference_mode(False):
        return DCT.matrix(n).to(dtype=dtype, device=device)
