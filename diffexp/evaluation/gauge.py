"""What is measured of a stream of images, all in one pass: metrics of the set, and scores of the single images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from typing import Protocol as Interface

import torch
from torch import Tensor

from diffexp.core.errors import SamplingError
from diffexp.dataset.split import Dataset
from diffexp.evaluation.metric import FRECHET, SET_METRICS
from diffexp.evaluation.pairs import Pairing, pairing_of
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.reference import Reference, reference_of
from diffexp.evaluation.score import SCORES, Score
from diffexp.evaluation.settings import EvaluationSettings
from diffexp.evaluation.statement import check_sets, score_protocol, set_protocol
from diffexp.launch.ranks import ALONE, World, lost_peers

if TYPE_CHECKING:
    from diffexp.evaluation.meter import Meter

Batches = Iterable[tuple[Tensor, Sequence[int]]]
"""(uint8 images (B, C, H, W), their indices)."""


class Tally(Interface):
    """A measurement under way. Its numbers are of the images of all ranks, which have to ask for them together."""

    count: int

    def add(self, images: Tensor, indices: Sequence[int]) -> None:
        """Take in a batch."""

    def value(self, metric: str) -> float:
        """A number of all batches."""


class Source(Interface):
    """What numbers come from: all that share one are measured in one pass over an extractor's features."""

    def begin(self, metrics: Sequence[str], here: World) -> Tally:
        """A new measurement of these metrics by one rank of several; the first one may read a whole reference."""


@dataclass(frozen=True, eq=False)
class Gauge:
    """One number of a set of images.

    Attributes:
        protocol: what the number means.
        source: what measures it.
        metric: what the source calls it.
    """

    protocol: Protocol
    source: Source
    metric: str


def gauges_of(dataset: Dataset, settings: EvaluationSettings, device: torch.device | str = "cpu") -> list[Gauge]:
    """All that an evaluation measures: the Frechet distance first. Reads the data set and weights, computes nothing.

    Raises:
        ConfigError: a metric of sets that the extractor or n does not allow; see also `pairing_of`, `Score.check`.
    """
    pairing, device = pairing_of(dataset, settings), torch.device(device)
    gauges: list[Gauge] = []
    sets = [FRECHET, *(name for name in settings.metrics if name in SET_METRICS)]
    reference = None if settings.extractor is None else reference_of(dataset, settings)
    check_sets(sets[1:], reference, settings)
    if reference is not None:
        source = _SetSource(reference, settings, device, tuple(sets))
        gauges += [Gauge(set_protocol(name, reference, settings, pairing), source, name) for name in sets]
    for name in settings.metrics if pairing is not None else ():
        if name not in SCORES:
            continue
        score = SCORES[name]()
        score.check(tuple(dataset.shape))
        protocol = score_protocol(score, dataset, settings, pairing)
        gauges.append(Gauge(protocol, _PairSource(score, pairing, device), name))
    return gauges


def measure(gauges: Sequence[Gauge], batches: Batches, n: int, here: World = ALONE) -> list[float]:
    """The numbers of n images, in one pass over them; SamplingError when they are not n.

    Args:
        batches: of several ranks, those of this one; sums are reduced once, after the last batch, and every rank gets
            the same numbers.
        here: this process among them.
    """
    wanted: dict[Source, list[str]] = {}
    for gauge in gauges:
        wanted.setdefault(gauge.source, []).append(gauge.metric)
    tallies = {source: source.begin(metrics, here) for source, metrics in wanted.items()}
    for images, indices in batches:
        for tally in tallies.values():
            tally.add(images, indices)
    for tally in tallies.values():
        count = round(sum(here.gather(tally.count)))
        if count != n:
            raise SamplingError(f"the measurement was to be over {n} images, {count} came")
    with lost_peers():  # the metrics' own collectives
        values = [tallies[gauge.source].value(gauge.metric) for gauge in gauges]
    return here.share(values)


@dataclass(frozen=True, eq=False)
class _SetSource:
    """Metrics of the set, against all images of the reference."""

    reference: Reference
    settings: EvaluationSettings
    device: torch.device
    metrics: tuple[str, ...]

    @cached_property
    def _meter(self) -> Meter:
        """Made for the first measurement only: it takes the features of the whole reference."""
        from diffexp.evaluation.meter import Meter  # torchmetrics takes seconds to import

        settings = self.settings
        return Meter.of(self.reference, settings.extractor, settings.batch_size, self.device, self.metrics, settings.n)

    def begin(self, metrics: Sequence[str], here: World) -> Tally:
        return self._meter.begin(metrics, here.size > 1)


@dataclass(frozen=True, eq=False)
class _PairSource:
    """The mean score of images against their targets."""

    score: Score
    pairing: Pairing
    device: torch.device

    def begin(self, metrics: Sequence[str], here: World) -> Tally:
        return _Mean(self.score.on(self.device), self.pairing, here)


class _Mean:
    def __init__(self, score: Score, pairing: Pairing, here: World) -> None:
        self._score, self._pairing, self._here = score, pairing, here
        self._total, self.count = 0.0, 0

    def add(self, images: Tensor, indices: Sequence[int]) -> None:
        targets = self._pairing.targets(indices).to(images.device)
        self._total += float(self._score(images, targets).sum())
        self.count += len(images)

    def value(self, metric: str) -> float:
        return sum(self._here.gather(self._total)) / sum(self._here.gather(self.count))
