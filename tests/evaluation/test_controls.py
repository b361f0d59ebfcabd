"""Controls: they are what they say, belong to their seed, and do not depend on the batch."""

import pytest
import torch

from diffexp.core.errors import ConfigError
from diffexp.evaluation.controls import CONTROLS, check_floor, control_batches


def _images(dataset, name, n=100, seed=0, batch=100, quantise="round"):
    splits = dataset.split("train"), dataset.split("test")
    return torch.cat([images for images, _ in control_batches(name, *splits, range(n), seed, batch, quantise)])


@pytest.mark.parametrize("name", [name for name in CONTROLS if name != "source"])
def test_batch_size_does_not_matter_and_the_seed_does(dataset, name):
    whole = _images(dataset, name)
    assert whole.shape == (100, 1, 8, 8)
    assert whole.dtype == torch.uint8
    assert torch.equal(_images(dataset, name, batch=7), whole)
    assert torch.equal(_images(dataset, name, n=40), whole[:40])
    assert torch.equal(_images(dataset, name, seed=1), whole) == (name == "mean")


def test_real_images_are_held_out_and_each_is_used_once(dataset):
    images = _images(dataset, "real", n=200)
    held_out = dataset.split("test").images(range(200))
    assert torch.equal(_sorted(images), _sorted(held_out))
    assert not torch.equal(images, held_out), "shuffled, so that fewer images are a random choice"


def test_resampled_images_are_training_images_with_repeats(dataset):
    images = _images(dataset, "resampled", n=600).flatten(1)
    training = dataset.split("train").images(range(600)).flatten(1)
    places = (images[:, None] == training[None]).all(-1)
    assert bool(places.any(1).all())
    distinct = int(places.any(0).sum())
    assert 0.55 * 600 < distinct < 0.71 * 600  # 1 - 1/e = 0.632 of the images are expected


def test_held_out_images_are_drawn_again_where_they_are_too_few(dataset):
    images = _images(dataset, "held_out", n=600).flatten(1)
    held_out = dataset.split("test").images(range(200)).flatten(1)
    places = (images[:, None] == held_out[None]).all(-1)
    assert bool(places.any(1).all())
    assert 180 < int(places.any(0).sum()) < 200  # (1 - 1 / 200)^600 = 0.05 of them are expected to be missing


def test_noise_is_standard_normal_before_it_is_clipped(dataset):
    levels = _images(dataset, "noise", n=400).double() / 127.5 - 1
    assert float(levels.mean()) == pytest.approx(0.0, abs=0.02)
    # P(|z| > 1) = 0.317 of the values end at black or white.
    assert float((levels.abs() == 1).double().mean()) == pytest.approx(0.317, abs=0.015)


@pytest.mark.parametrize("quantise", ["round", "truncate"])
def test_mean_is_the_quantised_training_mean(dataset, quantise):
    mean = dataset.split("train").images(range(600)).double().mean(0)
    images = _images(dataset, "mean", quantise=quantise)
    expected = mean.round() if quantise == "round" else mean.floor()
    assert torch.equal(images, expected.to(torch.uint8).expand(100, -1, -1, -1))


def test_floor_needs_as_many_held_out_images():
    check_floor(["real"], 200, "digits", 200)
    check_floor(["noise"], 1000, "digits", 200)
    with pytest.raises(ConfigError, match=r"evaluation\.n=201.*'digits' has 200"):
        check_floor(["noise", "real"], 201, "digits", 200)


def _sorted(images):
    return torch.tensor(sorted(images.flatten(1).tolist()))
