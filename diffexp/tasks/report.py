"""task=report: write the report and the plots of a run, or of several together, again; from their own files alone."""

from __future__ import annotations

from pathlib import Path

from diffexp.core.errors import ConfigError
from diffexp.evaluation.overview import write_overview
from diffexp.evaluation.report import write_report
from diffexp.launch.find import find_folder
from diffexp.tasks import console
from diffexp.tasks.build import Config


def main(config: Config) -> None:
    """Rewrite the report of the run that `ckpt=` names, or of the runs that `sweep=` does."""
    spec, sweep = config["ckpt"], config.get("sweep")
    if (spec is None) == (sweep is None):
        problem = "needs" if spec is None else "takes one of"
        raise ConfigError(
            f"task=report {problem} ckpt= (a run folder, a checkpoint in one, or latest:<recipe>) "
            "or sweep= (the folder of a sweep, or any folder with runs below it)"
        )
    path = write_report(find_folder(spec, config["runs"])) if sweep is None else write_overview(Path(sweep), True)
    console.say(f"report: {path}")
