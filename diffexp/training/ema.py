"""Exponential moving averages of a network's parameters: several profiles, one fused update for each.

Averages are float32, or float64 beside float64 parameters: lower precision would lose the small
steps. Only trainable parameters are averaged. Buffers (fixed frequencies, counters) are never averaged: the evaluated
network takes them from the trained one. Profiles are kept outside the module, so that nothing of them reaches its state
dict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diffexp.core.errors import CheckpointError, ConfigError


def power_exponent(std: float) -> float:
    """The exponent gamma of the power-function profile with relative width `std` (EDM2, section 3.1).

    The profile weighs the parameters of update n by n^gamma; its relative width is
    sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))).

    Args:
        std: in (0, 0.2886): gamma = 0 has 0.2887.
    """
    low, high = 0.0, 1.0e6
    for _ in range(200):
        middle = 0.5 * (low + high)
        width = math.sqrt((middle + 1.0) / ((middle + 2.0) ** 2 * (middle + 3.0)))
        low, high = (middle, high) if width > std else (low, middle)
    return 0.5 * (low + high)


@dataclass(frozen=True)
class EMASettings:
    """Which averages to keep; the first one is evaluated unless another is named.

    The averages are updated in the steps k = 0, every, 2 every, ...

    Args:
        decays: constant decays d in [0, 1): average <- d average + (1 - d) parameters.
        ramp: use min(d, (1 + n) / (10 + n)) for the n-th update, n from 0 (CLD-SGM).
        power_stds: relative widths of power-function profiles, each in (0, 0.2886).
        first_decay: decay of the very first update in place of d, in [0, 1); with 0 averages start at the parameters
            after it, not at the initial ones (Salimans & Ho 2022, released code). None is d.
        every: steps between two updates, >= 1.
        after: updates up to this step, and the first one behind it, take the parameters as they are in all profiles,
            >= 0; None: none does.
        warmup_power: use min(d, 1 - (1 + k - after)^-power) in step k, power > 0 (DDM's code: 2/3). None: d at once.

    Raises:
        ConfigError: for a value out of range, or no profile at all.
    """

    decays: list[float] = field(default_factory=lambda: [0.9999])
    ramp: bool = False
    power_stds: list[float] = field(default_factory=list)
    first_decay: float | None = None
    every: int = 1
    after: int | None = None
    warmup_power: float | None = None

    def __post_init__(self) -> None:
        for decay in self.decays:
            if not 0.0 <= decay < 1.0:
                raise ConfigError(f"ema.decays: {decay} is not in [0, 1)")
        for std in self.power_stds:
            if not 0.0 < std < 0.2886:
                raise ConfigError(f"ema.power_stds: {std} is not in (0, 0.2886)")
        if self.first_decay is not None and not 0.0 <= self.first_decay < 1.0:
            raise ConfigError(f"ema.first_decay={self.first_decay}: must be in [0, 1), or null for the decay itself")
        self._check_steps()
        if not self.profiles:
            raise ConfigError("ema: needs at least one of decays and power_stds (decays=[0.0] is the raw network)")

    def _check_steps(self) -> None:
        if self.every < 1:
            raise ConfigError(f"ema.every={self.every}: must be at least 1")
        if self.after is not None and self.after < 0:
            raise ConfigError(f"ema.after={self.after}: must be >= 0, or null")
        if self.warmup_power is not None and not self.warmup_power > 0.0:
            raise ConfigError(f"ema.warmup_power={self.warmup_power}: must be > 0, or null for no warm-up")

    def decay(self, limit: float, step: int) -> float:
        """The decay in force in step `step` (from 0) of the profile whose constant decay is `limit`."""
        update, since = step // self.every, max(step - (self.after or 0), 0)
        if update == 0 and self.first_decay is not None:
            return self.first_decay
        ramp = (1.0 + update) / (10.0 + update) if self.ramp else 1.0
        warmup = 1.0 - (1.0 + since) ** -self.warmup_power if self.warmup_power is not None else 1.0
        return min(limit, ramp, warmup)

    def copies(self, step: int) -> bool:
        """Whether the update of step `step`, a multiple of `every`, takes the parameters as they are."""
        return self.after is not None and step - self.every <= self.after

    @property
    def profiles(self) -> list[str]:
        """Names of the profiles, the evaluated one first."""
        return [f"decay_{decay:g}" for decay in self.decays] + [f"power_{std:g}" for std in self.power_stds]


def _wide(parameter: nn.Parameter) -> Tensor:
    """Its values in float32, or in float64 if they are."""
    return parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))


class EMA:
    """The averages of one network.

    Args:
        network: its trainable parameters are averaged; the averages start at their present values.
        settings: the profiles.
    """

    def __init__(self, network: nn.Module, settings: EMASettings) -> None:
        pairs = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
        self.settings = settings
        self.updates = 0
        self._names = [name for name, _ in pairs]
        self._parameters = [parameter for _, parameter in pairs]
        self._exponents = [power_exponent(std) for std in settings.power_stds]
        self._averages = {name: [_wide(p).clone() for p in self._parameters] for name in settings.profiles}

    def _weights(self) -> list[float]:
        """The weight of the present parameters in each profile, for the update of step `self.updates` (from 0)."""
        step, settings = self.updates, self.settings
        if settings.copies(step):
            return [1.0] * len(self._averages)
        constant = [1.0 - settings.decay(decay, step) for decay in settings.decays]
        # beta = (1 - 1 / m)^(gamma + 1) with m = n + 1: the first update takes the parameters as they are.
        n = step // settings.every
        power = [1.0 - (1.0 - 1.0 / (n + 1.0)) ** (exponent + 1.0) for exponent in self._exponents]
        return constant + power

    @torch.no_grad()
    def update(self) -> None:
        """Move every average towards the network's present parameters; call after each optimiser step."""
        if self.updates % self.settings.every == 0:
            self._move()
        self.updates += 1

    def _move(self) -> None:
        first = next(iter(self._averages.values()))
        pairs = zip(self._parameters, first, strict=True)
        # Asked for each of hundreds of tensors in every step: `_wide` would cost as much as the update itself.
        present = [parameter if parameter.dtype == own.dtype else parameter.to(own.dtype) for parameter, own in pairs]
        for average, weight in zip(self._averages.values(), self._weights(), strict=True):
            torch._foreach_lerp_(average, present, weight)

    def to(self, device: torch.device) -> None:
        """Move the averages to a device, and to the precision that the parameters have by now."""
        for key, value in self._averages.items():
            pairs = zip(value, self._parameters, strict=True)
            self._averages[key] = [tensor.to(device, _wide(parameter).dtype) for tensor, parameter in pairs]

    def state_dict(self) -> dict[str, object]:
        """Plain data: number of calls of `update`, and name -> tensor for each profile."""
        profiles = {key: dict(zip(self._names, value, strict=True)) for key, value in self._averages.items()}
        return {"updates": self.updates, "profiles": profiles}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore a `state_dict`; raises CheckpointError unless profiles, names and shapes are the same."""
        profiles: Mapping[str, Mapping[str, Tensor]] = state["profiles"]
        if list(profiles) != list(self._averages):
            raise CheckpointError(f"checkpoint has EMA profiles {list(profiles)}, the run wants {list(self._averages)}")
        for key, average in self._averages.items():
            if list(profiles[key]) != self._names:
                raise CheckpointError(f"EMA profile {key} of the checkpoint averages parameters of another network")
            stored = [profiles[key][name] for name in self._names]
            if [tensor.shape for tensor in stored] != [tensor.shape for tensor in average]:
                raise CheckpointError(f"EMA profile {key} of the checkpoint averages parameters of other shapes")
            # in their own precision: the network may not have got its own yet
            pairs = zip(stored, average, strict=True)
            self._averages[key] = [saved.to(tensor.device, copy=True) for saved, tensor in pairs]
        self.updates = int(state["updates"])
