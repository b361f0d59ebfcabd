"""task=sample: write the very images that an evaluation would score, as arrays and as a picture."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffexp.core.files import write_bytes_atomic
from diffexp.evaluation.generate import generate
from diffexp.evaluation.grid import draw_grid
from diffexp.evaluation.selection import recalled
from diffexp.evaluation.settings import EvaluationSettings, file_stems
from diffexp.launch.signals import StopRequest
from diffexp.sampler.loop import Sampler
from diffexp.tasks import console
from diffexp.tasks.build import Config, Parts, build
from diffexp.tasks.conditions import conditioner_of
from diffexp.tasks.evaluate import plan_evaluation
from diffexp.tasks.restore import Restored
from diffexp.tasks.source import make_source, open_checkpoint_or_oracle, open_folder

_COLUMNS, _SHOWN = 10, 100


def main(config: Config) -> None:
    """Images 0 .. evaluation.n - 1 of the first evaluation seed, for each sampler and budget.

    Each becomes `samples/<sampler>_nfe<k>_seed<s>.npz` in the run folder (key `images`, uint8 (n, H, W, C), the layout
    that evaluators of images read) and a PNG of the first hundred; with `pngs=true` also a folder of the same name with
    one PNG file for each image.
    """
    parts = build(config)
    restored = open_checkpoint_or_oracle(config, parts)
    plan = plan_evaluation(config, parts, restored)
    if restored is None:
        parts.dataset.prepare()
    with open_folder(config, restored) as folder, StopRequest() as stop:
        target = folder.path / "samples"
        target.mkdir(exist_ok=True)
        draw = _generator(config, parts, plan.settings, restored, stop)
        for stem, arm in file_stems(recalled(plan.arms, folder.path, plan.settings.nfe_policy)).items():
            for nfe in arm.feasible(plan.settings.nfe_policy):
                images = draw(arm.sampler, nfe)
                cost = "counted" if nfe is None else nfe
                name = f"{stem}_nfe{cost}_seed{plan.settings.seeds[0]}"
                write_arrays(images, target / f"{name}.npz")
                if config.get("pngs"):
                    write_pngs(images, target / name)
                shown = [("", part) for part in images[:_SHOWN].split(_COLUMNS)]
                draw_grid(shown, target / f"{name}.png", title=f"{config['recipe']}, {arm.label}, NFE {cost}")
                console.say(f"samples: {target / name}.png, .npz")


def _generator(
    config: Config, parts: Parts, settings: EvaluationSettings, restored: Restored | None, stop: StopRequest
) -> Callable[[Sampler, int | None], Tensor]:
    """(sampler, nfe) -> all images, uint8 (n, C, H, W) on the CPU."""
    source = make_source(config, parts, restored)
    conditioner, seed = conditioner_of(parts, settings), settings.seeds[0]

    def draw(sampler: Sampler, nfe: int | None) -> Tensor:
        kept = []
        for batch in generate(
            sampler, source.denoiser, parts.data.shape, range(settings.n), seed, nfe,
            settings.batch_size, settings.quantise, conditioner, source.device,
        ):  # fmt: skip
            stop.check("while sampling")
            kept.append(batch.images.cpu())
        return torch.cat(kept)

    return draw


def write_pngs(images: Tensor, folder: Path) -> None:
    """Write uint8 images (n, C, H, W) as ``000000.png`` and so on; the folder appears whole, and replaces an older one.

    C is 1 (grey) or 3 (colour).
    """
    from PIL import Image

    draft = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    for place, image in enumerate(images.movedim(-3, -1).numpy()):
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(draft / f"{place:06d}.png")
    shutil.rmtree(folder, ignore_errors=True)
    draft.replace(folder)


def write_arrays(images: Tensor, path: Path) -> None:
    """Write uint8 images (*, C, H, W) as an array (*, H, W, C) under the key `images`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images.movedim(-3, -1).numpy())
    write_bytes_atomic(path, buffer.getvalue())
