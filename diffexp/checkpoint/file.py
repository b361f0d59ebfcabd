"""Training state in a torch file: written atomically, verified byte by byte, loaded without running any code.

The file is torch's zip archive. Its entries carry CRC-32 sums, which torch itself does not check when it reads; `load`
checks all of them first, so that a flipped bit or a truncated copy is an error and not a slightly different network.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from diffexp.core.errors import CheckpointError
from diffexp.core.files import atomic_path

FORMAT = "diffexp/1"

# What zipfile raises for archives that are not whole.
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write a training state; `path` holds either the whole new file or what it held before.

    Args:
        path: the file; its folder must exist.
        state: tensors, numbers, strings and containers of them, with ``config``, the resolved configuration as YAML.
            The entry ``format`` is added.

    Raises:
        CheckpointError: the state has no configuration, or holds objects that could not be loaded again safely;
            the disk refused. `path` is untouched then.
    """
    if not isinstance(state.get("config"), str):
        raise CheckpointError(f"'{path}' was not written: the state has no 'config' (YAML text)")
    try:
        with atomic_path(path) as temporary:
            torch.save({**state, "format": FORMAT}, temporary)
            # Unpickles the structure alone (the tensors stay on disk): a state that cannot be read is never kept.
            torch.load(temporary, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"'{path}' was not written: {_unsafe(error)}") from error
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise CheckpointError(f"'{path}' was not written: {_one_line(error)}") from error
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as RuntimeError
        raise CheckpointError(f"'{path}' could not be written: {_one_line(error)}") from error


def load(path: str | Path, map_location: Any = "cpu", mmap: bool = True) -> dict[str, Any]:
    """Read a training state that `save` wrote.

    Args:
        path: the file.
        map_location: as in torch.load.
        mmap: map the tensors into memory instead of reading them (only to the CPU). Their values are private copies
            once changed; the file must stay until they are no longer used.

    Returns:
        the state, with ``format`` and ``config``.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, not a torch file, not from diffexp, or holds
            pickled objects (nothing is executed).
    """
    path = Path(path)
    _verify(path)
    mmap = mmap and map_location in ("cpu", torch.device("cpu"))
    try:
        state = torch.load(str(path), map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"'{path}' was refused: {_unsafe(error)}") from error
    except (*_BROKEN, OSError, KeyError, IndexError, TypeError, AttributeError, AssertionError) as error:
        raise CheckpointError(f"'{path}' is not a torch checkpoint: {_one_line(error)}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or not isinstance(state.get("config"), str):
        held = state.get("format") if isinstance(state, dict) else None
        what = f"its format is '{held}'" if held not in (None, FORMAT) else "it lacks the format or config entry"
        raise CheckpointError(f"'{path}' is not a diffexp checkpoint ({what}; this version reads '{FORMAT}')")
    return state


def _verify(path: Path) -> None:
    """Refuse a file that is absent or whose zip structure or CRC sums are wrong."""
    if path.is_dir():
        raise CheckpointError(f"'{path}' is a folder, not a checkpoint file")
    if not path.exists():
        raise CheckpointError(f"checkpoint '{path}' does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.rsplit("/", 1)[-1] for name in archive.namelist()]
            damaged = archive.testzip()
    except _BROKEN as error:
        reason = "is empty" if path.stat().st_size == 0 else "is truncated, damaged or not a torch file"
        raise CheckpointError(f"'{path}' {reason} ({_one_line(error)})") from error
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {error.strerror}") from error
    if "data.pkl" not in names or "constants.pkl" in names:
        what = "a TorchScript program" if "constants.pkl" in names else "some other zip archive"
        raise CheckpointError(f"'{path}' is not a torch checkpoint: it is {what}")
    if damaged is not None:
        raise CheckpointError(f"'{path}' is damaged: the checksum of its part {damaged!r} is wrong")


def _unsafe(error: pickle.UnpicklingError) -> str:
    match = re.search(r"GLOBAL (\S+)", str(error))
    what = f"'{match[1]}'" if match else "pickled objects"
    return f"it holds {what}; only tensors, numbers, text and containers of them are allowed, code is never run"


def _one_line(error: BaseException) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return " ".join(text.split())[:200]
