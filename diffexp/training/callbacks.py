"""What happens around the steps: metrics lines, checkpoints, an orderly stop, a progress bar."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
from torch import Tensor

from diffexp.core.errors import DiffexpError
from diffexp.core.files import write_text_atomic
from diffexp.core.naming import checkpoint_name, checkpoints
from diffexp.launch.ranks import world
from diffexp.launch.signals import StopRequest

log = logging.getLogger("diffexp")


class NotFiniteError(DiffexpError):
    """Training met a loss or gradient that is not a finite number."""

    exit_code = 1


class MetricsLog(lightning.Callback):
    """Appends one JSON line every few steps: step, mean loss, gradient norm, learning rate, images per second.

    The loss, and the figures of a distillation's loss, are means over the interval and over all ranks; they exchange
    their sums once an interval. Rank 0 writes.

    Args:
        path: metrics.jsonl of the run folder; lines after the resumed step are dropped first.
        every: steps between lines.
        batch_size: images in one step.
        announce: also log the line for a person (when there is no progress bar).
        mirror: is shown every line that is written, on rank 0.
    """

    def __init__(
        self, path: Path, every: int, batch_size: int, announce: bool, mirror: Callable[[dict[str, float]], None]
    ) -> None:
        self.path = path
        self.every = every
        self.batch_size = batch_size
        self.announce = announce
        self.mirror = mirror
        self._sums: dict[str, Tensor] = {}
        self._carried: dict[str, float] = {}
        self._count = self._timed = 0
        self._since = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The part of an interval that a checkpoint falls into, so that a resumed run reports the same means.

        Each rank has sums of its own: all ranks must ask at once.
        """
        return {"totals": {name: world().gather(value) for name, value in self._totals().items()}, "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        found, place = state_dict["totals"], world()
        found = found if isinstance(found, Mapping) else {"loss": found}  # of a time before figures
        own = {name: totals[place.rank] for name, totals in found.items() if len(totals) == place.size}
        means = {name: sum(totals) / len(totals) for name, totals in found.items()}  # for another number of ranks
        self._carried = {**means, **own}
        self._count = state_dict["count"]

    def _totals(self) -> dict[str, float]:
        """This rank's sums so far in the interval; waits for the device."""
        return {**self._carried, **{name: float(value) for name, value in self._sums.items()}}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if world().main:
            _drop_lines_after(self.path, trainer.global_step)
        self._since, self._timed = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        figures = {} if pl_module.distilled is None else pl_module.distilled.figures()
        for name, value in {"loss": outputs["loss"], **figures}.items():
            value = value.detach()
            known = self._sums.get(name)
            self._sums[name] = value + self._carried.get(name, 0.0) if known is None else known.add_(value)
        self._count += 1
        self._timed += 1
        step = trainer.global_step
        if step % self.every == 0 or step == trainer.max_steps:
            self._write(step, trainer.max_steps, pl_module)

    def _write(self, step: int, last: int, module: Any) -> None:
        now = time.perf_counter()
        found = {name: world().gather(value) for name, value in self._totals().items()}  # waits for the device
        means = {name: sum(totals) / len(totals) / self._count for name, totals in found.items()}
        loss = means["loss"]
        line = {
            "step": step,
            **means,
            "gradient_norm": float(module.gradient_norm),
            "lr": module.optimizer.rate(step - 1),
            "images_per_second": self._timed * self.batch_size / (now - self._since),
        }
        if not (math.isfinite(loss) and math.isfinite(line["gradient_norm"])):
            raise NotFiniteError(f"training: loss {loss}, gradient norm {line['gradient_norm']}, near step {step}")
        if world().main:
            with open(self.path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")
            self.mirror(line)
        if self.announce:
            told = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
            log.info("step %d/%d  %s  %.0f images/s", step, last, told, line["images_per_second"])
        self._sums, self._carried, self._count, self._timed, self._since = {}, {}, 0, 0, now


def _drop_lines_after(path: Path, step: int) -> None:
    """Keep only the lines up to `step`: a resumed run repeats what came after its checkpoint."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    write_text_atomic(path, "".join(line + "\n" for line in kept))


class Checkpoints(lightning.Callback):
    """Saves every few steps and at the end; keeps the newest few. All ranks take part, rank 0 writes.

    Args:
        folder: the run's checkpoints folder.
        every: steps between checkpoints.
        keep: older checkpoints kept beside the newest one.
    """

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        self.folder = folder
        self.every = every
        self.keep = keep

    def save(self, trainer: lightning.Trainer, module: Any) -> None:
        """Write the checkpoint of the present step and remove the oldest ones.

        Raises:
            NotFiniteError: the network has diverged; older checkpoints stay.
        """
        norm = float(module.gradient_norm)
        if not math.isfinite(norm):
            raise NotFiniteError(f"training: gradient norm {norm} at step {trainer.global_step}, nothing is saved")
        trainer.save_checkpoint(self.folder / checkpoint_name(trainer.global_step))
        if world().main:
            for old in checkpoints(self.folder)[: -(self.keep + 1)]:
                old.unlink()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % self.every == 0 or step == trainer.max_steps or trainer.should_stop:
            self.save(trainer, pl_module)


class StopOnSignal(lightning.Callback):
    """Ends the training after the step in which a stop was asked for; the checkpoint callback then saves it.

    The ranks agree after every step, in one small message between their processors: the signal may have reached one
    of them only, and all must end in the same step.
    """

    def __init__(self, request: StopRequest) -> None:
        self.request = request

    def agree(self) -> bool:
        """Whether a stop was asked for, of any rank; all of them call this at once."""
        self.request.received = world().largest(self.request.received or 0) or None
        return self.request.received is not None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.request.install()  # Lightning has put its own handlers in place by now

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.agree():
            trainer.should_stop = True


class Progress(lightning.Callback):
    """A bar over all steps, for a person at a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        from tqdm import tqdm

        steps = {"total": trainer.max_steps, "initial": trainer.global_step}
        self._bar = tqdm(**steps, unit="step", mininterval=0.5, dynamic_ncols=True)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._bar.update()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._bar.close()

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        if self._bar is not None:
            self._bar.close()
