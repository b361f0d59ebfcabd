"""The same work is not done twice: one training for many evaluations, and commands that go on where others ended."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import diffexp.training.fit
from diffexp.checkpoint.file import load
from diffexp.evaluation.results import read_rows
from diffexp.launch.folder import RunFolder
from diffexp.launch.sweep import read_sweep
from diffexp.sampler.loop import Sampler
from tests.e2e.conftest import SMALL, Answer, Command

TINY = [*SMALL, "training.max_steps=6", "training.checkpoint_every=2", "training.log_every=2", "evaluation.nfe=[3]"]


@pytest.fixture
def trainings(monkeypatch):
    """The step that each training began at."""
    seen = []
    original = diffexp.training.fit.fit

    def fit(module, batches, training, device, run, stop, resume=None, *rest, **options):
        seen.append(0 if resume is None else load(resume)["global_step"])
        return original(module, batches, training, device, run, stop, resume, *rest, **options)

    monkeypatch.setattr(diffexp.training.fit, "fit", fit)
    return seen


@pytest.fixture
def samplings(monkeypatch):
    """The samplers that were asked for images."""
    seen = []
    original = Sampler.sample

    def sample(self, *arguments, **options):
        seen.append(self.name)
        return original(self, *arguments, **options)

    monkeypatch.setattr(Sampler, "sample", sample)
    return seen


def folders(place: Path) -> list[Path]:
    return sorted((place / "runs" / "gddim_vp").iterdir())


def measured(run: Path) -> set[str]:
    """The samplers with rows."""
    return {row.sampler for row in read_rows(run / "results.csv") if not row.control}


def times(place: Path) -> dict[Path, int]:
    """When each file was written."""
    return {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}


def timed(command: Command, *words: str) -> tuple[Answer, float]:
    """(how a command ended, the processor's seconds that it took)."""
    began = time.process_time()
    answer = command(*words)
    return answer, time.process_time() - began


def same_weights(one: Path, other: Path) -> bool:
    a, b = load(one), load(other)
    profiles = zip(a["ema"]["profiles"].values(), b["ema"]["profiles"].values(), strict=True)
    pairs = [(a["state_dict"], b["state_dict"]), *profiles]
    return all(torch.equal(value, there[name]) for here, there in pairs for name, value in here.items())


def test_three_samplers_are_one_training(command: Command, trainings, samplings, tmp_path):
    """The sweep of the README: one training, three evaluations; again: nothing."""
    sweep = [*TINY, "-m", "sampler=ddim,heun,ddpm"]
    answer = command(*sweep)
    assert answer.code == 0, answer.err
    assert trainings == [0]
    assert set(samplings) == {"ddim", "heun", "ddpm"}
    first, *others = folders(tmp_path)
    assert [path.name[:12] for path in others] == [first.name] * 2
    assert [len(path.name) for path in others] == [19, 19]
    assert len(list(first.glob("checkpoints/*"))) == 3
    assert not any((path / "checkpoints").exists() for path in others)
    where = {"folder": f"../{first.name}", "checkpoint": f"../{first.name}/checkpoints/step_00000006.ckpt"}
    assert [json.loads((path / "training.json").read_text()) for path in others] == [where] * 2
    assert sorted(map(sorted, map(measured, (first, *others)))) == [["ddim"], ["ddpm"], ["heun"]]
    before = times(tmp_path / "runs" / "gddim_vp")
    trainings.clear()
    samplings.clear()
    again, seconds = timed(command, *sweep)
    unit = min(timed(command, *TINY, "task=check")[1] for _ in range(2))  # what every command costs, here and now
    assert seconds < 6.0 * unit, "three jobs and a report with its figure; their samples alone would be as much"
    assert again.code == 0
    assert again.out.count("complete already, nothing to do\nreport: runs/gddim_vp/") == 3
    assert (trainings, samplings) == ([], [])
    assert times(tmp_path / "runs" / "gddim_vp") == before
    alone, seconds = timed(command, *TINY, "sampler=heun")
    assert seconds < 2.0 * unit
    assert alone.out.startswith("complete already, nothing to do\nreport: runs/gddim_vp/")
    assert Path(alone.out.split()[-1]).is_file()
    assert times(tmp_path / "runs" / "gddim_vp") == before


def test_what_is_missing_is_done(command: Command, trainings, samplings, tmp_path):
    assert command(*TINY, "task=train").code == 0
    assert (trainings, samplings) == ([0], [])
    answer = command(*TINY, "task=train")
    run = folders(tmp_path)[0]
    checkpoint = (run / "checkpoints" / "step_00000006.ckpt").relative_to(tmp_path)
    assert answer.out == f"complete already, nothing to train\ncheckpoint: {checkpoint}\n"
    assert command(*TINY, "sampler=heun").code == 0
    assert command(*TINY).code == 0
    assert trainings == [0]
    assert len(folders(tmp_path)) == 2
    values = [(row.key, row.value) for row in read_rows(run / "results.csv")]
    (run / "samples_ddim.png").unlink()
    samplings.clear()
    answer = command(*TINY)
    assert "complete" not in answer.out
    assert (run / "samples_ddim.png").is_file()
    (run / "checkpoints" / "step_00000006.ckpt").unlink()
    assert command(*TINY).code == 0
    assert trainings == [0, 4], "it goes on from what is left"
    assert [(row.key, row.value) for row in read_rows(run / "results.csv")] == values
    assert command(*TINY, "evaluation.again=true").code == 0
    assert [(row.key, row.value) for row in read_rows(run / "results.csv")] == values


def test_weights_of_another_revision_are_used_with_a_word(command: Command, trainings, tmp_path, monkeypatch):
    assert command(*TINY, "task=train").code == 0
    monkeypatch.setattr("diffexp.tasks.restore.revision", lambda: "diffexp 9.9 (abc)")
    answer = command(*TINY, "sampler=ddim")
    assert answer.code == 0
    lines = [line for line in answer.err.splitlines() if "was trained by" in line]
    assert len(lines) == 1
    assert re.search(r"step_00000006\.ckpt was trained by diffexp 0\.1\.0 .*, this is diffexp 9\.9 \(abc\)", lines[0])
    assert trainings == [0]


def test_other_data_than_those_of_the_training_are_used_with_a_word(command: Command, trainings, tmp_path):
    assert command(*TINY, "dataset.held_out=600", "task=train").code == 0
    (run,) = folders(tmp_path)
    small = [word for word in TINY if word.startswith(("network.", "training.", "evaluation."))]
    for told, words in ((1, []), (0, ["dataset.held_out=600"])):
        answer = command("task=evaluate", f"ckpt={run}", "sampler=ddim", "evaluation.nfe=[2]", *small, *words)
        assert answer.code == 0, answer.err
        named = "was trained with dataset.held_out=600, this command has 896"
        assert sum(named in line for line in answer.err.splitlines()) == told


def test_a_longer_training_goes_on_from_a_shorter_one_in_a_folder_of_its_own(command: Command, trainings, tmp_path):
    assert command(*TINY, "task=train").code == 0
    (short,) = folders(tmp_path)
    longer = [*TINY, "training.max_steps=8", "task=train"]
    assert command(*longer, f"ckpt={short}").code == 0
    (long,) = set(folders(tmp_path)) - {short}
    assert command(*longer, "runs=other").code == 0
    assert trainings == [0, 6, 0]
    last = "checkpoints/step_00000008.ckpt"
    assert same_weights(long / last, tmp_path / "other" / "gddim_vp" / long.name / last)
    assert command(*longer, f"ckpt={short}").out.startswith("complete already")
    assert command(*TINY, "task=train").out.startswith("complete already"), "the shorter one is still there"


def test_an_older_or_a_lone_checkpoint_goes_on_elsewhere(command: Command, trainings, tmp_path):
    assert command(*TINY, "task=train").code == 0
    (run,) = folders(tmp_path)
    old, last = run / "checkpoints" / "step_00000004.ckpt", run / "checkpoints" / "step_00000006.ckpt"
    before = times(run)
    for _ in range(2):
        assert command(*TINY, "task=train", f"ckpt={old}").code == 0
    branch = folders(tmp_path)[1]
    assert branch.name.startswith(f"{run.name}-")
    assert trainings == [0, 4]
    assert same_weights(last, branch / "checkpoints" / "step_00000006.ckpt")
    assert times(run) == before
    lone = shutil.copy(old, tmp_path / "lone.ckpt")
    assert command(*TINY, "task=train", f"ckpt={lone}", "runs=other").code == 0
    assert trainings == [0, 4, 4]
    assert same_weights(last, tmp_path / "other" / "gddim_vp" / run.name / "checkpoints" / "step_00000006.ckpt")


def test_an_older_or_a_lone_checkpoint_is_evaluated_elsewhere(command: Command, trained, tmp_path, samplings):
    old = trained / "checkpoints" / "step_00000020.ckpt"
    lone = shutil.copy(old, tmp_path / "lone.ckpt")
    before = times(trained)
    words = [*SMALL, "task=evaluate", "sampler=ddim", "evaluation.nfe=[3]"]
    for spec in (old, old, lone):
        assert command(*words, f"ckpt={spec}").code == 0
    (run,) = folders(tmp_path)
    assert samplings.count("ddim") == 3 + 1 + 1, "a warm-up and two seeds; then the grid's pictures alone"
    assert {row.checkpoint for row in read_rows(run / "results.csv")} == {"step_00000020@decay_0.995"}
    assert times(trained) == before


def test_a_damaged_checkpoint_is_refused_with_the_way_out(command: Command, trainings, tmp_path):
    assert command(*TINY, "task=train").code == 0
    (run,) = folders(tmp_path)
    whole = load(run / "checkpoints" / "step_00000006.ckpt")["state_dict"]
    whole = {name: value.clone() for name, value in whole.items()}  # not a view of the file any more
    (run / "checkpoints" / "step_00000006.ckpt").unlink()
    torn = run / "checkpoints" / "step_00000004.ckpt"
    torn.write_bytes(torn.read_bytes()[:2000])
    answer = command(*TINY, "task=train")
    assert answer.code == 2
    assert "step_00000004.ckpt' is truncated, damaged" in answer.err
    way = re.search(r"ckpt=(\S+step_00000002\.ckpt) goes on from the one before it", answer.err)
    assert way is not None
    assert command(*TINY, "task=train", f"ckpt={way[1]}").code == 0
    assert trainings == [0, 2]
    again = load(folders(tmp_path)[1] / "checkpoints" / "step_00000006.ckpt")["state_dict"]
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


@pytest.mark.parametrize("relative", [True, False])
def test_the_environment_says_where_runs_are(command: Command, tmp_path, monkeypatch, relative):
    monkeypatch.setenv("DIFFEXP_RUNS", "my runs" if relative else str(tmp_path / "my runs"))
    assert command(*TINY, "task=train").code == 0
    assert command("task=train", *TINY, "ckpt=latest:gddim_vp").out.startswith("complete already")
    assert os.listdir(tmp_path) == ["my runs"]
    assert command(*TINY, "task=train", "runs=there").code == 0
    assert sorted(os.listdir(tmp_path)) == ["my runs", "there"]


@pytest.mark.parametrize("relative", [True, False])
def test_the_environment_says_where_data_are(command: Command, tmp_path, monkeypatch, relative):
    place = "my data" if relative else str(tmp_path / "my data")
    monkeypatch.setenv("DIFFEXP_DATA", place)
    answer = command(*TINY, "dataset=cifar10", "evaluation=pictures")
    assert answer.code == 2
    assert f"CIFAR-10 is not in '{place}'" in answer.err


@pytest.mark.parametrize("words", [["task=train"], ["-m", "seed=0,1"]])
def test_runs_that_cannot_be_written_are_one_line(command: Command, tmp_path, monkeypatch, words):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIFFEXP_RUNS", "file/runs")
    answer = command(*TINY, *words)
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1
    assert "file/runs" in answer.err
    assert "Not a directory" in answer.err


def test_a_signal_ends_the_waiting(command: Command, trainings, tmp_path):
    assert command(*TINY, "task=train").code == 0
    (run,) = folders(tmp_path)
    (run / "checkpoints" / "step_00000006.ckpt").unlink()
    held = RunFolder.claim(run, "another job")

    def stop() -> None:
        while not any("waits for" in path.read_text() for path in tmp_path.glob("runs/*/*/status.json")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    answer = command(*TINY, "-m", "sampler=heun")
    held.release()
    assert answer.code == 143
    assert "stopped by SIGTERM while waiting for another command's training; jobs not started: 0 of 1" in answer.err
    own = folders(tmp_path)[1]
    assert json.loads((own / "status.json").read_text())["state"] == "preempted"
    (job,) = read_sweep(next((tmp_path / "runs" / "sweeps").iterdir()))
    assert (job.state, job.folder) == ("preempted", f"../../gddim_vp/{own.name}")
    assert not (own / "lock").exists()
    assert trainings == [0]
    assert command(*TINY, "sampler=heun").code == 0
    assert trainings == [0, 4]


@pytest.mark.slow
def test_who_waits_takes_over_from_the_killed(command: Command, trainings, tmp_path):
    """A process trains; its command again is refused, another one waits; it is killed, and the other goes on."""
    long = [*TINY, "training.max_steps=40", "training.log_every=40"]
    script = [sys.executable, "-m", "diffexp", *long, "sampler=ddim"]
    first = subprocess.Popen(script, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("runs/*/*/checkpoints/*.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.005)
        first.send_signal(signal.SIGSTOP)  # it lives, and stays where it is
        twice = command(*long, "sampler=ddim")
        assert twice.code == 2
        assert twice.err.endswith(f"in use by process {first.pid}\n")

        def kill() -> None:
            while not any("waits for" in path.read_text() for path in tmp_path.glob("runs/*/*/status.json")):
                time.sleep(0.02)
            first.send_signal(signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        answer = command(*long, "sampler=heun")
        killer.join()
    finally:
        first.kill()
        first.communicate()
    assert answer.code == 0, answer.err
    waited = [line for line in answer.err.splitlines() if "waiting for the training" in line]
    assert len(waited) == 1
    assert waited[0].endswith(f"in use by process {first.pid}")
    (start,) = trainings
    assert start > 0
    run, other = folders(tmp_path)
    assert json.loads((run / "status.json").read_text())["message"] == f"trained for {other.name}"
    assert measured(other) == {"heun"}
    assert not (run / "results.csv").exists()
    assert command(*long, "sampler=ddim").code == 0
    assert trainings == [start]
    assert measured(run) == {"ddim"}
    assert len(folders(tmp_path)) == 2
    assert not [path for path in tmp_path.rglob("*") if path.name == "lock" or path.suffix == ".tmp"]
