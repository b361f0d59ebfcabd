"""task=check: what a recipe will do, without data, weights or folders: the network is built on the meta device."""

from __future__ import annotations

from diffexp.evaluation.settings import Arm, short_names
from diffexp.tasks import console
from diffexp.tasks.arms import arms_of
from diffexp.tasks.build import Config, Parts, build
from diffexp.tasks.search import plan_search
from diffexp.tasks.teacher import described


def main(config: Config) -> None:
    """Print parameters, data, training budget and the NFE plans of all arms."""
    parts = build(config)
    arms, missing = arms_of(config, None)
    plan_search(config, parts)
    names = short_names(arms)
    width = max(8, *map(len, (*names, *missing)))
    plans = [line for name, arm in names.items() for line in _plans(arm, name.ljust(width), parts, config)]
    later = [f"  {name.ljust(width)}  at numbers of steps that a search finds" for name in missing]
    console.say("\n".join([*_summary(config, parts), *plans, *later]))


def _summary(config: Config, parts: Parts) -> list[str]:
    choices, paper, training = config["choices"], config["paper"], parts.training
    size = "x".join(str(side) for side in parts.data.shape)
    images = training.max_steps * training.batch_size
    classes = f"{parts.data.num_classes} classes" if parts.data.num_classes else "unconditional"
    distilled = described(config, parts)
    return [
        f"recipe     {config['recipe']} at scale {choices['scale']}",
        f"paper      {paper['title']} (arXiv {paper['arxiv']})" if paper else "paper      none",
        f"process    {choices['process']}, prediction {choices['prediction']}",
        f"network    {choices['network']}, {_size(parts)}",
        f"data       {parts.dataset.name}, {size}, {classes}",
        *([f"distilled  {distilled}"] if distilled else []),
        f"training   {training.max_steps:,} steps of {training.batch_size} images: {images:,} images",
        f"optimizer  lr {parts.optimizer.lr:g}, EMA {', '.join(parts.ema.profiles)}",
        "samplers   NFE (steps): first times ... last time",
    ]


def _size(parts: Parts) -> str:
    if not parts.trainable:
        return "in closed form, nothing to train"
    return console.size_of(parts.meta_denoiser().network)


def _plans(arm: Arm, name: str, parts: Parts, config: Config) -> list[str]:
    sampler = arm.sampler
    sampler.check(parts.gives)
    lines = []
    for nfe in arm.feasible(config["evaluation"]["nfe_policy"]):
        times = sampler.times(parts.process, nfe).tolist()
        sampler.plan(parts.process, nfe)
        first = " ".join(f"{time:.4f}" for time in times[:3])
        if nfe is None:
            lines.append(f"  {name} adaptive: {times[0]:.4g} ... {times[-1]:.4g}")
            continue
        lines.append(f"  {name} {nfe:>4} ({len(times) - 1:>3}): {first} ... {times[-1]:.4g}")
    return lines
