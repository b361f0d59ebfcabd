"""Mistakes that only a task can see: one line on stderr, a non-zero exit, nothing left on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.conftest import SMALL, Command


def refused(command: Command, folder: Path, *words: str) -> str:
    """The single line with which a command is refused."""
    before = sorted(folder.rglob("*"))
    answer = command(*words)
    assert answer.code == 2, answer.err
    assert answer.out == ""
    assert len(answer.err.splitlines()) == 1, answer.err
    assert answer.err.startswith("diffexp: ")
    assert sorted(folder.rglob("*")) == before
    return answer.err


def test_heun_at_an_even_budget(command: Command, tmp_path):
    line = refused(command, tmp_path, *SMALL, "evaluation.arms.heun.nfe=[10]")
    assert "nfe=10 is not reachable with sampler heun: choose 9 or 11" in line
    for budget in ("10", "[10]"):
        assert "choose 9 or 11" in refused(command, tmp_path, *SMALL, "sampler=heun", f"evaluation.nfe={budget}")
    assert "at least one evaluation" in refused(command, tmp_path, *SMALL, "evaluation.nfe=0")


def test_a_loss_whose_weights_are_missing(command: Command, tmp_path, monkeypatch):
    """Before a training begins and makes its folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    words = ["task=train", "process=ddm_const", "prediction=ddm", "objective=ddm_v1_lpips"]
    line = refused(command, tmp_path, *SMALL, *words)
    assert "objective.reconstruction.perceptual: LPIPS needs 16 pixels, not 8x8" in line
    line = refused(command, tmp_path, *SMALL, *words, "objective.reconstruction.perceptual.enlarge=true")
    assert f"perceptual: no VGG-16 weights at {tmp_path}" in line
    assert "or use an objective without one (ddm_v1, ddm_v2)" in line


def test_a_missing_checkpoint(command: Command, tmp_path):
    line = refused(command, tmp_path, *SMALL, "task=evaluate", "ckpt=runs/nothing.ckpt")
    assert "ckpt=runs/nothing.ckpt: no such file or folder" in line
    assert "needs ckpt=" in refused(command, tmp_path, *SMALL, "task=evaluate")


def test_a_checkpoint_of_another_recipe(command: Command, trained, tmp_path):
    other = tmp_path / "mine" / "experiment"
    other.mkdir(parents=True)
    (other / "other.yaml").write_text("# @package _global_\ndefaults:\n  - gddim_vp\n")
    words = [word for word in SMALL if not word.startswith("experiment")]
    options = ["--config-dir", str(tmp_path / "mine"), "experiment=other", "task=evaluate"]
    line = refused(command, tmp_path, *words, *options, f"ckpt={trained}")
    assert "is of recipe 'gddim_vp', not of 'other'" in line
    loose = tmp_path / "loose.ckpt"
    loose.write_bytes((trained / "checkpoints" / "step_00000030.ckpt").read_bytes())
    line = refused(command, tmp_path, *words, *options, f"ckpt={loose}")
    assert "was trained with recipe=gddim_vp, this command has other" in line


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("network.channels=16", "was trained with network.channels=8, this command has 16"),
        ("prediction=v", "was trained with prediction._target_=diffexp.prediction.head.Eps"),
        ("process.beta_max=10.0", "was trained with process.beta_max=20.0, this command has 10.0"),
    ],
)
def test_a_checkpoint_of_another_model(command: Command, trained, tmp_path, change, reason):
    assert reason in refused(command, tmp_path, *SMALL, "task=evaluate", f"ckpt={trained}", change)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("seed=3", "was trained with seed=0, this command has 3"),
        ("training.batch_size=16", "was trained with training.batch_size=32, this command has 16"),
        ("trainer.precision=bf16-mixed", "was trained with trainer.precision=32-true"),
        ("optimizer.lr=1e-4", "was trained with optimizer.lr=0.004, this command has 0.0001"),
        ("dataset.held_out=800", "was trained with dataset.held_out=896, this command has 800"),
    ],
)
def test_a_training_resumed_with_something_else(command: Command, trained, tmp_path, change, reason):
    assert reason in refused(command, tmp_path, *SMALL, "task=train", f"ckpt={trained}", change)


def test_images_may_move_but_not_change(command: Command, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place in range(20):
        Image.new("RGB", (8, 8), (10 * place, 0, 0)).save(folder / f"{place}.png")
    words = [*SMALL, "task=train", "dataset=image_folder", "dataset.resolution=8", "evaluation=pictures"]
    words += ["training.batch_size=4", "evaluation.n=4"]
    assert command(*words, f"dataset.path={folder}", "training.max_steps=2").code == 0
    moved = folder.rename(tmp_path / "moved")
    resume = [*words, f"dataset.path={moved}", "ckpt=latest:gddim_vp"]
    assert command(*resume, "training.max_steps=3").code == 0
    Image.new("RGB", (8, 8), (0, 99, 0)).save(moved / "7.png")
    assert "was trained on other images" in refused(command, tmp_path, *resume, "training.max_steps=4")


def test_a_time_input_that_the_embedding_cannot_take(command: Command, tmp_path):
    line = refused(command, tmp_path, *SMALL, "network.embedding=fourier", "prediction.time=log_snr")
    assert "prediction.time=log_snr" in line


def test_a_damaged_checkpoint(command: Command, trained, tmp_path):
    data = (trained / "checkpoints" / "step_00000030.ckpt").read_bytes()
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(data[: len(data) // 2])
    assert "torn.ckpt' is truncated, damaged" in refused(command, tmp_path, *SMALL, "task=evaluate", f"ckpt={torn}")


def test_a_missing_data_folder(command: Command, tmp_path):
    words = ["dataset=image_folder", f"dataset.path={tmp_path / 'absent'}", "dataset.resolution=8"]
    assert "absent" in refused(command, tmp_path, *SMALL, *words, "evaluation=pictures")


def test_a_corrupt_jpeg_is_named(command: Command, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place in range(4):
        Image.new("RGB", (8, 8), (40 * place, 0, 0)).save(folder / f"{place}.jpg")
    data = (folder / "2.jpg").read_bytes()
    (folder / "2.jpg").write_bytes(data[: len(data) // 2])
    words = ["dataset=image_folder", f"dataset.path={folder}", "dataset.resolution=8", "evaluation=pictures"]
    assert "2.jpg" in refused(command, tmp_path, *SMALL, *words)


def test_features_of_other_images(command: Command, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place in range(20):
        Image.new("RGB", (16, 16), (10 * place, 0, 0)).save(folder / f"{place}.png")
    words = ["dataset=image_folder", f"dataset.path={folder}", "dataset.resolution=16"]
    assert "digits" in refused(command, tmp_path, *SMALL, *words)


def test_more_images_than_the_floor_has(command: Command, tmp_path):
    assert "896" in refused(command, tmp_path, *SMALL, "evaluation.n=900")


def test_labels_that_nobody_reads(command: Command, tmp_path):
    assert "network.class_conditional=true" in refused(command, tmp_path, *SMALL, "dataset.labels=true")
    assert refused(command, tmp_path, *SMALL, "network.class_conditional=true")


def test_a_gpu_that_is_not_there(command: Command, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for task in ("run", "train"):
        line = refused(command, tmp_path, *SMALL, f"task={task}", "trainer.accelerator=gpu")
        assert "no GPU is visible to torch" in line
