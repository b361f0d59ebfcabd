"""task=run: train, search for schedules where that belongs to the recipe, evaluate at its budgets, report.

What can be refused is refused before the first step.
"""

from __future__ import annotations

import logging
from pathlib import Path

from diffexp.core.errors import ConfigError
from diffexp.evaluation.judge import check_judge
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
from diffexp.tasks.search import Plan as Sought
from diffexp.tasks.search import find_schedules, plan_search, searched_already
from diffexp.tasks.source import expected, open_folder
from diffexp.tasks.teacher import with_teacher
from diffexp.tasks.together import assist
from diffexp.tasks.train import names_of, obtain, prepare

log = logging.getLogger("diffexp")


def main(config: Config) -> float | None:
    """Train (or go on from `ckpt=`), then evaluate; returns the smallest mean distance.

    What an earlier command has done of it is not done again.
    """
    parts = build(config)
    if not parts.trainable:
        return evaluate.main(config)
    plan, sought = plan_evaluation(config, parts), plan_search(config, parts)
    _require_search(plan, sought)
    config, parts = with_teacher(config, parts)
    start = prepare(config, parts)
    if plan.arms or not plan.missing:
        check(plan.arms, parts.meta_denoiser(), parts.dataset, plan.settings)
    if sought is not None:
        check_judge(sought.settings, plan.settings, parts.dataset)
    names = names_of(config, parts, start)
    if names is None:
        return _evaluate_only(config, parts, plan, start, sought)
    rows = _done(config, parts, plan, names, sought) if ranks.world().main else None
    if ranks.world().share(rows is not None):
        return best(rows) if rows else None
    with StopRequest() as stop, Place(names, config) as place:
        checkpoint = obtain(config, parts, start, place, stop)
        if not ranks.world().main:
            return assist(config, parts, trained_here=True)
        folder = place.home
        if folder.path != names.training:
            folder.refer(names.training, checkpoint)
        trained = read_checkpoint(config, names.training, checkpoint, MODEL)
        warn_of_revision(trained)
        return _evaluate(config, parts, plan, trained, folder.path, stop, sought)


def _require_search(plan: Plan, sought: Sought | None) -> None:
    """Refuse arms that wait for schedules which nobody will search."""
    if plan.missing and sought is None:
        raise ConfigError(
            f"evaluation.arms.{plan.missing[0]}: needs the schedules of a search, and there is none: choose "
            "search=default, or name budgets and a grid of its own"
        )


def _evaluate(
    config: Config, parts: Parts, plan: Plan, trained: Restored, folder: Path, stop: StopRequest, sought: Sought | None
) -> float | None:
    """Search for schedules, where that belongs to it, and evaluate into `folder`."""
    if sought is not None:
        schedules = find_schedules(config, parts, sought, trained, folder, stop)
        plan = plan_evaluation(config, parts, None, schedules)
    return run_evaluation(config, parts, plan, trained, folder, stop)


def _done(config: Config, parts: Parts, plan: Plan, names: Names, sought: Sought | None) -> list[Row] | None:
    """The rows of this job, when an earlier command has done all of it; says where its report is."""
    home, checkpoint = names.home(), names.complete()
    if home is None or checkpoint is None or read_status(home).get("state") != "ok":
        return None
    named = expected(config, parts, checkpoint)
    if sought is not None:
        schedules = searched_already(config, parts, sought, named.checkpoint, home)
        if schedules is None:
            return None
        plan = plan_evaluation(config, parts, None, schedules)
    rows = complete_rows(home, plan.arms, plan.settings, parts.dataset, named)
    if rows is not None:
        note_folder(home)
        show_finished(config, checkpoint, home, rows)
        console.say(f"complete already, nothing to do\nreport: {home / REPORT_FILE}")
    return rows


def _evaluate_only(config: Config, parts: Parts, plan: Plan, start: Restored, sought: Sought | None) -> float | None:
    """Evaluate a checkpoint of another training, which has all the steps that were asked for."""
    if not ranks.world().main:
        return assist(config, parts)
    log.info("%s has all %d steps already", start.path, parts.training.max_steps)
    with open_folder(config, start) as folder, StopRequest() as stop:
        return _evaluate(config, parts, plan, start, folder.path, stop, sought)
