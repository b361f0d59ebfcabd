"""Augmented training from the command line: told and learnt, unseen by evaluations, seen by fingerprints; two heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import diffexp
from diffexp.checkpoint.file import load
from diffexp.core.errors import ConfigError
from diffexp.launch.fingerprint import training_fingerprint
from diffexp.launch.layout import read_layout
from diffexp.tasks.build import build
from tests.e2e.conftest import SMALL, Command
from tests.e2e.standin import compose

LAYOUT = read_layout()
DIGITS = [  # the augmentation of the file, of images that are on every machine
    "dataset=cifar10_augmented", "dataset.images._target_=diffexp.dataset.digits.Digits", "~dataset.images.root",
    "~dataset.images.download", "~dataset.images.flip",
]  # fmt: skip
ONE_ARM = ["evaluation.only=ddim", "evaluation.nfe=[4]", "evaluation.seeds=[0]", "training.max_steps=8"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load(max((run / "checkpoints").glob("*.ckpt")))["state_dict"]


def test_an_augmented_training_learns_what_it_is_told_and_samples_without(command: Command, tmp_path: Path):
    runs = {}
    for name, words in {"augmented": DIGITS, "plain": []}.items():
        answer = command(*SMALL, *words, *ONE_ARM, "network.augment_dim=9", f"runs={name}")
        assert answer.code == 0, answer.err
        (runs[name],) = (tmp_path / name / "gddim_vp").iterdir()
    learnt, idle = (weights(run)["network.embedding.augment.weight"] for run in runs.values())  # zero at first
    assert learnt.shape == (8, 9)
    assert bool((learnt.abs().amax(0) > 0.0).all())
    assert not bool(idle.any())
    protocols = {(run / "protocol.json").read_text() for run in runs.values()}
    assert len(protocols) == 1  # the same images are the reference
    assert diffexp.load(runs["augmented"]).sample(n=2, nfe=4, sampler="ddim").shape == (2, 1, 8, 8)


def test_what_is_augmented_and_how_often_makes_another_training():
    def name(*words: str) -> str:
        config = compose(LAYOUT, "experiment=gddim_vp", "network.augment_dim=9", *words)
        return training_fingerprint(config, "data")

    base = name("dataset=cifar10_augmented")
    others = ["dataset.augmentation.p=0.15", "dataset.augmentation.aniso=0", "dataset.images.flip=false"]
    names = {base, name("dataset=cifar10"), *(name("dataset=cifar10_augmented", other) for other in others)}
    assert len(names) == 5
    assert name("dataset=cifar10_augmented", "dataset.images.root=elsewhere") == base


def test_the_network_must_be_told_as_much_as_the_data_tell():
    words = ["experiment=gddim_vp", "dataset=cifar10_augmented", "network.augment_dim=9"]
    build(compose(LAYOUT, *words))
    with pytest.raises(
        ConfigError, match=r"network\.augment_dim=9: 7 numbers tell how .* set it to 7, or use cifar10 wi"
    ):
        build(compose(LAYOUT, *words, "dataset.augmentation.translate=0"))


@pytest.mark.parametrize("network", ["small_decoupled", "small_image"])
def test_two_heads_train_and_sample_with_one_decoder_or_two(command: Command, network: str):
    answer = command(*SMALL, *ONE_ARM, "process=ddm_const", "prediction=ddm", f"network={network}")
    assert answer.code == 0, answer.err
    assert "ddim at NFE 4: " in answer.err
