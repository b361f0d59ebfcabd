"""Dashboards for what earlier commands have done: a finished job is not done again, but it may have to be shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffexp.core.naming import step_of
from diffexp.evaluation.results import Row
from diffexp.launch.sweep import sweep_name
from diffexp.tasks.build import Config, make_logger
from diffexp.training.mirror import METRICS, Work


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
