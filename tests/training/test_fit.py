"""A training that is stopped anywhere and goes on is the training that was never stopped: bit for bit."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from diffexp.checkpoint.file import load
from diffexp.core import random
from diffexp.core.errors import ConfigError, PreemptedError
from diffexp.dataset.digits import Digits
from diffexp.dataset.loader import make_loader
from diffexp.launch.signals import StopRequest
from diffexp.network.spec import UNetSpec
from diffexp.objective.denoising import Denoising
from diffexp.objective.times import Uniform
from diffexp.objective.weighting import Plain
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import V
from diffexp.process.vp import VP
from diffexp.training import fit as fitting
from diffexp.training.callbacks import NotFiniteError
from diffexp.training.ema import EMASettings
from diffexp.training.module import DiffusionModule
from diffexp.training.optimizer import SGD, Adam, AdamW
from diffexp.training.settings import Device, Training

STEPS = 9


@pytest.fixture(scope="module")
def digits():
    data = Digits()
    data.prepare()
    return data.split("train")


def module(dropout: float = 0.2) -> DiffusionModule:
    spec = UNetSpec(channels=8, multipliers=[1, 2], blocks=1, attention=[], num_heads=1, dropout=dropout, max_groups=4)
    with random.seeded(0, "train/init"):
        network = spec.build(1, 1, 8)
    denoiser = NetworkDenoiser(network, V(), VP())
    ema = EMASettings(decays=[0.9], power_stds=[0.1])
    record = {"config": "recipe: test\n"}
    return DiffusionModule(denoiser, Denoising(Plain(), Uniform()), Adam(lr=1e-3, warmup_steps=5), ema, 0, record)


class Kill:
    """Batches that send this process SIGTERM while step `at` is on its way."""

    def __init__(self, loader, at: int, start: int = 0) -> None:
        self.loader, self.at, self.start = loader, at, start

    def __iter__(self):
        for step, batch in enumerate(self.loader, self.start):
            if step == self.at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch


def train(split, run: Path, resume: Path | None = None, start: int = 0, kill: int | None = None, **settings) -> Path:
    run.mkdir(exist_ok=True)
    loader = make_loader(split, 16, 0, start)
    options = {"max_steps": STEPS, "batch_size": 16, "log_every": 2, "checkpoint_every": 4, "keep": 1, **settings}
    batches = loader if kill is None else Kill(loader, kill, start)
    with StopRequest() as stop:
        return fitting.fit(module(), batches, Training(**options), Device("cpu"), run, stop, resume)


def differences(first: Path, second: Path) -> list[str]:
    """Names of the tensors and numbers in which two checkpoints differ."""

    def leaves(value, name=""):
        if isinstance(value, dict):
            for key, entry in value.items():
                yield from leaves(entry, f"{name}/{key}")
        elif isinstance(value, list | tuple):
            for place, entry in enumerate(value):
                yield from leaves(entry, f"{name}/{place}")
        else:
            yield name, value

    kept = ("state_dict", "optimizer_states", "ema", "lr_schedulers", "global_step")
    one, two = ({k: v for k, v in load(path).items() if k in kept} for path in (first, second))
    pairs = zip(leaves(one), leaves(two), strict=True)
    return [n for (n, a), (m, b) in pairs if n != m or not (torch.equal(a, b) if torch.is_tensor(a) else a == b)]


@pytest.mark.parametrize("at", [1, 4, 6])
def test_a_stopped_and_resumed_training_is_bit_equal(digits, tmp_path, at):
    whole = train(digits, tmp_path / "whole")
    with pytest.raises(PreemptedError, match="SIGTERM") as caught:
        train(digits, tmp_path / "parts", kill=at)
    assert caught.value.exit_code == 143
    saved = sorted((tmp_path / "parts" / "checkpoints").glob("*.ckpt"))[-1]
    step = int(load(saved)["global_step"])
    assert at <= step <= at + 2  # the batch is fetched up to one step ahead
    resumed = train(digits, tmp_path / "parts", resume=saved, start=step)
    assert differences(whole, resumed) == []
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    means = [[(entry["step"], entry["loss"]) for entry in map(json.loads, part)] for part in lines]
    assert [step for step, _ in means[0]] == [2, 4, 6, 8, 9]
    assert means[0] == means[1]  # also the interval into which the stop fell


def test_training_with_another_seed_of_dropout_would_differ(digits, tmp_path):
    """The comparison above can fail: without the keyed dropout seed the weights come out different."""
    whole = train(digits, tmp_path / "whole", max_steps=3)
    other = module()
    other.on_train_batch_start = lambda batch, batch_idx: torch.manual_seed(1)
    run = tmp_path / "other"
    run.mkdir()
    settings = Training(max_steps=3, batch_size=16, log_every=2, checkpoint_every=4)
    second = fitting.fit(other, make_loader(digits, 16, 0), settings, Device("cpu"), run, StopRequest())
    assert any(name.startswith("/state_dict") for name in differences(whole, second))


def test_the_loss_falls_and_the_averages_follow(digits, tmp_path):
    run = tmp_path / "run"
    path = train(digits, run, max_steps=60, log_every=20, checkpoint_every=100)
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.85 * losses[0]
    state = load(path)
    weight, average = state["state_dict"], state["ema"]["profiles"]["decay_0.9"]
    gaps = [float((weight[f"network.{name}"] - value).abs().max()) for name, value in average.items()]
    assert 0.0 < max(gaps) < 0.1
    assert not any("ema" in name for name in weight)


def test_old_checkpoints_are_removed(digits, tmp_path):
    train(digits, tmp_path / "run", checkpoint_every=2)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step_00000008.ckpt", "step_00000009.ckpt"]


def test_a_loss_that_is_not_finite_stops_the_training(digits, tmp_path):
    broken = module()
    with torch.no_grad():
        next(broken.network.parameters()).fill_(float("nan"))
    run = tmp_path / "run"
    run.mkdir()
    settings = Training(max_steps=4, batch_size=16, log_every=2, checkpoint_every=2)
    with pytest.raises(NotFiniteError, match="near step 2"):
        fitting.fit(broken, make_loader(digits, 16, 0), settings, Device("cpu"), run, StopRequest())
    assert not list((run / "checkpoints").iterdir())
    often = Training(max_steps=4, batch_size=16, log_every=4, checkpoint_every=2)
    with pytest.raises(NotFiniteError, match="at step 2, nothing is saved"):
        fitting.fit(broken, make_loader(digits, 16, 0), often, Device("cpu"), run, StopRequest())
    assert not list((run / "checkpoints").iterdir())


def test_bfloat16_trains_and_keeps_float32_weights(digits, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    settings = Training(max_steps=2, batch_size=8, log_every=1, checkpoint_every=2)
    device = Device("cpu", 1, "bf16-mixed")
    path = fitting.fit(module(), make_loader(digits, 8, 0), settings, device, run, StopRequest())
    assert {value.dtype for value in load(path)["state_dict"].values()} == {torch.float32}


def test_learning_rate_warms_up_linearly():
    adam = Adam(lr=1e-3, warmup_steps=4)
    assert [adam.rate(step) for step in (0, 1, 3, 4, 100)] == pytest.approx([2.5e-4, 5e-4, 1e-3, 1e-3, 1e-3])


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.0},
        {"betas": (0.9, 1.5)},
        {"betas": (0.9,)},
        {"eps": -1.0},
        {"weight_decay": -0.1},
        {"clip_norm": 0.0},
        {"decay_steps": 0},
        {"decay_power": 0.0},
        {"decay_floor": 1.5},
        {"warmup_overshoot": True},
    ],
)
def test_impossible_optimisers_are_refused(options):
    with pytest.raises(ConfigError, match="optimizer"):
        Adam(**options)


@pytest.mark.parametrize("options", [{"momentum": 1.0}, {"nesterov": True}, {"lr": -1.0}, {"warmup_steps": -1}])
def test_impossible_descents_are_refused(options):
    with pytest.raises(ConfigError, match="optimizer"):
        SGD(**options)


@pytest.mark.parametrize("nesterov", [False, True])
def test_descent_follows_its_formula(nesterov):
    """Three steps with warm-up on a constant gradient g: v <- m v + g + d p, p <- p - lr (v, or g + d p + m v)."""
    parameter = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    settings = SGD(lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.5, warmup_steps=2)
    optimizer, schedule = settings.build([parameter])
    value, speed = 2.0, 0.0
    for step in range(3):
        parameter.grad = torch.tensor([3.0], dtype=torch.float64)
        optimizer.step()
        schedule.step()
        gradient = 3.0 + 0.5 * value
        speed = 0.9 * speed + gradient
        value -= settings.rate(step) * (gradient + 0.9 * speed if nesterov else speed)
        assert parameter.item() == pytest.approx(value, rel=1e-14)
    assert settings.rate(0) == 0.05


@pytest.mark.parametrize("amsgrad", [True, False])
def test_amsgrad_divides_by_the_largest_second_moment(amsgrad):
    """p <- p (1 - lr d), then p <- p - lr m^ / (sqrt(max v / (1 - b2^k)) + eps); the gradient falls to a tenth."""
    parameter = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer, schedule = AdamW(lr=0.1, weight_decay=0.5, betas=(0.9, 0.5), amsgrad=amsgrad).build([parameter])
    value, first, second, largest = 2.0, 0.0, 0.0, 0.0
    for k, gradient in enumerate((3.0, 0.3, 0.3, 0.3), start=1):
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        schedule.step()
        first, second = 0.9 * first + 0.1 * gradient, 0.5 * second + 0.5 * gradient**2
        largest = max(largest, second)
        used = largest if amsgrad else second
        value = value * (1.0 - 0.1 * 0.5) - 0.1 * (first / (1 - 0.9**k)) / ((used / (1 - 0.5**k)) ** 0.5 + 1e-8)
        assert parameter.item() == pytest.approx(value, rel=1e-12)


def test_a_part_of_an_interval_that_was_saved_before_there_were_figures(tmp_path):
    metrics = fitting.MetricsLog(tmp_path / "metrics.jsonl", 4, 8, False, lambda line: None)
    metrics.load_state_dict({"totals": [6.0], "count": 3})
    assert metrics.state_dict() == {"totals": {"loss": [6.0]}, "count": 3}
    metrics.load_state_dict({"totals": {"loss": [6.0, 8.0], "kl": [2.0, 4.0]}, "count": 2})  # of two ranks
    assert metrics.state_dict() == {"totals": {"loss": [7.0], "kl": [3.0]}, "count": 2}


def test_the_rate_falls_after_the_warm_up_down_to_its_floor():
    settings = Adam(lr=2.0, warmup_steps=4, decay_steps=10, decay_power=2.0, decay_floor=0.1)
    expected = [0.25, 0.5, 0.75, 1.0, *((1.0 - k / 10.0) ** 2 for k in range(7)), 0.1, 0.1, 0.1, 0.1, 0.1]
    assert [settings.rate(k) / 2.0 for k in range(16)] == pytest.approx(expected, rel=1e-14)
    late = dataclasses.replace(settings, warmup_overshoot=True)
    assert [late.multiplier(k) for k in range(3, 6)] == pytest.approx([1.0, 1.25, 0.81], rel=1e-14)
    optimizer, schedule = settings.build([torch.nn.Parameter(torch.zeros(1))])
    for k in range(12):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(settings.rate(k), rel=1e-14)
        optimizer.step()
        schedule.step()


def test_the_networks_that_an_objective_asks_go_to_the_device_of_the_training():
    class Frozen(torch.nn.Identity):
        moved = ()

        def to(self, *places):
            self.moved = places
            return self

    class Asking(Denoising):
        frozen = Frozen()

        def networks(self):
            return [self.frozen]

    asking = module()
    asking.objective = Asking(Plain(), Uniform())
    asking.on_fit_start()
    assert asking.objective.frozen.moved == (asking.device,)
    assert "frozen" not in " ".join(asking.state_dict())
