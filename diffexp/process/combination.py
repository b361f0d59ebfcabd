"""Linear combinations of several states, planned once and applied many times.

What a sampler does in one step is a combination of a few tensors: the state, the network's output, fresh noise. Its
operators are composed in float64 before the loop, so that the loop makes one pass over memory for each tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from diffexp.process.operator import Operator, combine


class Combination:
    """sum_i operator_i(part_i) over parts that are given later; parts without an operator do not enter.

    Args:
        terms: index of a part -> its operator. Without terms the combination is zero.
    """

    def __init__(self, terms: Mapping[int, Operator]) -> None:
        self.terms = dict(sorted(terms.items()))
        self._listed = tuple(self.terms.items())

    @cached_property
    def _same(self) -> int | None:
        """Index of the part that the sum is, unchanged; None where it is none."""
        if len(self._listed) != 1:
            return None
        index, operator = self._listed[0]
        return index if operator.is_identity() else None

    def __repr__(self) -> str:
        return f"Combination({self.terms})"

    def __call__(self, parts: Sequence[Tensor]) -> Tensor:
        """The sum for these parts, (B, *); a part itself, not a copy, where that is the sum.

        Raises:
            ValueError: for a combination without terms.
        """
        if self._same is not None:
            return parts[self._same]
        if not self._listed:
            raise ValueError("an empty combination has no value")
        return combine([(operator, parts[index]) for index, operator in self._listed])

    def __add__(self, other: Combination) -> Combination:
        total = dict(self.terms)
        for index, operator in other.terms.items():
            total[index] = total[index] + operator if index in total else operator
        return Combination(total)

    def __sub__(self, other: Combination) -> Combination:
        return self + other.map(lambda operator: -1.0 * operator)

    def after(self, operator: Operator) -> Combination:
        """The operator applied to this combination."""
        return self.map(lambda own: operator @ own)

    def map(self, change: Callable[[Operator], Operator]) -> Combination:
        """The combination with every operator changed."""
        return Combination({index: change(operator) for index, operator in self.terms.items()})

    def shifted(self, places: int) -> Combination:
        """The combination of parts that stand `places` further back."""
        return Combination({index + places: operator for index, operator in self.terms.items()})

    def __getitem__(self, k: int) -> Combination:
        """The combination at one time of the batch."""
        return self.map(lambda operator: operator[k])

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Combination:
        """Ready for parts of this type and device."""
        made = self.map(lambda operator: operator.cast(dtype, device))
        made._same = self._same  # asked on the device, the answer would have to be waited for
        return made
