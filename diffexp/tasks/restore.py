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
from diffexp.launch.find import find_run
from diffexp.tasks.build import Config, Parts, initialised_network

log = logging.getLogger("diffexp")

MODEL = ("recipe", "process", "prediction", "network")
TRAINING = (
    *MODEL, "objective", "dataset", "optimizer", "ema", "seed", "training.batch_size", "trainer.precision",
)  # fmt: skip
# Where data lie and how they are read may change between two runs; what they hold is compared by fingerprint.
_PLACES = {"dataset.path", "dataset.root", "dataset.download", "dataset.verify", "dataset.in_memory"}
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
    run, path = find_run(spec, config["runs"])
    state = load(path)
    restored = Restored(run, path, state, int(state["global_step"]))
    _require_same(config, restored, keys)
    return restored


def _require_same(config: Config, restored: Restored, keys: tuple[str, ...]) -> None:
    trained = restored.config
    for key in keys:
        difference = _first_difference(_select(trained, key), _select(config, key), key)
        if difference is not None:
            made_by = f"experiment={trained.get('recipe')} scale={trained.get('choices', {}).get('scale')}"
            raise CheckpointError(f"'{restored.path}' was trained with {difference} (it was made by {made_by})")


def _select(config: Mapping[str, Any], key: str) -> Any:
    """The entry at a dotted key."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def require_same_data(restored: Restored, fingerprint: str) -> None:
    """Refuse to go on with other training images: CheckpointError."""
    trained = restored.state["data"].get("fingerprint")
    if trained != fingerprint:
        raise CheckpointError(f"'{restored.path}' was trained on other images ({trained}) than these ({fingerprint})")


def _first_difference(trained: Any, wanted: Any, where: str) -> str | None:
    """The first differing entry as text ``key=old, this command has new``, or None."""
    if isinstance(trained, Mapping) and isinstance(wanted, Mapping):
        for key in dict.fromkeys([*trained, *wanted]):
            found = _first_difference(trained.get(key), wanted.get(key), f"{where}.{key}")
            if found is not None and f"{where}.{key}" not in _PLACES:
                return found
        return None
    return None if trained == wanted else f"{where}={trained}, this command has {wanted}"


def load_network(parts: Parts, restored: Restored, profile: str | None) -> tuple[nn.Module, str]:
    """The network with averaged parameters, in evaluation mode on the CPU.

    Args:
        parts: the experiment.
        restored: its checkpoint.
        profile: name of the EMA profile; None is the first, "none" the raw parameters.

    Returns:
        (network, name of the profile).

    Raises:
        CheckpointError: when the checkpoint does not fit the network or has no such profile.
    """
    raw = {key[len(_PREFIX) :]: value for key, value in restored.state["state_dict"].items()}
    profiles = restored.state["ema"]["profiles"]
    name = profile or next(iter(profiles))
    if name != "none" and name not in profiles:
        raise CheckpointError(f"evaluation.ema={name}: not in '{restored.path}'; {nearest(name, [*profiles, 'none'])}")
    network = initialised_network(parts, 0)  # not on the meta device: fixed filters are no part of a checkpoint
    # Buffers are not averaged: the saved ones come from the trained network.
    load_strict(network, raw if name == "none" else {**raw, **profiles[name]}, str(restored.path))
    return network.eval().requires_grad_(False), name
