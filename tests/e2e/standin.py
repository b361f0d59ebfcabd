"""A recipe's own objects at work without its data: random images of the right shape stand in for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.dataset.split import augment_dim_of, conditions_of
from diffexp.launch.command import normalise
from diffexp.launch.compose import compose_jobs
from diffexp.launch.layout import Layout
from diffexp.launch.schema import validate
from diffexp.network.lpips import LPIPS
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.denoiser import Denoiser
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import KeyedNoise
from diffexp.tasks.build import Parts
from diffexp.tasks.train import loss_of as minimised


def compose(layout: Layout, *words: str) -> dict[str, Any]:
    """The valid configuration of a command line."""
    (job,) = compose_jobs([normalise(words, layout)], layout)
    validate(job.config, layout)
    return job.config


@dataclass(frozen=True)
class Batches:
    """The same `n` random images again and again, with all conditions that the recipe's data give."""

    parts: Parts
    n: int
    device: str = "cpu"

    def batch(self) -> dict[str, Tensor]:
        images = random.normal(0, "test/images", range(self.n), self.parts.data.shape).tanh().float()
        batch = {"image": images.to(self.device), "position": torch.arange(self.n)}
        if self.parts.data.num_classes:
            batch["label"] = torch.arange(self.n, device=self.device) % self.parts.data.num_classes
        given = conditions_of(self.parts.dataset)
        if "endpoint" in given:
            sources = random.normal(0, "test/sources", range(self.n), self.parts.data.shape).tanh().float()
            batch["endpoint"] = sources.to(self.device)
        if "mask" in given:
            batch["mask"] = torch.ones(self.n, 1, *self.parts.data.shape[1:], device=self.device)
        if augment_dim_of(self.parts.dataset):
            told = random.normal(0, "test/augment", range(self.n), (augment_dim_of(self.parts.dataset),))
            batch["augment"] = told.float().to(self.device)
        return batch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield self.batch()


def untrained_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have LPIPS ask a VGG-16 that has learned nothing, with its own learned weights behind, in place of the file."""
    from torchmetrics.functional.image import lpips
    from torchvision.models.vgg import cfgs, make_layers

    def read(*_: object) -> tuple[nn.Sequential, dict[str, Tensor]]:
        with random.seeded(0, "test/vgg"):
            layers = make_layers(cfgs["D"])
        return layers, torch.load(Path(lpips.__file__).parent / "lpips_models" / "vgg.pth", "cpu", weights_only=True)

    monkeypatch.setattr(LPIPS, "_read", read)


def loss_with_teacher(parts: Parts, network: nn.Module, device: str = "cpu") -> Any:
    """What the recipe minimises; an untrained network stands in for a teacher that its distillation asks."""
    for asked in (parts.objective, parts.distillation):
        if asked is not None:
            asked.prepare(parts.data.shape)
    for network_beside in parts.objective.networks():
        network_beside.to(device)
    if parts.distillation is not None and parts.distillation.asks_teacher:
        with torch.device(device):
            teacher = parts.build_network().eval().requires_grad_(False)
        if device != "meta":  # new networks say zero, as the student does: there would be nothing to learn
            with random.seeded(0, "test/teacher"):
                for parameter in (p for p in teacher.parameters() if not bool(p.any())):
                    parameter.uniform_(-0.05, 0.05)
        parts = replace(parts, teacher=teacher)
    return minimised(parts, network)


def loss_of(parts: Parts, denoiser: Denoiser, n: int, device: str = "cpu") -> Tensor:
    """The recipe's loss of n stand-in images, differentiated.

    Raises:
        AssertionError: when a parameter that is trained has got no gradient of its shape, or one that is not finite.
    """
    loss = loss_with_teacher(parts, denoiser.network, device)(denoiser, Batches(parts, n, device).batch(), 0)
    loss.backward()
    assert loss.shape == ()
    for name, parameter in denoiser.network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.shape == parameter.shape, name
            assert device == "meta" or bool(parameter.grad.isfinite().all()), name
    return loss.detach()


def sample(parts: Parts, denoiser: Denoiser, sampler: Sampler, nfe: int, n: int, device: str = "cpu") -> Tensor:
    """n images with the feasible budget nearest to `nfe`, if any: counted, of the data's shape, finite."""
    shape, before = parts.process.state_shape(parts.data.shape), denoiser.evaluations
    batch = Batches(parts, n, device).batch()
    conditions = Conditions(batch.get("label"), batch.get("endpoint"), None, batch.get("mask"))
    noise = KeyedNoise(0, range(n), shape, device=device)
    found = sampler.sample(denoiser, noise, sampler.nearest_nfe(nfe) if sampler.budgeted else None, conditions)
    assert denoiser.evaluations - before == found.nfe * n
    assert tuple(found.images.shape) == (n, *parts.data.shape)
    assert device == "meta" or bool(found.images.isfinite().all())
    return found.images
