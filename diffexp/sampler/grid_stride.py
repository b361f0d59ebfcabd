"""Sub-sequences of a discrete table: whole indices, then the data time."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError, nearest
from diffexp.process.base import Process
from diffexp.sampler.grid import Grid, Last

Spacing = Literal["leading", "trailing", "linspace", "linspace_floor", "quadratic"]


class Stride(Grid):
    """n of the T indices of a table, in falling order, then `t_end`; where they lie is the spacing's rule.

    With k = 0 .. n - 1 in rising order, computed in whole numbers:
        leading         k floor(T / n)                      (DDIM's "uniform"; the last index is not used)
        trailing        round(T (k + 1) / n) - 1            (starts at T - 1)
        linspace        round((T - 1) k / (n - 1))          (improved DDPM; both ends)
        linspace_floor  floor((T - 1) k / (n - 1))          (BDDM's released code)
        quadratic       floor(0.8 T (k / (n - 1))^2)        (DDIM's released code, for CIFAR-10)
    Halves are rounded to the even neighbour. The quadratic rule names small indices twice when n is large; a repeated
    index would be a wasted evaluation, so it is moved up to the next free one.

    Args:
        spacing: the rule.
        t_end: see `Grid`; the data time is one before index 0.
        last: see `Grid`.

    Raises:
        ConfigError: for an unknown spacing.
    """

    name = "stride"

    def __init__(self, spacing: Spacing = "leading", t_end: float | None = None, last: Last = "state") -> None:
        super().__init__(t_end, last)
        if spacing not in _RULES:
            raise ConfigError(f"grid.spacing={spacing}: unknown; {nearest(spacing, _RULES)}")
        self.spacing: Spacing = spacing

    def indices(self, length: int, n: int) -> list[int]:
        """The n indices into a table of `length` entries, rising.

        Raises:
            ConfigError: for more steps than entries, or one step of a rule whose only index would be 0.
        """
        if n > length:
            raise ConfigError(f"grid stride: {n} steps are more than the {length} entries of the table: use {length}")
        if n == 1 and self.spacing in ("leading", "quadratic"):
            raise ConfigError(f"grid.spacing={self.spacing}: one step would be at index 0: use trailing, or 2 steps")
        found: list[int] = []
        for k in range(n):
            index = _RULES[self.spacing](length, n, k)
            found.append(max(index, found[-1] + 1) if found else index)
        return found

    def _times(self, process: Process, n: int, start: float, end: float) -> Tensor:
        if process.num_steps is None:
            raise ConfigError(f"grid stride: process {process.name} has no table: use process=ddpm or grid=uniform")
        indices = self.indices(process.num_steps, n)
        return torch.tensor([*reversed(indices), end], dtype=torch.float64)


def _share(last: int, n: int, k: int) -> Fraction:
    """`last` k / (n - 1); a single step is at `last`, where sampling starts."""
    return Fraction(last * k, n - 1) if n > 1 else Fraction(last)


_RULES: dict[str, Callable[[int, int, int], int]] = {
    "leading": lambda length, n, k: k * (length // n),
    "trailing": lambda length, n, k: round(Fraction(length * (k + 1), n)) - 1,
    "linspace": lambda length, n, k: round(_share(length - 1, n, k)),
    "linspace_floor": lambda length, n, k: int(_share(length - 1, n, k)),
    "quadratic": lambda length, n, k: int(Fraction(4 * length, 5) * Fraction(k, n - 1) ** 2),
}
