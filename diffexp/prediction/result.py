"""What a denoiser says about a state; whatever the network did not give is derived when somebody asks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from diffexp.process.base import Marginal, second_image
from diffexp.process.operator import Operator, combine

Lazy = Callable[[], Tensor]


class Prediction:
    """An estimate of the data and of the unit noise in u = A x0 + B y + L e; each is computed at most once.

    Args:
        u: the state, (B, *).
        marginal: A and L at the state's time, cast to the state's type and device.
        data: computes the data estimate, or None to derive it from the noise.
        noise: computes the noise estimate, or None to derive it from the data.
        y: the second image, for a process that has one.

    Raises:
        ValueError: when neither is given.
    """

    def __init__(
        self,
        u: Tensor,
        marginal: Marginal,
        data: Lazy | None = None,
        noise: Lazy | None = None,
        y: Tensor | None = None,
    ) -> None:
        if data is None and noise is None:
            raise ValueError("a prediction needs the data or the noise")
        self._u = u
        self._y = y
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
        return Prediction(self._u, self._marginal, data=lambda: self.data.clamp(low, high), y=self._y)

    def _data_from_noise(self) -> Tensor:
        return self._solved(self._marginal.data_from_noise, self.noise)

    def _noise_from_data(self) -> Tensor:
        return self._solved(self._marginal.noise_from_data, self.data)

    def _solved(self, operators: tuple[Operator, ...], known: Tensor) -> Tensor:
        states = (self._u, known) if self._marginal.auxiliary is None else (self._u, known, second_image(self._y))
        return combine(list(zip(operators, states, strict=True)))
