"""What images are made from when an evaluation or a sampling makes them."""

from __future__ import annotations

from diffexp.evaluation.generate import Conditioner, class_labels
from diffexp.evaluation.pairs import pairing_of
from diffexp.evaluation.settings import EvaluationSettings
from diffexp.tasks.build import Parts


def conditioner_of(parts: Parts, settings: EvaluationSettings) -> Conditioner | None:
    """What the pairs give, where the data are pairs; else uniform labels for class-conditional networks, or nothing."""
    pairing = pairing_of(parts.dataset, settings)
    if pairing is not None:
        return pairing
    return class_labels(parts.data.num_classes) if parts.data.num_classes else None
