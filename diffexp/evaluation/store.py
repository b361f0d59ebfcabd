"""The reference store: what is computed from reference images, once for all evaluations and processes.

    <folder>/<name>-<hash>.safetensors    tensors; the metadata hold the whole key, and a SHA-256 of the tensors
    <folder>/<name>-<hash>.lock           while a process computes them

A file is named by all that its content depends on (extractor, hash of its weights, resize, fingerprint of the images),
so that it is never out of date and nothing has to be invalidated. Reference images are bytes already: how samples are
quantised is no part of it. Files are written beside their name and renamed; one that does not hold what it says is
computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from diffexp.checkpoint.export import load_tensors, save_tensors
from diffexp.core.errors import CheckpointError
from diffexp.launch.lock import Lock, LockedError

log = logging.getLogger("diffexp")

Key = Mapping[str, "str | int | float | bool | None"]
Tensors = Mapping[str, Tensor]

_VERSION = 1  # of what is computed: to raise it makes all files be computed anew
_LOOK = 0.2  # seconds between two looks at another process's work


class ReferenceStore:
    """Tensors by key, in a folder that processes and machines may share.

    Args:
        folder: made when it is first written to; None keeps nothing.
        alive: called while another process is waited for; it may raise to give up.
    """

    def __init__(self, folder: str | Path | None, alive: Callable[[], None] = lambda: None) -> None:
        self._folder = None if folder is None else Path(folder).expanduser()
        self._alive = alive

    def obtain(self, name: str, key: Key, make: Callable[[], Tensors]) -> dict[str, Tensor]:
        """The tensors of a key: read and verified, or made by `make` and kept.

        Of several processes that want the same, one makes it and the others wait. A folder that cannot be written
        costs one warning, and the work each time.

        Args:
            name: what they are, for people: the beginning of the file's name.
            key: everything that the tensors depend on.
            make: computes them.

        Returns:
            the tensors, on the CPU when they were read.
        """
        if self._folder is None:
            return dict(make())
        text = json.dumps({"version": _VERSION, "name": name, **key}, sort_keys=True)
        path = self._folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.safetensors"
        with contextlib.suppress(CheckpointError):
            found = _read(path, text)
            if found is not None:
                return found
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = self._turn(path)
        except OSError as error:
            log.warning("evaluation.references: %s cannot be written (%s): nothing is kept", self._folder, error)
            return dict(make())
        with contextlib.closing(_Held(lock)):
            return self._made(path, text, make)

    def _turn(self, path: Path) -> Lock:
        """The lock of a file, once no other process has it."""
        lock, announced = Lock(path.with_suffix(".lock"), path.name), False
        while True:
            try:
                lock.acquire()
                return lock
            except LockedError as error:
                if not announced:
                    log.info("waiting for another process that computes %s: %s", path.name, error)
                    announced = True
            self._alive()
            time.sleep(_LOOK)

    def _made(self, path: Path, text: str, make: Callable[[], Tensors]) -> dict[str, Tensor]:
        """What is there by now, or what `make` gives, kept; the lock is held."""
        try:
            found = _read(path, text)
            if found is not None:
                return found
        except CheckpointError as error:
            log.warning("%s: it is computed again", error)
        for draft in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed
            draft.unlink(missing_ok=True)
        made = dict(make())
        try:
            save_tensors(path, made, {"key": text})
        except Exception as error:  # safetensors has its own for a full disk; the numbers are there all the same
            log.warning("evaluation.references: %s cannot be written (%s): it is not kept", path, error)
        return made


NOTHING_KEPT = ReferenceStore(None)


class _Held:
    """A lock that `contextlib.closing` gives back."""

    def __init__(self, lock: Lock) -> None:
        self.close = lock.release


def _read(path: Path, text: str) -> dict[str, Tensor] | None:
    """The tensors of a file; None where there is none. CheckpointError: it is damaged, or of another key."""
    if not path.is_file():
        return None
    tensors, metadata = load_tensors(path)
    if metadata.get("key") != text:
        raise CheckpointError(f"'{path}' holds something else than its name says")
    return tensors
