"""Checkpoints and run folders from strangers: their configuration builds our classes and runs nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import diffexp
from diffexp.checkpoint.file import save
from diffexp.core.errors import ConfigError
from diffexp.launch.command import normalise
from diffexp.launch.compose import compose_jobs
from diffexp.launch.folder import load_frozen
from diffexp.launch.layout import read_layout
from diffexp.tasks.build import build, initialised_network

WORDS = ["experiment=gddim_vp", "scale=quick", "network.channels=8", "network.multipliers=[1,2]"]
Forge = Callable[[dict[str, Any]], Path]


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    """What a training would save, untrained; `config` is still a dictionary."""
    layout = read_layout()
    (job,) = compose_jobs([normalise(WORDS, layout)], layout)
    parts = build(job.config)
    weights = {f"network.{name}": value for name, value in initialised_network(parts, 0).state_dict().items()}
    ema = {"profiles": {"half": {}}}
    return {"config": job.config, "data": asdict(parts.data), "state_dict": weights, "ema": ema, "global_step": 1}


@pytest.fixture
def forge(state: dict[str, Any], room: Path) -> Forge:
    """Writes a checkpoint with some groups of its configuration replaced."""

    def write(changes: dict[str, Any]) -> Path:
        path = room / "weights.ckpt"
        save(path, {**state, "config": yaml.safe_dump({**state["config"], **changes})})
        return path

    return write


def test_an_honest_checkpoint_loads(forge: Forge) -> None:
    images = diffexp.load(forge({})).sample(4, 3)
    assert images.shape == (4, 1, 8, 8)
    assert torch.isfinite(images).all()


NODES = [
    {"_target_": "diffexp.tasks.build.torch.hub.load", "repo_or_dir": ".", "model": "m", "source": "local"},
    {"_target_": "diffexp.core.files.os.mkdir", "path": "ran"},
    {"_target_": "diffexp.core.files.write_text_atomic", "path": "ran", "text": "x"},
    {"_target_": "diffexp.launch.lock.Lock", "path": "ran"},
    {"_target_": "diffexp.process.vp.VP", "beta_min": {"_target_": "diffexp.core.files.os.mkdir", "path": "ran"}},
    {"_target_": "diffexp.process.vp.VP", "beta_min": "${oc.create:{_target_:os.mkdir,path:ran}}"},
    {"beta_min": ["${oc.create:{_target_:os.mkdir,path:ran}}"]},
]


@pytest.mark.parametrize("node", NODES)
def test_a_hostile_one_is_refused_and_runs_nothing(node: dict[str, Any], forge: Forge, room: Path) -> None:
    (room / "hubconf.py").write_text("def m():\n    open('ran', 'w').close()\n")
    path = forge({"process": node})
    before = sorted(room.iterdir())
    with pytest.raises(ConfigError, match=r"^process\.\S+=") as caught:
        diffexp.load(path)
    assert "\n" not in str(caught.value)
    assert sorted(room.iterdir()) == before


def test_a_hostile_run_folder_is_refused(room: Path) -> None:
    (room / "config.yaml").write_text(yaml.safe_dump({"recipe": "gddim_vp", "process": NODES[1]}))
    with pytest.raises(ConfigError, match=r"config.yaml: process._target_=diffexp.core.files.os.mkdir: "):
        load_frozen(room)
