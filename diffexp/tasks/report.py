"""task=report: write the report and the plots of a run folder again, from its own files alone."""

from __future__ import annotations

from diffexp.core.errors import ConfigError
from diffexp.evaluation.report import write_report
from diffexp.launch.find import find_folder
from diffexp.tasks import console
from diffexp.tasks.build import Config


def main(config: Config) -> None:
    """Rewrite the report of the run that `ckpt=` names."""
    spec = config["ckpt"]
    if spec is None:
        raise ConfigError("task=report needs ckpt=: a run folder, a checkpoint in one, or latest:<recipe>")
    console.say(f"report: {write_report(find_folder(spec, config['runs']))}")
