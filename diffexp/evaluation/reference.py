"""The reference of an evaluation: the images that distances are taken from, or what is published of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffexp.core.errors import ConfigError
from diffexp.dataset.split import Dataset, Split
from diffexp.evaluation.features import Extractor
from diffexp.evaluation.statistics import moments_fingerprint
from diffexp.evaluation.store import Key, ReferenceStore

if TYPE_CHECKING:
    from diffexp.evaluation.frechet import Gaussian
    from diffexp.evaluation.settings import EvaluationSettings


@dataclass(frozen=True)
class Reference:
    """What samples are compared with.

    Attributes:
        dataset, split: names, for the protocol.
        fingerprint: of the images; of published moments, theirs.
        count: number of images.
        images: the images; None where only their moments are known.
        moments: published moments; None where they are computed from the images.
        store: keeps what is computed from the images.
    """

    dataset: str
    split: str
    fingerprint: str
    count: int
    images: Split | None
    moments: Gaussian | None
    store: ReferenceStore

    def require_images(self, metric: str) -> Split:
        """The images; ConfigError naming a metric that needs them, where nothing but moments is known."""
        if self.images is None:
            raise ConfigError(
                f"evaluation.metrics: {metric} needs the features of reference images, and evaluation.statistics has "
                "their moments only: leave one of the two out"
            )
        return self.images


def reference_of(dataset: Dataset, settings: EvaluationSettings) -> Reference:
    """The reference that `settings` names, which has an extractor. Reads the data set, or the published file.

    Raises:
        ConfigError: published statistics are of another protocol. DiffexpError: their file cannot be used.
    """
    published, name, store = settings.statistics, settings.reference, ReferenceStore(settings.references)
    if published is None:
        split = dataset.split(name)
        return Reference(dataset.name, name, split.fingerprint, len(split), split, None, store)
    published.check(dataset.name, name, settings.extractor.prepare())
    if published.use == "images":
        images = published.images(tuple(dataset.shape))
        return Reference(dataset.name, name, images.fingerprint, len(images), images, None, store)
    moments = published.moments(settings.extractor.dim)
    return Reference(dataset.name, name, moments_fingerprint(moments), moments.count, None, moments, store)


def features_key(split: Split, extractor: Extractor) -> Key:
    """What features of a split's images depend on; the extractor is prepared."""
    return {
        "extractor": extractor.name,
        "weights": extractor.hash,
        "resize": extractor.resize,
        "dim": extractor.dim,
        "reference": split.fingerprint,
        "n": len(split),
    }
