"""What the golden file of decoupled diffusion means by its words: expressions, processes, networks, samplers."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.redundant import ClippedHeads
from diffexp.prediction.two_head import TwoHead
from diffexp.process.attenuation import Attenuation, Constant, Linear, Quadratic
from diffexp.process.base import Process
from diffexp.process.decoupled import Decoupled
from diffexp.process.operator import Operator
from diffexp.sampler.decoupled import Deterministic, Posterior
from diffexp.sampler.grid import Grid, Uniform
from diffexp.sampler.grid_decoupled import LinearToSigmaMin2, UniformEps
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise
from diffexp.sampler.stepper import Stepper
from tests.parity.golden import Member
from tests.parity.layout import Words
from tests.parity.standin import per_image

FILE = "ddm"
NOISES = {0.5: "sqrt", 1.0: "linear"}
PLACES = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
FUNCTIONS = {name: getattr(np, name) for name in ("sqrt", "log", "sin", "cos", "tanh")}
SECOND_ORDER = "a sampler that no published configuration uses, whose correction goes with another drift than its noise"
MIXTURES = ("exact posterior of x0~N(mu,sd^2) per element", "exact posterior of the mixture sum_k w_k N(m_k,s_k^2)")


def evaluated(expression: str, **variables: Tensor | float) -> Tensor:
    """An expression of the file at these values, float64."""
    known = {name: np.asarray(value, dtype=np.float64) for name, value in variables.items()}
    found = eval(expression, {"__builtins__": {}}, {**FUNCTIONS, **known})
    return torch.from_numpy(np.broadcast_arrays(found, *known.values())[0].astype(np.float64))


def equal(first: Iterable[Tensor], second: Iterable[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-12, atol=0) for a, b in zip(first, second, strict=True))


def attenuation_of(words: Words) -> Attenuation | None:
    """Ours whose functions and parameters are those of a process of the file."""
    for made in (Constant(), Linear(), Quadratic()):
        if list(made.names) != words["param_order"] or (made.of_drawn is None) != ("K_clip" not in words):
            continue
        said = [coefficient * PLACES**power for coefficient, power in (words["H"][name] for name in made.names)]
        own = {name: {"x0": m, "K": k} for name, (m, k) in zip(made.names, made.shares, strict=True)}
        bound = {name: {"x0": 0.0, "K": 0.0, **shares} for name, shares in words["constraint"].items()}
        if equal(made.coefficients(PLACES), said) and all(own[name] == shares for name, shares in bound.items()):
            return made
    return None


def process_of(case: Member) -> Decoupled | None:
    """The process that a member names; None for one that is not made."""
    words = case.golden.config["processes"][case["process"]]
    attenuation, noise = attenuation_of(words), NOISES.get(words["sigma_power"])
    return None if attenuation is None or noise is None else Decoupled(attenuation, noise)


def bounded(case: Member) -> Decoupled:
    """The process, with the bound that the member has for a drawn image; without one, it is not held."""
    process = process_of(case)
    assert process is not None
    attenuation = copy.copy(process.attenuation)
    attenuation.bound = math.inf if case["clip_K"] is None else case["clip_K"]
    return Decoupled(attenuation, process.noise)


class Raw(TwoHead):
    """The heads as a network says them, which is shown the state and the time as they are."""

    def __init__(self) -> None:
        super().__init__("none", "t")

    def input_scale(self, process: Process, t: Tensor) -> Operator | None:
        return None


class Told(nn.Module):
    """A stand-in that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[Tensor] = []
        self.times: list[Tensor] = []

    def forward(self, u: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        self.states.append(u)
        self.times.append(time)
        return torch.cat([part.to(u.dtype) for part in self.heads(u.double(), per_image(time.double(), u))], 1)

    def heads(self, u: Tensor, t: Tensor) -> Sequence[Tensor]:
        """Parameters and noise, float64."""
        raise NotImplementedError


class Fixed(Told):
    """The heads that a member holds, whatever the state."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        super().__init__()
        self.parts = parts

    def heads(self, u: Tensor, t: Tensor) -> Sequence[Tensor]:
        return self.parts


class Formulas(Told):
    """Networks A and L: formulas of x and t; `more` is added to the parameter C."""

    def __init__(self, words: Words, order: Sequence[str], more: Tensor | float = 0.0) -> None:
        super().__init__()
        self.words, self.order, self.more = words, order, more

    def heads(self, u: Tensor, t: Tensor) -> Sequence[Tensor]:
        found: dict[str, Tensor] = {}
        for name in (*self.order, "n"):
            found[name] = evaluated(self.words["formula"][name], x=u, t=t, **self.words["params"], **found)
        found["C"] = found["C"] + self.more
        return [found[name] for name in (*self.order, "n")]


class Gaussians(Told):
    """Networks G and M: the exact heads for a mixture of Gaussians under (1 - t) x0 + sigma(t) n."""

    def __init__(self, process: Decoupled, weights: Sequence[float], means: Sequence[float], stds: Sequence[float]):
        super().__init__()
        self.process = process
        self.laws = [torch.tensor(values, dtype=torch.float64) for values in (weights, means, stds)]

    def heads(self, u: Tensor, t: Tensor) -> Sequence[Tensor]:
        (w, m, s), level, noise = self.laws, (1.0 - t)[..., None], self.process.sigma(t)[..., None]
        spread = level**2 * s**2 + noise**2
        away = u[..., None] - level * m
        share = torch.softmax(w.log() - 0.5 * spread.log() - 0.5 * away**2 / spread, dim=-1)
        data = (share * (m + level * s**2 * away / spread)).sum(-1)
        white = (share * noise * away / spread).sum(-1)
        return -data, white


def network_of(case: Member, more: Tensor | float = 0.0) -> Told:
    """The member's network; `more` is added to its parameter C."""
    words = case.golden.config["networks"][case["network"]]
    if "formula" in words:
        return Formulas(words, case.golden.config["processes"][case["process"]]["param_order"], more)
    process, said = process_of(case), words["params"]
    if case.words.get("network_params_key"):
        mu, sd = case.golden.tensor(case["network_params_key"]).tolist()
        said = {"mu": mu, "sd": sd}
    if "w" in said:
        return Gaussians(process, said["w"], said["m"], said["sd"])
    return Gaussians(process, [1.0], [said["mu"]], [said["sd"]])


def grid_of(said: Words, n: int | None) -> tuple[Grid, int]:
    """(grid, steps) of what the file says of a grid of N = n."""
    if said["kind"] == "uniform_steps":
        return (UniformEps(said["eps"]), n + 1) if said["denoise"] else (Uniform(), n)
    last = said["last"] if said["last"] is not None else 1.0 / n
    return (Uniform() if last == 1.0 / n else LinearToSigmaMin2(math.sqrt(last))), n


def unknown_grid(said: Words) -> str | None:
    """Why a grid cannot be had."""
    if said["kind"] not in {"uniform_steps", "linear_times"}:
        return f"grid of kind {said['kind']}"
    if said.get("first", 1.0) != 1.0:
        return f"times from {said['first']}"
    return "unknown last_rule" if said.get("last_rule", "1/N") not in {"1/N", "sigma_min^2"} else None


def unknown(case: Member) -> str | None:
    """Why this member is not tested: the first of its settings that nothing here can do."""
    words, config = case.words, case.golden.config
    if process_of(case) is None:
        return f"process {case['process']}"
    network = config["networks"].get(words.get("network"), {"formula": None})
    if "formula" not in network and not network["definition"].startswith(MIXTURES):
        return f"network {case['network']}"
    if words.get("order", 1) != 1:
        return SECOND_ORDER
    if "grid" in words and unknown_grid(words["grid"]):
        return unknown_grid(words["grid"])
    sampler = words.get("sampler", "posterior")
    reasons = {
        f"sampler {sampler}": sampler not in {"posterior", "deterministic"},
        "reconciliation in the deterministic step": sampler == "deterministic" and words["reconcile"],
        "a bound of a drawn image in the deterministic step": sampler == "deterministic" and words.get("clip_K"),
        "softsign latents": words.get("softsign_bound") is not None,
    }
    return next((reason for reason, true in reasons.items() if true), None)


def stepper_of(case: Member) -> Stepper:
    """The member's step, with the bound in which it holds the data."""
    own = Deterministic() if case.words.get("sampler") == "deterministic" else Posterior(case["reconcile"])
    bound = math.inf if case["clip_x0"] is None else case["clip_x0"]
    own.clipped = lambda inner: ClippedHeads(inner, -bound, bound)  # type: ignore[assignment]
    return own


def sampler_of(case: Member, grid: Grid) -> Sampler:
    """The member's sampler, without what happens to its result."""
    clip = case["clip_x0"] is not None or case.words.get("clip_K") is not None
    return Sampler("golden", stepper_of(case), grid, clip)


def sampled(case: Member, network: Told, dtype: torch.dtype, n: int) -> tuple[Tensor, int]:
    """(the sampler's result, evaluations of each image) for N = n."""
    process = bounded(case)
    grid, steps = grid_of(case["grid"], n)
    start = case.input("x_init", dtype)[: case["batch"]]
    draws = case.input("e_steps", dtype)[:, : case["batch"]] if "e_steps" in case.inputs else []
    noise = FixedNoise(case["start"]["scale"] * start + case["start"]["shift"], list(draws))
    denoiser = NetworkDenoiser(network, Raw(), process)
    result = sampler_of(case, grid).sample(denoiser, noise, steps)
    return finished(case, result.images), len(network.times)


def finished(case: Member, images: Tensor) -> Tensor:
    """What the official sampler does to its result."""
    if case["clip_final"] is not None:
        images = images.clamp(-case["clip_final"], case["clip_final"])
    images = images / case.words.get("divide_final", 1.0)
    return 0.5 * (images + 1.0) if case.words.get("to_unit_range") else images
