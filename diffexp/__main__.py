"""The entry: `python -m diffexp ...` and the console script `diffexp`.

The command line is normalised, every job of it is composed and validated, and only then Hydra starts the first. A
refusal is one line on stderr and leaves nothing on disk; nothing heavy is imported before a job runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffexp
from diffexp.core.errors import ConfigError, DiffexpError, PreemptedError, nearest
from diffexp.launch import plugins
from diffexp.launch.command import Command, normalise, parse, presented, refuse_idle_sampler
from diffexp.launch.layout import PRIMARY, Layout, presenting, read_layout
from diffexp.launch.ranks import check_ranks, torchrun, wants_ranks
from diffexp.launch.text import one_line

if TYPE_CHECKING:
    from diffexp.launch.compose import Job
    from diffexp.launch.worker import Origin

INTERRUPTED, PREEMPTED = 130, 143
_NEED_RECIPE = ("run", "train", "check")  # always
_NEED_SOMETHING = ("search", "evaluate", "sample", "interpolate")  # a recipe or a checkpoint


def main(argv: Sequence[str] | None = None, folder: Path | None = None) -> int:
    """Run a command line.

    Args:
        argv: the words after the program's name; sys.argv's when None.
        folder: another conf folder than the shipped one.

    Returns:
        the exit code: 0; 2 after a refusal or a failed job; 130 after Ctrl-C; 143 after SIGTERM; else what the job
        asked for.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not torchrun():
        return _guarded(words, folder)
    from diffexp.tasks.rank import dismiss, follow

    if os.environ["RANK"] != "0":  # only rank 0 looks at the command line
        return follow()
    code = _guarded(words, folder)
    dismiss(code)
    return code


def _guarded(words: list[str], folder: Path | None) -> int:
    """Run a command line; every way to end has its exit code, and every error its line."""
    try:
        return _run(words, folder)
    except DiffexpError as error:
        _complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        _complain(stop.code)
        return 1


def _run(argv: list[str], folder: Path | None) -> int:
    """Answer a command line, or validate its jobs and hand them to Hydra."""
    command = parse(argv)
    if "--version" in command.flags:
        print(f"diffexp {diffexp.__version__}")
        return 0
    names, words = plugins.take(command.words)
    command = Command(command.flags, tuple(words))
    with plugins.permission(names):
        further = [] if command.config_dir is None else [command.config_dir]
        return _answer(command, read_layout(folder, [*further, *plugins.conf_folders()]), not argv)


def _answer(command: Command, layout: Layout, empty: bool) -> int:
    """Answer a command line on its conf folders."""
    if empty or "--help" in command.flags:
        from diffexp.launch.manual import manual

        print(manual(layout))
        return 0
    from diffexp.launch.beside import refuse_idle
    from diffexp.launch.recall import recall

    if "--hydra-help" in command.flags or "--shell-completion" in command.flags:
        return _hand_over(command, layout)
    command = Command(command.flags, tuple(recall(normalise(command.words, layout), layout)))
    jobs = _validate(command, layout)
    chained, teachers = _chained(command, jobs, layout)
    if teachers:
        return _sweep(command, chained, lambda folder: _one_by_one(chained, folder, layout, teachers))
    if command.multirun:
        refuse_idle(jobs)
        return _sweep(command, jobs, lambda folder: _hand_over(command, layout, folder))
    jobs += _beside(command, jobs[0], layout)
    if len(jobs) == 1:
        return _hand_over(command, layout)
    return _sweep(command, jobs, lambda folder: _one_by_one(jobs, folder, layout, {}))


def _validate(command: Command, layout: Layout) -> list[Job]:
    """Compose and check every job of a command."""
    from diffexp.launch.compose import expand

    return _checked(expand(command.words, layout, command.multirun), command, layout)


def _chained(command: Command, jobs: list[Job], layout: Layout) -> tuple[list[Job], dict[int, int]]:
    """The jobs with every plan of trainings written out, and {job: the job whose run is its teacher}."""
    from diffexp.launch.chain import written_out

    if "--cfg" in command.flags or "--info" in command.flags:
        return jobs, {}
    return written_out(jobs, layout, lambda words: _checked(words, command, layout))


def _beside(command: Command, job: Job, layout: Layout) -> list[Job]:
    """The jobs that run along with the one of this command, composed and checked."""
    from diffexp.launch.beside import neighbours, require_same_data

    if "--cfg" in command.flags or "--info" in command.flags:
        return []
    found = neighbours(job, layout)
    if found and torchrun():
        _complain(f"beside={job.config['beside']} is left out under torchrun: start its recipes by themselves")
        return []
    others = _checked(found, command, layout) if found else []
    require_same_data([job, *others])
    return others


def _checked(overrides: Sequence[Sequence[str]], command: Command, layout: Layout) -> list[Job]:
    """Compose jobs, and refuse what can be refused before anything runs."""
    from diffexp.launch.adopt import check_adopted
    from diffexp.launch.compose import compose_jobs
    from diffexp.launch.find import check_checkpoint
    from diffexp.launch.schema import check_hydra, validate

    jobs = compose_jobs(overrides, layout)
    for job in jobs:
        check_hydra(job.hydra)
        validate(job.config, layout)
        refuse_idle_sampler(job.overrides, job.config)
        check_adopted(job.overrides, job.config)
        check_ranks(job.config, command.multirun)
        if "--cfg" in command.flags or "--info" in command.flags:
            continue
        task, recipe, ckpt = (job.config.get(key) for key in ("task", "recipe", "ckpt"))
        if recipe is None and (task in _NEED_RECIPE or (task in _NEED_SOMETHING and ckpt is None)):
            recipes = nearest("", layout.choices.get("experiment", ()))
            raise ConfigError(f"task={task} needs a recipe: add experiment=..., {recipes}")
        check_checkpoint(job.config)
    return jobs


def _sweep(command: Command, jobs: list[Job], run: Callable[[Path], object]) -> int:
    """Run several jobs in a folder of their own, and report them together."""
    from diffexp.launch.sweep import begin_sweep, keeps_folder, read_sweep

    prefix = [] if command.config_dir is None else [f"--config-dir={command.config_dir}"]
    with begin_sweep(jobs, prefix) as folder:
        code = 0
        try:
            run(folder)
        except SystemExit as stop:  # a stop, or an error in the program whose trace Hydra has shown
            code = stop.code if isinstance(stop.code, int) else 1
        ended = [job.state for job in read_sweep(folder)]
        if keeps_folder(jobs) and code < INTERRUPTED:  # who stops a sweep does not want to wait for its report
            from diffexp.evaluation.overview import write_overview

            print(f"sweep report: {write_overview(folder)}")
        if "failed" in ended:
            _complain(f"{ended.count('failed')} of {len(ended)} jobs failed")
        stopped = PREEMPTED if "preempted" in ended else 0
        return code or stopped or (DiffexpError.exit_code if "failed" in ended else 0)


def _hand_over(command: Command, layout: Layout, sweep: Path | None = None) -> int:
    """Let Hydra run the validated jobs (or print what was asked for)."""
    import hydra

    from diffexp.launch.worker import Origin

    arguments, permitted = command.argv(), plugins.allowed()
    origin = Origin.here(parallel=any("hydra/launcher=" in word for word in arguments))
    if sweep is not None:  # Hydra's sweeper writes its own configuration there; jobs get no folders from it
        arguments += [f'hydra.sweep.dir="{sweep.as_posix()}"', "hydra.sweep.subdir=."]

    def job(config: object) -> float | None:
        # a launcher's worker is another process: both go there with the function
        with plugins.permission(permitted), presenting(layout):
            return _job(config) if sweep is None else _hydras_member(config, sweep, origin)

    with presented(arguments):
        hydra.main(version_base="1.3", config_path=str(layout.folder), config_name=PRIMARY)(job)()
    return 0


def _job(config: object) -> float | None:
    """The one job of a command, called by Hydra with its composed configuration."""
    from diffexp.launch.compose import resolve

    try:
        return _start(resolve(config))
    except DiffexpError as error:
        _complain(error)
        raise SystemExit(error.exit_code) from error


def _one_by_one(jobs: Sequence[Job], folder: Path, layout: Layout, teachers: Mapping[int, int]) -> None:
    """Run jobs that were composed here, without Hydra: each has a configuration of its own.

    A job whose teacher is another job's run is left out when that has not ended well.
    """
    from diffexp.launch import beside, chain

    print((chain if teachers else beside).told(jobs))
    with presenting(layout):
        for number, job in enumerate(jobs):
            taught = job.config if number not in teachers else chain.taught(job, folder, number, teachers[number])
            if taught is not None:
                _member(taught, folder, number, job.overrides)


def _hydras_member(config: object, sweep: Path, origin: Origin) -> float | None:
    """One job of Hydra's, in the command's own process or in a launcher's worker."""
    from hydra.core.hydra_config import HydraConfig

    from diffexp.launch.compose import resolve

    hydra, resolved = HydraConfig.get(), resolve(config)
    if origin.is_here():
        return _member(resolved, sweep, hydra.job.num, hydra.overrides.task)
    with origin.working(resolved, hydra.launcher, sweep) as environment:
        return _member(resolved, sweep, hydra.job.num, hydra.overrides.task, environment)


def _member(
    config: dict[str, Any],
    sweep: Path,
    number: int,
    overrides: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> float | None:
    """One of several jobs; in a process of its own with this environment, if there is one.

    How it ended stands in its file, where the command finds it: the first error does not end the others.
    """
    from diffexp.launch.sweep import job_record, read_sweep

    try:
        with job_record(sweep, number, overrides) as words:
            return _start(config, environment)
    except DiffexpError as error:
        message = f"job {number} ({words}): {error}"
        # in the command's own process a stop was meant for the command, not for one of its jobs
        if environment is None and isinstance(error, PreemptedError):
            jobs = read_sweep(sweep)
            left = sum(job.state == "waiting" for job in jobs)
            _complain(f"{message}; jobs not started: {left} of {len(jobs)}")
            raise SystemExit(error.exit_code) from error
        _complain(message)
        return None


def _start(config: dict[str, Any], environment: Mapping[str, str] | None = None) -> float | None:
    """Run a job: here, in a process for each of its devices, or with the ranks that torchrun has started."""
    if torchrun():
        from diffexp.tasks.rank import lead

        return lead(config)
    if environment is not None or wants_ranks(config):
        from diffexp.launch.spawn import spawn

        return spawn(config, environment)
    from diffexp.tasks import run_task

    return run_task(config)


def _complain(message: object) -> None:
    """One line on stderr."""
    print(f"diffexp: {one_line(message)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
