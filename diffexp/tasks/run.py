"""task=run: train, evaluate at the recipe's budgets, report; what can be refused is refused before the first step."""

from __future__ import annotations

import logging

from diffexp.evaluation.pending import complete_rows
from diffexp.evaluation.report import REPORT_FILE
from diffexp.evaluation.results import Row
from diffexp.evaluation.sweep import check
from diffexp.launch import ranks
from diffexp.launch.fingerprint import MODEL
from diffexp.launch.folder import read_status
from diffexp.launch.place import Names, Place
from diffexp.launch.signals import StopRequest
from diffexp.launch.sweep import note_folder
from diffexp.tasks import console, evaluate
from diffexp.tasks.build import Config, Parts, build
from diffexp.tasks.dashboard import show_finished
from diffexp.tasks.evaluate import Plan, best, plan_evaluation, run_evaluation
from diffexp.tasks.restore import Restored, read_checkpoint, warn_of_revision
from diffexp.tasks.source import expected, open_folder
from diffexp.tasks.teacher import with_teacher
from diffexp.tasks.train import names_of, obtain, prepare

log = logging.getLogger("diffexp")


def main(config: Config) -> float | None:
    """Train (or go on from `ckpt=`), then evaluate; returns the smallest mean distance.

    What an earlier command has done of it is not done again.
    """
    parts = build(config)
    if not parts.trainable:
        ranks.leave()
        return evaluate.main(config) if ranks.world().main else None
    plan = plan_evaluation(config, parts)
    config, parts = with_teacher(config, parts)
    start = prepare(config, parts)
    check(plan.arms, parts.meta_denoiser(), parts.dataset, plan.settings)
    names = names_of(config, parts, start)
    if names is None:
        return _evaluate_only(config, parts, plan, start)
    rows = _done(config, parts, plan, names) if ranks.world().main else None
    if ranks.world().share(rows is not None):
        return best(rows) if rows else None
    with StopRequest() as stop, Place(names, config) as place:
        checkpoint = obtain(config, parts, start, place, stop)
        if checkpoint is None:
            return None
        folder = place.home
        if folder.path != names.training:
            folder.refer(names.training, checkpoint)
        trained = read_checkpoint(config, names.training, checkpoint, MODEL)
        warn_of_revision(trained)
        return run_evaluation(config, parts, plan, trained, folder.path, stop)


def _done(config: Config, parts: Parts, plan: Plan, names: Names) -> list[Row] | None:
    """The rows of this job, when an earlier command has done all of it; says where its report is."""
    home, checkpoint = names.home(), names.complete()
    if home is None or checkpoint is None or read_status(home).get("state") != "ok":
        return None
    rows = complete_rows(home, plan.arms, plan.settings, parts.dataset, expected(config, parts, checkpoint))
    if rows is not None:
        note_folder(home)
        show_finished(config, checkpoint, home, rows)
        console.say(f"complete already, nothing to do\nreport: {home / REPORT_FILE}")
    return rows


def _evaluate_only(config: Config, parts: Parts, plan: Plan, start: Restored) -> float | None:
    """Evaluate a checkpoint of another training, which has all the steps that were asked for."""
    ranks.leave()
    if not ranks.world().main:
        return None
    log.info("%s has all %d steps already", start.path, parts.training.max_steps)
    with open_folder(config, start) as folder, StopRequest() as stop:
        return run_evaluation(config, parts, plan, start, folder.path, stop)
