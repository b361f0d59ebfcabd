"""A package as a user of diffexp would write it: network, data set, process, recipe."""

from __future__ import annotations

from pathlib import Path

NET = '''
"""A network of two convolutions, told the time through one linear layer."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self, channels: int, out: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.time = nn.Linear(1, width)
        self.last = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, u: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        told = self.time(time.reshape(-1, 1) / 1000.0)
        return self.last(torch.nn.functional.silu(self.first(u) + told[:, :, None, None]))


@dataclass(frozen=True)
class Tiny:
    """Makes a `Net` for whatever data there are."""

    width: int = 8
    law: Literal["silu"] = "silu"

    def build(self, channels: int, out_channels: int, resolution: int, num_classes: int = 0) -> Net:
        return Net(channels, out_channels, self.width)


class Shapeless:
    """Looks like a network, and cannot be built."""
'''

DATA = '''
"""Bumps at places that depend on the index alone."""
from __future__ import annotations

import numpy as np

from diffexp.dataset.split import ArraySplit, pick_split


class Bumps:
    name = "bumps"
    num_classes = 0
    shape = (1, 8, 8)

    def __init__(self, count: int = 96, *, radius: float = 2.0) -> None:
        self.count, self.radius = count, radius

    def prepare(self) -> None:
        """There is nothing to read."""

    def split(self, name: str) -> ArraySplit:
        places = np.arange(2 * self.count)
        rows, columns = np.mgrid[:8, :8]
        across = (rows - (places % 7)[:, None, None]) ** 2 + (columns - (places % 5)[:, None, None]) ** 2
        images = (255 * np.exp(-across / self.radius**2)).astype(np.uint8)[:, None]
        return pick_split({"train": ArraySplit(images[0::2], None), "test": ArraySplit(images[1::2], None)}, name)
'''

PROCESS = '''
"""diffexp's VP process with a steeper default; it inherits the constructor."""
from __future__ import annotations

from diffexp.process.vp import VP


class Steep(VP):
    pass
'''

TOOLS = '''
from os import system
import os.path
import subprocess as sp
from diffexp.process.vp import VP


def shell(command: str) -> None:
    system(command)
'''

RECIPE = """
# @package _global_
# Bumps, to see whether a package of one's own works.
defaults:
  - /sampler@evaluation.arms.ddim: ddim
  - override /network: tiny
  - override /dataset: bumps
  - override /process: steep
  - override /evaluation: digits
training: {max_steps: 20, batch_size: 16, log_every: 5, checkpoint_every: 10, workers: 0}
optimizer: {lr: 1.0e-3, warmup_steps: 0}
ema: {decays: [0.9]}
evaluation:
  n: 24
  seeds: [0]
  grid_images: 4
  arms:
    ddim: {nfe: [3, 5]}
paper: {title: Bumps, arxiv: none}
"""

FILES = {
    "mylab/__init__.py": "",
    "mylab/net.py": NET,
    "mylab/data.py": DATA,
    "mylab/process.py": PROCESS,
    "mylab/tools.py": TOOLS,
    "mylab/conf/network/tiny.yaml": "_target_: mylab.net.Tiny\nwidth: 8\n",
    "mylab/conf/dataset/bumps.yaml": "_target_: mylab.data.Bumps\ncount: 96\nradius: 2.0\n",
    "mylab/conf/process/steep.yaml": "_target_: mylab.process.Steep\nbeta_min: 0.1\nbeta_max: 30.0\n",
    "mylab/conf/experiment/bumps.yaml": RECIPE,
}


def write(folder: Path, marker: Path | None = None) -> Path:
    """The package in `folder`; with a marker, importing it leaves that file behind."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if marker is not None:
        (folder / "mylab" / "__init__.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    return folder
