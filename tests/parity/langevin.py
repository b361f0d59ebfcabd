"""Critically damped Langevin diffusion as the gDDIM file has it: processes, stand-in networks, states, runs.

gDDIM's arrays have (x, v) on a last axis and channels before it; CLD-SGM's have x before v on the channels, as here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from diffexp.prediction.denoiser import Denoiser, NetworkDenoiser, Point
from diffexp.prediction.langevin import PhaseEps, VelocityEps
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.cld import CLD
from diffexp.sampler.gddim import MAX_ORDER
from diffexp.sampler.grid import Grid, Last, Power
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise
from diffexp.sampler.stepper import Stepper
from tests.parity.golden import Member
from tests.parity.standin import per_image

FILE = "gddim"
EPSILONS = {"cld": ("sigma0_eps", "transported"), "cld_sgm": ("numerical_eps", "added")}
NETS = {"cld": ("cld_tanh", "cld_mixture"), "cld_sgm": ("sgm_tanh",)}


def unknown(case: Member) -> str | None:
    """Why this member is not tested: the first of its settings that nothing here can do."""
    config, words = case.golden.config, case.words
    kind = config["processes"].get(words.get("process"), {"kind": None})["kind"]
    if kind not in EPSILONS:
        return f"process of kind {kind}"
    used = [words["net"]] if "net" in words else list(words.get("nets", {}).values())
    nets = [config["nets"][name] for name in used]
    degrees = [words.get(word, 0) for word in ("degree", "predictor_degree", "corrector_degree")]
    degrees += words.get("degrees", [])
    grid = words.get("grid", {}).get("kind", "power")
    reasons = {f"grid of kind {grid}": grid != "power", f"degree {max(degrees)}": max(degrees) >= MAX_ORDER}
    for net in nets:
        home = net.get("process", words["process"])
        reasons[f"network of kind {net['kind']}"] = net["kind"] not in NETS[kind]
        reasons[f"network on process {home}"] = home != words["process"]
    return next((reason for reason, true in reasons.items() if true), None)


@cache
def _made(start: float | None, **numbers: float | str) -> CLD:
    """One process for all members of the same numbers: what is derived from it is derived once."""
    process = CLD(**numbers)
    process.t_max = process.t_max if start is None else start
    return process


def process_of(case: Member, velocity: str = "hsm", start: float | None = None) -> CLD:
    """The member's process; CLD-SGM adds its epsilon to the variances at every time, gDDIM moves it along.

    Its prior stands at `start`, or else where the member's grid begins.
    """
    said = case.golden.config["processes"][case["process"]]
    shared = {word: said[word] for word in ("m_inv", "beta0", "beta1", "gamma")}
    eps, rule = EPSILONS[said["kind"]]
    start = start or case.words.get("grid", {}).get("t_start", said.get("T"))
    return _made(start, **shared, eps=said[eps], eps_rule=rule, velocity=velocity)


def packed(u: Tensor) -> Tensor:
    """(..., H, W, C, 2) as (..., 2C, H, W), x before v."""
    return torch.cat([half.movedim(-1, -3) for half in u.unbind(-1)], dim=-3)


def unpacked(u: Tensor) -> Tensor:
    """The inverse of `packed`."""
    return torch.stack([half.movedim(-3, -1) for half in u.chunk(2, dim=-3)], dim=-1)


class Phase(nn.Module):
    """Both noises: tanh(a x + d v) cos(b t) + c x and tanh(a v - d x) cos(b t) + c v; it is told 999 t."""

    def __init__(self, a: float, b: float, c: float, d: float) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = a, b, c, d

    def wave(self, t: Tensor, u: Tensor) -> Tensor:
        return torch.cos(self.b * per_image(t, u))

    def forward(self, u: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        (x, v), wave = u.chunk(2, dim=1), self.wave(time / 999.0, u)
        above = torch.tanh(self.a * x + self.d * v) * wave + self.c * x
        return torch.cat([above, torch.tanh(self.a * v - self.d * x) * wave + self.c * v], dim=1)


class Velocity(Phase):
    """The velocity's noise alone; it is told t."""

    def forward(self, u: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        x, v = u.chunk(2, dim=1)
        return torch.tanh(self.a * v - self.d * x) * self.wave(time, u) + self.c * v


class Remembering(Mixture):
    """The exact noise of a mixture; what it prepares for a grid is kept for the next run on it."""

    def prepare(self, t: Tensor, dtype: torch.dtype, device: torch.device | str) -> list[Point]:
        kept = self.__dict__.setdefault("kept", {})
        key = (tuple(t.tolist()), dtype, device)
        if key not in kept:
            kept[key] = super().prepare(t, dtype, device)
        return kept[key]


@cache
def _mixture(process: CLD, weights: tuple[float, ...], means: tuple[float, ...], std: float) -> Remembering:
    return Remembering(process, weights, means, [std] * len(weights))


def denoiser_of(
    case: Member, net: str | None = None, mixed: bool = False, velocity: str = "hsm"
) -> NetworkDenoiser | Mixture:
    """The member's network, or the one of this name, on its process."""
    said, process = case.golden.config["nets"][net or case["net"]], process_of(case, velocity)
    if said["kind"] == "cld_mixture":
        return _mixture(process, tuple(said["w"]), tuple(said["mu"]), said["s"])
    numbers = [said[word] for word in "abcd"]
    if said["kind"] == "sgm_tanh":
        return NetworkDenoiser(Velocity(*numbers), VelocityEps("t", mixed), process)
    return NetworkDenoiser(Phase(*numbers), PhaseEps("999t", mixed="velocity" if mixed else None), process)


def grid_of(case: Member, last: Last = "state") -> Power:
    return Power(case.words.get("p", case["grid"].get("p")), t_end=case["grid"]["t_end"], last=last)


def walked(
    stepper: Stepper, grid: Grid, denoiser: Denoiser, start: Tensor, n: int, z: Tensor | tuple = ()
) -> list[Tensor]:
    """The states (B, 2C, H, W) of a run of n steps from the state `start`, itself first; a denoising step's last."""
    sampler, states = Sampler("parity", stepper, grid), [start]
    noise = FixedNoise(denoiser.process.prior_factor().inverse().apply(start), z)
    sampler.sample(denoiser, noise, sampler.evaluations(n), on_step=lambda k, u: states.append(u.clone()))
    return states


def each_time(t: Tensor, found: Callable[[int], Tensor]) -> Tensor:
    """One image for each time, found one by one."""
    return torch.cat([found(k) for k in range(len(t))])
