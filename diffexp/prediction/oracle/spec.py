"""Oracles as the group `network` describes them: chosen in place of a network, with nothing to train."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.oracle.base import Oracle
from diffexp.prediction.oracle.finite import Finite, check_endpoint_std
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.base import Process

Images = Callable[[str, int | None], tuple[Tensor, Tensor | None, Tensor | None]]
"""images(split, limit): the first images of a split in [-1, 1], (N, C, H, W), their labels and end points, if any."""


class OracleSpec(abc.ABC):
    """How to make an oracle for a process and the shape of the data."""

    name: str

    @abc.abstractmethod
    def build(self, process: Process, shape: tuple[int, int, int], images: Images) -> Oracle:
        """The oracle.

        Args:
            process: the forward process.
            shape: (C, H, W) of the images.
            images: reads the data set; called by oracles that need it.
        """

    def gives(self, num_classes: int) -> frozenset[str]:
        """What its predictions will hold, see `Denoiser`."""
        return Oracle.gives

    def check(self, process: Process, shape: tuple[int, int, int]) -> None:  # noqa: B027 - some need the data to tell
        """Raise ConfigError for what cannot be built, before data are read."""


class OracleMixture(OracleSpec):
    """A mixture of isotropic Gaussians, see `Mixture`.

    Args:
        weights: w_k > 0, normalised.
        means: m_k, one number for all pixels.
        stds: s_k >= 0.
        elementwise: every pixel draws its component by itself; else one component makes the whole image.
        slopes: on a bridge, what each mean adds of the end point; None: nothing.
    """

    name = "oracle_mixture"

    def __init__(
        self,
        weights: list[float],
        means: list[float],
        stds: list[float],
        elementwise: bool = True,
        slopes: list[float] | None = None,
    ) -> None:
        self.weights = weights
        self.means = means
        self.stds = stds
        self.elementwise = elementwise
        self.slopes = slopes

    def build(self, process: Process, shape: tuple[int, int, int], images: Images) -> Mixture:
        return Mixture(process, self.weights, self.means, self.stds, self.elementwise, shape, self.slopes)

    def check(self, process: Process, shape: tuple[int, int, int]) -> None:
        oracle = Mixture(process, self.weights, self.means, self.stds, self.elementwise, shape, self.slopes)
        middle = torch.tensor(0.5 * (process.t_data + process.t_max), dtype=torch.float64)
        try:
            oracle.ready(process.marginal(middle))
        except ValueError as error:
            if not self.elementwise:
                raise
            raise ConfigError(
                f"network.elementwise=true: pixels depend on each other on {process.name}: set it to false"
            ) from error


class OracleDataset(OracleSpec):
    """A split of the data set, see `Finite`: it samples the images themselves.

    Args:
        split: which images.
        limit: use the first ones only; None: all.
        endpoint_std: on a bridge, how close to the given end point an image's own must be; None: all images count.

    Raises:
        ConfigError: for a limit below one.
    """

    name = "oracle_dataset"

    def __init__(
        self, split: Literal["train", "test"] = "train", limit: int | None = None, endpoint_std: float | None = None
    ) -> None:
        if limit is not None and limit < 1:
            raise ConfigError(f"network.limit={limit}: at least one image is needed")
        self.split = split
        self.limit = limit
        self.endpoint_std = endpoint_std

    def gives(self, num_classes: int) -> frozenset[str]:
        return super().gives(num_classes) | ({"unconditional"} if num_classes else frozenset())

    def build(self, process: Process, shape: tuple[int, int, int], images: Images) -> Finite:
        return Finite(process, *images(self.split, self.limit), endpoint_std=self.endpoint_std)

    def check(self, process: Process, shape: tuple[int, int, int]) -> None:
        check_endpoint_std(process, self.endpoint_std)
