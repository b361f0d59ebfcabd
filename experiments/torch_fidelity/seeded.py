"""Inception's architecture under seeded random weights: its arithmetic can be compared where the weights are not."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import torch

from diffexp.core import random
from diffexp.evaluation.inception import LAYERS

SPREAD = 60.0  # of the last layer: class scores that differ by several units, so that their score is not 1


def write_seeded(path: Path, seed: int = 0) -> None:
    """Write a file of weights in torch-fidelity's format."""
    from torch_fidelity import feature_extractor_inceptionv3 as reference

    network = reference.FeatureExtractorInceptionV3
    with (
        mock.patch.object(reference, "load_state_dict_from_url", return_value={}),
        mock.patch.object(network, "load_state_dict", return_value=None),
        random.seeded(seed, "inception"),
    ):
        made = network("seeded", LAYERS)
    with torch.no_grad():  # torch's default initialisation would shrink the signal to nothing over 48 layers
        for weight in (w for w in made.parameters() if w.dim() == 4):
            weight.mul_(6**0.5)
        made.fc.weight.mul_(SPREAD)
    torch.save(made.state_dict(), path)
