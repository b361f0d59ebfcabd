"""A small conf tree and the module it names, which raises when it is imported: whoever validates must not do that."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import diffexp
from diffexp.launch.layout import Layout, read_layout

TOY = '''
"""Classes for the small conf tree."""
from __future__ import annotations
raise RuntimeError("a validated module was imported")

from dataclasses import dataclass, field
from typing import Literal
import torch.nn as nn

Law = Literal["uniform", "log"]


class Stepper:
    pass


class Heun(Stepper):
    def __init__(self, order: int = 2) -> None: ...


class Sampler:
    def __init__(self, name: str, stepper: Stepper, clip: bool = False) -> None: ...


@dataclass
class Base:
    width: int


@dataclass(frozen=True)
class Network(Base):
    depths: list[int] = field(default_factory=list)
    dropout: float = 0.0
    law: Law = "uniform"
    hidden: int = field(default=3, init=False)


class Training:
    def __init__(self, max_steps: int, lr: float = 1e-3, *, clip: float | None = None) -> None: ...


class Evaluation:
    def __init__(self, arms: dict[str, Sampler], nfe: list[int], only: str | None = None) -> None: ...
'''

FILES = {
    "config.yaml": """
defaults:
  - network: wide
  - sampler: ddim
  - training: default
  - evaluation: default
  - _self_
  - experiment: null
  - scale: paper
  - override hydra/job_logging: none
  - override hydra/hydra_logging: none
task: run
recipe: ${hydra:runtime.choices.experiment}
seed: 0
ckpt: null
runs: runs
paper: {}
hydra:
  output_subdir: null
  run: {dir: .}
""",
    "network/wide.yaml": "_target_: diffexp.network.toy.Network\nwidth: 64\ndepths: [1, 2]\n",
    "network/small.yaml": "_target_: diffexp.network.toy.Network\nwidth: 4\n",
    "sampler/ddim.yaml": """
_target_: diffexp.network.toy.Sampler
name: ddim
stepper: {_target_: diffexp.network.toy.Heun, order: 1}
clip: false
""",
    "sampler/heun.yaml": """
_target_: diffexp.network.toy.Sampler
name: heun
stepper: {_target_: diffexp.network.toy.Heun}
clip: false
""",
    "training/default.yaml": "_target_: diffexp.network.toy.Training\nmax_steps: 1000\nlr: 1.0e-3\n",
    "evaluation/default.yaml": "_target_: diffexp.network.toy.Evaluation\narms: {}\nnfe: [5, 10]\nonly: null\n",
    "experiment/vp_one.yaml": """
# @package _global_
# The first recipe.
defaults:
  - /sampler@evaluation.arms.ddim: ddim
  - override /network: wide
training: {max_steps: 500000}
evaluation: {arms: {ddim: {nfe: [5, 20]}}}
paper: {title: Anything, results: [{value: ">100"}]}
""",
    "experiment/vp_two.yaml": "# @package _global_\ntraining: {max_steps: 700000}\n",
    "scale/paper.yaml": "# @package _global_\n# As published.\n",
    "scale/quick.yaml": "# @package _global_\ndefaults:\n  - override /network: small\ntraining: {max_steps: 20}\n",
}


@pytest.fixture(scope="session")
def toy_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    (folder / "network").mkdir()
    (folder / "network" / "toy.py").write_text(TOY)
    return folder


@pytest.fixture
def conf(tmp_path: Path, toy_package: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small conf tree; `diffexp.network.toy` can be located but not imported."""
    monkeypatch.setattr(diffexp, "__path__", [*diffexp.__path__, str(toy_package)])
    folder = tmp_path / "conf"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def layout(conf: Path) -> Layout:
    return read_layout(conf)


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "room"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The configurations of the jobs that were started, in place of `diffexp.tasks`."""
    configs: list[dict[str, Any]] = []
    tasks = ModuleType("diffexp.tasks")
    tasks.run_task = configs.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "diffexp.tasks", tasks)
    monkeypatch.setattr(diffexp, "tasks", tasks, raising=False)
    return configs
