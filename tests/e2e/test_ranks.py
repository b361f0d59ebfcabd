"""Two ranks train what one process trains; they are stopped, lost and resumed as one; torchrun starts the same run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from diffexp.__main__ import main
from diffexp.checkpoint.file import load
from tests.e2e.conftest import SMALL, Command

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")

_DECOUPLED = """# @package _global_
defaults:
  - gddim_vp
  - override /process: ddm_linear
  - override /prediction: ddm
  - override /objective: ddm_v1
  - override /ema: ddm_v1
trainer: {precision: 64-true}
optimizer: {decay_steps: 100, decay_power: 0.96, decay_floor: 0.1, warmup_overshoot: true}
ema: {every: 2, after: 20}
"""
RECIPES = {  # a user's own: float64 with Adam, float32 with SGD, and DDM with an image drawn beside each of the data
    "double": "# @package _global_\ndefaults:\n  - gddim_vp\ntrainer: {precision: 64-true}\n",
    "single": "# @package _global_\ndefaults:\n  - gddim_vp\n  - override /optimizer: sgd\n",
    "decoupled": _DECOUPLED,
}
STEPS = 100
TINY = [
    "scale=quick", "task=train", "network.channels=8", "network.multipliers=[1]", "training.batch_size=32",
    f"training.max_steps={STEPS}", "training.log_every=10", "training.checkpoint_every=50", "optimizer.lr=0.02",
    "optimizer.warmup_steps=10", "trainer.accelerator=cpu",
]  # fmt: skip
DROPPING = [*TINY, "experiment=gddim_vp", "network.dropout=0.2", "training.log_every=5", "trainer.devices=2"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def diffexp(*words: str, program: tuple[str, ...] = (sys.executable, "-m", "diffexp")) -> subprocess.CompletedProcess:
    """A command in a process of its own."""
    return subprocess.run([*program, *words], capture_output=True, text=True, env=environment(), timeout=300)


def torchrun(*words: str) -> subprocess.CompletedProcess:
    program = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "diffexp")
    return diffexp(*words, program=program)


def only(parent: Path) -> Path:
    (run,) = parent.iterdir()
    return run


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert list(one) == list(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conf")
    (folder / "experiment").mkdir()
    for name, text in RECIPES.items():
        (folder / "experiment" / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def sweep(recipes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A sweep of these jobs with two ranks each: (its runs, how it ended)."""
    runs = tmp_path_factory.mktemp("ranks")
    words = [*TINY, f"experiment={','.join(RECIPES)}", "trainer.devices=2", f"runs={runs}"]
    return runs, diffexp("-m", "--config-dir", str(recipes), *words)


@pytest.fixture(scope="module")
def alone(recipes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of the same jobs in this process."""
    runs = tmp_path_factory.mktemp("alone")
    for name in RECIPES:
        assert main(["--config-dir", str(recipes), *TINY, f"experiment={name}", f"runs={runs}"]) == 0
    return runs


@pytest.mark.slow
def test_a_sweep_with_two_ranks_for_each_job_leaves_one_run_folder_for_each(sweep):
    runs, done = sweep
    assert done.returncode == 0, done.stderr
    folders = [only(runs / name) for name in RECIPES]
    assert {path.name for path in runs.iterdir()} == {*RECIPES, "sweeps"}
    for run in folders:
        assert json.loads((run / "status.json").read_text())["state"] == "ok"
        assert [path.name for path in run.glob("rank*")] == ["rank1.log"]
        log = (run / "rank1.log").read_text()
        assert len(re.findall(r"rank 1 of 2, process \d+", log)) == 1
        assert f"step {STEPS}/{STEPS}" in log
        assert [line["step"] for line in metrics(run)] == list(range(10, STEPS + 1, 10))  # written once
        names = sorted(path.name for path in (run / "checkpoints").iterdir())
        assert names == [f"step_{step:08d}.ckpt" for step in (50, STEPS)]
    assert done.stderr.count(f"step {STEPS}/{STEPS}") == len(RECIPES)  # ranks > 0 are silent here
    assert "Warning" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "limit", "kind"),
    [("double", 1e-9, torch.float64), ("single", 1e-6, torch.float32), ("decoupled", 1e-9, torch.float64)],
)
def test_two_ranks_train_what_one_process_trains_on_the_joint_batch(sweep, alone, recipe, limit, kind):
    runs = [only(sweep[0] / recipe), only(alone / recipe)]
    two, one = (load(run / "checkpoints" / f"step_{STEPS:08d}.ckpt") for run in runs)
    first = load(runs[1] / "checkpoints" / "step_00000050.ckpt")
    assert {value.dtype for value in two["state_dict"].values()} == {kind}
    assert largest_difference(two["state_dict"], one["state_dict"]) < limit
    assert largest_difference(two["state_dict"], first["state_dict"]) > 1e-3  # fifty steps more are seen
    for name, profile in one["ema"]["profiles"].items():
        assert largest_difference(two["ema"]["profiles"][name], profile) < limit
    for many, single in zip(*map(metrics, runs), strict=True):
        assert many["step"] == single["step"]
        assert many["loss"] == pytest.approx(single["loss"], rel=limit)  # the mean over ranks
        assert many["gradient_norm"] == pytest.approx(single["gradient_norm"], rel=10.0 * limit)


class Training:
    """A command with two ranks, followed from outside."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "diffexp", *words],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip

    def until_it_trains(self) -> None:
        assert any("  loss " in line for line in self.process.stderr)

    def pids(self, run: Path) -> list[int]:
        """The process ids of its two ranks."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        said = re.findall(r"rank 1 of 2, process (\d+)", (run / "rank1.log").read_text())[-1]
        assert len(children) == 2
        assert said in children
        return sorted(map(int, children), key=lambda pid: pid == int(said))

    def end(self, pids: list[int], seconds: float) -> tuple[int, str]:
        """(exit code, the last line that it said); all its processes are gone in time."""
        began = time.monotonic()
        rest = self.process.stderr.read()
        code = self.process.wait(60)
        assert time.monotonic() - began < seconds
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        return code, rest.splitlines()[-1]


@pytest.mark.slow
def test_stopped_lost_and_resumed_ranks_train_as_if_nothing_had_happened(tmp_path):
    """SIGTERM to rank 1, then SIGKILL to rank 1; the same command goes on, bit for bit, dropout included."""
    words = [*DROPPING, "training.max_steps=150", "training.checkpoint_every=20"]
    whole = diffexp(*words, f"runs={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    mine = [*words, f"runs={tmp_path / 'parts'}"]

    stopped = Training(*mine)
    stopped.until_it_trains()
    run = only(tmp_path / "parts" / "gddim_vp")
    pids = stopped.pids(run)
    os.kill(pids[1], signal.SIGTERM)
    code, last = stopped.end(pids, 10.0)
    step = int(re.search(r"stopped by SIGTERM at step (\d+); the checkpoint is written", last)[1])
    assert code == 143
    assert 5 <= step < 150
    assert (run / "checkpoints" / f"step_{step:08d}.ckpt").exists()
    assert json.loads((run / "status.json").read_text())["state"] == "preempted"

    lost = Training(*mine)
    lost.until_it_trains()
    pids = lost.pids(run)
    os.kill(pids[1], signal.SIGKILL)
    code, last = lost.end(pids, 30.0)
    assert code == 1
    assert re.match(r"diffexp: rank 1 of 2 was killed by SIGKILL \(the last line of its log: (step|rank) ", last)
    assert json.loads((run / "status.json").read_text())["message"] == "another rank of this run has ended"

    resumed = diffexp(*mine)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from step" in resumed.stderr
    assert (run / "rank1.log").read_text().count("rank 1 of 2, process") == 3
    paths = [only(tmp_path / name / "gddim_vp") for name in ("whole", "parts")]
    one, other = (load(path / "checkpoints" / "step_00000150.ckpt") for path in paths)
    assert largest_difference(one["state_dict"], other["state_dict"]) == 0.0
    for name, profile in one["ema"]["profiles"].items():
        assert largest_difference(other["ema"]["profiles"][name], profile) == 0.0
    for path in paths:
        assert [line["step"] for line in metrics(path)] == list(range(5, 151, 5))
    assert [line["loss"] for line in metrics(paths[0])] == [line["loss"] for line in metrics(paths[1])]


@pytest.mark.slow
def test_torchrun_starts_the_same_run_in_one_folder(tmp_path):
    """Both evaluate, rank 0 alone reports; the other one has its log in the folder."""
    words = [*SMALL, "sampler=ddim", "trainer.accelerator=cpu", "trainer.devices=2", f"runs={tmp_path}"]
    done = torchrun(*words)
    assert done.returncode == 0, done.stderr
    run = only(tmp_path / "gddim_vp")
    assert json.loads((run / "status.json").read_text())["state"] == "ok"
    assert [line["step"] for line in metrics(run)] == [10, 20, 30]
    assert "step 30/30" in (run / "rank1.log").read_text()
    assert "ddim at NFE" in (run / "rank1.log").read_text()
    assert (run / "results.csv").exists()
    assert done.stdout.count("report: ") == 1
    assert done.stderr.count("step 30/30") == 1
    again = diffexp(*words)  # the same job without torchrun: it is complete
    assert again.returncode == 0, again.stderr
    assert only(tmp_path / "gddim_vp") == run
    assert "training gddim_vp" not in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.devices=3"], "trainer.devices=3: torchrun has started 2 ranks; say trainer.devices=2"),
        (["-m", "trainer.devices=2", "seed=0,1"], "--multirun under torchrun: every job of a sweep starts its own"),
    ],
)
def test_torchrun_refuses_once_and_every_rank_exits_with_2(tmp_path, words, message):
    done = torchrun(*SMALL, *words, f"runs={tmp_path}")
    assert done.returncode != 0
    assert done.stderr.count("diffexp: ") == 1
    assert f"diffexp: {message}" in done.stderr
    assert set(re.findall(r"exitcode\s*:\s*(-?\d+)", done.stderr)) == {"2"}
    assert not list(tmp_path.iterdir())


def test_ranks_that_cannot_share_the_batch_are_refused_before_anything_starts(command: Command, tmp_path):
    answer = command(*SMALL, "trainer.devices=3")
    assert answer.code == 2
    assert answer.err == (
        "diffexp: training.batch_size=32: 3 devices cannot share it equally; did you mean training.batch_size="
        "30 or 33, or trainer.devices=2 or 4?\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.slow
def test_a_refusal_of_the_ranks_is_told_once(tmp_path):
    done = diffexp(*SMALL, "trainer.devices=2", "trainer.accelerator=gpu", f"runs={tmp_path}")
    assert done.returncode == 2
    assert done.stderr == "diffexp: trainer.accelerator=gpu: no GPU is visible to torch; use cpu or auto\n"
    assert not list(tmp_path.iterdir())
