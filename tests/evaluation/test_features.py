"""The digits classifier's features: accurate, deterministic, and refused where they do not fit."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffexp.core.errors import ConfigError, DiffexpError
from diffexp.dataset.digits import Digits
from diffexp.evaluation import features
from diffexp.evaluation.features import DIGITS_WEIGHTS, DigitsFeatures, Extractor, check_shape


@pytest.fixture(scope="module")
def held_out():
    split = Digits(labels=True).split("test")
    everything = torch.arange(len(split))
    return split.images(everything), split.labels(everything)


def test_classifier_reads_held_out_digits(held_out):
    images, labels = held_out
    accuracy = (DigitsFeatures().classify(images)[1].argmax(1) == labels).double().mean()
    assert accuracy > 0.98
    inverted = (DigitsFeatures().classify(255 - images)[1].argmax(1) == labels).double().mean()
    assert inverted < 0.5, "the images' polarity must matter"


def test_features_do_not_depend_on_the_batch(held_out):
    extractor, images = DigitsFeatures(), held_out[0][:100]
    whole = extractor(images)
    parts = torch.cat([extractor(part) for part in images.split(7)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-10)
    assert whole.shape == (100, 48)
    assert whole.dtype == torch.float64
    assert float(whole.std(0).min()) > 0.1, "every feature says something"


def test_it_is_an_extractor_with_a_final_name_and_hash():
    extractor = DigitsFeatures().prepare()
    assert isinstance(extractor, Extractor)
    assert (extractor.name, extractor.metric, extractor.dim, extractor.shape) == ("digits", "fd_digits", 48, (1, 8, 8))
    assert extractor.hash == features.file_sha256(DIGITS_WEIGHTS)[:12]


def test_weights_are_small():
    assert DIGITS_WEIGHTS.stat().st_size < 300_000


def test_damaged_package_file_is_refused(tmp_path, monkeypatch):
    damaged = bytearray(DIGITS_WEIGHTS.read_bytes())
    damaged[-1] ^= 1
    path = tmp_path / "weights.safetensors"
    path.write_bytes(damaged)
    monkeypatch.setattr(features, "DIGITS_WEIGHTS", path)
    with pytest.raises(DiffexpError, match="damaged") as error:
        DigitsFeatures().prepare()
    assert "\n" not in str(error.value)


def test_own_weights_get_their_own_name(tmp_path):
    path = tmp_path / "own.safetensors"
    state = load_file(DIGITS_WEIGHTS)
    state["head.bias"] = state["head.bias"] + 1
    save_file(state, path)
    extractor = DigitsFeatures(str(path)).prepare()
    assert extractor.metric == f"fd_digits_{extractor.hash[:8]}"
    copy = tmp_path / "copy.safetensors"
    shutil.copy(DIGITS_WEIGHTS, copy)
    assert DigitsFeatures(str(copy)).prepare().metric == "fd_digits"


@pytest.mark.parametrize("content", [b"nothing", None])
def test_files_that_hold_no_classifier_are_refused(tmp_path, content):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content) if content else save_file({"a": torch.ones(2)}, path)
    with pytest.raises(DiffexpError, match="holds no digits classifier") as error:
        DigitsFeatures(str(path)).prepare()
    assert "\n" not in str(error.value)
    with pytest.raises(DiffexpError, match="does not exist"):
        DigitsFeatures(str(tmp_path / "none.safetensors")).prepare()


def test_images_of_another_kind_are_refused():
    extractor = DigitsFeatures()
    with pytest.raises(ConfigError, match="takes images of shape 1x8x8, data set 'cats' has 3x32x32"):
        check_shape(extractor, (3, 32, 32), "cats")
    check_shape(extractor, (1, 8, 8), "digits")
    with pytest.raises(DiffexpError, match=r"got torch\.uint8 of 3x32x32"):
        extractor(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(DiffexpError, match=r"got torch\.float32"):
        extractor(torch.zeros(1, 1, 8, 8))


def test_the_way_out_that_a_refusal_names_exists():
    with pytest.raises(ConfigError) as error:
        check_shape(DigitsFeatures(), (3, 32, 32), "cifar10")
    named = re.findall(r"evaluation=(\w+)", str(error.value))
    folder = Path(__file__).parents[2] / "conf" / "evaluation"
    assert len(named) == 2
    assert all((folder / f"{name}.yaml").is_file() for name in named), named
