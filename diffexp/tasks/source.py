"""What an evaluation or a sampling draws from: the network of a checkpoint, or an oracle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffexp.core.errors import ConfigError
from diffexp.core.naming import checkpoint_name
from diffexp.evaluation.protocol import Provenance
from diffexp.launch.find import newest
from diffexp.launch.fingerprint import job_hash, training_fingerprint
from diffexp.launch.folder import RunFolder, versions
from diffexp.launch.place import recipe_folder
from diffexp.launch.sweep import note_folder
from diffexp.prediction.denoiser import Denoiser
from diffexp.tasks.build import Config, Parts, make_node, torch_device
from diffexp.tasks.restore import Restored, load_network, open_checkpoint, warn_of_data
from diffexp.training.compile import compile_in_place

ORACLE = "oracle"
"""Stands in for the checkpoint where there is none."""


@dataclass(frozen=True)
class Source:
    """Something to sample from.

    Attributes:
        denoiser: ready on the device.
        device: where it is.
        provenance: what names the rows that are measured with it.
    """

    denoiser: Denoiser
    device: torch.device
    provenance: Provenance


def open_checkpoint_or_oracle(config: Config, parts: Parts) -> Restored | None:
    """The checkpoint that `ckpt=` names; None for an oracle, which has none.

    Raises:
        ConfigError: a checkpoint beside an oracle, or none where one is needed. CheckpointError as `open_checkpoint`.
    """
    if parts.trainable:
        restored = open_checkpoint(config)
        warn_of_data(restored, config)
        return restored
    if config["ckpt"] is not None:
        raise ConfigError(f"ckpt={config['ckpt']}: network={config['choices']['network']} has no weights to load")
    return None


def make_source(config: Config, parts: Parts, restored: Restored | None) -> Source:
    """The network of a checkpoint, in float32 or under bfloat16 autocast, or the oracle; prepare the data set first."""
    device = torch_device(parts.device)
    here = origin(device)
    if restored is None:
        return Source(parts.oracle(), device, provenance(config, ORACLE, "none", None, **here))
    network, profile = load_network(parts, restored, config["evaluation"]["ema"])
    weights = Path(checkpoint_name(restored.step)).stem  # whatever its file is called
    names = provenance(config, weights, profile, autocast(parts), training_seed=restored.config["seed"], **here)
    network = network.to(device)
    if parts.device.compile:
        compile_in_place(network)
    return Source(parts.denoiser(network, autocast(parts)), device, names)


def open_folder(config: Config, restored: Restored | None) -> RunFolder:
    """The folder for what is made from a checkpoint: its run's, when it is the newest there.

    What an older checkpoint gives would contradict the files of the newer one, and one outside of any run has no
    folder: a new one that refers to it is made, with a name that the same command finds again. So it is for an oracle.
    """
    if restored is not None and restored.run is not None and newest(restored.run) == restored.path:
        folder = RunFolder.open(restored.run)
    else:
        folder = _own_folder(config, restored)
    note_folder(folder.path)
    return folder


def _own_folder(config: Config, restored: Restored | None) -> RunFolder:
    """A folder for this very job."""
    if restored is None:
        weights = ORACLE
    else:
        weights = training_fingerprint(restored.config, restored.state["data"]["fingerprint"], restored.step)
    folder = RunFolder.claim(recipe_folder(config) / f"{weights}-{job_hash(config)}")
    if not folder.config:
        folder.freeze(config)
    if restored is not None:
        folder.refer(restored.run, restored.path)
    return folder


def origin(device: torch.device) -> dict[str, Any]:
    """Of a provenance, what is of this process: code, device, libraries."""
    found = versions()
    return {
        "commit": found["git"],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {name: value for name, value in found.items() if value is not None and not name.startswith("git")},
    }


def autocast(parts: Parts) -> torch.dtype | None:
    """The type that the network computes in where that is not its parameters'."""
    return torch.bfloat16 if parts.device.precision == "bf16-mixed" else None


def expected(config: Config, parts: Parts, checkpoint: Path) -> Provenance:
    """What will name the rows of a checkpoint of this training: the columns of results only."""
    profile = config["evaluation"]["ema"] or next(iter(parts.ema.profiles))
    return provenance(config, checkpoint.stem, profile, autocast(parts))


def statistics_of(config: Config) -> str:
    """What a report says of the published statistics of an evaluation; empty where it has none."""
    node = config["evaluation"].get("statistics")
    return make_node(node, "evaluation.statistics").told if node else ""


def provenance(config: Config, weights: str, profile: str, low: torch.dtype | None, **others: Any) -> Provenance:
    """Names of rows; what changes the network's output is part of the checkpoint's name."""
    choices, compiled = config["choices"], ", compiled" if config["trainer"].get("compile") else ""
    return Provenance(
        experiment=config["recipe"],
        process=choices["process"],
        prediction=choices["prediction"],
        network=choices["network"],
        checkpoint=(weights if weights == ORACLE else f"{weights}@{profile}") + ("+bfloat16" if low else ""),
        ema=profile,
        precision=("bfloat16 autocast" if low else "float32") + compiled,
        statistics=statistics_of(config),
        **others,
    )
