"""What a denoiser says about a state; nothing is computed before somebody asks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from diffexp.process.combination import Combination


class Prediction:
    """An estimate of the data and of the unit noise in u = A x0 + B y + L e; each is computed at most once.

    Args:
        parts: the state (B, *), the outputs, and the second image where the process has one.
        data: x^ as a combination of the parts, cast to their type and device.
        noise: e^, likewise.

    Attributes:
        parts: as given, for who combines them himself.
    """

    def __init__(self, parts: Sequence[Tensor], data: Combination, noise: Combination) -> None:
        self.parts = parts
        self._data = data
        self._noise = noise

    @cached_property
    def data(self) -> Tensor:
        """x^, the estimate of the (lifted) data, (B, *)."""
        return self._data(self.parts)

    @cached_property
    def noise(self) -> Tensor:
        """e^, the estimate of the unit noise, (B, *)."""
        return self._noise(self.parts)

    @property
    def jump(self) -> Tensor:
        """The state at t_min, (B, *), for a prediction that gives "jump": its form's data say this."""
        return self.data
