"""Inception through torch-fidelity: its architecture under seeded weights, and the errors without it or its weights."""

import importlib.util
import sys

import pytest
import torch

from diffexp.core.errors import ConfigError, DiffexpError
from diffexp.evaluation.features import check_shape
from diffexp.evaluation.inception import LAYERS, WEIGHTS_URL, InceptionFeatures
from experiments.torch_fidelity.seeded import write_seeded

needs_fidelity = pytest.mark.skipif(
    importlib.util.find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed"
)


def test_missing_weights_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(DiffexpError, match="not found") as error:
        InceptionFeatures().prepare()
    assert WEIGHTS_URL in str(error.value)
    assert "evaluation.extractor.weights" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_library_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(DiffexpError, match="needs torch-fidelity") as error:
        InceptionFeatures(str(path)).prepare()
    assert "\n" not in str(error.value)


@needs_fidelity
def test_a_file_that_runs_code_is_refused(tmp_path):
    class Planted:
        def __reduce__(self):
            return (open, (str(tmp_path / "marker"), "w"))

    path = tmp_path / "weights.pth"
    torch.save({"weights": Planted()}, path)
    with pytest.raises(DiffexpError, match="does not hold Inception weights"):
        InceptionFeatures(str(path)).prepare()
    assert not (tmp_path / "marker").exists()


def test_grey_images_are_refused():
    with pytest.raises(ConfigError, match="3xanyxany"):
        check_shape(InceptionFeatures(), (1, 32, 32), "digits")
    with pytest.raises(DiffexpError, match="uint8 RGB"):
        InceptionFeatures()(torch.zeros(1, 1, 32, 32, dtype=torch.uint8))


@needs_fidelity
@pytest.mark.slow
def test_seeded_weights_give_the_network_of_torch_fidelity_and_never_the_name_fid(tmp_path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path / "seeded.pth"
    write_seeded(path)
    network = FeatureExtractorInceptionV3("seeded", LAYERS, feature_extractor_weights_path=str(path))
    extractor = InceptionFeatures(str(path)).prepare()
    assert extractor.metric == f"fd_inception_{extractor.hash[:8]}"
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    features, scores = extractor.classify(images)
    torch.testing.assert_close(scores, network(images)[1], rtol=1e-4, atol=1e-5 * float(scores.abs().max()))
    assert torch.equal(extractor(images), features)
    torch.testing.assert_close(features, network(images)[0], rtol=1e-5, atol=1e-5 * float(features.abs().max()))
    assert features.shape == (3, 2048)
    assert float((features[0] - features[1]).abs().max() / features.abs().max()) > 0.01, "the image must matter"
