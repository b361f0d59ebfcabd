"""What sampling costs beside the network: wall time over bare forward passes, and glue against diffusers' scheduler."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffexp.prediction.conditions import Conditions
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import Eps
from diffexp.process.vp import VP
from diffexp.sampler.grid import Power
from diffexp.sampler.heun import Heun
from diffexp.sampler.linear import DDIM, Ancestral
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise, KeyedNoise
from diffexp.tasks.build import initialised_network
from experiments.benchmarks.clock import Ratio, ratio, take_turns
from experiments.benchmarks.parts import REDUCED, Halved, compose, enough, normal

GRID = Power(t_end=1.0e-3)
FORWARD = 0.020  # seconds that a bare forward pass takes at least
WALL_TARGET, GLUE_TARGET = 1.05, 0.35


def wall(rounds: int, words: tuple[str, ...] = REDUCED, forward: float = FORWARD, steps: int = 5) -> list[Ratio]:
    """Wall time of whole `Sampler.sample` calls, noise included, over NFE bare forward passes.

    A guided step evaluates the network once on twice the batch and counts two evaluations an image, so that its bare
    passes are half as many of twice the batch.
    """
    parts = compose(*words)
    network = initialised_network(parts, 0).eval()
    shape, classes = parts.data.shape, parts.data.num_classes

    def passes(batch: int, count: int) -> Callable[[], None]:
        inputs = normal(batch, *shape), torch.full((1,), 500.0), torch.arange(batch) % classes
        return _repeated(network, inputs, count)

    batch = enough(lambda size: passes(size, 1), 1.25 * forward, first=2)
    denoiser = NetworkDenoiser(network, parts.head, parts.process, unconditional=True)
    conditions = Conditions(labels=torch.arange(batch) % classes)
    noise = KeyedNoise(0, range(batch), shape)
    samplers = [
        Sampler("ddim", DDIM(), GRID),
        Sampler("ddpm", Ancestral(), GRID),
        Sampler("heun", Heun(), GRID),
        Sampler("ddim_guided", DDIM(), GRID, guidance=2.0),
    ]
    found = []
    for sampler in samplers:
        nfe, guided = sampler.evaluations(steps), sampler.guidance is not None
        count, seen = (nfe // 2, 2 * batch) if guided else (nfe, batch)
        tasks = {
            "sampler": lambda sampler=sampler, nfe=nfe: sampler.sample(denoiser, noise, nfe, conditions),
            "forward": passes(seen, count),
        }
        spent = take_turns(tasks, rounds)
        each = min(spent.wall["forward"]) / count
        text = f"{sampler.name}, {nfe} NFE: wall / {count} bare forward passes at batch {seen}"
        notes = {"nfe": nfe, "batch": batch, "forward_ms": 1e3 * each}
        found.append(ratio(f"wall_{sampler.name}", text, spent, ("sampler", "forward"), WALL_TARGET, **notes))
    return found


def glue(rounds: int, shape: tuple[int, ...] = (64, 3, 32, 32), budgets: tuple[int, ...] = (20, 50)) -> list[Ratio]:
    """The loops around a network of one multiplication, whose time is subtracted on both sides.

    diffusers' schedulers are used as its pipelines use them. Both loops get the same initial noise and the prediction
    "eps"; neither clips unless the name says so. What is prepared for many batches (diffexp's plan, diffusers'
    `set_timesteps`) is left out, but for the rows named `first`, which make it anew each time, and diffusers' Heun,
    which has to be reset for each batch.
    """
    network, start = Halved(), normal(*shape)
    found = []
    for nfe in budgets:
        tasks = {"network": _repeated(network, (start, start), nfe)}
        tasks |= _ours(network, start, nfe) | _theirs(network, start, nfe)
        spent = take_turns(tasks, rounds)
        for name, target in (("ddim", GLUE_TARGET), ("ddim_clipped", None), ("ddim_first", None), ("heun", None)):
            pair = f"diffexp_{name}", f"diffusers_{name}"
            count = 2 * (nfe // 2) - 1 if name == "heun" else nfe
            text = f"{name.replace('_', ', ')}, {count} NFE: glue / diffusers' glue"
            share = count / nfe  # Heun's loop may have one evaluation less than the network's own row
            less = share * min(spent.wall["network"])
            notes = {f"{side}_us_per_nfe": 1e6 * (min(spent.wall[task]) - less) / count
                     for side, task in zip(("diffexp", "diffusers"), pair, strict=True)}  # fmt: skip
            row = f"glue_{name}_{count}"
            made = ratio(row, text, spent, pair, target, without="network", share=share, nfe=count, **notes)
            found.append(made)
    return found


def _ours(network: Halved, start: Tensor, nfe: int) -> dict[str, Callable[[], object]]:
    """diffexp's loops, by name."""
    denoiser, noise = NetworkDenoiser(network, Eps(), VP()), FixedNoise(start)
    plain, clipped = Sampler("ddim", DDIM(), GRID), Sampler("ddim", DDIM(), GRID, clip=True)
    heun = Sampler("heun", Heun(), GRID)

    def first() -> object:
        return Sampler("ddim", DDIM(), GRID).sample(denoiser, noise, nfe)

    return {
        "diffexp_ddim": lambda: plain.sample(denoiser, noise, nfe),
        "diffexp_ddim_clipped": lambda: clipped.sample(denoiser, noise, nfe),
        "diffexp_ddim_first": first,
        "diffexp_heun": lambda: heun.sample(denoiser, noise, 2 * (nfe // 2) - 1),
    }


def _theirs(network: Halved, start: Tensor, nfe: int) -> dict[str, Callable[[], object]]:
    """diffusers' loops, by the same names."""
    from diffusers import DDIMScheduler, HeunDiscreteScheduler

    plain, clipped, heun = DDIMScheduler(clip_sample=False), DDIMScheduler(clip_sample=True), HeunDiscreteScheduler()
    again = DDIMScheduler(clip_sample=False)
    for scheduler in (plain, clipped):
        scheduler.set_timesteps(nfe)

    def ddim(scheduler: DDIMScheduler, clip: bool = False) -> Tensor:
        u = start
        for t in scheduler.timesteps:
            u = scheduler.step(network(u, t), t, u, eta=0.0, use_clipped_model_output=clip).prev_sample
        return u

    def first() -> Tensor:
        again.set_timesteps(nfe)
        return ddim(again)

    def second_order() -> Tensor:
        heun.set_timesteps(nfe // 2)  # it keeps its place between the two evaluations of a step: reset for each batch
        u = start * heun.init_noise_sigma
        for t in heun.timesteps:
            u = heun.step(network(heun.scale_model_input(u, t), t), t, u).prev_sample
        return u

    loops = {"ddim": lambda: ddim(plain), "ddim_clipped": lambda: ddim(clipped, True)}
    loops |= {"ddim_first": first, "heun": second_order}
    return {f"diffusers_{name}": _without_gradients(loop) for name, loop in loops.items()}


def _repeated(network: nn.Module, inputs: tuple[Tensor, ...], count: int) -> Callable[[], None]:
    """`count` bare forward passes; no output is kept, as in a sampler."""

    def passes() -> None:
        for _ in range(count):
            network(*inputs)

    return _without_gradients(passes)


def _without_gradients(task: Callable[[], object]) -> Callable[[], object]:
    return torch.no_grad()(task)
