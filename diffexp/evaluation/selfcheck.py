"""diffexp against torch-fidelity on the same pictures: each measures one set against another in its own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.errors import DataError
from diffexp.core.image import to_float, to_uint8
from diffexp.dataset.decode import decode
from diffexp.dataset.split import ArraySplit
from diffexp.evaluation.features import Extractor, num_classes_of
from diffexp.evaluation.fidelity import FidelityDraws, fidelity_metrics
from diffexp.evaluation.meter import Meter
from diffexp.evaluation.metric import name_in

NOISE = 0.12  # standard deviation of what is added to pixels in [-1, 1]: 15 grey levels
LEAST = 20
TOLERANCES = {"fd": 1e-3, "is": 1e-4, "kid": 1e-4, "precision": 1e-6, "recall": 1e-6}  # means of float32 bits are not


@dataclass(frozen=True)
class Line:
    """One metric of both.

    Attributes:
        metric: its name in results.
        ours, theirs: diffexp's and torch-fidelity's value.
        tolerance: the largest relative difference that is good.
    """

    metric: str
    ours: float
    theirs: float
    tolerance: float

    @property
    def difference(self) -> float:
        """Relative to torch-fidelity's value; 0 where both are 0."""
        return abs(self.ours - self.theirs) / abs(self.theirs) if self.theirs else float(self.ours != 0.0)

    @property
    def good(self) -> bool:
        """Whether the two agree; never, where one is not a number."""
        return self.difference <= self.tolerance


def read_pictures(files: Sequence[str], channels: int) -> Tensor:
    """Pictures of one size: uint8 (n, channels, H, W); DataError names the first that cannot be used, or is too few."""
    from PIL import Image

    if len(files) < LEAST:
        raise DataError(f"images: {len(files)} pictures are too few to compare metrics on, {LEAST} are the least")
    with Image.open(files[0]) as picture:
        width, height = picture.size
    pixels = np.empty((len(files), channels, height, width), dtype=np.uint8)
    faults = decode(files, pixels)
    if faults:
        raise DataError(f"images: {faults[0].path}: {faults[0].reason} ({len(faults)} such; all need one size)")
    return torch.from_numpy(pixels)


def noised(images: Tensor, seed: int = 0) -> Tensor:
    """Copies of uint8 images (n, C, H, W) with Gaussian noise."""
    noise = random.normal(seed, "selfcheck/noise", range(len(images)), images.shape[1:])
    return to_uint8(to_float(images) + NOISE * noise)


def compare(
    images: Tensor,
    reference: Tensor,
    extractor: Extractor,
    work: Path,
    batch_size: int = 64,
    device: torch.device | None = None,
) -> list[Line]:
    """Both measure images against a reference: diffexp in memory, torch-fidelity from PNG files.

    Args:
        images, reference: uint8 (n, C, H, W) and (m, C, H, W).
        extractor: whose features are measured.
        work: an empty folder for the PNG files.
        batch_size: images at a time.
        device: of the network; None: the CPU.

    Returns:
        a line for each metric that both have, on the same splits and subsets.
    """
    device = device or torch.device("cpu")
    n, m = len(images), len(reference)
    for name, pictures in (("images", images), ("reference", reference)):
        write_pngs(pictures, work / name)
    metrics = ["fd", "kid", "precision", "recall", *(["is"] if num_classes_of(extractor) else [])]
    meter = Meter.on(ArraySplit(reference.numpy(), None), extractor, batch_size, device, metrics, n)
    tally = replace(meter, draws=FidelityDraws()).begin()
    for indices in torch.arange(n).split(batch_size):
        tally.add(images[indices], indices)
    theirs = fidelity_metrics(extractor, work / "images", work / "reference", (n, m), batch_size, device)
    return [
        Line(name_in(name, extractor.metric), tally.value(name), theirs[name], TOLERANCES[name]) for name in metrics
    ]


def write_pngs(images: Tensor, folder: Path) -> None:
    """Write uint8 images (n, C, H, W) to a new folder, named so that their order is that of the names."""
    from PIL import Image

    folder.mkdir(parents=True)
    for place, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(folder / f"{place:06d}.png")
