"""One training: a Lightning Trainer with our loader, callbacks and checkpoint files."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import lightning
from torch import Tensor

from diffexp.checkpoint.lightning_io import SafeCheckpointIO
from diffexp.core.errors import ConfigError
from diffexp.core.naming import checkpoint_name
from diffexp.launch.ranks import lost_peers, world
from diffexp.launch.signals import StopRequest
from diffexp.training.callbacks import Checkpoints, MetricsLog, Progress, StopOnSignal
from diffexp.training.mirror import METRICS
from diffexp.training.module import DiffusionModule
from diffexp.training.settings import Device, Training
from diffexp.training.strategy import Ranks


def fit(
    module: DiffusionModule,
    batches: Iterable[Mapping[str, Tensor]],
    training: Training,
    device: Device,
    run: Path,
    stop: StopRequest,
    resume: Path | None = None,
    progress_bar: bool = False,
    mirror: Callable[[Mapping[str, float]], None] = lambda line: None,
) -> Path:
    """Train until `training.max_steps` and return the last checkpoint.

    Args:
        module: what is trained.
        batches: endless, starting at the resumed step.
        training: length and intervals.
        device: accelerator and precision.
        run: the run folder; metrics.jsonl and checkpoints/ are written there.
        stop: where a request to stop arrives.
        resume: checkpoint to go on from.
        progress_bar: show a bar; otherwise progress is logged in lines.
        mirror: is shown every line of metrics.jsonl, on rank 0.

    With several ranks each of them calls this, with its own part of the batches; rank 0 alone writes.

    Raises:
        ConfigError: the process is not one of `device.devices` ranks.
        PreemptedError: after SIGTERM or SIGINT to any rank, with the present step saved.
        NotFiniteError: when the loss or the gradient is not finite.
        RankLostError: another rank has ended.
    """
    if device.devices != world().size:
        size = world().size
        here = f"one of {size} ranks" if size > 1 else "alone: the command line or torchrun starts ranks"
        raise ConfigError(f"trainer.devices={device.devices}: this process is {here}")
    checkpoints = Checkpoints(run / "checkpoints", training.checkpoint_every, training.keep)
    if world().main:
        checkpoints.folder.mkdir(exist_ok=True)
    metrics = MetricsLog(run / METRICS, training.log_every, training.batch_size, not progress_bar, mirror)
    stopping = StopOnSignal(stop)
    if stopping.agree():  # during the imports
        stop.check("before the first step")
    callbacks = [stopping, metrics, checkpoints, *([Progress()] if progress_bar else [])]
    with _quiet(), lost_peers():
        trainer = _trainer(training, device, run, callbacks)
        trainer.fit(module, batches, ckpt_path=resume, weights_only=True)
    if trainer.global_step < training.max_steps:
        stop.check(f"at step {trainer.global_step}; the checkpoint is written, ckpt={run} goes on from it")
    return checkpoints.folder / checkpoint_name(trainer.global_step)


def _trainer(
    training: Training, device: Device, run: Path, callbacks: list[lightning.Callback]
) -> lightning.Trainer:
    """Lightning's trainer without its own files, bars, samplers and loggers."""
    place = world()
    return lightning.Trainer(
        accelerator=device.accelerator,
        strategy=Ranks(place) if place.size > 1 else "auto",
        devices=place.local_size,
        num_nodes=place.size // place.local_size,
        precision=device.precision,
        max_steps=training.max_steps,
        max_epochs=-1,
        logger=False,
        callbacks=callbacks,
        plugins=[SafeCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=run,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's advice, which is about choices that this project makes on purpose."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            # a 1x1 convolution's gradient has strides of its own; between ranks it is copied once more
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            yield
    finally:
        logger.setLevel(level)
