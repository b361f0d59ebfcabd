"""What makes two trainings, and two jobs, the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from diffexp.launch.compose import compose_jobs
from diffexp.launch.fingerprint import NOT_TRAINING, difference, job_hash, training_fingerprint, training_part
from diffexp.launch.layout import read_layout

Compose = Callable[..., dict[str, Any]]
RECIPE = ["experiment=gddim_vp", "scale=quick"]


@pytest.fixture(scope="module")
def compose() -> Compose:
    """A shipped recipe with overrides, composed."""
    layout, known = read_layout(), {}

    def composed(*words: str) -> dict[str, Any]:
        if words not in known:
            known[words] = compose_jobs([[*RECIPE, *words]], layout)[0].config
        return known[words]

    return composed


def test_names_do_not_change_between_releases() -> None:
    config = {"seed": 3, "process": {"_target_": "diffexp.a.B", "beta": 20.0}, "training": {"max_steps": 7}}
    assert training_fingerprint(config, "pixels") == "c483de7dbe9d"
    assert training_fingerprint({**config, "process": {"beta": 20, "_target_": "diffexp.a.B"}}, "pixels") == (
        "c483de7dbe9d"
    )
    assert training_fingerprint(config, "pixels", 7) == "c483de7dbe9d"
    assert training_fingerprint(config, "pixels", 8) != "c483de7dbe9d"
    assert training_fingerprint(config, "other pixels") != "c483de7dbe9d"
    assert job_hash(config) == "9aec1f"
    assert job_hash(config, "step_00000004.ckpt") != "9aec1f"


@pytest.mark.parametrize(
    "word",
    [
        "seed=1", "process=cosine", "process.beta_max=10.0", "prediction=v", "prediction.time=angle", "objective=snr",
        "network.channels=8", "network.dropout=0.1", "dataset.held_out=800", "optimizer.lr=1e-3",
        "optimizer.clip_norm=null", "ema.decays=[0.9]", "training.max_steps=7", "training.batch_size=64",
        "trainer.precision=64-true", "trainer.devices=2",
    ],
)  # fmt: skip
def test_what_training_depends_on(word: str, compose: Compose) -> None:
    base, other = compose(), compose(word)
    assert training_fingerprint(base, "d") != training_fingerprint(other, "d")
    assert job_hash(base) != job_hash(other)
    found = difference(base, other)
    assert found is None if word == "training.max_steps=7" else f"{word.split('=')[0]}" in str(found)


@pytest.mark.parametrize(
    ("word", "same_job"),
    [
        ("sampler=heun", False), ("sampler.clip=true", False), ("grid.p=3", False), ("evaluation.n=64", False),
        ("evaluation.nfe=[5]", False), ("evaluation.seeds=[4]", False), ("evaluation.controls=[]", False),
        ("evaluation.batch_size=3", True), ("evaluation.again=true", True), ("task=train", True), ("runs=there", True),
        ("ckpt=latest:gddim_vp", True), ("training.log_every=7", True), ("training.checkpoint_every=9", True),
        ("training.keep=0", True), ("training.workers=3", True), ("trainer.accelerator=cpu", True),
        ("trainer.compile=true", True), ("logger=tensorboard", True),
    ],
)  # fmt: skip
def test_what_training_does_not_depend_on(word: str, same_job: bool, compose: Compose) -> None:
    base, other = compose(), compose(word)
    assert base != other
    assert training_fingerprint(base, "d") == training_fingerprint(other, "d")
    assert (job_hash(base) == job_hash(other)) is same_job
    assert difference(base, other) is None


def test_where_images_lie_does_not_matter(compose: Compose) -> None:
    words = ["dataset=image_folder", "evaluation=pictures"]
    base = compose(*words, "dataset.path=here")
    for word in ("dataset.path=there", "dataset.verify=header", "dataset.in_memory=false"):
        other = compose(*words, "dataset.path=here", word) if "path" not in word else compose(*words, word)
        assert training_fingerprint(base, "d") == training_fingerprint(other, "d")
    for word in ("dataset.flip=true", "dataset.resolution=64", "dataset.held_out=0.2"):
        assert training_fingerprint(base, "d") != training_fingerprint(compose(*words, "dataset.path=here", word), "d")


def test_the_exceptions_are_keys_of_some_configuration(compose: Compose) -> None:
    """A misspelt exception would count as a difference for ever."""
    everything = [compose(), compose("dataset=cifar10"), compose("dataset=image_folder", "dataset.path=x")]
    everything += [compose("dataset=edm_zip", "dataset.path=x")]
    everything += [compose("dataset=diode"), compose("dataset=imagenet256_inpainting")]
    assert {f"dataset.images.{key}" for key in everything[-1]["dataset"]["images"]} > {"dataset.images.path"}
    everything.append(compose("distillation=progressive"))
    keys = {f"{group}.{key}" for config in everything for group in ("dataset", "training", "trainer", "distillation")
            for key in config.get(group) or ()}  # fmt: skip
    keys |= {key.replace("dataset.", "dataset.images.") for key in keys}  # a degraded data set holds any other one
    assert set(NOT_TRAINING) <= keys
    assert not set(dict(training_part(compose()))) & set(NOT_TRAINING)


def test_a_stage_is_the_same_whatever_stands_around_it(compose: Compose) -> None:
    """A longer plan takes the stages of a shorter one; the stage's own number of steps counts."""
    stage = ("distillation=progressive", "distillation.student_steps=4")
    base = compose(*stage)
    for word in ("distillation.start_steps=64", "distillation.end_steps=4", "distillation.updates=7"):
        assert training_fingerprint(base, "d") == training_fingerprint(compose(*stage, word), "d")
        assert job_hash(base) == job_hash(compose(*stage, word))
    for word in ("distillation.student_steps=2", "distillation.initialise=false"):
        assert training_fingerprint(base, "d") != training_fingerprint(compose(stage[0], word), "d")
