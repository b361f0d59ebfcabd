"""The LightningModule: it calls an objective, clips, averages, and writes plain data into checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.core.errors import DiffexpError
from diffexp.distillation.base import Loss
from diffexp.objective.base import Objective
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.training.clipping import clip_gradients
from diffexp.training.ema import EMA, EMASettings
from diffexp.training.optimizer import Descent

Minimised = Callable[[NetworkDenoiser, Mapping[str, Tensor], int], Tensor]


class DiffusionModule(lightning.LightningModule):
    """Trains the network of a denoiser.

    Args:
        denoiser: network, prediction and process.
        objective: (denoiser, batch, seed) -> loss; that of a distillation is told of every step. The networks that it
            asks are moved to the device.
        optimizer: the optimiser and its schedule.
        ema: the averages to keep.
        seed: keys times, noise and dropout.
        record: plain data that every checkpoint carries; "config" is the resolved configuration as YAML text.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        objective: Minimised,
        optimizer: Descent,
        ema: EMASettings,
        seed: int,
        record: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.network: nn.Module = denoiser.network
        self.denoiser = denoiser
        self.objective = objective
        self.distilled = objective if isinstance(objective, Loss) else None
        self.optimizer = optimizer
        self.ema = EMA(denoiser.network, ema)
        self.seed = seed
        self.record = dict(record)
        self.gradient_norm: Tensor | None = None

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer, schedule = self.optimizer.build(self.network.parameters())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        self.ema.to(self.device)
        if isinstance(self.objective, Objective | Loss):
            for network in self.objective.networks():
                network.to(self.device)

    def transfer_batch_to_device(self, batch: Mapping[str, Tensor], device: torch.device, dataloader_idx: int) -> Any:
        """The batch on the device, but for the positions: they key random numbers, which are drawn on the CPU."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return {**moved, "position": batch["position"]}

    def on_train_batch_start(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        # Dropout is the one draw that torch makes itself: its seed belongs to (seed, rank, step), so that a resumed run
        # repeats the undisturbed one.
        seed = random.torch_seed(self.seed, "train/dropout", self.global_rank, self.global_step)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes half a millisecond where no GPU is in use
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        if self.distilled is not None:
            self.distilled.begin_step(self.global_step)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        return self.objective(self.denoiser, batch, self.seed)

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        stepped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.gradient_norm = clip_gradients(stepped, self.optimizer.clip_norm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # Here and not at the batch's end: callbacks that save checkpoints run before the module's own hook there.
        self.ema.update()
        if self.distilled is not None:
            self.distilled.end_step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self.record)
        checkpoint["ema"] = self.ema.state_dict()
        remembered = self.distilled.state_dict() if self.distilled is not None else {}
        if remembered:
            checkpoint["distillation"] = remembered

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "ema" not in checkpoint:
            raise DiffexpError("the checkpoint has no averages: it was not written by a diffexp training")
        self.ema.load_state_dict(checkpoint["ema"])
        if self.distilled is not None:
            self.distilled.load_state_dict(checkpoint.get("distillation", {}))
