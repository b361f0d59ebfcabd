"""The entry in this process, on the small conf tree: what is started, what is refused, and how it ends."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import diffexp.__main__ as entry
from diffexp.core.errors import ConfigError, PreemptedError
from diffexp.launch.compose import config_hash
from diffexp.launch.sweep import read_sweep

Started = list[dict[str, Any]]


def _fail_at(monkeypatch: pytest.MonkeyPatch, seeds: dict[int, BaseException], started: Started) -> None:
    """Let the jobs of these seeds raise."""

    def run_task(config: dict[str, Any]) -> None:
        started.append(config)
        if config["seed"] in seeds:
            raise seeds[config["seed"]]

    monkeypatch.setattr(sys.modules["diffexp.tasks"], "run_task", run_task)


def sweep_of(room: Path) -> Path:
    """The folder of the one sweep that was run."""
    (sweep,) = (room / "runs" / "sweeps").iterdir()
    return sweep


def test_a_job_starts_with_the_resolved_configuration(conf: Path, room: Path, started: Started) -> None:
    assert entry.main(["+scale=quick", "+experiment=vp_one"], conf) == 0
    assert entry.main(["experiment=vp_one", "scale=quick"], conf) == 0
    assert [config_hash(config) for config in started] == [config_hash(started[0])] * 2
    assert started[0]["training"]["max_steps"] == 20
    assert started[0]["recipe"] == "vp_one"
    assert type(started[0]["network"]) is dict
    assert os.listdir(room) == []  # Hydra made nothing


def test_a_sweep_runs_every_job_here(conf: Path, room: Path, started: Started) -> None:
    assert entry.main(["-m", "experiment=vp_one", "sampler=ddim,heun", "seed=0,1"], conf) == 0
    assert [(config["sampler"]["name"], config["seed"]) for config in started] == [
        ("ddim", 0), ("ddim", 1), ("heun", 0), ("heun", 1),
    ]  # fmt: skip
    assert [config["evaluation"]["only"] for config in started] == ["ddim", "ddim", "heun", "heun"]
    assert set(os.listdir(sweep_of(room))) == {
        *(f"job_00{n}.json" for n in range(4)), "multirun.yaml", "report.md", "report.html",
    }  # fmt: skip
    assert os.listdir(room / "runs") == ["sweeps"]


def test_a_sweep_of_a_task_that_writes_nothing_has_no_folder(conf: Path, room: Path, started: Started) -> None:
    assert entry.main(["-m", "experiment=vp_one", "task=check", "seed=0,1"], conf) == 0
    assert len(started) == 2
    assert os.listdir(room) == []


@pytest.mark.parametrize("word", ["hydra.sweep.dir=here", "hydra.sweep.subdir=here"])
def test_hydras_own_sweep_folder_is_refused(
    word: str, conf: Path, room: Path, started: Started, capfd: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["-m", "experiment=vp_one", "seed=0,1", word], conf) == 2
    assert "diffexp names the folder of a sweep itself, <runs>/sweeps/...; say runs=..." in capfd.readouterr().err
    assert started == []
    assert os.listdir(room) == []


def test_no_job_starts_when_one_of_them_is_wrong(
    conf: Path, room: Path, started: Started, capfd: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["-m", "experiment=vp_one", "training.max_steps=5,6,abc"], conf) == 2
    assert started == []
    assert capfd.readouterr().err == "diffexp: training.max_steps=abc: expected int, got 'abc'\n"
    assert os.listdir(room) == []


def test_failing_jobs_of_a_sweep_do_not_stop_the_others(
    conf: Path, room: Path, started: Started, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _fail_at(monkeypatch, {1: ConfigError("bad\nluck"), 2: ConfigError("worse")}, started)
    assert entry.main(["-m", "experiment=vp_one", "seed=0,1,2,3"], conf) == 2
    assert [config["seed"] for config in started] == [0, 1, 2, 3]
    assert capfd.readouterr().err.splitlines() == [
        "diffexp: job 1 (experiment=vp_one seed=1): bad luck",
        "diffexp: job 2 (experiment=vp_one seed=2): worse",
        "diffexp: 2 of 4 jobs failed",
    ]
    jobs = read_sweep(sweep_of(room))
    assert [(job.number, job.state, job.message) for job in jobs] == [
        (0, "ok", ""), (1, "failed", "bad"), (2, "failed", "worse"), (3, "ok", ""),
    ]  # fmt: skip
    assert jobs[2].overrides == ("experiment=vp_one", "seed=2")
    assert entry.main(["-m", "experiment=vp_one", "seed=0,3"], conf) == 0  # nothing is left of the failure


@pytest.mark.parametrize(
    ("error", "code"), [(PreemptedError("stopped by SIGTERM at 5", 143), 143), (PreemptedError("stop", 130), 130)]
)
def test_a_stop_ends_the_sweep(
    error: PreemptedError,
    code: int,
    conf: Path,
    room: Path,
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    _fail_at(monkeypatch, {1: error}, started)
    assert entry.main(["-m", "experiment=vp_one", "sampler=ddim", "seed=0,1,2,3"], conf) == code
    assert [config["seed"] for config in started] == [0, 1]
    line = f"diffexp: job 1 (experiment=vp_one sampler=ddim seed=1): {error}; jobs not started: 2 of 4\n"
    out, err = capfd.readouterr()
    assert err == line
    assert out == ""
    assert [job.state for job in read_sweep(sweep_of(room))] == ["ok", "preempted", "waiting", "waiting"]


def test_a_changed_sampler_has_an_effect(
    conf: Path, room: Path, started: Started, capfd: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["experiment=vp_one", "sampler.clip=true"], conf) == 0
    (config,) = started
    assert config["sampler"]["clip"] is True
    assert config["evaluation"]["only"] == config["sampler"]["name"] == "ddim"
    assert entry.main(["experiment=vp_one", "sampler.clip=true", "evaluation.only=heun"], conf) == 2
    assert "sampler.clip=true: has no effect beside evaluation.only=heun" in capfd.readouterr().err
    assert len(started) == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("no\ndata"), 2, "diffexp: no data\n"),
        (KeyboardInterrupt(), 130, "diffexp: interrupted\n"),
        (PreemptedError("stopped by SIGTERM at step 5", 143), 143, "diffexp: stopped by SIGTERM at step 5\n"),
        (SystemExit(143), 143, ""),
        (SystemExit("words"), 1, "diffexp: words\n"),
    ],
)
def test_endings_of_a_job(
    error: BaseException,
    code: int,
    line: str,
    conf: Path,
    room: Path,
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    _fail_at(monkeypatch, {0: error}, started)
    assert entry.main(["experiment=vp_one"], conf) == code
    assert capfd.readouterr().err == line


@pytest.mark.parametrize("words", [["seed=0"], ["-m", "seed=0,1"]])
def test_a_bug_in_a_job_shows_its_trace(
    words: list[str],
    conf: Path,
    room: Path,
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    _fail_at(monkeypatch, {0: ZeroDivisionError("a bug")}, started)
    assert entry.main(["experiment=vp_one", *words], conf) == 1
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err


REFUSALS = [
    (["experiment=vp_one", "training.max_stepz=3"], "did you mean 'max_steps'?"),
    (["experiment=vp_one", "sampler=dim"], "did you mean 'ddim'?"),
    (["+experimnt=vp_one"], "did you mean 'experiment'?"),
    (["experiment=vp_one", "training.max_steps=abc"], "expected int, got 'abc'"),
    (["experiment=vp_one", "training._target_=os.system"], "os.system"),
    (["experiment=vp_one", "+hydra.callbacks.x._target_=os.system"], "hydra.callbacks.x._target_=os.system"),
    (["experiment=vp_one", "--multirn"], "did you mean '--multirun'?"),
    (["experiment=vp_one", "task=trian"], "did you mean 'train'?"),
    (["experiment=vp_one", "ckpt=latest:vp_one"], "no run of 'vp_one' with a checkpoint"),
    (["experiment=vp_one", "ckpt=nowhere.ckpt"], "ckpt=nowhere.ckpt: no such file or folder"),
    ([], "task=run needs a recipe: add experiment=..., choose from: vp_one, vp_two"),
    (["task=evaluate"], "task=evaluate needs a recipe"),
    (["-m", "experiment=vp_on", "seed=0,1"], "did you mean 'vp_one'?"),
    (["-m", "experiment=vp_one", "training.max_stepz=3", "seed=0,1"], "did you mean 'max_steps'?"),
    (["-m", "experiment=vp_one", "sampler=dim", "seed=0,1"], "did you mean 'ddim'?"),
]


@pytest.mark.parametrize(("words", "message"), REFUSALS)
def test_a_refusal_is_one_line_and_leaves_nothing(
    words: list[str], message: str, conf: Path, room: Path, started: Started, capfd: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(words or ["seed=0"], conf) == 2
    out, err = capfd.readouterr()
    assert message in err
    assert err.startswith("diffexp: ")
    assert err.count("\n") == 1
    assert out == ""
    assert started == []
    assert os.listdir(room) == []


def test_tasks_that_need_no_recipe(conf: Path, room: Path, started: Started) -> None:
    assert entry.main(["task=report"], conf) == 0
    (room / "loose.ckpt").write_text("x")
    assert entry.main(["task=sample", "ckpt=loose.ckpt"], conf) == 0
    assert [config["task"] for config in started] == ["report", "sample"]


def test_help_says_what_there_is(conf: Path, room: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h", "experiment=vp_one"]):
        assert entry.main(words, conf) == 0
        text = capfd.readouterr().out
        for expected in (
            "Tasks",
            "evaluate",
            "vp_one",
            "The first recipe.",
            "ddim*  heun",
            "As published.",
            "Examples",
            "recipe and scale need not be named",
            "sampler.clip=true",
            "report.md and its plots again",
            "diff how two configurations differ",
        ):
            assert expected in text or expected in " ".join(text.split())
        assert max(map(len, text.splitlines())) <= 110


def test_the_configuration_is_printed(conf: Path, room: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["experiment=vp_one", "--cfg", "job", "--package", "training"], conf) == 0
    assert "max_steps: 500000" in capfd.readouterr().out
    assert entry.main(["--cfg", "job"], conf) == 0  # without a recipe too
    assert "seed: 0" in capfd.readouterr().out
    assert entry.main(["--version"], conf) == 0
    assert capfd.readouterr().out == "diffexp 0.1.0\n"


def test_a_recipe_of_ones_own(conf: Path, room: Path, tmp_path: Path, started: Started) -> None:
    extra = tmp_path / "my conf"
    (extra / "experiment").mkdir(parents=True)
    (extra / "experiment" / "mine.yaml").write_text("# @package _global_\ntraining: {max_steps: 7}\n")
    assert entry.main(["experiment=mine", "--config-dir", str(extra)], conf) == 0
    assert entry.main(["-m", "experiment=mine", "seed=0,1", "-cd", str(extra)], conf) == 0
    assert [config["training"]["max_steps"] for config in started] == [7, 7, 7]


def test_the_process_is_left_as_it_was(conf: Path, room: Path, started: Started) -> None:
    argv, folder, handlers = list(sys.argv), os.getcwd(), list(logging.getLogger().handlers)
    logger = logging.getLogger("lightning.pytorch.test")
    assert entry.main(["experiment=vp_one"], conf) == 0
    assert (sys.argv, os.getcwd(), logging.getLogger().handlers) == (argv, folder, handlers)
    assert not logger.disabled
