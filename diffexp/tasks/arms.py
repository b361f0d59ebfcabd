"""The arms of a configuration, with the schedules that its run has found."""

from __future__ import annotations

from pathlib import Path

from diffexp.evaluation.searched import is_searched, searched_arms
from diffexp.evaluation.settings import Arm
from diffexp.sampler.grid_file import File
from diffexp.sampler.schedule_file import NAME
from diffexp.tasks.build import Config, make_node
from diffexp.tasks.restore import Restored


def arms_of(config: Config, schedules: Path | None) -> tuple[list[Arm], list[str]]:
    """(arms, names of those that wait for schedules).

    Raises:
        ConfigError: as for `evaluation.settings.build_arms`; and for a grid without its file where nothing is searched.
    """
    search, scale = config.get("search") or {}, config["choices"]["scale"]
    arms, missing = searched_arms(
        config["evaluation"], config["sampler"], make_node, scale, schedules, search.get("shown")
    )
    # An arm that says `searched` is refused where a run would wait for it; numbers beside a file that is missing, here.
    if not search and any(not is_searched(config["evaluation"]["arms"][name], scale) for name in missing):
        File().refuse()
    return arms, missing


def schedules_of(restored: Restored | None) -> Path | None:
    """The schedules in the run folder of a checkpoint; None where there are none."""
    path = None if restored is None or restored.run is None else restored.run / NAME
    return path if path is not None and path.is_file() else None
