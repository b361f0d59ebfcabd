"""task=evaluate samples=...: the distance of images that others have made, from the recipe's reference."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path

import torch

from diffexp.core.errors import ConfigError
from diffexp.dataset.split import Dataset
from diffexp.evaluation.given import KEY, Given, check_given, evaluate_given, read_given
from diffexp.evaluation.grid import draw_grid
from diffexp.evaluation.pairs import HELD_OUT, check_pairs
from diffexp.evaluation.protocol import Provenance
from diffexp.evaluation.record import picture_path, save_evaluation, save_row
from diffexp.evaluation.report import write_report
from diffexp.evaluation.results import GIVEN, RESULTS_FILE, read_rows
from diffexp.evaluation.settings import EvaluationSettings, build_settings
from diffexp.evaluation.sweep import spread
from diffexp.evaluation.table import summarise_controls
from diffexp.launch import ranks
from diffexp.launch.fingerprint import job_hash
from diffexp.launch.folder import RunFolder
from diffexp.launch.place import recipe_folder
from diffexp.launch.signals import StopRequest
from diffexp.launch.sweep import note_folder, sweep_name
from diffexp.tasks import console
from diffexp.tasks.build import Config, make, make_logger, make_node, torch_device
from diffexp.tasks.source import origin, statistics_of
from diffexp.tasks.together import heeding
from diffexp.training.mirror import Work

log = logging.getLogger("diffexp")

_NOT_MADE_HERE = "given"
"""Process, prediction and network of the rows: the recipe's had no part in these images."""


def check_task(config: Config) -> None:
    """Refuse `samples=` for a task that would not look at them: ConfigError."""
    if config.get(KEY) is not None and config["task"] != "evaluate":
        raise ConfigError(f"{KEY}={config[KEY]}: only task=evaluate scores images that are given; leave it out")


def main(config: Config) -> float | None:
    """Score the images of `samples=` and write results and report; returns their mean distance.

    Raises:
        ConfigError: a checkpoint is named too, or there are fewer images than `evaluation.n`.
        DataError: the images cannot be read, or are no images of the reference's kind.
    """
    if config["ckpt"] is not None:
        raise ConfigError(f"ckpt={config['ckpt']} beside {KEY}={config[KEY]}: images are given or made, leave one out")
    dataset, device = make(config, "dataset"), torch_device(make(config, "trainer"))
    settings = build_settings(config["evaluation"], make_node)
    make_logger(config).check()
    check_pairs(dataset, settings)
    given = read_given(config[KEY], tuple(dataset.shape))
    given.sets(settings)
    if settings.statistics is None or settings.controls:
        dataset.prepare()
    check_given(given, dataset, settings)
    with StopRequest() as stop:
        if not ranks.world().main:
            return _score(config, given, dataset, settings, device, None, stop)
        with _folder(config, given) as folder:
            return _score(config, given, dataset, settings, device, folder.path, stop)


def _folder(config: Config, given: Given) -> RunFolder:
    """The folder of these very images, whatever their path, scored like this."""
    content = given.images.fingerprint
    name = f"{_NOT_MADE_HERE}-{content.rpartition(':')[2][:8]}-{job_hash(config, content)}"
    folder = RunFolder.claim(recipe_folder(config) / name)
    if not folder.config:
        folder.freeze(config)
    note_folder(folder.path)
    return folder


def _score(
    config: Config,
    given: Given,
    dataset: Dataset,
    settings: EvaluationSettings,
    device: torch.device,
    run: Path | None,
    stop: StopRequest,
) -> float | None:
    """Every rank measures its part; rank 0, which has a folder, writes."""
    world = ranks.world()
    known = world.share([] if settings.again or not world.main else read_rows(run / RESULTS_FILE))
    began, used = time.perf_counter(), len(given.sets(settings)) * settings.n
    log.info("%s: %d images, %d of them are scored, as sets of %d", given.name, len(given.images), used, settings.n)
    with heeding():
        found = evaluate_given(
            given,
            dataset,
            settings,
            provenance(config, given, device),
            device,
            on_batch=lambda images: stop.check("while evaluating; the same command goes on with it"),
            known=known,
            on_row=partial(save_row, run) if world.main else None,
            here=world,
        )
    ranks.leave()
    if not world.main:
        return None
    save_evaluation(run, found)
    pictures = [_draw(given, dataset, settings, run)] if settings.grid_images else []
    rows = [*found.kept, *found.rows]
    with make_logger(config).open(Work(run, "eval", config, 0, sweep_name())) as mirror:
        mirror.results(rows, pictures)
    report = write_report(run)
    log.info("evaluated in %.0f s", time.perf_counter() - began)
    console.say(f"report: {report}")
    own = [summary for summary in summarise_controls(rows) if summary.label.startswith(GIVEN)]
    return own[0].mean if own else None


def _draw(given: Given, dataset: Dataset, settings: EvaluationSettings, run: Path) -> Path:
    """The first images beside held-out ones."""
    rows = [("given", given.images.images(range(settings.grid_images)))]
    if settings.controls:
        rows.append(("real", spread(dataset.split(HELD_OUT), settings.grid_images)))
    path = picture_path(run, _NOT_MADE_HERE)
    draw_grid(rows, path, given.name)
    return path


def provenance(config: Config, given: Given, device: torch.device) -> Provenance:
    """What names the rows: the images by their content, and nothing of the recipe's model."""
    return Provenance(
        experiment=config["recipe"],
        process=_NOT_MADE_HERE,
        prediction=_NOT_MADE_HERE,
        network=_NOT_MADE_HERE,
        checkpoint=f"{given.name} {given.images.fingerprint}",
        precision=f"bytes of {given.kind}; who made them, from what and how they were rounded is not on record",
        statistics=statistics_of(config),
        **origin(device),
    )
