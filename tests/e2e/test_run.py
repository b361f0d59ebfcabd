"""task=run from noise to report, and the promises about seeds, batches and resuming."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffexp
from diffexp.checkpoint.file import load
from diffexp.core.errors import ConfigError
from diffexp.core.image import to_uint8
from tests.e2e.conftest import SMALL, Command

COLUMNS = (
    "experiment process prediction network sampler grid nfe metric value n seed protocol checkpoint seconds_per_image"
)


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "results.csv", newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def only(parent: Path) -> Path:
    (run,) = parent.iterdir()
    return run


def test_a_run_leaves_everything_that_it_promises(trained):
    found = rows(trained)
    assert list(found[0]) == COLUMNS.split()
    arms = [(row["sampler"], row["nfe"], row["seed"]) for row in found if not row["sampler"].startswith("control:")]
    budgets = [("ddim", "5"), ("ddim", "10"), ("ddpm", "5"), ("heun", "5")]
    assert sorted(arms) == sorted((name, nfe, seed) for name, nfe in budgets for seed in "01")
    controls = {row["sampler"] for row in found} - {"ddim", "ddpm", "heun"}
    assert controls == {"control:real", "control:noise", "control:mean", "control:resampled"}
    assert all(row["metric"] == "fd_digits" and float(row["value"]) > 0.0 and row["n"] == "48" for row in found)
    value = {row["sampler"]: float(row["value"]) for row in found if row["seed"] == "0"}
    assert value["control:real"] < 0.5 * value["control:noise"]
    assert json.loads((trained / "status.json").read_text())["state"] == "ok"
    lines = (trained / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 20, 30]
    report = (trained / "report.md").read_text()
    for word in ("distance.png", "samples_heun.png", "control", "2206.05564", "Reproduce"):
        assert word in report
    for name in ("distance.png", "samples_ddim.png", "samples_ddpm.png", "samples_heun.png"):
        assert np.asarray(Image.open(trained / name).convert("L")).std() > 10.0
    assert (trained / "distance.svg").stat().st_size > 1000


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(command: Command, trained, tmp_path):
    values = {}
    for seed in (0, 1):
        assert command(*SMALL, f"runs={tmp_path / str(seed)}", f"seed={seed}").code == 0
        run = only(tmp_path / str(seed) / "gddim_vp")
        values[seed] = [(row["sampler"], row["nfe"], row["seed"], row["value"]) for row in rows(run)]
    before = [(row["sampler"], row["nfe"], row["seed"], row["value"]) for row in rows(trained)]
    assert values[0] == before
    assert values[1] != before


def test_a_training_that_goes_on_is_bit_equal_to_one_that_never_stopped(command: Command, trained, tmp_path):
    small = [word for word in SMALL if not word.startswith("training.max_steps")]
    assert command(*small, "task=train", "training.max_steps=13").code == 0
    longer = [*small, "task=train", "training.max_steps=30"]
    assert command(*longer, "ckpt=latest:gddim_vp").code == 0
    run = tmp_path / "runs" / "gddim_vp" / trained.name  # the folder of 30 steps, whoever did them
    lines = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == [10, 13, 20, 30]
    whole = load(trained / "checkpoints" / "step_00000030.ckpt")
    parts = load(run / "checkpoints" / "step_00000030.ckpt")
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, parts["state_dict"][name]), name
    for key, profile in whole["ema"]["profiles"].items():
        assert all(torch.equal(value, parts["ema"]["profiles"][key][name]) for name, value in profile.items())


def test_images_do_not_depend_on_the_batch(trained):
    model = diffexp.load(trained)
    for sampler, nfe in (("ddim", 10), ("ddpm", 10), ("heun", 9)):
        small, large = (model.sample(40, nfe, sampler, batch_size=size) for size in (7, 64))
        assert small.shape == (40, 1, 8, 8)
        assert float(large.std()) > 0.1
        assert float((small - large).abs().max() / large.abs().max()) < 1e-5


def test_evaluation_of_one_sampler_needs_only_the_checkpoint(command: Command, trained, tmp_path):
    """The recipe and the scale are recalled from the run; what was overridden besides has to be said again."""
    overrides = [word for word in SMALL if not word.startswith(("scale", "experiment"))]
    spec = [f"runs={trained.parent.parent}", f"ckpt={trained}"]
    answer = command("task=sample", *spec, *overrides, "sampler=heun", "evaluation.nfe=[3]")
    assert answer.code == 0, answer.err
    stored = np.load(trained / "samples" / "heun_nfe3_seed0.npz")["images"]
    expected = to_uint8(diffexp.load(trained).sample(48, 3, "heun")).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(stored, expected)
    assert stored.std() > 10.0
    assert not list(tmp_path.iterdir())


def test_a_report_is_written_again_from_the_folder_alone(command: Command, trained):
    before = (trained / "report.md").read_text()
    (trained / "report.md").unlink()
    assert command("task=report", f"ckpt={trained}").code == 0
    assert (trained / "report.md").read_text() == before


def test_check_shows_the_published_size(command: Command, tmp_path):
    answer = command("task=check", "experiment=gddim_vp")
    assert answer.code == 0
    assert "107,586,947 parameters" in answer.out
    assert "1,000,001 steps of 128 images" in answer.out
    plans = [line.split()[:2] for line in answer.out.splitlines() if line.startswith("  ")]
    usual = (5, 10, 20, 50)
    budgets = {
        "ddim": (*usual, 100, 1000), "gddim": usual, "gddim(order=3)": usual, "ddpm": usual, "heun": (5, 9, 19, 49),
        "euler_maruyama": (10, 20, 50, 100, 1000),
    }  # fmt: skip
    assert plans == [[name, str(nfe)] for name, values in budgets.items() for nfe in values]
    assert not list(tmp_path.iterdir())


def test_a_signal_during_the_evaluation_stops_it_in_order(command: Command, trained, tmp_path, monkeypatch):
    """The run says that it was preempted, the lock is given back, and the numbers of before are untouched."""
    from diffexp.sampler.loop import Sampler

    sample = Sampler.sample

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return sample(*arguments, **options)

    run = tmp_path / "copy"
    shutil.copytree(trained, run)
    before = (run / "results.csv").read_bytes()
    monkeypatch.setattr(Sampler, "sample", interrupted)
    answer = command(*SMALL, "task=evaluate", f"ckpt={run}")
    assert answer.code == 143
    assert answer.err.splitlines()[-1].startswith("diffexp: stopped by SIGTERM while evaluating")
    assert json.loads((run / "status.json").read_text())["state"] == "preempted"
    assert not (run / "lock").exists()
    assert (run / "results.csv").read_bytes() == before
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_exported_model_samples_the_same_images(trained, tmp_path):
    model = diffexp.load(trained)
    model.export(tmp_path / "shared")
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == ["config.yaml", "weights.safetensors"]
    again = diffexp.load(tmp_path / "shared")
    assert torch.equal(again.sample(8, 5), model.sample(8, 5))
    raw = diffexp.load(trained, ema="none")
    assert not torch.equal(raw.sample(8, 5), model.sample(8, 5))
    with pytest.raises(ConfigError, match="no sampler 'dim' in this recipe; did you mean 'ddim'"):
        model.sample(1, 5, "dim")


def test_a_class_conditional_run_samples_by_label(command: Command, tmp_path):
    words = [*SMALL, "dataset.labels=true", "network.class_conditional=true", "task=train"]
    assert command(*words).code == 0
    model = diffexp.load("latest:gddim_vp")
    assert model.num_classes == 10
    zeros, nines = (model.sample(4, 5, labels=torch.full((4,), label)) for label in (0, 9))
    assert float((zeros - nines).abs().max()) > 1e-4
