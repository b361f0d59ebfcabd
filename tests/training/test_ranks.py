"""Three ranks inside one training: what is equal on both, what is not, and how all end together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffexp.core.errors import ConfigError
from diffexp.launch import spawn
from diffexp.launch.signals import StopRequest
from diffexp.training.fit import fit
from diffexp.training.settings import Device, Training

CONFIG = {"task": "train", "trainer": {"devices": 3}, "training": {"batch_size": 9}}
BEGIN = """
import json, os, sys
from pathlib import Path
folder = Path(os.environ["DIFFEXP_RANKS"])
sys.path[:] = json.loads((folder / "start.json").read_text())["path"]
import torch
from diffexp.core import random
from diffexp.dataset.digits import Digits
from diffexp.dataset.loader import make_loader
from diffexp.launch import ranks
from diffexp.launch.handover import Ending, Handover
from diffexp.launch.signals import StopRequest
from diffexp.network.spec import UNetSpec
from diffexp.objective.denoising import Denoising
from diffexp.objective.times import Uniform
from diffexp.objective.weighting import Plain
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import V
from diffexp.process.vp import VP
from diffexp.training.callbacks import NotFiniteError
from diffexp.training.ema import EMASettings
from diffexp.training.fit import fit
from diffexp.training.module import DiffusionModule
from diffexp.training.optimizer import Adam
from diffexp.training.settings import Device, Training

def module(dropout=0.2):
    spec = UNetSpec(channels=8, multipliers=[1], blocks=1, attention=[], num_heads=1, dropout=dropout, max_groups=4)
    with random.seeded(0, "train/init"):
        network = spec.build(1, 1, 8)
    denoiser = NetworkDenoiser(network, V(), VP())
    objective, ema, record = Denoising(Plain(), Uniform()), EMASettings([0.9]), {"config": "recipe: test"}
    return DiffusionModule(denoiser, objective, Adam(lr=1e-2), ema, 0, record)

def batches(start=0):
    return make_loader(split, 9, 0, start, here.rank, 3)

def train(module, batches, name, resume=None, **settings):
    run = folder / name
    if here.main: run.mkdir()
    here.barrier()
    options = {"max_steps": 6, "batch_size": 9, "log_every": 2, "checkpoint_every": 3, **settings}
    fit(module, batches, Training(**options), Device("cpu", 3), run, StopRequest(), resume)
    return run

data = Digits()
here = ranks.join()
split = data.split("train")
found = {}
"""
CHECKS = """
def digest(tensors):
    return here.gather(sum(float(t.double().abs().sum()) for t in tensors))

class Told(DiffusionModule):
    def training_step(self, batch, batch_idx):
        self.losses.append(float(loss := super().training_step(batch, batch_idx)))
        self.dropout.append(float(torch.rand(())))
        return loss

trained = module()
trained.__class__, trained.losses, trained.dropout = Told, [], []
run = train(trained, batches(), "equal")
found["parameters"] = digest(trained.network.parameters())
found["averages"] = digest(trained.ema.state_dict()["profiles"]["decay_0.9"].values())
found["norm"] = here.gather(float(trained.gradient_norm))
found["twice"] = here.gather(trained.losses.pop(0)), here.gather(trained.losses[0])
found["dropout"] = [here.gather(value) for value in trained.dropout[1:]]
found["losses"] = [here.gather(value) for value in trained.losses]
found["lines"] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

resumed = module()
train(resumed, batches(3), "resumed", run / "checkpoints" / "step_00000003.ckpt")
pairs = zip(trained.network.parameters(), resumed.network.parameters())
found["resumed"] = here.gather(max(float((one - other).abs().max()) for one, other in pairs))

def poisoned():
    for step, batch in enumerate(batches()):
        if here.rank == 1 and step == 2:
            batch["image"] = batch["image"] * float("nan")
        yield batch

try:
    train(module(), poisoned(), "poisoned", log_every=1)
except NotFiniteError as error:
    found["errors"] = here.gather(float(str(error).split()[-1]))
if here.main:
    Path(TARGET).write_text(json.dumps(found))
Handover.mine().end(here.rank, Ending("done"))
ranks.leave()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What three ranks have seen."""
    target = tmp_path_factory.mktemp("ranks") / "found.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spawn, "_START", f"TARGET = {str(target)!r}\n{BEGIN}{CHECKS}")
        patch.setenv("OMP_NUM_THREADS", "1")
        spawn.spawn(CONFIG)
    return json.loads(target.read_text())


@pytest.mark.slow
def test_parameters_averages_and_the_norm_are_the_same_on_all_ranks(found):
    for key in ("parameters", "averages", "norm"):
        first, second, third = found[key]
        assert first == second == third
        assert first > 0.0
    assert found["averages"] != found["parameters"]


@pytest.mark.slow
def test_every_rank_draws_its_own_dropout_and_sees_its_own_images(found):
    for key in ("dropout", "losses"):
        assert len(found[key]) == 6
        assert all(len(set(values)) == 3 for values in found[key])


@pytest.mark.slow
def test_the_logged_loss_is_the_mean_over_ranks_and_steps(found):
    assert [line["step"] for line in found["lines"]] == [2, 4, 6]
    for place, line in enumerate(found["lines"]):
        losses = [loss for values in found["losses"][2 * place : 2 * place + 2] for loss in values]
        assert line["loss"] == pytest.approx(sum(losses) / 6.0, rel=1e-6)


@pytest.mark.slow
def test_a_resumed_training_is_bit_equal_with_any_number_of_ranks(found):
    """A sum of three numbers depends on their order: see `Ranks.training_step`."""
    assert found["resumed"] == [0.0, 0.0, 0.0]
    assert found["twice"][0] == found["twice"][1]  # the first step without consequences is the first step


@pytest.mark.slow
def test_one_rank_without_a_number_ends_all_in_the_same_step(found):
    assert found["errors"] == [3.0, 3.0, 3.0]


def test_a_process_alone_cannot_be_several_ranks(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"trainer.devices=2: this process is alone: the command line or torchrun"):
        fit(None, [], Training(max_steps=1, batch_size=2), Device("cpu", 2), tmp_path, StopRequest())
