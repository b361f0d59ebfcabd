"""`beside=[...]`: the recipes that a command trains and evaluates along with its own, so that one report compares them.

They get what the command says of data, network, training and evaluation, because a comparison needs these equal, but
not what it says of the method: that is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffexp.core.errors import ConfigError, nearest
from diffexp.launch.command import concerns

if TYPE_CHECKING:
    from diffexp.launch.compose import Job
    from diffexp.launch.layout import Layout

_SHARED = (
    "scale", "seed", "family", "dataset", "network", "training", "trainer", "optimizer", "ema", "evaluation", "logger",
    "runs", "hydra",
)  # fmt: skip
_OWN = ("evaluation.arms", "evaluation.only")  # samplers are part of the method


def neighbours(job: Job, layout: Layout) -> list[list[str]]:
    """The overrides of the recipes that stand beside the recipe of this job.

    Args:
        job: composed.
        layout: the conf folder, which knows the recipes.

    Returns:
        one list of overrides for each; none unless the job is a whole run from the beginning.

    Raises:
        ConfigError: `beside` is no list of recipes other than the job's own.
    """
    config = job.config
    named, own = config.get("beside", []), config.get("recipe")
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise ConfigError(f"beside={named}: a list of recipes is needed, e.g. beside=[ddpm_cifar10], or []")
    recipes = layout.choices.get("experiment", ())
    for name in named:
        if name not in recipes:
            raise ConfigError(f"beside=[{','.join(named)}]: there is no recipe '{name}'; {nearest(name, recipes)}")
        if name == own or named.count(name) > 1:
            raise ConfigError(f"beside=[{','.join(named)}]: {name} would run twice; leave it out")
    if config.get("task") != "run" or config.get("ckpt") is not None:
        refuse_idle([job])
        return []
    words = [word for word in job.overrides if concerns(word, _SHARED) and not concerns(word, _OWN)]
    return [[f"experiment={name}", *words, "beside=[]"] for name in named]


def refuse_idle(jobs: Sequence[Job]) -> None:
    """Refuse `beside=[...]` on a command line that nothing comes of; what a recipe says by itself is left out there."""
    for job in jobs:
        said = [word for word in job.overrides if concerns(word, ("beside",))]
        if said and job.config.get("beside"):
            raise ConfigError(f"{said[-1]}: has no effect with -m, ckpt= or another task than run: leave it out")


def require_same_data(jobs: Sequence[Job]) -> None:
    """Refuse recipes whose results could not stand in one table: ConfigError."""
    own = jobs[0].config
    for job in jobs[1:]:
        if job.config.get("dataset") != own.get("dataset"):
            raise ConfigError(
                f"beside=[{job.config.get('recipe')}]: has other data than {own.get('recipe')}; say dataset=... for "
                "both, or leave it out"
            )


def told(jobs: Sequence[Job]) -> str:
    """A line for the reader: what runs along."""
    return f"{jobs[0].config.get('recipe')} runs beside {', '.join(str(job.config.get('recipe')) for job in jobs[1:])}"
