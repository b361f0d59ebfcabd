"""task=search: from a trained schedule network to the best schedule of each number of steps, in a file of the run.

search.jsonl     every schedule that was made, with what the judge said: a stopped search asks nothing twice
schedules.json   the best of each number of steps, for `grid=file` and the arms with `nfe: searched`
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.core.precision import exact_float32
from diffexp.distillation.bilateral.journal import JOURNAL_FILE, Journal
from diffexp.distillation.bilateral.method import Bilateral
from diffexp.distillation.bilateral.scheduled import Scheduled
from diffexp.distillation.bilateral.scheduling import Mode, Start, noise_schedule, smallest_beta
from diffexp.distillation.bilateral.score import Score
from diffexp.distillation.bilateral.search import Assessment, Buckets, keyed_shares, search, starts
from diffexp.distillation.bilateral.settings import SearchSettings
from diffexp.evaluation.judge import Judge, check_judge, judges
from diffexp.evaluation.metric import meaning
from diffexp.evaluation.settings import EvaluationSettings, build_settings
from diffexp.launch.compose import config_hash
from diffexp.launch.signals import StopRequest
from diffexp.prediction.conditions import NO_CONDITIONS
from diffexp.sampler.noise import KeyedNoise
from diffexp.sampler.schedule_file import NAME, Schedule, ScheduleFile, read_schedules, write_schedules
from diffexp.tasks import console
from diffexp.tasks.build import Config, Parts, build, check_device, make_node
from diffexp.tasks.conditions import conditioner_of
from diffexp.tasks.progress import Progress
from diffexp.tasks.restore import Restored, open_checkpoint, warn_of_data
from diffexp.tasks.source import Source, make_source, open_folder
from diffexp.tasks.teacher import hash_of

log = logging.getLogger("diffexp")


@dataclass(frozen=True)
class Plan:
    """What will be searched, checked.

    Attributes:
        settings: of the search.
        report: of the evaluation, whose features and bytes the judge takes.
        grid: the starts.
        times: T, of the table or on a process without one.
        floor: the smallest step.
    """

    settings: SearchSettings
    report: EvaluationSettings
    grid: list[Start]
    times: int
    floor: float


def main(config: Config) -> None:
    """Search with the network of `ckpt=`, and write its schedules into the run's folder."""
    parts = build(config)
    plan = plan_search(config, parts)
    if plan is None:
        raise ConfigError("task=search: this recipe has no search: choose search=default and distillation=bilateral")
    check_device(parts)
    restored = open_checkpoint(config)
    warn_of_data(restored, config)
    parts.dataset.prepare()
    check_judge(plan.settings, plan.report, parts.dataset)
    with open_folder(config, restored) as folder, StopRequest() as stop:
        path = find_schedules(config, parts, plan, restored, folder.path, stop)
        console.say(f"schedules: {path}")


def plan_search(config: Config, parts: Parts) -> Plan | None:
    """What a configuration searches; None for one that has no schedule network, or `search=none`.

    Raises:
        ConfigError: a search without a schedule network, or for a value out of range.
    """
    if not config.get("search"):
        return None
    method = parts.distillation
    if not isinstance(method, Bilateral):
        raise ConfigError("search: has no effect without a schedule network: add distillation=bilateral or search=none")
    settings: SearchSettings = make_node(config["search"], "search")
    report = build_settings(config["evaluation"], make_node)
    times = parts.process.num_steps or method.times
    floor = settings.floor or smallest_beta(parts.process, times)
    named = settings.starts
    grid = starts(parts.process, settings.bins, times) if named is None else [Start(*pair) for pair in named]
    return Plan(settings, report, grid, times, floor)


def searched_already(config: Config, parts: Parts, plan: Plan, checkpoint: str, folder: Path) -> Path | None:
    """The schedules of a folder, when they are those of this very search with these weights; None when they are not.

    Args:
        config, parts, plan: of the search.
        checkpoint: the name of the weights, see `Provenance.checkpoint`.
        folder: a run folder.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    judge = read_schedules(path).judge
    same = judge.get("search") == _whole_key(config, parts, plan) and judge.get("checkpoint") == checkpoint
    return path if same else None


def find_schedules(
    config: Config, parts: Parts, plan: Plan, restored: Restored, folder: Path, stop: StopRequest
) -> Path:
    """Search, unless that has been done, and write the schedules into `folder`; returns their file.

    Raises:
        PreemptedError: a signal came; what was found out so far is kept.
    """
    source = make_source(config, parts, restored)
    name = source.provenance.checkpoint
    known = searched_already(config, parts, plan, name, folder)
    if known is not None:
        log.info("searched already: %s", known)
        return known
    began = time.perf_counter()
    seeker = _Seeker(config, parts, plan, source, folder / JOURNAL_FILE, stop)
    buckets = seeker.search()
    judge = {**seeker.told(), "checkpoint": name, "search": _whole_key(config, parts, plan)}
    found = ScheduleFile(
        config["choices"]["process"], tuple(_kept(best, seeker.metrics) for best in buckets.best.values()), judge,
        f"{config['recipe']}, {name}",
    )  # fmt: skip
    write_schedules(folder / NAME, found)
    console.say(_table(buckets, seeker.metrics))
    console.say(seeker.bill())
    log.info("searched in %.0f s", time.perf_counter() - began)
    return folder / NAME


class _Seeker:
    """One search: makes schedules, has them judged, and notes both with what they cost."""

    def __init__(self, config: Config, parts: Parts, plan: Plan, source: Source, path: Path, stop: StopRequest) -> None:
        settings, network = plan.settings, source.denoiser.network
        if not isinstance(network, Scheduled):
            raise ConfigError(f"search: the network of {source.provenance.checkpoint} has no schedule network")
        self._parts, self._plan, self._source, self._stop = parts, plan, source, stop
        self._score, self._network = Score(source.denoiser), network.schedule
        self._conditioner = conditioner_of(parts, plan.report)
        gauges = judges(settings, plan.report, parts.dataset, source.device)
        self._judge = Judge(
            gauges, source.denoiser, parts.data.shape, settings, plan.report, self._conditioner, source.device,
            lambda images: stop.check(_WHERE),
        )  # fmt: skip
        self._journal = Journal(path, _line_key(config, parts, plan, hash_of(network), self._judge))
        self._protocols = [gauge.protocol for gauge in gauges]
        self._progress = Progress("schedules", console.interactive())
        self._made = self._judged = self._distinct = 0
        self._seen: set[tuple[float, ...]] = set()

    @property
    def metrics(self) -> list[str]:
        """Names of the scores."""
        return self._judge.metrics

    def search(self) -> Buckets:
        """The best schedule of each number of steps."""
        settings = self._plan.settings
        with self._progress:
            return search(
                self._plan.grid, self._make, self._ask, settings.attempts, keyed_shares(settings.seeds[0]),
                settings.rounded, self._note, settings.modes, settings.caps[:-1], self._progress.begin, fitting=True,
            )  # fmt: skip

    def _make(self, start: Start, mode: Mode) -> Tensor:
        """The betas of a start."""
        self._progress.advance()
        known = self._journal.schedule(start, mode)
        if known is not None:
            return known
        self._stop.check(_WHERE)
        start.check()
        settings, device, before = self._plan.settings, self._source.device, self._score.denoiser.evaluations
        indices = range(settings.n, settings.n + settings.batch)  # beside the images that judge
        shape = self._parts.process.state_shape(self._parts.data.shape)
        noise = KeyedNoise(settings.seeds[0], indices, shape, device=device)
        given = NO_CONDITIONS if self._conditioner is None else self._conditioner(settings.seeds[0], indices)
        with exact_float32():
            betas = noise_schedule(
                self._score, self._network, noise, start, settings.caps[-1], self._plan.floor, mode,
                conditions=given.to(device),
            )  # fmt: skip
        self._made += self._score.denoiser.evaluations - before
        return betas

    def _ask(self, betas: Tensor) -> tuple[float, ...]:
        """What the judge says of betas."""
        known = self._journal.scores(betas)
        if known is not None:
            return known
        before = self._score.denoiser.evaluations
        scores = self._judge(betas)
        self._judged += self._score.denoiser.evaluations - before
        return scores

    def _note(self, found: Assessment) -> None:
        self._journal.note(found, self._made, self._judged)
        self._made = self._judged = 0
        self._seen.add(tuple(found.betas.tolist()))

    def told(self) -> dict[str, Any]:
        """How schedules were judged, and what that has cost, for their file."""
        settings, first = self._plan.settings, self._protocols[0]
        return {
            "metrics": self.metrics,
            "n": settings.n,
            "seeds": settings.seeds,
            "reference": f"{first.dataset}, split {first.split}",
            "sampler": settings.sampler + (" (clip)" if settings.clip else ""),
            "schedules": len(self._seen),
            "evaluations": {"making": self._journal.made, "judging": self._journal.judged},
        }

    def bill(self) -> str:
        """What the search has cost, for a person."""
        made, judged, n, times = self._journal.made, self._journal.judged, self._plan.report.n, self._plan.times
        times_over = (made + judged) / (n * times)
        return (
            f"cost of the search: {made:,} evaluations to make schedules and {judged:,} to judge {len(self._seen):,} "
            f"different ones, as many as sampling {n:,} images {times_over:.2g} times with all {times:,} steps"
        )


_WHERE = "while searching; the same command goes on with it"


def _line_key(config: Config, parts: Parts, plan: Plan, weights: str, judge: Judge) -> str:
    """What a schedule and its scores depend on beside its start: not how many starts there are."""
    settings = plan.settings
    made = {"cap": settings.caps[-1], "floor": plan.floor, "batch": settings.batch, "seeds": settings.seeds}
    judged = {"n": settings.n, "sampler": settings.sampler, "clip": settings.clip}
    judged["protocols"] = [gauge.protocol.hash for gauge in judge.gauges]
    model = {"weights": weights, "process": config["process"], "prediction": config["prediction"]}
    return config_hash({**model, **made, **judged})


def _whole_key(config: Config, parts: Parts, plan: Plan) -> str:
    """What the schedules of a search depend on beside the weights; which of them are shown is nothing of that."""
    settings = {key: value for key, value in vars(plan.settings).items() if key != "shown"}
    protocols = [gauge.protocol.hash for gauge in judges(plan.settings, plan.report, parts.dataset)]
    return config_hash({"settings": settings, "protocols": protocols, "floor": plan.floor})


def _kept(best: Assessment, metrics: list[str]) -> Schedule:
    """A bucket as the file holds it: scores as the metrics mean them."""
    start = {"alpha": best.start.alpha, "beta": best.start.beta}
    return Schedule(tuple(best.betas.tolist()), start, best.mode, _values(best, metrics))


def _values(found: Assessment, metrics: list[str]) -> dict[str, float]:
    """The scores with the signs of their metrics."""
    return {name: score if meaning(name).higher else -score for name, score in zip(metrics, found.scores, strict=True)}


def _table(buckets: Buckets, metrics: list[str]) -> str:
    """A line for each number of steps."""
    lines = [f"{'steps':>7}  {'alpha_N':>8}  {'beta_N':>8}  steps of  " + "  ".join(metrics)]
    for steps, best in sorted(buckets.best.items()):
        scores = "  ".join(
            meaning(name).spell(value).rjust(len(name)) for name, value in _values(best, metrics).items()
        )
        lines.append(f"{steps:>7}  {best.start.alpha:>8.4f}  {best.start.beta:>8.4f}  {best.mode:<8}  {scores}")
    return "\n".join(lines)
