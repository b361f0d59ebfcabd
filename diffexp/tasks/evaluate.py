"""task=evaluate: distances of a checkpoint's samples at the recipe's NFE budgets."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diffexp.core.errors import ConfigError, nearest
from diffexp.dataset.split import conditions_of
from diffexp.evaluation.neighbours import save_neighbours
from diffexp.evaluation.pairs import check_pairs
from diffexp.evaluation.record import save_evaluation, save_row
from diffexp.evaluation.report import write_report
from diffexp.evaluation.results import RESULTS_FILE, Row, read_rows
from diffexp.evaluation.selection import Bench, tuned
from diffexp.evaluation.settings import Arm, EvaluationSettings, at_own_steps, build_settings
from diffexp.evaluation.sweep import check, evaluate
from diffexp.evaluation.table import best_of, summarise_arms
from diffexp.launch import ranks
from diffexp.launch.signals import StopRequest
from diffexp.launch.sweep import sweep_name
from diffexp.tasks import console
from diffexp.tasks.arms import arms_of, schedules_of
from diffexp.tasks.build import Config, Parts, build, check_device, make_logger, make_node
from diffexp.tasks.conditions import conditioner_of
from diffexp.tasks.restore import Restored, student_steps
from diffexp.tasks.source import make_source, open_checkpoint_or_oracle, open_folder
from diffexp.tasks.together import PREEMPTED, assist, heeding, lead
from diffexp.training.mirror import Work

log = logging.getLogger("diffexp")


@dataclass(frozen=True)
class Plan:
    """What will be evaluated, checked.

    Attributes:
        arms, settings: see `evaluation.settings`.
        missing: names of arms that wait for the schedules of a search.
    """

    arms: list[Arm]
    settings: EvaluationSettings
    missing: tuple[str, ...] = ()


def main(config: Config) -> float | None:
    """Evaluate `ckpt=`, or the oracle that stands in the place of a network, and write the report."""
    parts = build(config)
    if not ranks.world().main:
        return assist(config, parts)
    make_logger(config).check()
    restored = open_checkpoint_or_oracle(config, parts)
    plan = plan_evaluation(config, parts, restored)
    if plan.missing:
        log.warning("left out, as there are no schedules yet: %s; %s", ", ".join(plan.missing), _FINDS)
    parts.dataset.prepare()
    check(plan.arms, parts.meta_denoiser(), parts.dataset, plan.settings)
    with open_folder(config, restored) as folder, StopRequest() as stop:
        return run_evaluation(config, parts, plan, restored, folder.path, stop)


_FINDS = "task=search ckpt=... finds them"


def plan_evaluation(
    config: Config, parts: Parts, restored: Restored | None = None, schedules: Path | None = None
) -> Plan:
    """Samplers, budgets, settings and device; everything that can be refused without data.

    Args:
        restored: the checkpoint that is to be evaluated, whose averages count; None: one that `parts` will train.
        schedules: what a search has found; None: what lies in the checkpoint's run folder, if anything does.

    Raises:
        ConfigError: for what cannot be evaluated so.
    """
    check_device(parts)
    profiles = parts.ema.profiles if restored is None else restored.state["ema"]["profiles"]
    _check_profile(config["evaluation"]["ema"], profiles if parts.trainable else ())
    settings = build_settings(config["evaluation"], make_node)
    arms, missing = arms_of(config, schedules or schedules_of(restored))
    steps = student_steps(config if restored is None else restored.config)
    if steps is not None and not settings.allow_off_grid:
        arms = at_own_steps(arms, steps, settings.nfe is not None)
    plan = Plan(arms, settings, tuple(missing))
    check_pairs(parts.dataset, plan.settings)
    for arm in plan.arms:
        arm.sampler.check(parts.gives)
        arm.sampler.check_conditions(parts.process, conditions_of(parts.dataset))
        for nfe in arm.feasible(plan.settings.nfe_policy):
            arm.sampler.times(parts.process, nfe)
    return plan


def _check_profile(name: str | None, profiles: Iterable[str]) -> None:
    choices = [*profiles, "none"]
    if name is not None and name not in choices:
        raise ConfigError(f"evaluation.ema={name}: there is no such average; {nearest(name, choices)}")


def run_evaluation(
    config: Config, parts: Parts, plan: Plan, restored: Restored | None, run: Path, stop: StopRequest
) -> float | None:
    """Evaluate into `run` and return the best mean, see `best`; on rank 0, the others `assist`."""
    source = make_source(config, parts, restored)
    began, conditioner = time.perf_counter(), conditioner_of(parts, plan.settings)

    def on_batch(images: int) -> None:
        stop.check(PREEMPTED)

    names, settings = source.provenance, plan.settings
    bench = Bench(source.denoiser, parts.dataset, settings, names.checkpoint, conditioner, source.device, on_batch)
    arms = tuned(plan.arms, run, bench)
    known = [] if settings.again else read_rows(run / RESULTS_FILE)
    lead(arms, restored, run, known)
    with heeding():
        found = evaluate(
            arms,
            source.denoiser,
            parts.dataset,
            settings,
            names,
            conditioner,
            source.device,
            on_batch=on_batch,
            known=known,
            on_row=partial(save_row, run),
            here=ranks.world(),
        )
    ranks.leave()
    pictures = save_evaluation(run, found)
    save_neighbours(run, found, parts.dataset, settings, source.device, on_batch)
    step = 0 if restored is None else restored.step
    with make_logger(config).open(Work(run, "eval", config, step, sweep_name())) as mirror:
        mirror.results([*found.kept, *found.rows], pictures)
    report = write_report(run)
    log.info("evaluated in %.0f s", time.perf_counter() - began)
    console.say(f"report: {report}")
    return best([*found.kept, *found.rows])


def best(rows: Iterable[Row]) -> float | None:
    """The best mean of the first metric (the distance, where there is one) among samplers; None without any."""
    arms = summarise_arms(rows)
    found = best_of(arm for arm in arms if arm.metric == arms[0].metric)
    return None if found is None else found.mean
