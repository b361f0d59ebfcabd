"""torch-fidelity as the second opinion: its metrics of two folders, in an extractor's features, and its random draws.

Inception is torch-fidelity's own, weights and all; any other extractor is lent to it, so that the images' way through
its loader and all of its arithmetic are compared. Its features and kernels are in float32, its covariances in float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffexp.core.errors import DiffexpError
from diffexp.evaluation.draws import Draws
from diffexp.evaluation.features import Extractor, num_classes_of
from diffexp.evaluation.inception import InceptionFeatures
from diffexp.evaluation.inception_score import SPLITS, assign_splits
from diffexp.evaluation.kernel_distance import subset_plan

SEED = 2020  # torch-fidelity's default
_KEYS = {
    "fd": "frechet_inception_distance",
    "is": "inception_score_mean",
    "kid": "kernel_inception_distance_mean",
    "precision": "precision",
    "recall": "recall",
}


class FidelityDraws(Draws):
    """The splits and subsets that torch-fidelity draws with its default seed."""

    def splits(self, n: int) -> Tensor:
        return assign_splits(torch.from_numpy(np.random.RandomState(SEED).permutation(n)))

    def subsets(self, n: int, reference_n: int) -> tuple[Tensor, Tensor]:
        count, size = subset_plan(n, reference_n)
        chance = np.random.RandomState(SEED)
        drawn = [[chance.choice(k, size, replace=False) for k in (n, reference_n)] for _ in range(count)]
        first, second = (torch.from_numpy(np.stack(rows)) for rows in zip(*drawn, strict=True))
        return first, second


def fidelity_metrics(
    extractor: Extractor, images: Path, reference: Path, n: tuple[int, int], batch_size: int, device: torch.device
) -> dict[str, float]:
    """What torch-fidelity measures of the pictures in a folder against those of another.

    Args:
        extractor: prepared.
        images, reference: folders of pictures; their order is that of their names.
        n: how many pictures each holds.
        batch_size: pictures at a time.
        device: where the network runs.

    Returns:
        fd, kid, precision, recall, and is where the extractor has classes.

    Raises:
        DiffexpError: torch-fidelity is not installed.
    """
    try:
        import torch_fidelity
    except (ImportError, RuntimeError) as error:  # a torchvision that does not fit torch raises RuntimeError
        reason = str(error).splitlines()[0]
        raise DiffexpError(f"torch-fidelity cannot be used ({reason}); pip install 'diffexp[fid]'") from error
    count, size = subset_plan(*n)
    scores = bool(num_classes_of(extractor))
    found = torch_fidelity.calculate_metrics(
        input1=str(images), input2=str(reference), batch_size=batch_size, cuda=device.type == "cuda",
        isc=scores, fid=True, kid=True, prc=True, isc_splits=SPLITS, kid_subsets=count, kid_subset_size=size,
        rng_seed=SEED, cache=False, save_cpu_ram=True, verbose=False, **_network(extractor),
    )  # fmt: skip
    return {name: float(found[key]) for name, key in _KEYS.items() if key in found}


def _network(extractor: Extractor) -> dict[str, Any]:
    """The arguments that tell torch-fidelity which features to use."""
    if isinstance(extractor, InceptionFeatures):
        return {
            "feature_extractor": "inception-v3-compat",
            "feature_extractor_weights_path": str(extractor.path),
            **{f"feature_layer_{metric}": "2048" for metric in ("fid", "kid", "prc")},
            "feature_layer_isc": "logits_unbiased",
        }
    from torch_fidelity import FeatureExtractorBase, register_feature_extractor

    class Lent(FeatureExtractorBase):
        def __init__(self, name: str, features: list[str], **others: Any) -> None:
            super().__init__(name, features)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("features", "scores")

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "scores" if metric == "isc" else "features"

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            shown = images[:, : extractor.shape[0]]  # it reads everything as RGB
            if "scores" not in self.features_list:
                return (extractor(shown),)
            found = dict(zip(("features", "scores"), extractor.classify(shown), strict=True))
            return tuple(found[name] for name in self.features_list)

    name = f"diffexp-{extractor.name}-{id(Lent)}"
    register_feature_extractor(name, Lent)
    return {"feature_extractor": name}
