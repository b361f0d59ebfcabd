"""What a command does: one small file for each task. `run_task` is the only door; it imports what is heavy."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger("diffexp")


def run_task(config: Mapping[str, Any]) -> float | None:
    """Do what `config["task"]` says.

    Args:
        config: the resolved and validated configuration.

    Returns:
        the smallest distance that an evaluation measured, for sweepers; None for tasks that measure nothing.

    Raises:
        DiffexpError: anything that the user can act on.
    """
    from diffexp.tasks import (
        check,
        console,
        dashboard,
        diff,
        evaluate,
        given,
        interpolate,
        matrix,
        report,
        run,
        sample,
        search,
        selfcheck,
        train,
    )
    from diffexp.tasks import list as recipes
    from diffexp.tasks.adopt import adopted

    console.prepare()
    devices = config.get("trainer", {}).get("devices", 1)
    if devices > 1 and config["task"] in ("search", "sample", "interpolate"):
        log.info("task=%s is one process: trainer.devices=%d has no effect", config["task"], devices)
    given.check_task(config)
    tasks = {
        "run": run.main,
        "train": train.main,
        "search": search.main,
        "evaluate": evaluate.main if config.get("samples") is None else given.main,
        "sample": sample.main,
        "interpolate": interpolate.main,
        "report": report.main,
        "dashboard": dashboard.main,
        "check": check.main,
        "list": recipes.main,
        "diff": diff.main,
        "matrix": matrix.main,
        "selfcheck": selfcheck.main,
    }
    return tasks[config["task"]](adopted(config))
