"""From a checkpoint to a network: the right run, the same recipe, strictly loaded weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from diffexp.checkpoint.file import load
from diffexp.checkpoint.match import load_strict
from diffexp.core.errors import CheckpointError, ConfigError, nearest
from diffexp.core.naming import checkpoints, step_of
from diffexp.launch.find import find_run
from diffexp.launch.fingerprint import MODEL, TRAINING, difference
from diffexp.launch.folder import CHECKPOINTS, revision
from diffexp.tasks.build import Config, Parts, initialised_network

log = logging.getLogger("diffexp")

_PREFIX = "network."


@dataclass(frozen=True)
class Restored:
    """A checkpoint that belongs to the present configuration.

    Attributes:
        run: its run folder, or None for a file outside of any.
        path: the checkpoint.
        state: its content.
        step: optimiser steps done.
    """

    run: Path | None
    path: Path
    state: Mapping[str, Any]
    step: int

    @property
    def config(self) -> dict[str, Any]:
        """The configuration it was trained with."""
        return yaml.safe_load(self.state["config"])


def open_checkpoint(config: Config, keys: tuple[str, ...] = MODEL) -> Restored:
    """Find and read `ckpt=`, and make sure that it was trained with the same `keys`.

    Raises:
        ConfigError: when no checkpoint is named.
        CheckpointError: when there is none, it is damaged, or it belongs to something else (the first difference is
            named).
    """
    spec = config["ckpt"]
    if spec is None:
        recipe = config["recipe"]
        raise ConfigError(f"task={config['task']} needs ckpt=: a checkpoint, a run folder, or latest:{recipe}")
    return read_checkpoint(config, *find_run(spec, config["runs"]), keys)


def read_checkpoint(config: Config, run: Path | None, path: Path, keys: tuple[str, ...]) -> Restored:
    """Read a checkpoint and compare it with the configuration; errors as for `open_checkpoint`."""
    state = load(path)
    restored = Restored(run, path, state, int(state["global_step"]))
    trained = restored.config
    found = difference(trained, config, ("recipe",)) or difference(trained, config, keys)
    if found is not None:
        made_by = f"experiment={trained.get('recipe')} scale={trained.get('choices', {}).get('scale')}"
        raise CheckpointError(f"'{path}' was trained with {found} (it was made by {made_by})")
    return restored


def resume_newest(config: Config, run: Path, start: Restored | None, data: str) -> Restored | None:
    """What a training in `run` goes on from: the newest checkpoint there, or `start` if that is further.

    Args:
        config: the resolved configuration.
        run: the folder of the training.
        start: the checkpoint that the command names, if any.
        data: fingerprint of the training images.

    Raises:
        CheckpointError: the newest one is damaged or of another training; the one before it is named.
    """
    saved = checkpoints(run / CHECKPOINTS)
    if not saved or (start is not None and start.step >= (step_of(saved[-1]) or 0)):
        return start
    try:
        restored = read_checkpoint(config, run, saved[-1], TRAINING)
        require_same_data(restored, data)
    except CheckpointError as error:
        hint = f"ckpt={saved[-2]} goes on from the one before it" if len(saved) > 1 else "delete it to begin anew"
        raise CheckpointError(f"{error}; {hint}") from error
    return restored


def require_same_data(restored: Restored, fingerprint: str) -> None:
    """Refuse to go on with other training images: CheckpointError."""
    trained = restored.state["data"].get("fingerprint")
    if trained != fingerprint:
        raise CheckpointError(f"'{restored.path}' was trained on other images ({trained}) than these ({fingerprint})")


def warn_of_revision(restored: Restored) -> None:
    """One line when the weights were trained by another revision of this package; it may compute something else."""
    here, there = revision(), restored.state.get("revision")
    if there is not None and there != here:
        log.warning("%s was trained by %s, this is %s", restored.path, there, here)


def warn_of_data(restored: Restored, config: Config) -> None:
    """One line when images are sampled for other data than the weights were trained on: it may be what is wanted."""
    found = difference(restored.config, config, ("dataset",))
    if found is not None:
        log.warning("%s was trained with %s: repeat it, unless other data are meant", restored.path, found)


def student_steps(config: Config) -> int | None:
    """The only number of steps that a network with this configuration was distilled for; None for any."""
    return (config.get("distillation") or {}).get("student_steps")


def load_network(
    parts: Parts, restored: Restored, profile: str | None, key: str = "evaluation.ema"
) -> tuple[nn.Module, str]:
    """The network with averaged parameters, in evaluation mode on the CPU.

    Args:
        parts: the experiment.
        restored: its checkpoint.
        profile: name of the EMA profile; None is the first, "none" the raw parameters.
        key: where the configuration names it, for messages.

    Returns:
        (network, name of the profile).

    Raises:
        CheckpointError: when the checkpoint does not fit the network or has no such profile.
    """
    raw = {key[len(_PREFIX) :]: value for key, value in restored.state["state_dict"].items()}
    profiles = restored.state["ema"]["profiles"]
    name = profile or next(iter(profiles))
    if name != "none" and name not in profiles:
        raise CheckpointError(f"{key}={name}: not in '{restored.path}'; {nearest(name, [*profiles, 'none'])}")
    network = initialised_network(parts, 0)  # not on the meta device: fixed filters are no part of a checkpoint
    # Buffers are not averaged: the saved ones come from the trained network.
    load_strict(network, raw if name == "none" else {**raw, **profiles[name]}, str(restored.path))
    return network.eval().requires_grad_(False), name
