"""Weights to share: ``weights.safetensors`` beside ``config.yaml``, hash-checked, without code and without pickles.

The file's metadata hold the SHA-256 of the tensors (names, types, shapes, bytes) and that of the configuration, so
that neither file can change, or be paired with another, unnoticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffexp.core.errors import CheckpointError
from diffexp.core.files import atomic_path, write_text_atomic

FORMAT = "diffexp/1"
WEIGHTS = "weights.safetensors"
CONFIG = "config.yaml"


def export(folder: str | Path, tensors: Mapping[str, Tensor], config: str) -> None:
    """Write `tensors` and the configuration (YAML text) into `folder`, which is made when it does not exist.

    The configuration is written first and the weights name its hash: an interrupted export does not load.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(folder / CONFIG, config)
    save_tensors(folder / WEIGHTS, tensors, {"config_sha256": _text_hash(config)})


def load_export(folder: str | Path) -> tuple[dict[str, Tensor], str]:
    """Read what `export` wrote.

    Returns:
        the tensors by name, on the CPU, and the configuration as YAML text.

    Raises:
        CheckpointError: a file is missing, damaged, or the two do not belong together.
    """
    folder = Path(folder)
    tensors, metadata = load_tensors(folder / WEIGHTS)
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"'{path}' does not exist")
    config = path.read_bytes().decode("utf-8", errors="replace")
    if metadata.get("config_sha256") != _text_hash(config):
        raise CheckpointError(f"'{path}' is not the configuration that '{folder / WEIGHTS}' was exported with (hash)")
    return tensors, config


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically; ``format`` and ``sha256`` are added to the metadata."""
    from safetensors.torch import save_file

    # Own, contiguous memory: safetensors refuses tensors that share theirs.
    owned = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(owned, temporary, {**(metadata or {}), "format": FORMAT, "sha256": tensors_hash(owned)})


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file of `save_tensors`: (tensors on the CPU, metadata); raises CheckpointError when it differs."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"'{path}' does not exist")
    try:
        with safe_open(str(path), framework="pt") as archive:
            metadata = archive.metadata() or {}
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"'{path}' is truncated, damaged or not a safetensors file ({reason})") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"'{path}' was not exported by diffexp (format '{metadata.get('format')}')")
    if metadata.get("sha256") != tensors_hash(tensors):
        raise CheckpointError(f"'{path}' is damaged: its SHA-256 differs from the recorded one")
    return tensors, metadata


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
