"""Oracles in the place of a network: sampled and evaluated without training; labels and guidance from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diffexp.evaluation.results import read_rows
from tests.e2e.conftest import SMALL

ONE = ["scale=quick", "experiment=gddim_vp", "sampler=ddim", "evaluation.n=64", "evaluation.seeds=[0]"]


def _pixels(path: Path) -> np.ndarray:
    return np.load(path)["images"].astype(np.float64) / 127.5 - 1.0


def test_an_oracle_is_evaluated_without_training(command):
    answer = command(*ONE, "network=oracle_dataset", "evaluation.nfe=12")
    assert answer.code == 0
    (run,) = Path("runs/gddim_vp").iterdir()
    rows = {row.control or row.sampler: row for row in read_rows(run / "results.csv")}
    assert (rows["ddim"].checkpoint, rows["ddim"].nfe) == ("oracle", 12)
    # it draws the training images themselves: as near to them as training images drawn at random, far from noise
    assert rows["ddim"].value < 1.5 * rows["resampled"].value < 0.5 * rows["noise"].value
    assert json.loads((run / "status.json").read_text())["state"] == "ok"
    assert not (run / "checkpoints").exists() or not any((run / "checkpoints").iterdir())
    again = command(*ONE, "network=oracle_dataset", "evaluation.nfe=12", "task=evaluate")
    assert again.code == 0
    assert "known before" in again.err


def test_a_mixture_is_sampled_with_its_own_moments(command):
    answer = command(*ONE, "network=oracle_mixture", "task=sample", "evaluation.nfe=240", "evaluation.n=200")
    assert answer.code == 0
    (path,) = Path("runs/gddim_vp").glob("oracle-*/samples/*.npz")
    pixels = _pixels(path)
    weights, means, std = np.array([0.3, 0.7]), np.array([-0.6, 0.5]), 0.15
    mean = float(weights @ means)
    variance = std**2 + float(weights @ means**2) - mean**2
    assert pixels.mean() == pytest.approx(mean, abs=4 * (variance / pixels.size) ** 0.5 + 5e-3)
    assert pixels.var() == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["network=oracle_mixture", "task=train"], "network=oracle_mixture: there is nothing to train"),
        (["network=oracle_mixture", "network.means=[0.0]"], "stds of a mixture need the same length"),
        (["network=oracle_dataset", "network.limit=0"], "network.limit=0: at least one image"),
        (["network=oracle_dataset", "evaluation.ema=none2"], "evaluation.ema=none2: there is no such average"),
        (["network=oracle_dataset", "sampler.guidance=2"], "sampler.guidance=2: the model never learned"),
        (["sampler.guidance=2"], "sampler.guidance=2: the model never learned"),
        (["objective.label_dropout=0.1"], "objective.label_dropout has no effect without labels"),
        (["process=ddpm"], "prediction.time=999t: process ddpm counts its times: use index"),
        (["process=ve", "prediction=v"], "prediction=v needs alpha^2 + sigma^2 = 1"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(command, words, said):
    answer = command(*ONE, "evaluation.nfe=12", *words)
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_labels_dropped_in_training_let_a_sampler_be_guided(command):
    labels = ["dataset.labels=true", "network.class_conditional=true", "objective.label_dropout=0.2"]
    answer = command(*SMALL, *labels, "sampler=ddim", "sampler.guidance=1.5", "evaluation.nfe=10")
    assert answer.code == 0
    (run,) = Path("runs/gddim_vp").iterdir()
    (row,) = {(row.sampler, row.nfe) for row in read_rows(run / "results.csv") if row.control is None}
    assert row == ("ddim(guidance=1.5)", 10)
    odd = command(*SMALL, *labels, "sampler=ddim", "sampler.guidance=1.5", "evaluation.nfe=9")
    assert (odd.code, "nfe=9 is not reachable with sampler ddim: choose 8 or 10" in odd.err) == (2, True)
