"""Two ranks evaluate what one process evaluates: the same numbers, each image made once, one folder, one report."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffexp.core.errors import ConfigError, PreemptedError
from diffexp.dataset.digits import Digits
from diffexp.evaluation.passes import check_parts, shard
from diffexp.evaluation.results import read_rows
from diffexp.launch import ranks
from diffexp.launch.ranks import World
from diffexp.tasks.together import heeding
from tests.e2e.conftest import Command

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")

N = 61  # 30 and 31
METRICS = "evaluation.metrics=[is,kid,recall]"
SCORE = ["experiment=gddim_vp", "scale=quick", f"evaluation.n={N}", "evaluation.batch_size=16", "evaluation.seeds=[1]"]
ORACLE = ["network=oracle_dataset", "sampler=ddim", "evaluation.nfe=[4]", "evaluation.grid_images=40"]
TWO = ["trainer.devices=2", "trainer.accelerator=cpu"]


def two_ranks(*words: str) -> subprocess.CompletedProcess[str]:
    """A command in processes of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "diffexp", *words, *TWO]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def run_in(folder: str) -> Path:
    (run,) = Path(folder).glob("gddim_vp/*")
    return run


def _same(two: Path, one: Path) -> None:
    rows, others = (
        {(row.sampler, row.nfe, row.metric, row.seed): row for row in read_rows(run / "results.csv")}
        for run in (two, one)
    )
    assert list(rows) == list(others)
    assert len({row.metric for row in rows.values()}) == 4
    for key, row in rows.items():
        assert row.value == pytest.approx(others[key].value, rel=1e-6, abs=1e-12), key
        assert (row.n, row.protocol, row.checkpoint) == (N, others[key].protocol, others[key].checkpoint)


@pytest.mark.slow
def test_two_ranks_evaluate_what_one_does(command: Command) -> None:
    words = [*SCORE, *ORACLE, METRICS]
    answer = two_ranks(*words, "task=evaluate", "runs=two")
    assert answer.returncode == 0, answer.stderr
    assert command(*words, "task=evaluate", "runs=one").code == 0
    two, one = run_in("two"), run_in("one")
    _same(two, one)
    assert (two / "samples_ddim.png").read_bytes() == (one / "samples_ddim.png").read_bytes(), "40 images of both ranks"
    log = (two / "rank1.log").read_text()
    assert "ddim at NFE 4" in log
    assert "rank 1 of 2" in log
    assert answer.stdout.count("report:") == 1
    again = two_ranks(*words, "task=evaluate", "runs=two")
    assert again.stderr.count("known before") == 4 + 1, again.stderr


@pytest.mark.slow
def test_two_ranks_score_given_images(command: Command) -> None:
    np.savez("a.npz", images=Digits().split("test").images(range(2 * N + 3)).permute(0, 2, 3, 1).numpy())
    words = [*SCORE, METRICS, "task=evaluate", "samples=a.npz", "evaluation.controls=[noise]"]
    answer = two_ranks(*words, "runs=two")
    assert answer.returncode == 0, answer.stderr
    assert command(*words, "runs=one").code == 0
    _same(run_in("two"), run_in("one"))


def test_fewer_images_than_ranks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"evaluation.n=2: 3 ranks cannot share so few images: set trainer.devices=2"):
        check_parts(2, World(0, 0, 3, 3))
    check_parts(3, World(0, 0, 3, 3))


def test_who_hears_of_a_stop_stops_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank's end is a failure, unless it has said that a signal came."""
    words = {"word": "rank 1: stopped by SIGTERM while evaluating"}
    monkeypatch.setattr(ranks, "told", lambda: words["word"])
    with pytest.raises(PreemptedError, match=r"^stopped by SIGTERM while evaluating$") as stopped, heeding():
        raise ranks.RankLostError("another rank of this run has ended")
    assert stopped.value.exit_code == 143
    words["word"] = None
    with pytest.raises(ranks.RankLostError), heeding():
        raise ranks.RankLostError("another rank of this run has ended")


@pytest.mark.parametrize(("n", "size"), [(61, 2), (7, 3), (50000, 8), (3, 3)])
def test_every_image_is_one_ranks(n: int, size: int) -> None:
    parts = [shard(n, World(rank, rank, size, size)) for rank in range(size)]
    assert [index for part in parts for index in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
