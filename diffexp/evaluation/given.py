"""Images that others have made, scored like samples: the same reference, metrics and controls.

    a folder    PNG or other image files, sub-folders included, in the order of their names
    an npz      `images` or `arr_0`, uint8 (N, H, W, C)

The first n images are the set of the first evaluation seed, the next n that of the second, and so on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from diffexp.core.errors import ConfigError, DataError
from diffexp.dataset.arrays import read_images
from diffexp.dataset.files import Files
from diffexp.dataset.listing import list_images
from diffexp.dataset.split import ArraySplit, Dataset, Split
from diffexp.evaluation.controls import check_floor
from diffexp.evaluation.features import check_shape
from diffexp.evaluation.gauge import Batches, gauges_of
from diffexp.evaluation.pairs import HELD_OUT, pairing_of
from diffexp.evaluation.passes import Evaluation, Run, add_control, add_set, check_parts, shard
from diffexp.evaluation.protocol import Provenance
from diffexp.evaluation.results import GIVEN, Row
from diffexp.evaluation.settings import EvaluationSettings
from diffexp.launch.ranks import ALONE, World

log = logging.getLogger("diffexp")

KEY = "samples"
_LOSSY = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Given:
    """Images that others have made.

    Attributes:
        name: of the folder or file.
        images: all of them; their `fingerprint` names them.
        kind: how they were stored, for the report.
    """

    name: str
    images: Split
    kind: str

    @property
    def label(self) -> str:
        """The name with the beginning of the images' hash: two folders may well have one name."""
        return f"{self.name}@{self.images.fingerprint.rpartition(':')[2][:6]}"

    def sets(self, settings: EvaluationSettings) -> dict[int, int]:
        """Seed -> its first image, for as many of the evaluation's seeds as there are sets of n images.

        Raises:
            ConfigError: there are fewer than n images.
        """
        count, n = len(self.images), settings.n
        if count < n:
            raise ConfigError(
                f"evaluation.n={n}: {KEY}={self.name} has {count} images: use evaluation.n={count}, or make more"
            )
        return {seed: place * n for place, seed in enumerate(settings.seeds[: count // n])}


def read_given(path: str, shape: tuple[int, int, int]) -> Given:
    """The images of a folder or an npz file; every file is decoded and checked.

    Args:
        path: what `samples=` names.
        shape: (C, H, W) of the images that they are compared with; the channels of files are converted.

    Raises:
        DataError: there is no such folder or file, it is damaged, or holds images of another size or type than 8 bits a
            channel: the first is named, all are counted.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        listing = list_images(place)
        images = Files(tuple(shape)).splits({KEY: listing}, path, False)[KEY]
        suffixes = sorted({Path(name).suffix.lower() for name in listing.files})
        if any(suffix in _LOSSY for suffix in suffixes):
            log.warning("%s=%s: some of the images are JPEG files, which distances notice", KEY, path)
        return Given(place.name or place.absolute().name, images, f"{', '.join(s[1:] for s in suffixes)} files")
    if not place.exists():
        raise DataError(f"{KEY}: '{path}' does not exist: name a folder of image files, or an npz file")
    array = read_images(place)
    if array.shape[1:] != tuple(shape):
        told, wanted = ("x".join(map(str, size)) for size in (array.shape[1:], shape))
        raise DataError(f"{KEY}: '{path}' holds images of shape {told} (C, H, W), the reference has {wanted}")
    return Given(place.stem, ArraySplit(array, None), "an npz file")


def check_given(given: Given, dataset: Dataset, settings: EvaluationSettings) -> None:
    """Refuse what cannot be scored, before anything is computed: ConfigError. Reads the data set and weights."""
    if settings.extractor is None and not settings.metrics:
        raise ConfigError(f"{KEY}={given.name}: the evaluation measures nothing: choose an evaluation.extractor")
    given.sets(settings)
    if settings.extractor is not None:
        check_shape(settings.extractor, dataset.shape, dataset.name)
        settings.extractor.prepare()
        if "real" in settings.controls and pairing_of(dataset, settings) is None:
            check_floor(settings.controls, settings.n, dataset.name, len(dataset.split(HELD_OUT)))
    gauges_of(dataset, settings)


def evaluate_given(
    given: Given,
    dataset: Dataset,
    settings: EvaluationSettings,
    provenance: Provenance,
    device: torch.device | str = "cpu",
    on_batch: Callable[[int], None] | None = None,
    known: Iterable[Row] = (),
    on_row: Callable[[Evaluation, Row], None] | None = None,
    here: World = ALONE,
) -> Evaluation:
    """Score given images, and the controls; arguments and errors as for `sweep.evaluate`.

    With pairs, image i of a set is compared with the target of the i-th pair of an evaluation: `task=sample` writes
    images in this order.
    """
    check_given(given, dataset, settings)
    check_parts(settings.n, here)
    gauges, rows = gauges_of(dataset, settings, device), {row.key: row for row in known}
    found = Evaluation(provenance, [gauge.protocol for gauge in gauges])
    run = Run(
        found, None, dataset, settings, gauges, pairing_of(dataset, settings), None, torch.device(device), on_batch,
        rows, on_row, here,
    )  # fmt: skip
    for name in settings.controls:
        add_control(name, run)
    first = given.sets(settings)

    def images(seed: int) -> Batches:
        for indices in torch.tensor(shard(settings.n, run.here), dtype=torch.int64).split(settings.batch_size):
            yield given.images.images(first[seed] + indices), indices.tolist()

    label = given.label
    add_set(f"{GIVEN}{label}", f"images of {label}", list(first), lambda seed: run.told(images(seed)), gauges, run)
    return found
