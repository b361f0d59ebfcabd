"""Dashboards: TensorBoard and Weights & Biases (W&B) as mirrors of a run folder, see `mirror`.

A mirror that is opened again first repeats the lines of metrics.jsonl that it does not have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffexp.core.errors import ConfigError, DiffexpError, PreemptedError
from diffexp.core.files import write_json_atomic
from diffexp.evaluation.markdown import text_table
from diffexp.evaluation.metric import meaning
from diffexp.evaluation.results import Row
from diffexp.evaluation.table import Summary, summarise_arms
from diffexp.training.mirror import COLUMNS, Mirror, Several, Work, pixels, require, table

IDENTITIES = "wandb.json"
"""In the run folder: kind of work -> id of its W&B run, so that a resumed job goes on in the same one."""

_AXIS = "trainer/step"
NFE = "nfe"
"""The axis of distances in W&B: counted network evaluations for each image."""


def by_nfe(metric: str, label: str) -> str:
    """What W&B calls the means of an arm, over the axis `NFE`."""
    return f"by_nfe/{metric}/{label}"


class NoLogger:
    """The run folder alone."""

    def check(self) -> None:
        """Nothing is needed."""

    def knows(self, work: Work) -> bool:
        """There is nothing to show."""
        return True

    def open(self, work: Work) -> Mirror:
        """A mirror that shows nothing."""
        return Mirror()


class TensorBoard:
    """Event files in the run folder: `tensorboard --logdir runs` shows all runs."""

    def check(self) -> None:
        """Raise ConfigError when TensorBoard is not installed."""
        require("tensorboard", "tensorboard")

    def knows(self, work: Work) -> bool:
        """Whether there are event files."""
        return _event_files(work).is_dir()

    def open(self, work: Work) -> Mirror:
        """Begin new event files, which replace what earlier ones of this work showed."""
        return _TensorBoardMirror(work)


def _event_files(work: Work) -> Path:
    return work.run / "tensorboard" / work.kind


class _TensorBoardMirror(Mirror):
    """Scalars by step, and distances with the NFE as their step."""

    def __init__(self, work: Work) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._work = work
        # "Purge from step 0": TensorBoard drops the points of older files, so steps that are repeated appear once.
        self._writer = SummaryWriter(str(_event_files(work)), purge_step=0)
        for line in work.lines():
            self.line(line)

    def _line(self, line: Mapping[str, float]) -> None:
        for name, value in line.items():
            if name != "step":
                self._writer.add_scalar(f"train/{name}", value, int(line["step"]))

    def _results(self, rows: Sequence[Row], pictures: Sequence[Path]) -> None:
        for arm in summarise_arms(rows):
            self._writer.add_scalar(f"{arm.metric} by NFE/{arm.label}", arm.mean, arm.nfe)
        if rows:
            cells = [["" if cell is None else str(cell) for cell in row] for row in table(rows)]
            self._writer.add_text("results", text_table(COLUMNS, cells), self._work.step)
        for path in pictures:
            self._writer.add_image(path.stem, pixels(path), self._work.step, dataformats="HWC")

    def _close(self, error: BaseException | None) -> None:
        self._writer.close()


@dataclass(frozen=True)
class WandB:
    """A W&B run for each training and each evaluation; its files lie in the run folder.

    Args:
        project: W&B's project.
        entity: user or team; null: W&B's default.
        group: what the dashboard folds together; null: the sweep, or the run folder with its evaluation.
        tags: words to find the run by.
        mode: "offline" sends nothing until `wandb sync`; null: what W&B's own settings say (WANDB_MODE).
    """

    project: str = "diffexp"
    entity: str | None = None
    group: str | None = None
    tags: list[str] | None = None
    mode: Literal["online", "offline"] | None = None

    def check(self) -> None:
        """Raise ConfigError when W&B is not installed, or nobody is logged in to it. At a terminal it asks."""
        require("wandb", "wandb")
        if self.offline:
            return
        import wandb

        try:
            wandb.login()
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"logger=wandb: {reason} Or use logger.mode=offline") from error

    @property
    def offline(self) -> bool:
        """Whether nothing is sent, by `mode` or by what W&B's own settings say."""
        import wandb

        return (self.mode or wandb.setup().settings.mode) != "online"

    def knows(self, work: Work) -> bool:
        """Whether it has a W&B run."""
        return work.kind in _identities(work)

    def open(self, work: Work) -> Mirror:
        """Start a W&B run, or go on with that of the run folder.

        Raises:
            DiffexpError: W&B refuses, or cannot be reached.
        """
        return _WandBMirror(self, work)


class _WandBMirror(Mirror):
    """A W&B run whose axis is the optimiser step.

    W&B's own counter only grows, and drops what is logged for a smaller step: it is left alone, so that steps which are
    repeated after a resume are kept.
    """

    def __init__(self, settings: WandB, work: Work) -> None:
        import wandb

        self.failures = (OSError, wandb.Error)
        self._work = work
        try:
            self._run = wandb.init(
                project=settings.project,
                entity=settings.entity,
                group=settings.group or work.sweep or work.run.name,
                job_type=work.kind,
                name=f"{work.run.parent.name}/{work.run.name}",
                tags=settings.tags,
                id=_identity(work),
                resume="allow",
                reinit="create_new",  # never the run of another job of the same process
                mode=settings.mode,
                dir=str(work.run),
                config=dict(work.config),
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise DiffexpError(f"logger=wandb: {reason}; logger.mode=offline needs no network") from error
        self._run.define_metric(_AXIS)
        self._run.define_metric("*", step_metric=_AXIS)
        # A run that W&B knows already has the first lines. Offline files know nothing of each other: each is complete.
        for line in [] if self._run.resumed else work.lines():
            self.line(line)

    def _line(self, line: Mapping[str, float]) -> None:
        values = {f"train/{name}": value for name, value in line.items() if name != "step"}
        self._run.log({_AXIS: int(line["step"]), **values})

    def _results(self, rows: Sequence[Row], pictures: Sequence[Path]) -> None:
        import wandb

        shown: dict[str, Any] = {_AXIS: self._work.step}
        plots: dict[str, dict[str, list[Summary]]] = {}
        for arm in summarise_arms(rows):
            plots.setdefault(arm.metric, {}).setdefault(arm.label, []).append(arm)
            shown[f"eval/{arm.metric}/{arm.label}/nfe_{arm.nfe}"] = arm.mean
        if rows:
            shown["eval/results"] = wandb.Table(columns=list(COLUMNS), data=table(rows))
        for metric, arms in plots.items():
            xs, ys = ([[of(arm) for arm in line] for line in arms.values()] for of in (_nfe, _mean))
            title = f"{metric} by NFE, {meaning(metric).better}"
            shown[f"eval/{meaning(metric).stem}"] = wandb.plot.line_series(xs, ys, list(arms), title, "NFE")
        shown.update({f"eval/{path.stem}": wandb.Image(pixels(path)) for path in pictures})
        self._run.log(shown)
        self._curves([arm for lines in plots.values() for line in lines.values() for arm in line])

    def _curves(self, arms: Sequence[Summary]) -> None:
        """The means with the NFE as their axis, so that W&B draws runs over each other; one row for each NFE."""
        self._run.define_metric(NFE)
        budgets: dict[float, dict[str, float]] = {}
        for arm in arms:
            name = by_nfe(arm.metric, arm.label)
            self._run.define_metric(name, step_metric=NFE)
            budgets.setdefault(_nfe(arm), {})[name] = arm.mean
        for nfe, means in sorted(budgets.items()):
            self._run.log({NFE: nfe, **means})

    def _close(self, error: BaseException | None) -> None:
        if isinstance(error, PreemptedError):
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if error is None else getattr(error, "exit_code", 1))


@dataclass(frozen=True)
class Both:
    """TensorBoard and W&B together.

    Args:
        tensorboard: as the choice `tensorboard`.
        wandb: as the choice `wandb`.
    """

    tensorboard: TensorBoard
    wandb: WandB

    def check(self) -> None:
        """Raise ConfigError when one of them could not work here."""
        self.tensorboard.check()
        self.wandb.check()

    def knows(self, work: Work) -> bool:
        """Whether both have shown it."""
        return self.tensorboard.knows(work) and self.wandb.knows(work)

    def open(self, work: Work) -> Mirror:
        """Open both."""
        return Several([self.wandb.open(work), self.tensorboard.open(work)])  # W&B may refuse, TensorBoard never does


def _identity(work: Work) -> str:
    """The id of this work's W&B run: that in the run folder, or a new one that is put there."""
    import uuid

    known = _identities(work)
    if work.kind not in known:
        known[work.kind] = uuid.uuid4().hex[:12]
        write_json_atomic(work.run / IDENTITIES, known)
    return known[work.kind]


def _identities(work: Work) -> dict[str, str]:
    path = work.run / IDENTITIES
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _nfe(arm: Summary) -> float:
    return arm.nfe or 0


def _mean(arm: Summary) -> float:
    return arm.mean
