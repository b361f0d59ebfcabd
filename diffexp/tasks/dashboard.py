"""Dashboards for what earlier commands have done: task=dashboard draws W&B's, from what the run folders hold.

A finished job is not done again, but it may have to be shown: `show_finished`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffexp.core.errors import ConfigError, DiffexpError
from diffexp.core.files import write_json_atomic
from diffexp.core.naming import step_of
from diffexp.evaluation.collect import collect
from diffexp.evaluation.results import Row
from diffexp.evaluation.table import summarise_arms
from diffexp.launch.sweep import read_sweep, sweep_name
from diffexp.tasks import console
from diffexp.tasks.build import Config, make_logger
from diffexp.training.loggers import Both, WandB
from diffexp.training.mirror import METRICS, Work, require
from diffexp.training.workspace import Contents, build_workspace

FILE = "dashboard.json"


def main(config: Config) -> None:
    """Save a view of W&B's project with panels for the runs of `sweep=`, or of all below `runs`.

    Offline the view is written to dashboard.json beside them, as it would be sent.

    Raises:
        ConfigError: another logger, a missing package, nobody logged in.
        DiffexpError: no runs, none with results, or W&B refuses.
    """
    logger = make_logger(config)
    settings = logger.wandb if isinstance(logger, Both) else logger
    if not isinstance(settings, WandB):
        raise ConfigError("task=dashboard draws W&B's: add logger=wandb (and logger.mode=offline to look at it first)")
    require("wandb_workspaces", "dashboard", "task=dashboard")
    settings.check()
    folder = Path(config.get("sweep") or config["runs"])
    contents = contents_of(folder, settings)
    name = f"diffexp {contents.group or folder.resolve().name}"
    if settings.offline:
        workspace = build_workspace(settings.entity or "", settings.project, name, contents)
        view = workspace._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
        write_json_atomic(folder / FILE, view)
        console.say(f"dashboard: {folder / FILE} (offline: nothing was sent; logger.mode=online saves it to W&B)")
        return
    console.say(f"dashboard: {_save(settings, name, contents)}")


def contents_of(folder: Path, settings: WandB) -> Contents:
    """What the runs of a folder have to show; errors as for `main`."""
    runs = [run for run in collect(folder) if run.folder is not None and run.rows]
    if not runs:
        raise DiffexpError(f"{folder}: no run there has results yet; a dashboard has nothing to show")
    arms = [(arm.metric, arm.label) for run in runs for arm in summarise_arms(run.rows)]
    pictures = [path.stem for run in runs for path in (run.folder or folder).glob("samples_*.png")]
    sweep = folder.resolve().name if read_sweep(folder) else None
    return Contents.of(arms, pictures, settings.group or sweep)


def _save(settings: WandB, name: str, contents: Contents) -> str:
    """Send the view; returns its address."""
    import wandb

    try:
        entity = settings.entity or wandb.Api().default_entity
        return str(build_workspace(entity, settings.project, name, contents).save().url)
    except (wandb.Error, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DiffexpError(f"task=dashboard: {reason}; logger.mode=offline needs no network") from error


def show_finished(config: Config, checkpoint: Path, home: Path | None = None, rows: Sequence[Row] = ()) -> None:
    """Open the command's dashboard on a finished training, and on its evaluation, unless it has shown them before.

    Args:
        config: the command.
        checkpoint: the last one of the training, in its run folder.
        home: where the evaluation is; None when the command asks for none.
        rows: those of the evaluation.
    """
    logger, step = make_logger(config), step_of(checkpoint) or 0
    training = Work(checkpoint.parent.parent, "train", config, step, sweep_name())
    if (training.run / METRICS).is_file() and not logger.knows(training):
        with logger.open(training):
            pass  # it repeats the lines of metrics.jsonl
    if home is None:
        return
    evaluation = Work(home, "eval", config, step, sweep_name())
    if not logger.knows(evaluation):
        with logger.open(evaluation) as mirror:
            mirror.results(rows, sorted(home.glob("samples_*.png")))
