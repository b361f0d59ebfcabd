"""A trained model for Python: `diffexp.load("runs/...")` gives something that samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from diffexp.checkpoint.export import WEIGHTS, export, load_export
from diffexp.checkpoint.file import load as load_file
from diffexp.checkpoint.match import load_strict
from diffexp.core.errors import ConfigError, nearest
from diffexp.core.precision import exact_float32
from diffexp.evaluation.settings import short_names
from diffexp.launch.find import find_run
from diffexp.launch.plugins import allowed, permission
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import KeyedNoise
from diffexp.tasks.arms import arms_of, schedules_of
from diffexp.tasks.build import DataShape, Parts, build, initialised_network
from diffexp.tasks.restore import Restored, load_network, student_steps


@dataclass(frozen=True)
class Model:
    """A trained denoiser and the samplers of its recipe.

    Attributes:
        denoiser: network, prediction and process; works in float32 on `device`.
        samplers: by name, with the settings that tell arms of one name apart, e.g. gddim(order=3).
        shape: (C, H, W) of an image.
        num_classes: 0 for an unconditional model.
        config: the configuration it was trained with.
        device: where the network is.
    """

    denoiser: NetworkDenoiser
    samplers: Mapping[str, Sampler]
    shape: tuple[int, int, int]
    num_classes: int
    config: Mapping[str, Any]
    device: torch.device

    def sample(
        self,
        n: int,
        nfe: int | None,
        sampler: str = "ddim",
        seed: int = 0,
        labels: Tensor | None = None,
        batch_size: int = 256,
        endpoints: Tensor | None = None,
        masks: Tensor | None = None,
        allow_off_grid: bool = False,
    ) -> Tensor:
        """Images 0 .. n-1 of a seed: float32 (n, C, H, W) on the CPU, data scaled to [-1, 1] (not clipped).

        They are those that an evaluation with this seed scores (in float32), for any batch size.

        Args:
            n: number of images.
            nfe: network evaluations for each image; None for samplers that take no budget.
            sampler: one of `samplers`.
            seed: keys the noise.
            labels: int64 (n,), for class-conditional models.
            batch_size: images at a time.
            endpoints: (n, C, H, W) in [-1, 1], what bridges start from: a data set's `pairs(...).endpoint`.
            masks: (n, 1, H, W), 1 inside the holes, for samplers that keep the rest (sampler.mask).
            allow_off_grid: sample a distilled student with another number of steps than its own.

        Raises:
            ConfigError: for an unknown sampler or an infeasible budget, a bridge without end points, or a student off
                its number of steps.
        """
        if sampler not in self.samplers:
            raise ConfigError(f"no sampler '{sampler}' in this recipe; {nearest(sampler, self.samplers)}")
        steps = student_steps(self.config)
        if steps is not None and not allow_off_grid and (nfe is None or self.samplers[sampler].steps(nfe) != steps):
            raise ConfigError(
                f"nfe={nfe}: the network was distilled to take exactly {steps} steps; allow_off_grid=True"
            )
        if self.denoiser.process.endpoint and endpoints is None:
            raise ConfigError(f"process {self.denoiser.process.name} is a bridge: give endpoints=, one for each image")
        given = Conditions(labels, endpoints, None, masks)
        parts = []
        for start in range(0, n, batch_size):
            indices = range(start, min(start + batch_size, n))
            noise = KeyedNoise(seed, indices, self.denoiser.process.state_shape(self.shape), device=self.device)
            conditions = given[start : indices.stop].to(self.device)
            with exact_float32():
                parts.append(self.samplers[sampler].sample(self.denoiser, noise, nfe, conditions).images.cpu())
        return torch.cat(parts)

    def export(self, folder: str | Path) -> None:
        """Write the weights as safetensors beside the configuration; `diffexp.load(folder)` reads them again."""
        data = {"shape": list(self.shape), "num_classes": self.num_classes}
        config = yaml.safe_dump({**self.config, "data": data}, sort_keys=False)
        export(folder, self.denoiser.network.state_dict(), config)


def load(
    spec: str | Path,
    runs: str | Path = "runs",
    ema: str | None = None,
    device: str = "cpu",
    plugins: Sequence[str] = (),
) -> Model:
    """Load a trained model; its data are not needed.

    Args:
        spec: a checkpoint, a run folder, ``latest:<recipe>``, or a folder that `Model.export` wrote.
        runs: where run folders are, for ``latest:``.
        ema: EMA profile; None is the first, "none" the raw parameters. An export holds one set of weights.
        device: where to put the network.
        plugins: packages of your own whose classes it may be made of. What a checkpoint says of plugins counts nothing.

    Raises:
        CheckpointError: when there is none, or it is damaged.
        ConfigError: it is made of classes that are neither diffexp's nor a plugin's.
    """
    with permission(plugins or allowed()):
        return _load(spec, runs, ema, device)


def _load(spec: str | Path, runs: str | Path, ema: str | None, device: str) -> Model:
    """`load`, in a process that may build what the checkpoint names."""
    if (Path(spec) / WEIGHTS).is_file():
        tensors, text = load_export(spec)
        config = yaml.safe_load(text)
        parts = _parts(config, config["data"])
        network = initialised_network(parts, 0)
        load_strict(network, tensors, str(spec))
        return _model(config, parts, network, device)
    run, path = find_run(str(spec), runs)
    state = load_file(path)
    config = yaml.safe_load(state["config"])
    parts = _parts(config, state["data"])
    restored = Restored(run, path, state, int(state["global_step"]))
    network, _ = load_network(parts, restored, ema)
    return _model(config, parts, network, device, restored)


def _parts(config: Mapping[str, Any], data: Mapping[str, Any]) -> Parts:
    """The parts of a configuration; its data set is not asked for the shape."""
    return build(config, DataShape(tuple(data["shape"]), int(data["num_classes"])))


def _model(
    config: Mapping[str, Any], parts: Parts, network: nn.Module, device: str, restored: Restored | None = None
) -> Model:
    arms, _ = arms_of(config, schedules_of(restored))
    denoiser = parts.denoiser(network.to(device).eval().requires_grad_(False))
    samplers = {name: arm.sampler for name, arm in short_names(arms).items()}
    return Model(denoiser, samplers, parts.data.shape, parts.data.num_classes, config, torch.device(device))
