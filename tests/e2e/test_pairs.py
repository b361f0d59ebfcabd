"""Pairs from the command line: a training, an evaluation with several metrics, samples, and the same again."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffexp.core.image import to_uint8
from diffexp.dataset.degradation import Outline
from diffexp.dataset.digits import Digits
from diffexp.dataset.paired import Degraded
from diffexp.evaluation.pairs import Pairing
from tests.e2e.conftest import Command

WORDS = ["experiment=dbim_e2h", "scale=quick", "training.max_steps=12", "evaluation.only=dbim", "evaluation.nfe=[2,3]"]
SMALL = ["evaluation.n=24", "evaluation.seeds=[0]", "evaluation.grid_images=4"]


@pytest.mark.slow
def test_a_bridge_is_trained_evaluated_sampled_and_found_complete(command: Command, tmp_path: Path) -> None:
    answer = command(*WORDS, *SMALL)
    assert answer.code == 0, answer.err
    (path,) = Path("runs").rglob("results.csv")
    with open(path, newline="") as handle:
        rows = list(csv.DictReader(handle))
    arms = [row for row in rows if not row["sampler"].startswith("control:")]
    assert {(row["metric"], row["nfe"]) for row in arms} == {
        (metric, nfe) for metric in ("fd_digits", "mse", "psnr", "ssim") for nfe in ("2", "3")
    }
    assert {row["sampler"] for row in rows if row["metric"] == "mse"} == {
        "dbim(clip)", "control:source", "control:noise", "control:mean"
    }  # fmt: skip
    text = (path.parent / "report.md").read_text()
    assert "python -m diffexp experiment=dbim_e2h scale=quick" in text
    for plot in ("distance", "mse", "psnr", "ssim"):
        assert (path.parent / f"{plot}.svg").is_file()

    again = command(*WORDS, *SMALL)
    assert "complete already" in again.out

    sampled = command(*WORDS, *SMALL, "task=sample", f"ckpt={path.parent}")
    assert sampled.code == 0, sampled.err
    (arrays,) = Path("runs").rglob("samples/*nfe3_seed0.npz")
    images = np.load(arrays)["images"]
    assert images.shape == (24, 8, 8, 1)
    mse = next(float(row["value"]) for row in arms if (row["metric"], row["nfe"]) == ("mse", "3"))
    split = Degraded(Digits(), Outline(0.3)).split("test")
    targets = Pairing("test", split).targets(range(24)).permute(0, 2, 3, 1).numpy()
    assert np.square((images.astype(float) - targets) / 127.5).mean() == pytest.approx(mse, rel=1e-9)


def test_two_folders_of_ones_own_are_checked_before_a_run(command: Command, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(12):
            Image.new("L", (8, 8), 20 * number).save(tmp_path / name / f"{number}.png")
    (tmp_path / "b" / "7.png").unlink()
    own = ["dataset=paired_folders", "dataset.target=a", "dataset.source=b"]
    own += ["dataset.resolution=8", "dataset.channels=1"]
    answer = command(*WORDS, *own, "evaluation=pictures", "evaluation.n=4", "evaluation.grid_images=2")
    assert answer.code == 2
    assert "1 of the images in 'a' have no partner in 'b': '7.png'" in answer.err
    assert not Path("runs").exists()


def test_settings_for_pairs_are_refused_without_pairs(command: Command) -> None:
    answer = command("experiment=gddim_vp", "scale=quick", "evaluation.metrics=[mse]")
    assert answer.code == 2
    assert "evaluation.metrics=['mse']: 'digits' holds no pairs; leave it out" in answer.err
    answer = command("experiment=dbim_e2h", "scale=quick", "dataset=digits")
    assert answer.code == 2
    assert "needs pairs of images, and 'digits' has none" in answer.err


def test_the_source_of_a_picture_is_what_the_degradation_makes() -> None:
    split = Degraded(Digits(), Outline(0.3)).split("test")
    pairing = Pairing("test", split)
    targets, sources = pairing.targets(range(5)), pairing.sources(range(5))
    assert (to_uint8(Outline(0.3)(targets)[0]) == sources).all()
