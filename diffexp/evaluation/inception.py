"""The Inception network of the published FID, through torch-fidelity: the TensorFlow weights, resize and scaling.

torch-fidelity is imported when the extractor is prepared. Nothing is downloaded: the weights come from a path, or from
the folder where torch.hub keeps files, and an error says how to get them.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffexp.core.errors import DiffexpError
from diffexp.core.precision import exact_float32
from diffexp.evaluation.features import Shape, file_sha256
from diffexp.evaluation.picture import check_rgb

WEIGHTS_NAME = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_NAME}"
LAYERS = ["2048", "logits_unbiased"]
PUBLISHED_PREFIX = "6726825d"  # of the file's SHA-256: torch.hub's naming, which its downloads are checked by


class InceptionFeatures:
    """The 2048 pooled features of Inception-v3 (2015-12-05), in float32 without reduced precision.

    Only with the published weights are metrics called ``fid``, ``is``, ``kid``; with any other file they are
    ``fd_inception_<hash>`` and so on. Class scores are those before the softmax without the last layer's bias, which
    the published Inception Score is of.

    Args:
        weights: path of the weights; None: torch.hub's folder.

    Attributes:
        path: of the weights.
    """

    shape: Shape = (3, None, None)
    dim = 2048
    resize = "bilinear_tf1_299"
    num_classes = 1008

    def __init__(self, weights: str | None = None) -> None:
        self.path = Path(weights) if weights is not None else Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME
        self.name, self.metric, self.hash = "inception", "fid", ""
        self._network: Any = None

    def prepare(self) -> InceptionFeatures:
        """Read the weights and return self; DiffexpError when they or torch-fidelity are missing."""
        if self._network is not None:
            return self
        if not self.path.is_file():
            raise DiffexpError(
                f"evaluation.extractor: Inception weights {self.path} not found; download {WEIGHTS_URL} to that path, "
                "or name a file with evaluation.extractor.weights=..."
            )
        self._network = _load(self.path)
        digest = file_sha256(self.path)
        self.hash = digest[:12]
        if not digest.startswith(PUBLISHED_PREFIX):
            self.name = f"inception_{digest[:8]}"
            self.metric = f"fd_{self.name}"
        return self

    def to(self, device: torch.device | str) -> InceptionFeatures:
        """Move the network to `device`; return self."""
        self.prepare()._network.to(device)
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 2048)."""
        return self.classify(images)[0]

    @torch.no_grad()
    def classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, 3, H, W) -> features (B, 2048), class scores (B, 1008), both float32."""
        check_rgb(images, self.name)
        with exact_float32():
            features, scores = self.prepare()._network(images)
        return features, scores


def _load(path: Path) -> Any:
    """torch-fidelity's network with the weights of `path`."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:  # a torchvision that does not fit torch raises RuntimeError
        reason = str(error).splitlines()[0]
        raise DiffexpError(
            f"evaluation.extractor: Inception needs torch-fidelity ({reason}); pip install torch-fidelity"
        ) from error
    try:
        # torch-fidelity unpickles the file without restriction, so it must first prove to hold plain tensors.
        torch.load(path, map_location="cpu", weights_only=True)
        return FeatureExtractorInceptionV3("inception-v3-compat", LAYERS, feature_extractor_weights_path=str(path))
    except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DiffexpError(f"evaluation.extractor: {path} does not hold Inception weights ({reason})") from error
