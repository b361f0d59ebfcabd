"""The entry: `python -m diffexp ...` and the console script `diffexp`.

The command line is normalised, every job of it is composed and validated, and only then Hydra starts the first. A
refusal is one line on stderr and leaves nothing on disk; nothing heavy is imported before a job runs.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import diffexp
from diffexp.core.errors import ConfigError, DiffexpError, PreemptedError, nearest
from diffexp.launch import plugins
from diffexp.launch.command import Command, normalise, parse, refuse_idle_sampler
from diffexp.launch.layout import PRIMARY, Layout, read_layout
from diffexp.launch.ranks import check_ranks, torchrun, wants_ranks
from diffexp.launch.text import one_line

INTERRUPTED = 130
_NEED_RECIPE = ("run", "train", "check")  # always
_NEED_SOMETHING = ("evaluate", "sample")  # a recipe or a checkpoint


class _Sweep:
    """What went wrong in the jobs of the sweep that this process runs (pid 0: none is running)."""

    pid = 0
    jobs = 0
    failed = 0


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
    from diffexp.launch.recall import recall

    if "--hydra-help" not in command.flags and "--shell-completion" not in command.flags:
        command = Command(command.flags, tuple(recall(normalise(command.words, layout), layout)))
        count = _validate(command, layout)
    else:
        count = 0
    return _hand_over(command, layout, count)


def _validate(command: Command, layout: Layout) -> int:
    """Compose and check every job; returns how many there are."""
    from diffexp.launch.compose import compose_jobs, expand
    from diffexp.launch.find import check_checkpoint
    from diffexp.launch.schema import check_hydra, validate

    jobs = compose_jobs(expand(command.words, layout, command.multirun), layout)
    for job in jobs:
        check_hydra(job.hydra)
        validate(job.config, layout)
        refuse_idle_sampler(job.overrides, job.config)
        check_ranks(job.config, command.multirun)
        if "--cfg" in command.flags or "--info" in command.flags:
            continue
        task, recipe, ckpt = (job.config.get(key) for key in ("task", "recipe", "ckpt"))
        if recipe is None and (task in _NEED_RECIPE or (task in _NEED_SOMETHING and ckpt is None)):
            raise ConfigError(f"task={task} needs a recipe: add experiment=..., {_recipes(layout)}")
        check_checkpoint(job.config)
    return len(jobs)


def _recipes(layout: Layout) -> str:
    """All recipes, as a hint."""
    return nearest("", layout.choices.get("experiment", ()))


def _hand_over(command: Command, layout: Layout, count: int) -> int:
    """Let Hydra run the validated jobs (or print what was asked for)."""
    import hydra

    arguments, permitted = command.argv(), plugins.allowed()

    def job(config: object) -> float | None:
        with plugins.permission(permitted):  # a launcher's worker is another process: it goes with the function
            return _job(config)

    with ExitStack() as stack:
        if command.multirun:
            _Sweep.pid, _Sweep.jobs, _Sweep.failed = os.getpid(), count, 0
            if not any(word.startswith("hydra.sweep.dir=") for word in command.words):
                # Hydra's sweeper insists on writing down its own configuration: not into the user's folder
                scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="diffexp-"))
                arguments.append(f'hydra.sweep.dir="{Path(scratch).as_posix()}"')
        stack.enter_context(_arguments(arguments))
        hydra.main(version_base="1.3", config_path=str(layout.folder), config_name=PRIMARY)(job)()
    if command.multirun and _Sweep.failed:
        _complain(f"{_Sweep.failed} of {count} jobs failed")
        return DiffexpError.exit_code
    return 0


@contextmanager
def _arguments(arguments: list[str]) -> Iterator[None]:
    """sys.argv as Hydra's parser is to see it."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before
        _Sweep.pid = 0


def _job(config: object) -> float | None:
    """One job, called by Hydra with its composed configuration."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from diffexp.launch.compose import resolve

    settings = HydraConfig.get()
    sweep = settings.mode == RunMode.MULTIRUN
    try:
        return _start(resolve(config))
    except DiffexpError as error:
        if not sweep:
            _complain(error)
            raise SystemExit(error.exit_code) from error
        if _Sweep.pid != os.getpid():  # a launcher's worker: Hydra carries the error to the parent
            raise
        _Sweep.failed += 1
        words = " ".join(word for word in settings.overrides.task if not word.startswith("++evaluation.only="))
        message = f"job {settings.job.num} ({words}): {error}"
        if isinstance(error, PreemptedError):  # the stop was meant for the command, not for one of its jobs
            left = _Sweep.jobs - settings.job.num - 1
            _complain(f"{message}; jobs not started: {left} of {_Sweep.jobs}")
            raise SystemExit(error.exit_code) from error
        _complain(message)
        return None


def _start(config: dict[str, Any]) -> float | None:
    """Run a job: here, in a process for each of its devices, or with the ranks that torchrun has started."""
    if torchrun():
        from diffexp.tasks.rank import lead

        return lead(config)
    if wants_ranks(config):
        from diffexp.launch.spawn import spawn

        return spawn(config)
    from diffexp.tasks import run_task

    return run_task(config)


def _complain(message: object) -> None:
    """One line on stderr."""
    print(f"diffexp: {one_line(message)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
