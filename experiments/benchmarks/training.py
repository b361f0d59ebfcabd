"""What training costs beside the network: a step inside `fit` against the same step written by hand."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import count, pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.launch.signals import StopRequest
from diffexp.tasks.build import Parts, initialised_network
from diffexp.training.fit import fit
from diffexp.training.module import DiffusionModule
from diffexp.training.settings import Device, Training
from experiments.benchmarks.clock import Ratio, Spent, processor_seconds, ratio
from experiments.benchmarks.parts import REDUCED, compose, enough, normal

STEP, TARGET = 0.050, 1.08  # seconds that a step by hand takes at least; the largest ratio that passes
BLOCK = 5  # steps between two turns, and between two lines of metrics
WORDS = (*REDUCED, "network.class_conditional=false", "dataset.labels=false", "optimizer.warmup_steps=0")
Batch = Mapping[str, Tensor]
Moment = tuple[float, float]


def now() -> Moment:
    """Seconds of the wall clock, and of the processors."""
    return time.perf_counter(), processor_seconds()


class ByHand:
    """The step of `gddim_vp` as a script would write it: eps, plain weight, Adam, clipping, one average.

    Args:
        parts: the recipe's objects, of which sizes and rates are taken.
        keyed: draw the very numbers that the package draws, so that the weights can be compared; otherwise torch's.
    """

    def __init__(self, parts: Parts, keyed: bool = True) -> None:
        self.network = initialised_network(parts, 0).train()
        self.parameters = list(self.network.parameters())
        self.averages = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.Adam(self.parameters, lr=parts.optimizer.lr, betas=tuple(parts.optimizer.betas))
        self.limit, self.decay = parts.optimizer.clip_norm, parts.ema.decays[0]
        self.keyed = keyed

    def step(self, batch: Batch) -> None:
        """One optimiser step."""
        x0 = batch["image"]
        t, noise = self._draw(x0, batch["position"])
        log_alpha = -0.25 * 19.9 * t**2 - 0.05 * t
        alpha, sigma = log_alpha.exp(), (-torch.expm1(2.0 * log_alpha)).sqrt()
        alpha, sigma = (level.float().reshape(-1, 1, 1, 1) for level in (alpha, sigma))
        output = self.network(alpha * x0 + sigma * noise, (999.0 * t).float())
        self.optimizer.zero_grad()
        nn.functional.mse_loss(output, noise).backward()
        nn.utils.clip_grad_norm_(self.parameters, self.limit)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.parameters, 1.0 - self.decay)

    def _draw(self, x0: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Times, float64 (B,), and noise."""
        if not self.keyed:
            return 1.0e-5 + (1.0 - 1.0e-5) * torch.rand(len(x0), dtype=torch.float64), torch.randn_like(x0)
        t = 1.0e-5 + (1.0 - 1.0e-5) * random.uniform(0, "train/time", position)
        return t, random.normal(0, "train/noise", position, x0.shape[1:]).float()


class Turns:
    """The batches for `fit`; before every `BLOCK`-th of them the steps by hand take their turn.

    Args:
        batches: used again and again.
        hands: the steps by hand.
        last: number of steps that each side takes.

    Attributes:
        spent: (begin, end) of each turn of each of the steps by hand, in the order given.
        pauses: (begin, end) of all the time that `fit` had to wait for them.
    """

    def __init__(self, batches: list[Batch], hands: list[ByHand], last: int) -> None:
        self.batches = batches
        self.hands = hands
        self.last = last
        self.spent: list[list[tuple[Moment, Moment]]] = [[] for _ in hands]
        self.pauses: list[tuple[Moment, Moment]] = []

    def batch(self, place: int) -> Batch:
        """The batch of step `place`: few images, but always new positions."""
        batch = self.batches[place % len(self.batches)]
        return {**batch, "position": batch["position"] + place * len(batch["position"])}

    def __iter__(self) -> Iterator[Batch]:
        for place in count():
            if place % BLOCK == 0 and place < self.last:  # `fit` looks one batch ahead
                self._turn(place)
            yield self.batch(place)

    def _turn(self, first: int) -> None:
        began = now()
        for hand, spent in zip(self.hands, self.spent, strict=True):
            since = now()
            for place in range(first, first + BLOCK):
                hand.step(self.batch(place))
            spent.append((since, now()))
        self.pauses.append((began, now()))

    def waited(self, begin: Moment, end: Moment, clock: int) -> float:
        """Seconds of pauses between two moments, by the wall (clock 0) or by the processors (1)."""
        pauses = [(first[clock], last[clock]) for first, last in self.pauses]
        return sum(max(0.0, min(end[clock], last) - max(begin[clock], first)) for first, last in pauses)


class Stamped(DiffusionModule):
    """A module that notes when each step begins."""

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.stamps.append(now())
        super().on_train_batch_start(batch, batch_idx)


def step(rounds: int, words: tuple[str, ...] = WORDS, seconds: float = STEP) -> list[Ratio]:
    """A step of `fit`, with everything that a run does in it, over a step by hand.

    The unit is a block of five steps, one of which writes a line of metrics; the first block is warm-up. The batches
    lie ready on both sides. That both do the same work is checked at the end: their networks have to agree.

    Raises:
        RuntimeError: when they do not.
    """
    parts = compose(*words)
    warm = ByHand(parts)
    size = enough(lambda batch: lambda: warm.step(_batches(parts, batch, 1)[0]), 1.25 * seconds)
    hands = [ByHand(parts), ByHand(parts, keyed=False)]
    turns = Turns(_batches(parts, size, 4), hands, BLOCK * (rounds + 2))
    module = _fit(parts, turns, size)
    difference = _difference(parts, module.network, hands[0].network)
    if not difference < 0.01:
        raise RuntimeError(f"the steps by hand train another network: outputs differ by {difference:.1e}")
    spent = Spent(*(_series(turns, module.stamps, clock) for clock in (0, 1)))
    each = min(spent.wall["by_hand"]) / BLOCK
    notes = {"batch": size, "step_ms": 1e3 * each, "outputs_differ": difference}
    text = "a training step of fit / the same step by hand"
    return [
        ratio("step", text, spent, ("fit", "by_hand"), TARGET, **notes),
        ratio("step_torch_noise", f"{text}, with torch's own random numbers", spent, ("fit", "torch_noise"), **notes),
    ]


def _batches(parts: Parts, size: int, n: int) -> list[Batch]:
    """n batches of smooth random images."""
    images = normal(n * size, *parts.data.shape, stream="bench/images").tanh()
    return [{"image": image, "position": torch.arange(size)} for image in images.split(size)]


def _fit(parts: Parts, turns: Turns, size: int) -> Stamped:
    """The trained module."""
    network, device = initialised_network(parts, 0), Device(accelerator="cpu")
    record = {"config": "benchmark: step", "data": {}, "revision": None}
    module = Stamped(parts.denoiser(network), parts.objective, parts.optimizer, parts.ema, 0, record)
    module.stamps = []
    training = Training(turns.last, size, log_every=BLOCK, checkpoint_every=10 * turns.last, keep=0, workers=0)
    with tempfile.TemporaryDirectory() as folder, StopRequest() as stop:
        fit(module, turns, training, device, Path(folder), stop, progress_bar=False)
    return module


def _series(turns: Turns, stamps: list[Moment], clock: int) -> dict[str, list[float]]:
    """Seconds of each block, by one of the clocks, without pauses; the first block and the last one are left out."""
    hands = [[end[clock] - begin[clock] for begin, end in spent[1:-1]] for spent in turns.spent]
    blocks = [
        end[clock] - begin[clock] - turns.waited(begin, end, clock) for begin, end in pairwise(stamps[BLOCK::BLOCK])
    ]
    return {"fit": blocks, "by_hand": hands[0], "torch_noise": hands[1]}


@torch.no_grad()
def _difference(parts: Parts, network: nn.Module, other: nn.Module) -> float:
    """How far two trained networks are apart, beside how far training has moved them: on one batch, in root squares.

    Weights without influence on the output (the bias of an attention's keys) would not agree: Adam moves them by the
    sign of rounding errors.
    """
    inputs = normal(4, *parts.data.shape, stream="bench/compare"), torch.full((1,), 500.0)
    mine, theirs, start = (net.eval()(*inputs) for net in (network, other, initialised_network(parts, 0)))
    return float((mine - theirs).norm() / (theirs - start).norm())
