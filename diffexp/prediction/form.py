"""The linear form of a prediction: how data and noise follow from what a denoiser hands over.

A denoiser hands over *parts*: the state u, one or more outputs F1, F2, ... and, for processes with a second image, y.
Everything else is linear in them,

    x^ = P u + Q F + ...,     e^ = P' u + Q' F + ...,     u = A x^ + B y + L e^,

with operators that depend on time alone. A head states one of the two lines; the other follows. Because the form is
known before the loop, a sampler folds it into its own coefficients.

Where the process draws its second image with the data, y is no part but a prediction, `drawn`. On decoupled processes a
network may predict more than it has to: the parameters of the attenuation and the noise, each by itself. `parameters`
and `own_noise` are what it says; data and noise are a pair that explains the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from diffexp.process.base import Marginal
from diffexp.process.combination import Combination
from diffexp.process.operator import Operator

STATE = 0
"""Index of the state among the parts; the outputs follow, and a given second image comes last."""


class Form:
    """Data and noise as combinations of the parts, float64, at a batch of times.

    Args:
        marginal: the process at these times.
        data: x^ of the parts; None to derive it from the noise.
        noise: e^ of the parts; None to derive it from the data.
        outputs: number of outputs F.
        drawn: the second image of the parts, on a process that draws one.
        parameters: those of the attenuation, as predicted; None: what data and drawn image imply.
        own_noise: the noise as predicted; None: `noise`.

    Raises:
        ValueError: when neither data nor noise is given.
    """

    def __init__(
        self,
        marginal: Marginal,
        data: Combination | None = None,
        noise: Combination | None = None,
        outputs: int = 1,
        drawn: Combination | None = None,
        parameters: Sequence[Combination] | None = None,
        own_noise: Combination | None = None,
    ) -> None:
        if data is None and noise is None:
            raise ValueError("a form needs the data or the noise")
        self.marginal = marginal
        self.outputs = outputs
        self.drawn = drawn
        self._given = {"data": data, "noise": noise}
        self._parameters = parameters
        self._own_noise = own_noise

    @cached_property
    def data(self) -> Combination:
        """x^ = A^-1 (u - L e^ - B y), or as the head states it."""
        law = self.marginal
        return self._given["data"] or self._solve(law.signal, law.factor, self.noise)

    @cached_property
    def noise(self) -> Combination:
        """e^ = L^-1 (u - A x^ - B y), or as the head states it."""
        law = self.marginal
        return self._given["noise"] or self._solve(law.factor, law.signal, self.data)

    @cached_property
    def score(self) -> Combination:
        """grad log p = -L^-T e^."""
        return self.noise.after(-1.0 * self.marginal.factor.transpose().inverse())

    @property
    def parts(self) -> int:
        """Number of parts: the state, the outputs, and a second image that is given."""
        return 1 + self.outputs + self.marginal.given

    @property
    def parameters(self) -> tuple[Combination, ...]:
        """phi_j of the process's attenuation, as the head states them or as data and drawn image imply."""
        return self.implied_parameters() if self._parameters is None else tuple(self._parameters)

    @property
    def redundant(self) -> bool:
        """Whether the head states parameters of its own, which those of its data need not be."""
        return self._parameters is not None

    @property
    def own_noise(self) -> Combination:
        """The noise as the head states it, which need not explain the state together with the data."""
        return self._own_noise or self.noise

    def implied_parameters(self) -> tuple[Combination, ...]:
        """phi_j = m_j x^ + k_j K^; ValueError on a process without attenuation."""
        law = self.marginal
        if law.process is None or law.process.attenuation is None:
            raise ValueError("parameters are those of an attenuation, and this process has none")
        one, found = law.signal.identity(), []
        for data_share, drawn_share in law.process.attenuation.shares:
            parameter = self.data.after(data_share * one) if data_share else Combination({})
            found.append(parameter + self.second(drawn_share * one) if drawn_share else parameter)
        return tuple(found)

    def state(self, operator: Operator | None = None) -> Combination:
        """The state itself, or an operator on it."""
        return Combination({STATE: self.marginal.signal.identity() if operator is None else operator})

    def second(self, operator: Operator) -> Combination:
        """An operator on the second image, given or predicted; ValueError where it is drawn and not predicted."""
        if self.marginal.given:
            return Combination({STATE + self.outputs + 1: operator})
        if self.drawn is None:
            raise ValueError("this process draws a second image, which the prediction does not state")
        return self.drawn.after(operator)

    def _solve(self, wanted: Operator, other: Operator, known: Combination) -> Combination:
        """a in u = wanted a + other b + B y, with b known."""
        inverse = wanted.inverse()
        found = self.state(inverse) - known.after(inverse @ other)
        if self.marginal.auxiliary is not None:
            found = found - self.second(inverse @ self.marginal.auxiliary)
        return found
