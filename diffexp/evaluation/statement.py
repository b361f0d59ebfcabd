"""What an evaluation states of its numbers: the protocol of each metric; metrics that cannot be are refused."""

from __future__ import annotations

from collections.abc import Sequence

from diffexp.core.errors import ConfigError
from diffexp.dataset.split import Dataset
from diffexp.evaluation.features import num_classes_of
from diffexp.evaluation.kernel_distance import subset_plan
from diffexp.evaluation.manifold import NEIGHBOURS
from diffexp.evaluation.metric import FRECHET, SPLITS, name_in
from diffexp.evaluation.pairs import Pairing
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.reference import Reference
from diffexp.evaluation.score import Score
from diffexp.evaluation.settings import EvaluationSettings

_LEAST = {"is": SPLITS, "kid": 2, **{name: k + 1 for name, k in NEIGHBOURS.items()}}  # images


def check_sets(metrics: Sequence[str], reference: Reference | None, settings: EvaluationSettings) -> None:
    """Refuse metrics of sets that the extractor, the reference or the number of images does not allow (ConfigError).

    Args:
        reference: None where there is no extractor.
    """
    if not metrics:
        return
    extractor = settings.extractor
    if extractor is None or reference is None:
        raise ConfigError(f"evaluation.metrics: {metrics[0]} needs features; choose an evaluation.extractor")
    if "is" in metrics and not num_classes_of(extractor):
        raise ConfigError(
            f"evaluation.metrics: is needs class scores, '{extractor.name}' has features only; leave it out"
        )
    split = settings.reference
    for name in metrics:
        least = _LEAST[name]
        if settings.n < least:
            raise ConfigError(f"evaluation.n={settings.n}: {name} needs at least {least} images")
        if name != "is" and len(reference.require_images(name)) < least:
            raise ConfigError(f"evaluation.reference={split}: {name} needs at least {least} images in that split")


def set_protocol(name: str, reference: Reference, settings: EvaluationSettings, pairing: Pairing | None) -> Protocol:
    """Of a metric of sets, in the features of the extractor of `settings`; reads its weights."""
    extractor = settings.extractor.prepare()
    alone = name == "is"  # of the images alone, whatever the reference
    return Protocol(
        metric=name_in(name, extractor.metric),
        n=settings.n,
        dataset=reference.dataset,
        split="none" if alone else reference.split,
        reference="none" if alone else reference.fingerprint,
        reference_n=0 if alone else reference.count,
        extractor=extractor.name,
        weights=extractor.hash,
        quantise=settings.quantise,
        resize=extractor.resize,
        pairs=None if pairing is None else f"{pairing.name} {pairing.split.fingerprint}",
        variant=_variant(name, settings.n, reference.count),
    )


def _variant(name: str, n: int, reference_n: int) -> str | None:
    """The settings of a metric of sets, for its protocol."""
    if name == FRECHET:
        return None
    if name == "is":
        return f"{SPLITS} splits"
    if name == "kid":
        count, size = subset_plan(n, reference_n)
        return f"{count} subsets of {size:,}" if count > 1 else "all images"
    return f"k = {NEIGHBOURS[name]}"


def score_protocol(score: Score, dataset: Dataset, settings: EvaluationSettings, pairing: Pairing) -> Protocol:
    """Of a paired metric."""
    return Protocol(
        metric=score.metric,
        n=settings.n,
        dataset=dataset.name,
        split=pairing.name,
        reference=pairing.split.fingerprint,
        reference_n=len(pairing),
        extractor=score.kind,
        weights=score.weights,
        quantise=settings.quantise,
        resize=score.resize,
        pairs=f"{pairing.name} {pairing.split.fingerprint}",
    )
