"""Weights on the squared error, stated on the data error X = |x^ - x0|^2 (Salimans & Ho 2022, section 4).

The network's own error is `Head.data_weight` times X: dividing by it turns a weight on X into one on the output.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from diffexp.prediction.head import Head
from diffexp.process.base import Process


class Weighting(abc.ABC):
    """A weight for the squared error of the network's output, as a function of time."""

    name: str

    def check(self, head: Head, process: Process) -> None:
        """Raise ConfigError when this weight has no meaning for the head's output on `process`."""
        self.weight(head, process, torch.tensor([0.5 * (process.t_data + process.t_max)], dtype=torch.float64))

    @abc.abstractmethod
    def weight(self, head: Head, process: Process, t: Tensor) -> Tensor:
        """The weight at times `t`: float64 (B,), >= 0."""


class Plain(Weighting):
    """Weight one on the network's own output: the error in noise for eps, in data for x0, in velocity for v."""

    name = "plain"

    def weight(self, head: Head, process: Process, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class DataWeighting(Weighting):
    """A weight that is stated on the data error as a function of the signal-to-noise ratio."""

    @abc.abstractmethod
    def data_weight(self, log_snr: Tensor) -> Tensor:
        """The weight on X at these log-SNR values, float64."""

    def weight(self, head: Head, process: Process, t: Tensor) -> Tensor:
        return self.data_weight(process.log_snr(t)) / head.data_weight(process, t)


class Constant(DataWeighting):
    """X itself."""

    name = "constant"

    def data_weight(self, log_snr: Tensor) -> Tensor:
        return torch.ones_like(log_snr)


class SNR(DataWeighting):
    """SNR X, the noise error E whatever the network predicts."""

    name = "snr"

    def data_weight(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp()


class TruncatedSNR(DataWeighting):
    """max(SNR, 1) X: never less than the data error. (Min-SNR weighting, min(SNR, 5), is another thing.)"""

    name = "snr_trunc"

    def data_weight(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp().clamp_min(1.0)


class SNRPlusOne(DataWeighting):
    """(1 + SNR) X, the velocity error V of a variance-preserving process."""

    name = "snr_plus_one"

    def data_weight(self, log_snr: Tensor) -> Tensor:
        return 1.0 + log_snr.exp()


class Diffusion(Weighting):
    """G^2 / 2 on the noise error ("reweightedv1" of CLD-SGM's code), for noise of one strength."""

    name = "diffusion"

    def weight(self, head: Head, process: Process, t: Tensor) -> Tensor:
        return 0.5 * process.noise_rate(t) * head.noise_weight(process, t)


class Likelihood(Weighting):
    """G^2 / 2 on the score error: an upper bound of the negative log-likelihood (Song et al. 2021b, theorem 1)."""

    name = "likelihood"

    def weight(self, head: Head, process: Process, t: Tensor) -> Tensor:
        return 0.5 * process.noise_rate(t) * head.score_weight(process, t)
