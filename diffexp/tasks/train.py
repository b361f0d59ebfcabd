"""task=train: from a configuration to a checkpoint, or on from one."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from pathlib import Path

from omegaconf import OmegaConf

from diffexp.dataset.loader import make_loader
from diffexp.launch.find import newest
from diffexp.launch.folder import RunFolder
from diffexp.launch.signals import StopRequest
from diffexp.tasks import console
from diffexp.tasks.build import Config, Parts, build, initialised_network, torch_device
from diffexp.tasks.restore import TRAINING, Restored, open_checkpoint, require_same_data
from diffexp.training.fit import fit
from diffexp.training.module import DiffusionModule

log = logging.getLogger("diffexp")


def main(config: Config) -> None:
    """Train in a new run folder, or on in that of `ckpt=`."""
    parts = build(config)
    restored = prepare(config, parts)
    with open_folder(config, restored) as folder, StopRequest() as stop:
        train(config, parts, folder.path, restored, stop)
        console.say(f"checkpoint: {newest(folder.path)}")


def prepare(config: Config, parts: Parts) -> Restored | None:
    """Refuse what can be refused before a folder is made: device, checkpoint, data; returns the resumed checkpoint."""
    torch_device(parts.device)
    restored = None if config["ckpt"] is None else open_checkpoint(config, TRAINING)
    parts.dataset.prepare()
    if restored is not None:
        require_same_data(restored, parts.dataset.split("train").fingerprint)
    return restored


def open_folder(config: Config, restored: Restored | None, resume: bool = True) -> RunFolder:
    """The folder to write to: that of the checkpoint when it is the newest there, else a new one.

    Going on from an older checkpoint would contradict the files of the newer ones, so it starts a run of its own. A
    resumed training freezes its new configuration; other tasks leave it.
    """
    if restored is not None and restored.run is not None and newest(restored.run) == restored.path:
        return RunFolder.open(restored.run, config if resume else None)
    return RunFolder.create(config)


def train(config: Config, parts: Parts, run: Path, restored: Restored | None, stop: StopRequest) -> Path:
    """Train until the last step and return the checkpoint of it."""
    if restored is not None and restored.step >= parts.training.max_steps:
        log.info("%s has all %d steps already", restored.path, parts.training.max_steps)
        return restored.path
    network = initialised_network(parts, config["seed"])
    split = parts.dataset.split("train")
    record = {
        "config": OmegaConf.to_yaml(OmegaConf.create(dict(config))),
        "data": {**asdict(parts.data), "fingerprint": split.fingerprint},
    }
    denoiser = parts.denoiser(network)
    module = DiffusionModule(denoiser, parts.objective, parts.optimizer, parts.ema, config["seed"], record)
    start = 0 if restored is None else restored.step
    loader = make_loader(split, parts.training.batch_size, config["seed"], start, workers=parts.training.workers)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    log.info("training %s: %s parameters, %d images", config["recipe"], f"{parameters:,}", len(split))
    log.info("run folder: %s", run)
    began = time.perf_counter()
    resume = None if restored is None else restored.path
    checkpoint = fit(module, loader, parts.training, parts.device, run, stop, resume, console.interactive())
    log.info("trained to step %d in %.0f s", parts.training.max_steps, time.perf_counter() - began)
    return checkpoint
