"""Whole commands, run in this process; one small training is shared by all tests that only read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from diffexp.__main__ import main

SMALL = [
    "scale=quick",
    "experiment=gddim_vp",
    "network.channels=8",
    "network.multipliers=[1,2]",
    "training.max_steps=30",
    "training.batch_size=32",
    "training.log_every=10",
    "training.checkpoint_every=20",
    "evaluation.n=48",
    "evaluation.seeds=[0,1]",
    "evaluation.grid_images=4",
    "evaluation.arms.ddim.nfe=[5,10]",
    "evaluation.arms.ddpm.nfe=[5]",
    "evaluation.arms.heun.nfe=[5]",
    "~evaluation.arms.order2",
    "~evaluation.arms.order3",
    "~evaluation.arms.em",
]
"""A recipe at quick scale, smaller still: a few seconds with evaluation."""


@dataclass
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Answer:
        capsys.readouterr()
        code = main(list(words))
        streams = capsys.readouterr()
        return Answer(code, streams.out, streams.err)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of one small run; read only."""
    runs = tmp_path_factory.mktemp("trained")
    assert main([*SMALL, f"runs={runs}"]) == 0
    (run,) = (runs / "gddim_vp").iterdir()
    return run
