"""What a command costs before it starts to work, and what averaging costs after a step: information, not bars."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from diffexp.training.ema import EMA, EMASettings
from experiments.benchmarks.clock import Ratio, ratio, take_turns

START_TARGET, AVERAGE_TARGET = 0.35, 0.5
TENSORS = 300
PROFILES = EMASettings(decays=[0.999, 0.9999], power_stds=[0.1])


def start(rounds: int) -> list[Ratio]:
    """Whole commands in processes of their own, over one that only imports Lightning."""
    entry = (sys.executable, "-m", "diffexp")
    tasks = {
        "lightning": _command(sys.executable, "-c", "import lightning"),
        "help": _command(*entry, "--help"),
        "config": _command(*entry, "experiment=gddim_vp", "scale=quick", "--cfg", "job"),
    }
    spent = take_turns(tasks, rounds)
    words = {"help": "--help", "config": "--cfg job"}
    return [
        ratio(
            f"start_{name}", f"diffexp {words[name]} / import lightning", spent, (name, "lightning"), START_TARGET,
            binding=False,
        )
        for name in words
    ]  # fmt: skip


def _command(*words: str) -> Callable[[], object]:
    return lambda: subprocess.run(words, capture_output=True, check=True)


class Many(lightning.LightningModule):
    """300 tensors of the sizes that a U-Net has: a third weights, the rest biases and norms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        shapes = [(width, width, 3, 3) if place % 3 == 0 else (width,) for place in range(TENSORS)]
        self.tensors = nn.ParameterList([nn.Parameter(torch.ones(shape)) for shape in shapes])


def average(rounds: int, width: int = 64) -> list[Ratio]:
    """Updating three averages over Lightning's callback updating one, of the same 300 tensors."""
    module, callback = Many(width), EMAWeightAveraging(decay=0.9999)
    trainer = SimpleNamespace(global_step=0)
    callback.setup(trainer, module, "fit")
    ours = EMA(module, PROFILES)

    def theirs() -> None:
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, None, None, 0)

    spent = take_turns({"diffexp": ours.update, "lightning": theirs}, rounds)
    notes = {"tensors": TENSORS, "numbers": sum(tensor.numel() for tensor in module.tensors)}
    text = "EMA update, 3 profiles / one update of Lightning's EMAWeightAveraging"
    return [ratio("average", text, spent, ("diffexp", "lightning"), AVERAGE_TARGET, binding=False, **notes)]
