"""The arms of a configuration, with the schedules that its run has found."""

from __future__ import annotations

from pathlib import Path

from diffexp.evaluation.searched import searched_arms
from diffexp.evaluation.settings import Arm
from diffexp.sampler.schedule_file import NAME
from diffexp.tasks.build import Config, make_node
from diffexp.tasks.restore import Restored


def arms_of(config: Config, schedules: Path | None) -> tuple[list[Arm], list[str]]:
    """(arms, names of those that wait for schedules); errors as for `evaluation.settings.build_arms`."""
    shown, scale = (config.get("search") or {}).get("shown"), config["choices"]["scale"]
    return searched_arms(config["evaluation"], config["sampler"], make_node, scale, schedules, shown)


def schedules_of(restored: Restored | None) -> Path | None:
    """The schedules in the run folder of a checkpoint; None where there are none."""
    path = None if restored is None or restored.run is None else restored.run / NAME
    return path if path is not None and path.is_file() else None
