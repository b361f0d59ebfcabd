"""task=interpolate: strips of images from the noise of one seed to that of another, on the same conditions."""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.core.image import to_uint8
from diffexp.dataset.split import conditions_of
from diffexp.evaluation.grid import draw_grid
from diffexp.evaluation.interpolation import Interpolation, strips
from diffexp.evaluation.selection import recalled
from diffexp.evaluation.settings import file_stems
from diffexp.launch.signals import StopRequest
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.tasks import console
from diffexp.tasks.build import Config, build, make
from diffexp.tasks.conditions import conditioner_of
from diffexp.tasks.evaluate import plan_evaluation
from diffexp.tasks.sample import write_arrays
from diffexp.tasks.source import make_source, open_checkpoint_or_oracle, open_folder


def main(config: Config) -> None:
    """Strips 0 .. interpolation.images - 1, for each sampler and budget.

    Each becomes `samples/interpolation_<sampler>_nfe<k>_seeds<a>_<b>.npz` in the run folder (key `images`, uint8
    (strips, points, H, W, C)) and a PNG, in which the end point of a bridge comes first.
    """
    parts = build(config)
    settings: Interpolation = make(config, "interpolation")
    restored = open_checkpoint_or_oracle(config, parts)
    plan = plan_evaluation(config, parts, restored)
    if restored is None or "endpoint" in conditions_of(parts.dataset):
        parts.dataset.prepare()
    conditioner, (first, second) = conditioner_of(parts, plan.settings), settings.seeds
    with open_folder(config, restored) as folder, StopRequest() as stop:
        target = folder.path / "samples"
        target.mkdir(exist_ok=True)
        source = make_source(config, parts, restored)
        conditions = NO_CONDITIONS if conditioner is None else conditioner(first, range(settings.images))
        for stem, arm in file_stems(recalled(plan.arms, folder.path, plan.settings.nfe_policy)).items():
            for nfe in arm.feasible(plan.settings.nfe_policy):
                stop.check("while sampling")
                made = strips(
                    arm.sampler, source.denoiser, parts.data.shape, settings, nfe, conditions.to(source.device),
                    source.device,
                )  # fmt: skip
                images = to_uint8(made, plan.settings.quantise)
                cost = "counted" if nfe is None else nfe
                name = f"interpolation_{stem}_nfe{cost}_seeds{first}_{second}"
                write_arrays(images, target / f"{name}.npz")
                title = f"{config['recipe']}, {arm.label}, NFE {cost}, seed {first} to {second}"
                draw_grid(_rows(images, conditions), target / f"{name}.png", title=title)
                console.say(f"interpolation: {target / name}.png, .npz")


def _rows(images: Tensor, conditions: Conditions) -> list[tuple[str, Tensor]]:
    """One row for each strip, behind its end point where there is one."""
    if conditions.endpoint is None:
        return [("", strip) for strip in images]
    given = to_uint8(conditions.endpoint.cpu(), "round")
    return [("", strip) for strip in torch.cat([given[:, None], images], dim=1)]
