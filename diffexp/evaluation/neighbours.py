"""The training images that are nearest to some samples, so that copies show.

neighbours.png    samples, and below each its nearest training images
neighbours.json   the distances, of as many held-out images too, and what was searched
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.errors import DiffexpError
from diffexp.core.files import write_json_atomic
from diffexp.dataset.split import Dataset
from diffexp.evaluation.document import Block, Heading, Picture, Table
from diffexp.evaluation.grid import draw_grid
from diffexp.evaluation.passes import Evaluation
from diffexp.evaluation.settings import EvaluationSettings
from diffexp.evaluation.table import best_of, summarise_arms

FILE, PICTURE = "neighbours.json", "neighbours.png"
_SAMPLES, _NEAREST = 8, 3
_LEAST = 2048  # training images that are searched even where fewer are generated
_NAMES = ("nearest", "second", "third")


@dataclass(frozen=True)
class Neighbours:
    """What was found.

    Attributes:
        arm: sampler and grid whose samples these are.
        nfe: their counted evaluations.
        checkpoint: the weights.
        space: in what the distances are: ``"features of <extractor>"``, or pixels in [0, 1].
        searched, of: how many of how many training images were looked at.
        distances: of each sample from its nearest training images, ascending; Euclidean.
        held_out: of as many held-out images from the nearest training image.
    """

    arm: str
    nfe: float
    checkpoint: str
    space: str
    searched: int
    of: int
    distances: list[list[float]]
    held_out: list[float]


def save_neighbours(
    folder: Path,
    found: Evaluation,
    dataset: Dataset,
    settings: EvaluationSettings,
    device: torch.device | str = "cpu",
    on_batch: Callable[[int], None] | None = None,
) -> Neighbours | None:
    """Find the neighbours of the first samples of the best arm, and write them into `folder`.

    The search is one pass over at most as many training images as an arm generates (2,048 at least): a keyed draw of
    them where there are more.

    Args:
        found: an evaluation with its picture grids.
        device: where features are taken.
        on_batch: called after each batch of training images.

    Returns:
        what was found; None without any samples.
    """
    chosen = _choose(found)
    if chosen is None:
        return None
    arm, nfe, samples = chosen
    train, test = dataset.split("train"), dataset.split("test")
    real = test.images(torch.linspace(0, len(test) - 1, min(len(samples), len(test))).long())
    searched = min(len(train), max(settings.n, _LEAST))
    order = random.permutation(0, "evaluation/neighbours", len(train))[:searched]
    feature, space = _space(settings, device)
    wanted = feature(torch.cat([samples, real]))
    best = torch.full((len(wanted), 0), 0.0, dtype=torch.float64), torch.zeros((len(wanted), 0), dtype=torch.int64)
    for part in order.split(settings.batch_size):
        images = train.images(part)
        distances = torch.cdist(wanted, feature(images), compute_mode="donot_use_mm_for_euclid_dist")
        best = _merge(best, distances, part)
        if on_batch is not None:
            on_batch(len(images))
    count = len(samples)
    rows = [("sample", samples)]
    rows += [(_NAMES[place], train.images(best[1][:count, place])) for place in range(best[1].shape[1])]
    title = f"{arm}, NFE {nfe:g}, and the nearest of {searched:,} training images by {space}"
    draw_grid(rows, folder / PICTURE, title)
    result = Neighbours(
        arm, nfe, found.provenance.checkpoint, space, searched, len(train), best[0][:count].tolist(),
        best[0][count:, 0].tolist(),
    )  # fmt: skip
    write_json_atomic(folder / FILE, asdict(result))
    return result


def _choose(found: Evaluation) -> tuple[str, float, Tensor] | None:
    """(sampler and grid, NFE, samples (k, C, H, W)) of the best arm; of the last one where nothing was measured."""
    grids = {pictures.title: pictures.rows for pictures in found.grids.values() if pictures.rows}
    if not grids:
        return None
    arms = summarise_arms([*found.kept, *found.rows])
    best = best_of(arm for arm in arms if arm.metric == arms[0].metric and f"{arm.sampler} on {arm.grid}" in grids)
    title = list(grids)[-1] if best is None else f"{best.sampler} on {best.grid}"
    rows = grids[title]
    nfe = best.nfe if best is not None and best.nfe in rows else list(rows)[-1]
    return title, nfe, rows[nfe][:_SAMPLES].cpu()


def _space(settings: EvaluationSettings, device: torch.device | str) -> tuple[Callable[[Tensor], Tensor], str]:
    """What is compared, float64 (B, d) on the CPU, and its name."""
    if settings.extractor is None:
        return lambda images: images.double().flatten(1) / 255.0, "pixels in [0, 1]"
    extractor = settings.extractor.prepare()
    extractor.to(device)
    return lambda images: extractor(images.to(device)).double().cpu(), f"features of {extractor.name}"


def _merge(best: tuple[Tensor, Tensor], distances: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest so far and a batch (k, B) -> the nearest of both with their indices, ascending."""
    together = torch.cat([best[0], distances], 1)
    indices = torch.cat([best[1], part.expand(len(distances), -1)], 1)
    values, places = together.topk(min(_NEAREST, together.shape[1]), largest=False)
    return values, indices.gather(1, places)


def read_neighbours(folder: Path) -> Neighbours | None:
    """What is in a run folder; None where nothing is, DiffexpError for a damaged file."""
    path = folder / FILE
    if not path.is_file() or not (folder / PICTURE).is_file():
        return None
    try:
        return Neighbours(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DiffexpError(f"{path} is not a file of neighbours ({error}); delete it") from error


def neighbours(folder: Path) -> list[Block]:
    """The section of a report; empty where there are none."""
    found = read_neighbours(folder)
    if found is None:
        return []
    samples = [row[0] for row in found.distances]
    intro = (
        f"Samples of {found.arm} at NFE {found.nfe:g} (`{found.checkpoint}`), each above its nearest training images "
        f"by {found.space}, found among {found.searched:,} of {found.of:,}. Median distance of the samples "
        f"**{_spell(statistics.median(samples))}**, of as many held-out images "
        f"**{_spell(statistics.median(found.held_out))}**: samples that are much nearer than held-out images are "
        "copies."
    )
    header = ["distance", *(str(place) for place in range(1, len(samples) + 1))]
    body = [[_NAMES[k], *(_spell(row[k]) for row in found.distances)] for k in range(len(found.distances[0]))]
    body.append(["held out, nearest", *_padded([_spell(value) for value in found.held_out], len(samples))])
    return [Heading(2, "Nearest training images"), intro, Picture(PICTURE, "Samples"), Table(header, body, 1)]


def _spell(value: float) -> str:
    """Three digits, zeros at the end too."""
    return f"{value:#.3g}".rstrip(".")


def _padded(cells: Sequence[str], count: int) -> list[str]:
    return [*cells, *[""] * (count - len(cells))]
