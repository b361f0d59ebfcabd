"""Features of DINOv2 and CLIP, from weights that the user has; nothing is downloaded, no further library is needed."""

from __future__ import annotations

from pathlib import Path

import torch

from diffexp.core.errors import ConfigError, DiffexpError
from diffexp.evaluation.picture import PictureFeatures, missing
from diffexp.evaluation.vit import VisionTransformer
from diffexp.evaluation.vit_weights import OPENAI, own_names, read_tensors

DINOV2 = "dinov2_vitl14_pretrain.pth"
DINOV2_URL = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/{DINOV2}"
CLIP = "ViT-L-14.pt"
CLIP_URL = f"https://openaipublic.azureedge.net/clip/models/{next(h for h in OPENAI if OPENAI[h] == CLIP[:-3])}/{CLIP}"
_SIZES = {384: "s", 768: "b", 1024: "l"}


class _Foundation(PictureFeatures):
    """A vision transformer whose file tells its sizes."""

    family: str
    eps: float
    quick = False

    def __init__(self, weights: str | None = None) -> None:
        super().__init__(weights)
        self.name, self.dim, self.size = self.family, 0, 0

    def _make(self, path: Path, digest: str) -> VisionTransformer:
        state = own_names(read_tensors(path, digest), self.family)
        if ("pre.weight" in state) != (self.family == "clip"):
            raise DiffexpError(f"evaluation.extractor: {path} holds no {self.family}")
        try:
            network = VisionTransformer(state, self.eps, self.quick)
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:100]
            raise DiffexpError(f"evaluation.extractor: {path} holds no whole {self.family} ({reason})") from error
        width = network.cls.shape[-1]
        kind = f"vit{_SIZES[width]}{network.patch_size}" if width in _SIZES else digest[:8]
        self.name, self.dim = f"{self.family}_{kind}", network.dim
        return network


class DINOv2Features(_Foundation):
    """The class token of DINOv2: `fd_dinov2_vitl14` is the FD-DINOv2 of Stein et al. (2023), resized as EDM2 does.

    Args:
        weights: a file of Meta's (dinov2_vit{s,b,l}14_pretrain.pth), timm's or transformers' (safetensors); None:
            ViT-L/14 in torch.hub's folder.
    """

    family, eps = "dinov2", 1e-6

    def _find(self) -> Path:
        path = self._weights or Path(torch.hub.get_dir()) / "checkpoints" / DINOV2
        if not path.is_file():
            raise missing(path, "DINOv2", f"download {DINOV2_URL} to that path")
        return path

    def _read(self, path: Path, digest: str) -> VisionTransformer:
        network = self._make(path, digest)
        self.size = 224 // network.patch_size * network.patch_size
        return network


class CLIPFeatures(_Foundation):
    """The picture's embedding of CLIP, at the size that the network was trained for.

    Args:
        weights: a file of OpenAI's (ViT-L-14.pt), open_clip's or transformers'; None: ViT-L/14 in ~/.cache/clip, where
            OpenAI's package keeps it.
        activation: "quick_gelu" for OpenAI's weights, "gelu" for those of LAION and DataComp; the file does not tell.
    """

    family, eps = "clip", 1e-5
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def __init__(self, weights: str | None = None, activation: str = "quick_gelu") -> None:
        super().__init__(weights)
        if activation not in ("quick_gelu", "gelu"):
            raise ConfigError(f"evaluation.extractor.activation={activation}: choose from quick_gelu, gelu")
        self.quick = activation == "quick_gelu"

    def _find(self) -> Path:
        path = self._weights or Path.home() / ".cache" / "clip" / CLIP
        if not path.is_file():
            raise missing(path, "CLIP", f"download {CLIP_URL} to that path")
        return path

    def _read(self, path: Path, digest: str) -> VisionTransformer:
        network = self._make(path, digest)
        if not self.quick:
            self.name += "_gelu"
        self.size = network.grid * network.patch_size
        return network
