"""A plan of trainings as a chain of jobs: each job's `teacher` is the run that the job before it has left.

`distillation=progressive` without `student_steps` is such a plan. Its jobs are ordinary ones, with run folders and
fingerprints of their own, so a command that was stopped goes on where it was: finished jobs are found, not repeated.
With `distillation.convert` the first student has a prediction of its own and learns the teacher's at the same steps;
what a command says of the prediction is then for the students, and plans of several predictions share one teacher.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffexp.core.errors import CheckpointError, ConfigError, nearest
from diffexp.core.halving import halvings
from diffexp.launch.command import concerns
from diffexp.launch.find import find_run
from diffexp.launch.fingerprint import MODEL, difference_of_models
from diffexp.launch.folder import CONFIG, load_frozen
from diffexp.launch.ranks import torchrun
from diffexp.launch.sweep import add_word, read_sweep

if TYPE_CHECKING:
    from diffexp.launch.compose import Job
    from diffexp.launch.layout import Layout

# What a command says of these is for the stages: the first training has its own.
_OF_STAGES = (
    "experiment", "distillation", "teacher", "base", "objective", "optimizer", "ema", "beside", "evaluation.arms",
    "evaluation.only", "evaluation.nfe",
)  # fmt: skip
# What the chain says of each stage; a stage does not need to know how long the conversion before it was.
_SET = (
    "distillation.student_steps", "distillation.teacher_steps", "distillation.convert", "distillation.convert_lr",
    "training.max_steps", "teacher",
)  # fmt: skip
_TASKS = ("run", "train")


def is_plan(config: Mapping[str, Any]) -> bool:
    """Whether a job stands for a chain: its distillation names stages, but none of them."""
    node = config.get("distillation")
    staged = isinstance(node, Mapping) and "student_steps" in node and node["student_steps"] is None
    return staged and config.get("task") in _TASKS and config.get("ckpt") is None


def links(job: Job, layout: Layout) -> list[list[str]]:
    """The overrides of the trainings of a plan, in their order; the first one's teacher is `teacher=`, if it is given.

    Raises:
        ConfigError: the steps are no halvings, there is no first teacher, or other recipes should stand beside them.
        CheckpointError: the teacher is another model, or a student of another number of steps.
    """
    config, node = job.config, job.config["distillation"]
    stages, start, converts = halvings(node["start_steps"], node["end_steps"]), node["start_steps"], _converts(node)
    if config.get("beside"):
        raise ConfigError("beside: a plan of trainings has its own report; leave it out, or give student_steps")
    chain = [_stage(job, steps, (node.get("updates_at") or {}).get(steps, node["updates"])) for steps in stages]
    if converts:
        chain.insert(0, _conversion(job, start, node))
    spec = config.get("teacher")
    if spec is not None:
        _check_teacher(config, start, converts)
        return [[*chain[0], f"teacher={spec}"], *chain[1:]]
    base, recipes = config.get("base"), layout.choices.get("experiment", ())
    if base is None:
        raise ConfigError("distillation: needs teacher=, or base=, a recipe that is trained first")
    if base not in recipes:
        raise ConfigError(f"base={base}: there is no such recipe; {nearest(str(base), recipes)}")
    keys = (*_OF_STAGES, "prediction") if converts else _OF_STAGES
    words = [word for word in job.overrides if not concerns(word, keys)]
    return [[f"experiment={base}", *words], *chain]


def written_out(
    jobs: Sequence[Job], layout: Layout, compose: Callable[[Sequence[Sequence[str]]], list[Job]]
) -> tuple[list[Job], dict[int, int]]:
    """Jobs with every plan among them replaced by its trainings.

    Args:
        jobs: composed.
        layout: the conf folder.
        compose: makes jobs of overrides, and refuses what cannot be.

    Returns:
        the jobs, and {number of a job: number of the one whose run is its teacher}; errors as for `links`, and under
        torchrun, whose processes are the ranks of one training.
    """
    if torchrun() and any(is_plan(job.config) for job in jobs):
        raise ConfigError(
            "distillation: a plan of several trainings, which torchrun cannot start one after the other: leave "
            "torchrun out (trainer.devices starts the ranks), or add distillation.student_steps=... and teacher=..."
        )
    found: list[Job] = []
    teachers: dict[int, int] = {}
    for job in jobs:
        chain = compose(links(job, layout)) if is_plan(job.config) else [job]
        teachers |= {number: number - 1 for number in range(len(found) + 1, len(found) + len(chain))}
        found += chain
    return found, teachers


def _converts(node: Mapping[str, Any]) -> bool:
    """Whether a plan begins with a conversion; ConfigError for one without updates."""
    if node.get("convert") is not None and node["convert"] < 1:
        raise ConfigError(f"distillation.convert={node['convert']}: a stage is at least one update; null: none")
    return node.get("convert") is not None


def _stage(job: Job, steps: int, updates: int) -> list[str]:
    """The overrides of the student with this many steps."""
    words = [word for word in job.overrides if not concerns(word, _SET)]
    return [*words, f"distillation.student_steps={steps}", f"training.max_steps={updates}"]


def _conversion(job: Job, steps: int, node: Mapping[str, Any]) -> list[str]:
    """The overrides of the stage that changes the prediction at the teacher's own steps."""
    words, rate = [*_stage(job, steps, node["convert"]), f"distillation.teacher_steps={steps}"], node.get("convert_lr")
    if rate is None:
        return words
    return [*(word for word in words if not concerns(word, ("optimizer.lr",))), f"optimizer.lr={rate}"]


def _check_teacher(config: Mapping[str, Any], steps: int, converts: bool) -> None:
    """Refuse the teacher of a chain as far as its run folder tells: the training would, once it has a folder."""
    run = find_run(str(config["teacher"]), str(config.get("runs") or "runs"), "teacher")[0]
    if run is None or not (run / CONFIG).is_file():
        return
    trained = load_frozen(run)
    found = difference_of_models(trained, config, [key for key in MODEL if key != "prediction" or not converts])
    if found is not None:
        hint = "; distillation.convert=<updates> converts it first" if found.startswith("prediction.") else ""
        raise CheckpointError(f"teacher={config['teacher']}: was trained with {found}{hint}")
    own = (trained.get("distillation") or {}).get("student_steps")
    if own not in (None, steps):
        raise CheckpointError(
            f"teacher={config['teacher']}: is a student of {own} steps: add distillation.start_steps={own}"
        )


def taught(job: Job, sweep: Path, number: int, before: int) -> dict[str, Any] | None:
    """The configuration of job `number` with the run that job `before` of the sweep has left as its teacher.

    The sweep's file of the job says so too. None when there is nothing to learn from.
    """
    record = read_sweep(sweep)[before]
    if record.state != "ok" or record.folder is None:
        return None
    path = os.path.normpath(sweep / record.folder)
    teacher = min(path, os.path.relpath(path), key=len)
    add_word(sweep, number, f"teacher={teacher}")
    return {**job.config, "teacher": teacher}


def told(jobs: Sequence[Job]) -> str:
    """A line for the reader: what will run, by the students' numbers of steps."""
    return f"one training after the other: {', '.join(_name(job.config) for job in jobs)}"


def _name(config: Mapping[str, Any]) -> str:
    """A training of a chain, by its student's number of steps."""
    node = config.get("distillation") or {}
    steps = node.get("student_steps")
    if steps is None:
        return str(config.get("recipe"))
    return f"{steps} (conversion)" if node.get("teacher_steps") == steps else str(steps)
