"""What a network says on a decoupled process: the attenuation's parameters and the noise, each by itself (DDM, ADM).

    phi^_j = c_skip_j u + c_out_j F_j,     n^ = c_skip_n u + c_out_n F_n,     the network sees c_in u and log t

The two heads are redundant: x^ = u - H_t(phi^) - sigma n^ is what both say of the data, and phi^ need not be the
parameters of that x^. Samplers of other families read x^ and the noise that it implies; DDM's own read the heads.

"optimal" coefficients make inputs and targets of unit variance for data of unit variance and the drawn image's own
variance kappa: with V = A^2 + kappa B^2 + sigma^2 the variance of u,

    c_in = V^-1/2,     c_skip = Cov(target, u) / V,     c_out = (Var(target) - Cov^2 / V)^1/2

They are those of ADM's code for both of its processes, and on the linear one a completion (the published network does
not run there). "v1" are those of DDM's first code: sqrt(1 + t) stands in the place of sqrt(V), and at t = 1 n^ = u.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.form import STATE, Form
from diffexp.prediction.head import Head
from diffexp.prediction.time_input import TimeInput
from diffexp.process.attenuation import Attenuation
from diffexp.process.base import Marginal, Process
from diffexp.process.combination import Combination
from diffexp.process.operator import Operator, Scalar, combine

Precondition = Literal["v1", "optimal", "none"]
_V1_HOME = "ddm_const"


@dataclass(frozen=True)
class Coefficients:
    """c_in and, for each head, (c_skip, c_out), at the times of a marginal; the noise comes last."""

    scale: Tensor
    heads: tuple[tuple[Tensor, Tensor], ...]


class _Parameters(Head):
    """A head whose first outputs are the parameters of the process's attenuation.

    Args:
        precondition: "optimal" or "v1", see above; "none": the outputs are the heads, and c_in is that of "v1".
        time: see `Head`; "log_t" as published.
    """

    gives = frozenset({"data", "noise", "score", "attenuation"})
    beside: int
    """How many outputs there are beside the parameters."""

    def __init__(self, precondition: Precondition = "optimal", time: TimeInput = "log_t") -> None:
        super().__init__(time)
        self.precondition: Precondition = precondition
        self.outputs = 1 + self.beside

    def on(self, process: Process) -> Head:
        made = copy.copy(self)
        made.outputs = _attenuation(process, self.name).n_params + self.beside
        return made

    def check(self, process: Process) -> None:
        _attenuation(process, self.name)
        super().check(process)
        if self.precondition == "v1" and process.name != _V1_HOME:
            raise ConfigError(
                f"prediction.precondition=v1: is made for process={_V1_HOME}, not {process.name}: use optimal"
            )

    def coefficients(self, law: Marginal) -> Coefficients:
        """Those at the times of a float64 marginal."""
        attenuation, t = _attenuation(law.process, self.name), law.t
        if self.precondition == "optimal":
            return _optimal(attenuation, law)
        one = torch.ones_like(t)
        scale = (1.0 + t).rsqrt()
        if self.precondition == "none":
            return Coefficients(scale, ((0.0 * one, one),) * (attenuation.n_params + 1))
        return Coefficients(scale, ((t - 1.0, t * scale), (t.sqrt(), (1.0 - t).sqrt() * scale)))

    def input_scale(self, process: Process, t: Tensor) -> Operator:
        return Scalar(self.coefficients(process.marginal(t)).scale)

    def _combinations(self, law: Marginal) -> list[Combination]:
        """What the heads say, of state and outputs."""
        heads = self.coefficients(law).heads[: self.outputs]
        if self.precondition == "none":
            return [Combination({STATE + 1 + j: Scalar(out)}) for j, (_, out) in enumerate(heads)]
        return [Combination({STATE: Scalar(skip), STATE + 1 + j: Scalar(out)}) for j, (skip, out) in enumerate(heads)]

    def heads(self, law: Marginal, output: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """(phi^, n^) of a network output, (B, n_params * C, *) and (B, C, *), in the type of the states.

        Args:
            law: the process at the states' times, cast.
            output: the network's output, (B, out_channels, *).
            u: the states it was given, before c_in, (B, *).
        """
        form = self.form(law.exact or law)
        parts = (u, *self.split(output))
        phi = [said.cast(u.dtype, u.device)(parts) for said in form.parameters]
        return torch.cat(phi, dim=1), form.own_noise.cast(u.dtype, u.device)(parts)

    def target(self, marginal: Marginal, x0: Tensor, noise: Tensor, u: Tensor, drawn: Tensor | None = None) -> Tensor:
        """What is left of parameters and noise after c_skip u: c_out F should be this."""
        attenuation = _attenuation(marginal.process, self.name)
        wanted = [*attenuation.parameters(x0, drawn).chunk(attenuation.n_params, dim=1), noise][: self.outputs]
        skips = marginal.derived(lambda law: tuple(Scalar(-skip) for skip, _ in self.coefficients(law).heads))
        one = Scalar(1.0)
        return torch.cat([combine([(one, w), (skip, u)]) for w, skip in zip(wanted, skips, strict=False)], dim=1)

    def error(self, marginal: Marginal, output: Tensor, target: Tensor) -> Tensor:
        """The errors of the heads, one behind the other: (B, outputs * C, *)."""
        outs = marginal.derived(lambda law: tuple(Scalar(out) for _, out in self.coefficients(law).heads))
        said = [out.apply(part) for out, part in zip(outs, self.split(output), strict=False)]
        return torch.cat(said, dim=1) - target

    def answer(self, marginal: Marginal, target: Tensor) -> Tensor:
        """The target divided by c_out; zero where c_out is, and the output has no part."""
        shares = marginal.derived(
            lambda law: tuple(Scalar(torch.where(o > 0.0, 1.0 / o, 0.0)) for _, o in self.coefficients(law).heads)
        )
        said = [share.apply(part) for share, part in zip(shares, self.split(target), strict=False)]
        return torch.cat(said, dim=1)


class TwoHead(_Parameters):
    """Parameters and noise from outputs of their own, the noise behind the parameters."""

    name = "ddm"
    beside = 1

    def form(self, marginal: Marginal) -> Form:
        attenuation = _attenuation(marginal.process, self.name)
        *parameters, noise = self._combinations(marginal)
        data = Combination({STATE: marginal.signal.identity()}) - noise.after(marginal.factor)
        for h, parameter in zip(attenuation.coefficients(marginal.t), parameters, strict=True):
            data = data - parameter.after(Scalar(h))
        drawn = _weighted(attenuation.inverse[1], parameters) if attenuation.of_drawn else None
        return Form(marginal, data, None, self.outputs, drawn, parameters, noise)

    def data_weight(self, process: Process, t: Tensor) -> Tensor:
        raise _no_weight(self.name)


class SingleHead(_Parameters):
    """Parameters alone; data and noise follow from them, n^ = (u - A x^ - B K^) / sigma, so that nothing is redundant.

    The noise is a combination that is composed in float64: the published division of a difference by sigma loses the
    digits of float32 near the data.
    """

    name = "ddm_single"
    beside = 0

    def form(self, marginal: Marginal) -> Form:
        inverse = _attenuation(marginal.process, self.name).inverse
        parameters = self._combinations(marginal)
        images = [_weighted(weights, parameters) for weights in inverse]
        drawn = images[1] if len(images) > 1 else None
        return Form(marginal, images[0], None, self.outputs, drawn, parameters)

    def data_weight(self, process: Process, t: Tensor) -> Tensor:
        attenuation = _attenuation(process, self.name)
        if attenuation.n_params > 1:
            raise _no_weight(self.name)
        return torch.full_like(t, attenuation.of_data[0] ** 2)


def _attenuation(process: Process | None, name: str) -> Attenuation:
    """The process's attenuation; ConfigError where it has none."""
    if process is None or process.attenuation is None:
        known = "it" if process is None else process.name
        raise ConfigError(
            f"prediction={name} needs a decoupled process, and {known} is none: use eps, or process=ddm_const"
        )
    return process.attenuation


def _no_weight(name: str) -> ConfigError:
    return ConfigError(
        f"prediction={name}: its heads have errors of their own, which are no error of the data: use objective=ddm_v1, "
        "or objective=plain"
    )


def _optimal(attenuation: Attenuation, law: Marginal) -> Coefficients:
    """See above; variances that are left over are sums of squares, free of cancellation."""
    kappa, zero = attenuation.drawn_variance, torch.zeros_like(law.t)
    a, sigma = _number(law.signal), _number(law.factor)
    b = zero if law.auxiliary is None else _number(law.auxiliary)
    clean = a.square() + kappa * b.square()
    whole = clean + sigma.square()
    heads = []
    for m, k in attenuation.shares:
        left = kappa * (m * b - k * a).square() + (m * m + kappa * k * k) * sigma.square()
        heads.append(((m * a + kappa * k * b) / whole, (left / whole).sqrt()))
    heads.append((sigma / whole, (clean / whole).sqrt()))
    return Coefficients(whole.rsqrt(), tuple(heads))


def _number(operator: Operator) -> Tensor:
    if not isinstance(operator, Scalar):
        raise TypeError(f"preconditioning is for scalars, not {type(operator).__name__}")
    return operator.value


def _weighted(weights: tuple[float, ...], parameters: list[Combination]) -> Combination:
    """The sum of parameters with these weights; those of weight zero have no part."""
    total = Combination({})
    for weight, parameter in zip(weights, parameters, strict=True):
        if weight != 0.0:
            total = total + parameter.map(lambda operator, weight=weight: weight * operator)
    return total
