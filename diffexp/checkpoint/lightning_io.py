"""Lightning's checkpoints through `checkpoint.file`.

Lightning's own writer builds the file in memory, writes it to the system's temporary folder and moves it: across file
systems a kill leaves a torn checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO

from diffexp.checkpoint import file


class SafeCheckpointIO(CheckpointIO):
    """Plugin for the trainer: ``Trainer(plugins=[SafeCheckpointIO(config)])``.

    Args:
        config: the resolved configuration as YAML text, stored in every checkpoint that does not have one yet.
    """

    def __init__(self, config: str | None = None) -> None:
        self._config = config

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write atomically, making the folder when needed; `storage_options` mean nothing for local files."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        state = checkpoint if self._config is None else {"config": self._config, **checkpoint}
        file.save(path, state)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read and verify; without code whatever `weights_only` says.

        Tensors are read, not mapped: a resumed optimiser keeps them for long, and the file may be removed meanwhile.
        """
        location = map_location if map_location is not None else "cpu"
        return file.load(path, map_location=location, mmap=False)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint; one that is gone already is no error."""
        Path(path).unlink(missing_ok=True)
