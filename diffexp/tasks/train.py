"""task=train: from a configuration to a checkpoint, or on from one; the same training is never done twice."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from pathlib import Path

from omegaconf import OmegaConf
from torch import nn

from diffexp.core.errors import ConfigError
from diffexp.core.files import write_bytes_atomic
from diffexp.dataset.loader import make_loader
from diffexp.distillation.base import Loss
from diffexp.launch import ranks
from diffexp.launch.find import newest
from diffexp.launch.fingerprint import TRAINING, training_fingerprint
from diffexp.launch.folder import load_frozen, revision
from diffexp.launch.place import Names, Place
from diffexp.launch.signals import StopRequest
from diffexp.launch.sweep import note_folder, sweep_name
from diffexp.objective.base import Objective
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.tasks import console
from diffexp.tasks.build import Config, Parts, build, check_device, initialised_network, make_logger
from diffexp.tasks.dashboard import show_finished
from diffexp.tasks.restore import Restored, open_checkpoint, require_same_data, resume_newest, warn_of_revision
from diffexp.tasks.teacher import with_teacher

log = logging.getLogger("diffexp")

POLL = 0.5  # seconds between two looks at another command's training


def main(config: Config) -> None:
    """Train, unless that has been done; `ckpt=` names where to go on from."""
    parts = build(config)
    if parts.trainable:
        config, parts = with_teacher(config, parts)
    start = prepare(config, parts)
    names = names_of(config, parts, start)
    if names is None or ranks.world().share(names.complete() is not None):
        if ranks.world().main:
            checkpoint = start.path if names is None else names.complete()
            note_folder(checkpoint.parent.parent)
            show_finished(config, checkpoint)
            console.say(f"complete already, nothing to train\ncheckpoint: {checkpoint}")
        return
    with StopRequest() as stop, Place(names, config, evaluates=False) as place:
        checkpoint = obtain(config, parts, start, place, stop)
        ranks.leave()
        if checkpoint is not None:
            console.say(f"checkpoint: {checkpoint}")


def prepare(config: Config, parts: Parts) -> Restored | None:
    """Refuse what can be refused before a folder is made: device, checkpoint, data; returns the resumed checkpoint."""
    if not parts.trainable:
        chosen = config["choices"]["network"]
        raise ConfigError(f"network={chosen}: there is nothing to train; use task=evaluate or task=sample")
    check_device(parts)
    make_logger(config).check()
    parts.objective.prepare(parts.data.shape)
    restored = None if config["ckpt"] is None else open_checkpoint(config, TRAINING)
    world = ranks.world()
    if world.main:  # alone first: it may download
        parts.dataset.prepare()
    world.barrier()
    parts.dataset.prepare()
    if restored is not None:
        require_same_data(restored, parts.dataset.split("train").fingerprint)
    return restored


def names_of(config: Config, parts: Parts, start: Restored | None) -> Names | None:
    """The folders of a training, which may go on from `start`; None when `start` is another that has all steps already.

    A checkpoint of this very training goes on in its own folder, unless newer ones in there would contradict it: then
    a folder of its own is used.
    """
    data = parts.dataset.split("train").fingerprint
    names = Names.of(config, data)
    if start is None:
        return names
    if start.run is not None and training_fingerprint(load_frozen(start.run), data) == names.training.name:
        newer = newest(start.run) != start.path
        return names.branch(config, start.path) if newer else names.trained_in(start.path.parent.parent)
    return None if start.step >= names.steps else names


def obtain(config: Config, parts: Parts, start: Restored | None, place: Place, stop: StopRequest) -> Path | None:
    """The complete training of a job: found, waited for, or done here, by all ranks together.

    Returns:
        the last checkpoint, on rank 0; there, `place.home` is held. None on other ranks.

    Raises:
        PreemptedError: a signal came, and what was done is saved.
        LockedError: the same job runs already.
    """
    world = ranks.world()
    if _turn(place, stop) == "train":
        data = parts.dataset.split("train").fingerprint
        folder, resume = world.share(_resume(config, place, start, data) if world.main else ("", None))
        ranks.log_to(Path(folder))
        train(config, parts, Path(folder), resume, stop)
        if world.main:
            place.give_back()
    elif world.main:
        log.info("trained already: %s", place.names.complete())
    return place.names.complete() if world.main else None


def _turn(place: Place, stop: StopRequest) -> str:
    """Wait until this job may train ("train") or need not any more ("trained"); the same answer on every rank."""
    world, announced = ranks.world(), ""
    while True:
        turn = world.share(_advance(place) if world.main else None)
        if turn is not None:
            return turn
        if place.waiting != announced:
            announced = place.waiting
            log.info("waiting for the training that another command does: %s", announced)
        time.sleep(POLL)
        stop.received = world.largest(stop.received or 0) or None
        stop.check("while waiting for another command's training")


def _advance(place: Place) -> str | None:
    """`place.advance`; a sweep hears of the job's folder as soon as there is one."""
    known = place.home
    turn = place.advance()
    if place.home is not known:
        note_folder(place.home.path)
    return turn


def _resume(config: Config, place: Place, start: Restored | None, data: str) -> tuple[str, tuple[str, int] | None]:
    """(folder of the training, (checkpoint, its step) or None), on rank 0."""
    run = place.training.path
    log.info("run folder: %s", place.home.path)
    resume = resume_newest(config, run, start, data)
    if resume is None:
        return str(run), None
    warn_of_revision(resume)
    log.info("going on from step %d: %s", resume.step, resume.path)
    _take_metrics(resume.run, run)
    return str(run), (str(resume.path), resume.step)


def _take_metrics(source: Path | None, run: Path) -> None:
    """The first part of a training that began in another folder: its metrics belong to this one too."""
    name = "metrics.jsonl"
    if source is not None and (source / name).is_file() and not (run / name).exists():
        write_bytes_atomic(run / name, (source / name).read_bytes())


def first_network(parts: Parts, seed: int) -> nn.Module:
    """The network that a training begins with: initialised by `seed`, or the teacher's weights."""
    network = initialised_network(parts, seed)
    if parts.teacher is not None and parts.distillation is not None and parts.distillation.initialise:
        parts.distillation.start(network, parts.teacher)
    return network


def loss_of(parts: Parts, network: nn.Module) -> Objective | Loss:
    """What is minimised: the distillation's loss, or the objective."""
    method = parts.distillation
    if method is None:
        return parts.objective
    teacher = None
    if parts.teacher is not None:
        head = parts.teacher_head or method.teacher_head(parts.head)
        teacher = NetworkDenoiser(parts.teacher, head, parts.process)
    return method.loss(parts.denoiser(network), teacher, parts.objective, parts.training.max_steps)


def train(config: Config, parts: Parts, run: Path, resume: tuple[str, int] | None, stop: StopRequest) -> None:
    """Train until the last step, in every rank; rank 0 writes into `run`."""
    from diffexp.training.compile import compile_in_place
    from diffexp.training.fit import fit  # seconds of imports, which a finished training does not need
    from diffexp.training.mirror import Work
    from diffexp.training.module import DiffusionModule

    world, seed = ranks.world(), config["seed"]
    network = first_network(parts, seed)
    objective = loss_of(parts, network)
    if parts.device.compile:
        for compiled in (network, *objective.networks()):
            compile_in_place(compiled)
    split = parts.dataset.split("train")
    record = {
        "config": OmegaConf.to_yaml(OmegaConf.create(dict(config))),
        "data": {**asdict(parts.data), "fingerprint": split.fingerprint},
        "revision": revision(),
    }
    module = DiffusionModule(parts.denoiser(network), objective, parts.optimizer, parts.ema, seed, record)
    path, step = (None, 0) if resume is None else (Path(resume[0]), resume[1])
    size, workers = parts.training.batch_size, parts.training.workers
    loader = make_loader(split, size, seed, step, world.rank, world.size, workers)
    if world.main:
        log.info("training %s: %s, %d images", config["recipe"], console.size_of(network), len(split))
    began = time.perf_counter()
    with make_logger(config).open(Work(run, "train", config, step, sweep_name())) as mirror:
        fit(module, loader, parts.training, parts.device, run, stop, path, console.interactive(), mirror.line)
    log.info("trained to step %d in %.0f s", parts.training.max_steps, time.perf_counter() - began)
