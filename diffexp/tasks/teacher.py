"""`teacher=`: from a checkpoint to the frozen network that a distillation learns from."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffexp.checkpoint.file import load
from diffexp.core.errors import CheckpointError, ConfigError
from diffexp.launch import ranks
from diffexp.launch.find import find_run
from diffexp.launch.fingerprint import MODEL, difference_of_models
from diffexp.launch.folder import CONFIG, load_frozen
from diffexp.prediction.head import Head
from diffexp.tasks.build import Config, Parts, make
from diffexp.tasks.restore import Restored, load_network

log = logging.getLogger("diffexp")

WEIGHTS = "teacher_weights"
"""Key that a task adds to its configuration: hash of the teacher's weights, on which the training depends."""


def with_teacher(config: Config, parts: Parts) -> tuple[Config, Parts]:
    """Load the teacher of a training, in every rank; the data are not needed.

    A training that goes on from `ckpt=` finds the teacher that its run folder names, if the command names none.

    Returns:
        (configuration with the teacher's checkpoint and the hash of its weights, parts with its network); both as they
        are for a training that needs no teacher.

    Raises:
        ConfigError: a teacher is missing, or given where none is used.
        CheckpointError: it cannot be read, or is not what the student is made of (both sides are named).
    """
    method, spec = parts.distillation, config.get("teacher")
    if method is None or not method.needs_teacher:
        if spec is not None:
            hint = "initialise=true starts from it" if method is not None else "choose distillation=cbt or cbd"
            raise ConfigError(f"teacher={spec}: has no effect here; distillation.{hint}")
        return config, parts
    if method.plan:
        raise ConfigError(
            f"distillation: {method.told()}, each of them a training: task=run and task=train do them all, but not "
            "under torchrun or with ckpt=; for one stage add distillation.student_steps=... and teacher=..."
        )
    method.prepare(parts.data.shape)
    world = ranks.world()
    path = Path(world.share(str(_find(config, parts)) if world.main else None))  # "latest" may change from rank to rank
    restored = open_teacher(config, parts, path)
    head = own_head(parts, restored)
    # What the method puts around a network is the student's.
    bare = replace(parts, distillation=None, head=parts.head if head is None else head)
    network, profile = load_network(bare, restored, method.teacher_ema, "distillation.teacher_ema")
    weights = hash_of(network)
    if world.main:
        log.info("teacher: %s, %s, weights %s", path, profile, weights)
    found = {**config, "teacher": str(path), WEIGHTS: weights}
    return found, replace(parts, teacher=network, teacher_head=head)


def own_head(parts: Parts, restored: Restored) -> Head | None:
    """The prediction of a teacher that has one of its own, on the student's process; None: the student's tells it.

    Raises:
        ConfigError: the method cannot learn from it.
    """
    assert parts.distillation is not None
    if parts.distillation.teacher_prediction is not None:
        return None
    head = make(restored.config, "prediction").on(parts.process)
    parts.distillation.check(head, parts.process, parts.objective)
    return head


def described(config: Config, parts: Parts) -> str | None:
    """What a distillation does with which teacher, for a person; a teacher that is named is read and compared.

    Errors as for `with_teacher`, but that one which is missing is only said to be needed. None without a distillation.
    """
    method, spec = parts.distillation, config.get("teacher")
    if method is None:
        return None
    name = method.told()
    if not method.needs_teacher:
        return f"{name}, without a teacher"
    uses = [use for use, true in {"starts from": method.initialise, "asks": method.asks_teacher}.items() if true]
    if spec is None:
        return f"{name}, {' and '.join(uses)} the network that teacher= names"
    path = find_run(str(spec), config["runs"], "teacher")[1]
    step = open_teacher(config, parts, path).step
    return f"{name}, {' and '.join(uses)} {path} (step {step:,})"


def _find(config: Config, parts: Parts) -> Path:
    """The checkpoint of the teacher."""
    spec, runs = config.get("teacher"), config["runs"]
    if spec is None and config["ckpt"] is not None:
        run = find_run(config["ckpt"], runs)[0]
        spec = load_frozen(run).get("teacher") if run is not None and (run / CONFIG).is_file() else None
    if spec is None:
        raise ConfigError(f"distillation: needs teacher=: a checkpoint, a run folder, or {_hint(config, parts)}")
    return find_run(str(spec), runs, "teacher")[1]


def _hint(config: Config, parts: Parts) -> str:
    """Which teacher would do."""
    if config.get("adopt"):  # any that the method takes
        return "latest:<recipe>, e.g. latest:ddpm_cifar10"
    name = config["recipe"].replace("cdbm", "ddbm") if config.get("recipe") else "<recipe>"
    free = "initialise" in (config["distillation"] or {}) and not parts.distillation.asks_teacher
    return f"latest:{config.get('base') or name}" + ("; distillation.initialise=false goes without" if free else "")


def open_teacher(config: Config, parts: Parts, path: Path) -> Restored:
    """Read a teacher's checkpoint and compare it with the student's configuration; errors as for `with_teacher`."""
    assert parts.distillation is not None
    state = load(path)
    restored = Restored(None, path, state, int(state["global_step"]))
    teacher = restored.config
    expected, key = {key: config[key] for key in MODEL}, parts.distillation.teacher_prediction
    expected["prediction"] = teacher["prediction"] if key is None else _node(config, key)
    found = difference_of_models(teacher, expected)
    if found is not None:
        hint = parts.distillation.hint_of_prediction if found.startswith("prediction.") else ""
        made_by = f"experiment={teacher.get('recipe')} scale={teacher.get('choices', {}).get('scale')}"
        more = f"; {hint}" if hint else ""
        raise CheckpointError(f"teacher={path}: was trained with {found} (it was made by {made_by}){more}")
    parts.distillation.check_teacher(teacher, str(path))
    shape, labels = tuple(state["data"]["shape"]), state["data"]["num_classes"]
    if (shape, labels) != (tuple(parts.data.shape), parts.data.num_classes):
        raise CheckpointError(
            f"teacher={path}: was trained on images {shape} of {labels} classes, these are {tuple(parts.data.shape)} "
            f"of {parts.data.num_classes}"
        )
    return restored


def _node(config: Mapping[str, Any], key: str) -> Any:
    """The node at a dotted key."""
    node: Any = config
    for word in key.split("."):
        node = node[word]
    return node


def hash_of(network: nn.Module) -> str:
    """16 hexadecimal digits of names, shapes, types and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
