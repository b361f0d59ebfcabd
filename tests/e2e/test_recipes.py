"""Every recipe of conf/experiment, those to come too: it can be checked, takes a step at full size, and learns.

Recipes whose data are not on this machine get random images of the right shape: `tests/e2e/standin.py`.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import diffexp
from diffexp.core import random
from diffexp.launch.layout import read_layout
from diffexp.launch.signals import StopRequest
from diffexp.tasks.build import build, initialised_network
from diffexp.tasks.evaluate import plan_evaluation
from diffexp.training.callbacks import Checkpoints
from diffexp.training.fit import fit
from diffexp.training.module import DiffusionModule
from diffexp.training.settings import Device, Training
from tests.e2e.conftest import Command
from tests.e2e.standin import Batches, compose, loss_of, loss_with_teacher, sample, untrained_vgg

LAYOUT = read_layout()
RECIPES = LAYOUT.choices["experiment"]
SCALES = LAYOUT.choices["scale"]
LARGEST = 64  # pixels up to which a full-size network takes a real step on a CPU
MANY = 150_000_000  # parameters up to which it does


@pytest.fixture
def freed() -> Iterator[None]:
    """Give the memory of large networks back: a trainer and its module refer to each other."""
    yield
    gc.collect()


def test_recipes_are_found() -> None:
    assert "gddim_vp" in RECIPES
    assert {"paper", "quick"} <= set(SCALES)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_checked(command: Command, tmp_path: Path, recipe: str, scale: str) -> None:
    answer = command("task=check", f"experiment={recipe}", f"scale={scale}")
    assert answer.code == 0, answer.err
    assert f"recipe     {recipe} at scale {scale}" in answer.out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_full_size_without_memory(recipe: str, monkeypatch) -> None:
    """Forward, backward and one sampling at the published size: on the meta device, which has no numbers.

    Larger images than `LARGEST` are tested at this size nowhere else.
    """
    untrained_vgg(monkeypatch)
    config = compose(LAYOUT, f"experiment={recipe}")
    parts = build(config)
    denoiser = parts.meta_denoiser()
    loss_of(parts, denoiser, 2, "meta")
    sample(parts, denoiser, plan_evaluation(config, parts).arms[0].sampler, 2, 2, "meta")


@pytest.mark.slow
@pytest.mark.usefixtures("freed")
@pytest.mark.parametrize("recipe", RECIPES)
def test_full_size_takes_a_step_and_samples(recipe: str, tmp_path: Path, monkeypatch) -> None:
    """One optimiser step of `fit` and the smallest sampling from two evaluations on, with real numbers.

    No checkpoint is written: four times the network would be more than everything else here.
    """
    config = compose(LAYOUT, f"experiment={recipe}")
    parts = build(config)
    if max(parts.data.shape[1:]) > LARGEST:
        pytest.skip(f"{parts.data.shape[1]} pixels: on the meta device only")
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in parts.build_network().parameters())
    if size > MANY:
        pytest.skip(f"{size:,} parameters: on the meta device only")
    monkeypatch.setattr(Checkpoints, "save", lambda self, trainer, module: None)
    untrained_vgg(monkeypatch)
    denoiser = parts.denoiser(initialised_network(parts, 0))
    before = [parameter.detach().double().sum() for parameter in denoiser.network.parameters()]
    minimised = loss_with_teacher(parts, denoiser.network)
    module = DiffusionModule(denoiser, minimised, parts.optimizer, parts.ema, 0, {})
    length, device = Training(max_steps=1, batch_size=1, log_every=1, workers=0), Device(accelerator="cpu")
    with StopRequest() as stop:
        fit(module, Batches(parts, 1), length, device, tmp_path, stop)
    (line,) = (json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert line["step"] == 1
    assert math.isfinite(line["loss"])
    assert 0.0 < line["gradient_norm"] < math.inf
    after = [parameter.detach().double().sum() for parameter in denoiser.network.parameters()]
    assert any(bool(old != new) for old, new in zip(before, after, strict=True))  # few: last layers start at zero
    denoiser.network.eval()
    sampler = plan_evaluation(config, parts).arms[0].sampler
    assert float(sample(parts, denoiser, sampler, 2, 1).std()) > 0.0


@pytest.mark.parametrize("recipe", RECIPES)
def test_quick_scale_learns_in_twenty_steps(recipe: str, command: Command) -> None:
    """A training as a user starts it: the mean loss of the last steps is below that of the first ones.

    Weights that grow without bound at the ends (DDM's) need more steps to be averaged over. Consistency from nothing,
    in one stage, takes twice the steps and the rate of a training from nothing.
    Every arm then samples with the network that has come of it.
    """
    words = ["scale=quick", "task=train", "training.max_steps=20", "training.log_every=5", "optimizer.warmup_steps=0"]
    distillation = compose(LAYOUT, f"experiment={recipe}", "scale=quick")["distillation"] or {}
    if "student_steps" in distillation:
        words += _one_stage(recipe, command)
    elif "schedule_network" in distillation:
        words += [_some_teacher("gddim_vp", command), "training.max_steps=80", "training.log_every=20"]
    elif distillation:
        words += ["distillation.initialise=false", "distillation.schedule.every=1000", "optimizer.lr=4.0e-3"]
        words += ["training.max_steps=40", "training.log_every=10"]
    elif recipe.startswith("ddm_"):
        words += ["training.max_steps=80", "training.log_every=20"]
    answer = command(f"experiment={recipe}", *words)
    assert answer.code == 0, answer.err
    (path,) = Path("runs").glob(f"{recipe}/*/metrics.jsonl")
    losses = [json.loads(line)["loss"] for line in path.read_text().splitlines()]
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    model = diffexp.load(f"latest:{recipe}")
    given = _given(model)
    assert model.samplers
    for name, sampler in model.samplers.items():
        images = model.sample(
            4, sampler.nearest_nfe(4) if sampler.budgeted else None, name, **given, allow_off_grid=True
        )
        assert tuple(images.shape) == (4, *model.shape), name
        assert bool(images.isfinite().all()), name
        assert float(images.std(0).mean()) > 0.0, name  # four images, not four times the same


def _one_stage(recipe: str, command: Command) -> list[str]:
    """The words of one stage of a progressive distillation from nothing, after the first steps of its teacher."""
    taught = _some_teacher(compose(LAYOUT, f"experiment={recipe}")["base"], command)
    words = ["distillation.student_steps=2", taught, "distillation.initialise=false"]
    return [*words, "optimizer.lr=4.0e-3", "optimizer.decay_steps=null"]


def _some_teacher(recipe: str, command: Command) -> str:
    """The word that names a teacher after a few steps."""
    answer = command(f"experiment={recipe}", "scale=quick", "task=train", "training.max_steps=5")
    assert answer.code == 0, answer.err
    return f"teacher=latest:{recipe}"


def _given(model: diffexp.Model) -> dict[str, torch.Tensor]:
    """What four images of a model are made from."""
    given = {"labels": torch.zeros(4, dtype=torch.int64)} if model.num_classes else {}
    if model.denoiser.process.endpoint:
        given["endpoints"] = random.normal(0, "test/sources", range(4), model.shape).tanh().float()
        given["masks"] = torch.ones(4, 1, *model.shape[1:])
    return given
