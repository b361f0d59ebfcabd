"""Published statistics: the same numbers as from the images, and a refusal of everything that is not what it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffexp.core.errors import ConfigError, DiffexpError
from diffexp.evaluation.reference import reference_of
from diffexp.evaluation.settings import EvaluationSettings
from diffexp.evaluation.statistics import Published
from diffexp.evaluation.sweep import evaluate, protocols_of
from tests.evaluation.conftest import PixelFeatures

STATED = {"dataset": "gaussian", "split": "train", "n": 600, "extractor": "pixels", "resize": "none"}


def _features(dataset):
    return PixelFeatures()(dataset.split("train").images(range(600))).numpy()


@pytest.fixture
def edm(dataset, tmp_path):
    """A file as EDM's fid.py writes it."""
    features = _features(dataset)
    np.savez(tmp_path / "edm.npz", mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    return tmp_path / "edm.npz"


@pytest.fixture
def adm(dataset, tmp_path):
    """A file as ADM's: statistics of all images (float32 here), arrays of other features, and some images."""
    features = _features(dataset)
    images = dataset.split("train").images(range(300)).permute(0, 2, 3, 1).numpy()
    spatial = {"mu_s": np.zeros(5), "sigma_s": np.eye(5)}
    moments = {"mu": features.mean(0).astype("f4"), "sigma": np.cov(features, rowvar=False).astype("f4")}
    np.savez(tmp_path / "adm.npz", arr_0=images, **moments, **spatial)
    return tmp_path / "adm.npz"


def _settings(path, **changes):
    own = {key: changes.pop(key) for key in ("reference", "references") if key in changes}
    published = Published(str(path), **{**STATED, **changes})
    return EvaluationSettings(
        n=120, seeds=[0], batch_size=50, extractor=PixelFeatures(), controls=["noise", "mean"], grid_images=2,
        statistics=published, **own,
    )  # fmt: skip


def _values(arms, denoiser, dataset, settings, provenance):
    rows = evaluate([replace(arms[0], nfe=(3,))], denoiser, dataset, settings, provenance).rows
    return [row.value for row in rows]


def test_published_moments_give_the_numbers_of_the_images(edm, adm, arms, denoiser, dataset, provenance):
    own = _settings(edm)
    own.statistics = None
    expected = _values(arms, denoiser, dataset, own, provenance)
    assert _values(arms, denoiser, dataset, _settings(edm), provenance) == pytest.approx(expected, rel=1e-9)
    assert _values(arms, denoiser, dataset, _settings(adm), provenance) == pytest.approx(expected, rel=1e-4)


def test_images_of_a_file_are_a_reference_like_any(adm, arms, denoiser, dataset, provenance, tmp_path):
    """Its features are computed here, and kept; published moments are read, and not."""
    settings = _settings(adm, use="images", n=300, references=str(tmp_path / "kept"))
    settings.controls = ["noise"]  # the mean is that of the data set's images
    values = _values(arms, denoiser, dataset, settings, provenance)
    dataset._splits["train"] = type(dataset.split("train"))(dataset.split("train").images(range(300)).numpy(), None)
    settings.statistics = None
    assert values == pytest.approx(_values(arms, denoiser, dataset, settings, provenance), rel=1e-9)
    assert len(list((tmp_path / "kept").glob("moments-*.safetensors"))) == 1
    assert reference_of(dataset, settings).require_images("kid").fingerprint == dataset.split("train").fingerprint


def test_the_protocol_says_what_was_stated(edm, adm, dataset):
    (published,) = protocols_of(dataset, _settings(edm))
    assert (published.dataset, published.split, published.reference_n) == ("gaussian", "train", 600)
    assert published.reference.startswith("moments-sha256:")
    own = _settings(edm)
    own.statistics = None
    (images,) = protocols_of(dataset, own)
    assert images.difference(published) == [f"reference is {images.reference} and {published.reference}"]
    copy = edm.with_name("another_name.npz")
    copy.write_bytes(edm.read_bytes())
    assert protocols_of(dataset, _settings(copy)) == [published]
    assert protocols_of(dataset, _settings(adm))[0].hash != published.hash
    assert protocols_of(dataset, _settings(edm, n=599))[0].hash != published.hash


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({"dataset": "cifar10"}, "evaluation.statistics.dataset=cifar10: .* this evaluation has gaussian"),
        ({"split": "test"}, "evaluation.statistics.split=test: .* this evaluation has train"),
        ({"reference": "test"}, "evaluation.statistics.split=train: .* this evaluation has test"),
        ({"extractor": "inception"}, "statistics.extractor=inception: statistics of another protocol, .* has pixels"),
        ({"resize": "bilinear_tf1_299"}, "statistics.resize=bilinear_tf1_299: .* this evaluation has none"),
        ({"n": 1}, "evaluation.statistics.n=1: statistics are of at least 2 images"),
        ({"use": "features"}, "evaluation.statistics.use=features: choose from moments, images"),
    ],
)
def test_statistics_of_another_protocol_are_refused(edm, dataset, stated, told):
    with pytest.raises(ConfigError, match=told) as refused:
        protocols_of(dataset, _settings(edm, **stated))
    assert "\n" not in str(refused.value)


def _asymmetric(arrays):
    arrays["sigma"][0, 1] += 1.0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda arrays: arrays.update(mu=np.zeros(2048), sigma=np.eye(2048)), "than the 8 of this evaluation"),
        (lambda arrays: arrays.pop("sigma"), "has no array 'sigma'"),
        (dict.clear, "has no array 'mu' or 'sigma' .it holds other."),
        (lambda arrays: arrays["mu"].fill(np.nan), "is damaged: mu or sigma holds values that are not finite"),
        (_asymmetric, "sigma is no covariance"),
        (lambda arrays: arrays.update(mu=np.array([{}] * 8)), "is damaged, or not an npz file: .*allow_pickle"),
    ],
)
def test_files_that_hold_something_else_are_refused_by_name(edm, dataset, change, told):
    with np.load(edm) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(edm, other=np.zeros(1), **arrays)
    with pytest.raises(DiffexpError, match=told) as refused:
        protocols_of(dataset, _settings(edm))
    assert str(edm) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_damaged_or_missing_file_is_refused_by_name(edm, dataset):
    data = bytearray(edm.read_bytes())
    data[200] ^= 255
    edm.write_bytes(bytes(data))
    with pytest.raises(DiffexpError, match=r"edm.npz' is damaged, or not an npz file: Bad CRC-32"):
        protocols_of(dataset, _settings(edm))
    edm.write_bytes(bytes(data[:300]))
    with pytest.raises(DiffexpError, match=r"edm.npz' is damaged, or not an npz file"):
        protocols_of(dataset, _settings(edm))
    edm.unlink()
    with pytest.raises(DiffexpError, match=r"edm.npz' does not exist"):
        protocols_of(dataset, _settings(edm))


def test_images_of_another_number_or_shape_are_refused(adm, dataset):
    with pytest.raises(DiffexpError, match=r"evaluation.statistics.n=600: .*adm.npz' holds 300 images"):
        protocols_of(dataset, _settings(adm, use="images"))
    np.savez(adm, arr_0=np.zeros((600, 16, 16, 1), np.uint8))
    with pytest.raises(DiffexpError, match="holds images of shape 1x16x16, data set 'gaussian' has 1x8x8"):
        protocols_of(dataset, _settings(adm, use="images"))
    np.savez(adm, arr_0=np.zeros((600, 8, 8, 1), np.float32))
    with pytest.raises(DiffexpError, match="array 'arr_0' is float32, not uint8"):
        protocols_of(dataset, _settings(adm, use="images"))


def test_moments_have_no_features_for_other_metrics(edm, dataset):
    with pytest.raises(ConfigError, match="kid needs the features of reference images"):
        reference_of(dataset, _settings(edm)).require_images("kid")


def test_moments_are_read_in_double_precision(adm):
    found = _settings(adm).statistics.moments(8)
    assert {found.mean.dtype, found.covariance.dtype} == {torch.float64}
    assert torch.equal(found.covariance, found.covariance.T)
