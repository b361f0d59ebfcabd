"""Lightning saves and resumes through our files: bit-equal weights, and a damaged file stops the run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from diffexp.checkpoint import file
from diffexp.checkpoint.lightning_io import SafeCheckpointIO
from diffexp.core import random
from diffexp.core.errors import CheckpointError
from diffexp.core.naming import checkpoint_name, step_of
from diffexp.dataset.loader import make_loader
from diffexp.dataset.split import ArraySplit

pytestmark = pytest.mark.filterwarnings("ignore")


class _Regression(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        with random.seeded(0, "init"):
            self.net = nn.Linear(4, 4)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        x = batch["image"].flatten(1)
        noise = random.normal(0, "noise", batch["position"], (4,)).float()
        return (self.net(x + noise) - x).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def _fit(folder: Path, steps: int, resume: Path | None = None) -> _Regression:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    images = np.random.default_rng(0).integers(0, 256, (13, 1, 2, 2), dtype=np.uint8)
    start = 0 if resume is None else step_of(resume)
    saver = ModelCheckpoint(
        folder, filename="step_{step:08d}", auto_insert_metric_name=False, every_n_train_steps=3, save_top_k=-1
    )
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        callbacks=[saver],
        plugins=[SafeCheckpointIO("seed: 0\n")],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    module = _Regression()
    trainer.fit(module, make_loader(ArraySplit(images, None), 4, 0, start_step=start), ckpt_path=resume)
    assert trainer.global_step == steps
    return module


def test_resumed_equals_undisturbed(tmp_path: Path) -> None:
    whole = _fit(tmp_path / "whole", 12)
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == [
        checkpoint_name(step) for step in (3, 6, 9, 12)
    ]
    state: dict[str, Any] = file.load(tmp_path / "whole" / checkpoint_name(6))
    assert (state["config"], state["format"], state["global_step"]) == ("seed: 0\n", "diffexp/1", 6)
    resumed = _fit(tmp_path / "resumed", 12, tmp_path / "whole" / checkpoint_name(6))
    assert not torch.equal(resumed.net.weight, state["state_dict"]["net.weight"])
    for left, right in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_damaged_checkpoint_stops_the_run(tmp_path: Path) -> None:
    _fit(tmp_path, 3)
    path = tmp_path / checkpoint_name(3)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"step_00000003.ckpt' is truncated, damaged or not a torch file"):
        _fit(tmp_path, 6, path)


def test_plugin_by_itself(tmp_path: Path) -> None:
    plugin = SafeCheckpointIO("seed: 0\n")
    path = tmp_path / "new" / "a.ckpt"
    plugin.save_checkpoint({"config": "its own", "x": 1}, path)
    assert plugin.load_checkpoint(path, weights_only=False)["config"] == "its own"
    plugin.remove_checkpoint(path)
    plugin.remove_checkpoint(path)
    assert not path.exists()
    with pytest.raises(CheckpointError, match="has no 'config'"):
        SafeCheckpointIO().save_checkpoint({"x": 1}, path)
