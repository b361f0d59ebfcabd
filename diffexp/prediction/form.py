"""The linear form of a prediction: how data and noise follow from what a denoiser hands over.

A denoiser hands over *parts*: the state u, one or more outputs F1, F2, ... and, for processes with a second image, y.
Everything else is linear in them,

    x^ = P u + Q F + ...,     e^ = P' u + Q' F + ...,     u = A x^ + B y + L e^,

with operators that depend on time alone. A head states one of the two lines; the other follows. Because the form is
known before the loop, a sampler folds it into its own coefficients.
"""

from __future__ import annotations

from functools import cached_property

from diffexp.process.base import Marginal
from diffexp.process.combination import Combination
from diffexp.process.operator import Operator

STATE = 0
"""Index of the state among the parts; the outputs follow, and the second image comes last."""


class Form:
    """Data and noise as combinations of the parts, float64, at a batch of times.

    Args:
        marginal: the process at these times.
        data: x^ of the parts; None to derive it from the noise.
        noise: e^ of the parts; None to derive it from the data.
        outputs: number of outputs F.

    Raises:
        ValueError: when neither is given.
    """

    def __init__(
        self, marginal: Marginal, data: Combination | None = None, noise: Combination | None = None, outputs: int = 1
    ) -> None:
        if data is None and noise is None:
            raise ValueError("a form needs the data or the noise")
        self.marginal = marginal
        self.outputs = outputs
        self._given = {"data": data, "noise": noise}

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
        """Number of parts: the state, the outputs, and the second image of a process that has one."""
        return 1 + self.outputs + (self.marginal.auxiliary is not None)

    def state(self, operator: Operator | None = None) -> Combination:
        """The state itself, or an operator on it."""
        return Combination({STATE: self.marginal.signal.identity() if operator is None else operator})

    def second(self, operator: Operator) -> Combination:
        """An operator on the second image."""
        return Combination({STATE + self.outputs + 1: operator})

    def _solve(self, wanted: Operator, other: Operator, known: Combination) -> Combination:
        """a in u = wanted a + other b + B y, with b known."""
        inverse = wanted.inverse()
        found = self.state(inverse) - known.after(inverse @ other)
        if self.marginal.auxiliary is not None:
            found = found - self.second(inverse @ self.marginal.auxiliary)
        return found
