"""A compiled network is the same network to everything else: checkpoints, averages, samples."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from diffexp.checkpoint.file import load
from diffexp.core import random
from diffexp.core.errors import ConfigError
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
from diffexp.training import compile as compiling
from diffexp.training.compile import check_compiler, compile_in_place
from diffexp.training.ema import EMASettings
from diffexp.training.fit import fit
from diffexp.training.module import DiffusionModule
from diffexp.training.optimizer import Adam
from diffexp.training.settings import Device, Training

STEPS = 6


@pytest.fixture(autouse=True)
def without_code_generation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are captured and differentiated as ever, but run by torch itself: seconds in place of minutes."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    check_compiler.cache_clear()
    counters.clear()
    yield
    check_compiler.cache_clear()
    torch.compiler.reset()


@pytest.fixture(scope="module")
def digits():
    data = Digits()
    return data.split("train")


def build(width: int = 4) -> nn.Module:
    with random.seeded(0, "train/init"):
        spec = UNetSpec(channels=width, multipliers=[1], blocks=1, attention=[], num_heads=1, max_groups=2)
        return spec.build(1, 1, 8)


def train(split, run: Path, compiled: bool, steps: int = STEPS, resume: Path | None = None) -> Path:
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    network = compile_in_place(build()) if compiled else build()
    ema = EMASettings(decays=[0.5])
    record = {"config": "recipe: test\n"}
    denoiser, objective = NetworkDenoiser(network, V(), VP()), Denoising(Plain(), Uniform())
    module = DiffusionModule(denoiser, objective, Adam(lr=1e-2), ema, 0, record)
    start = 0 if resume is None else load(resume)["global_step"]
    settings = Training(max_steps=steps, batch_size=16, checkpoint_every=100)
    with StopRequest() as stop:
        return fit(module, make_loader(split, 16, 0, start), settings, Device("cpu"), run, stop, resume)


def tensors(state: dict[str, Any], kind: str) -> dict[str, torch.Tensor]:
    return state["state_dict"] if kind == "state_dict" else state["ema"]["profiles"]["decay_0.5"]


def test_checkpoints_of_compiled_and_plain_trainings_are_interchangeable(digits, tmp_path: Path) -> None:
    plain = load(train(digits, tmp_path / "plain", False))
    assert counters["frames"]["ok"] == 0
    half = train(digits, tmp_path / "half", True, STEPS // 2)
    assert counters["frames"]["ok"] > 0
    names = [name for name, _ in build().named_parameters()]
    for state in (plain, load(half)):
        assert [name.removeprefix("network.") for name in state["state_dict"]] == list(build().state_dict())
        assert list(state["ema"]["profiles"]["decay_0.5"]) == names  # every parameter is averaged, none by another name
    # compiled -> plain, and plain -> compiled
    first = load(train(digits, tmp_path / "first", False, resume=half))
    plain_half = train(digits, tmp_path / "plain_half", False, STEPS // 2)
    second = load(train(digits, tmp_path / "second", True, resume=plain_half))
    for state in (first, second):
        assert state["ema"]["updates"] == STEPS
        for kind in ("state_dict", "ema"):
            expected, found = (tensors(one, kind) for one in (plain, state))
            for name, value in expected.items():
                assert torch.allclose(found[name], value, rtol=0.0, atol=1e-5), (kind, name)
    moved = tensors(plain, "ema")
    assert all(not torch.equal(moved[name], value) for name, value in build().named_parameters() if value.dim() > 1)


def test_a_partial_batch_costs_one_graph_and_the_next_sizes_none() -> None:
    plain, compiled = build(), compile_in_place(build())
    for place, size in enumerate((32, 32, 17, 32, 29, 21)):
        u, time = torch.randn(size, 1, 8, 8), torch.tensor([5.0])
        with torch.no_grad():
            assert torch.allclose(compiled(u, time, None), plain(u, time, None), rtol=1e-5, atol=1e-6)
        assert counters["stats"]["unique_graphs"] == (1 if place < 2 else 2)


class Wide(nn.Module):
    """One class, and a graph for each width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return self.layer(u)


def test_later_architectures_of_a_sweep_are_compiled_too() -> None:
    """torch gives up after eight graphs of one class, with no more than a line in its own log."""
    for count, width in enumerate(range(4, 16), 1):
        compile_in_place(Wide(width))(torch.randn(4, width))
        assert counters["stats"]["unique_graphs"] == count


def test_a_machine_that_cannot_compile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph, inputs):
        raise OSError("No working C++ compiler\nfound")

    check_compiler(torch.device("cpu"))
    check_compiler.cache_clear()
    monkeypatch.setattr(compiling, "BACKEND", broken)
    torch.compiler.reset()
    with pytest.raises(ConfigError, match=r"^trainer.compile=true: torch cannot .*No working C.* found") as caught:
        check_compiler(torch.device("cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_generated_code_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    check_compiler(torch.device("cpu"))
    plain, compiled = build(), compile_in_place(build())
    u, time = torch.randn(4, 1, 8, 8), torch.tensor([5.0])
    with torch.no_grad():
        assert torch.allclose(compiled(u, time, None), plain(u, time, None), rtol=1e-4, atol=1e-5)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert counters["stats"]["unique_graphs"] == 2  # the small one of the check, and the network's
