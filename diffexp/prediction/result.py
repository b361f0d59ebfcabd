"""What a denoiser says about a state; whatever the network did not give is derived when somebody asks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from diffexp.process.base import Marginal
from diffexp.process.operator import combine

Lazy = Callable[[], Tensor]


class Prediction:
    """An estimate of the data and of the unit noise in u = A x0 + L e; each is computed at most once.

    Args:
        u: the state, (B, *).
        marginal: A and L at the state's time, cast to the state's type and device.
        data: computes the data estimate, or None to derive it from the noise.
        noise: computes the noise estimate, or None to derive it from the data.

    Raises:
        ValueError: when neither is given.
    """

    def __init__(self, u: Tensor, marginal: Marginal, data: Lazy | None = None, noise: Lazy | None = None) -> None:
        if data is None and noise is None:
            raise ValueError("a prediction needs the data or the noise")
        self._u = u
        self._marginal = marginal
        self._make_data = data or self._data_from_noise
        self._make_noise = noise or self._noise_from_data
        self._data: Tensor | None = None
        self._noise: Tensor | None = None

    @property
    def data(self) -> Tensor:
        """x^, the estimate of the (lifted) data, (B, *)."""
        if self._data is None:
            self._data = self._make_data()
        return self._data

    @property
    def noise(self) -> Tensor:
        """e^, the estimate of the unit noise, (B, *)."""
        if self._noise is None:
            self._noise = self._make_noise()
        return self._noise

    def clipped(self, low: float = -1.0, high: float = 1.0) -> Prediction:
        """The prediction with its data held in [low, high] and its noise derived again from them.

        Keeping the old noise beside clipped data would describe no state at all (Salimans & Ho 2022, released code).
        """
        return Prediction(self._u, self._marginal, data=lambda: self.data.clamp(low, high))

    def _data_from_noise(self) -> Tensor:
        of_state, of_noise = self._marginal.data_from_noise
        return combine([(of_state, self._u), (of_noise, self.noise)])

    def _noise_from_data(self) -> Tensor:
        of_state, of_data = self._marginal.noise_from_data
        return combine([(of_state, self._u), (of_data, self.data)])
