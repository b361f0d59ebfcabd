"""Where the files of a job go: names that follow from the configuration, so that the same command finds them again.

    runs/<recipe>/<fp>        fp: fingerprint of all that training depends on; checkpoints, and the job that came first
    runs/<recipe>/<fp>-<h>    h: hash of the whole job; another job on the same weights, without checkpoints of its own

The one who holds the lock of <fp> trains. Whoever else needs these weights waits until they are complete, or until the
lock is free: then it goes on itself, from the newest checkpoint. So a kill at any point costs no more than the steps
since then, and two jobs that start at once train once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from diffexp.core.naming import checkpoints, step_of
from diffexp.launch.fingerprint import job_hash, job_of, training_fingerprint
from diffexp.launch.folder import CHECKPOINTS, TRAINED_IN, RunFolder
from diffexp.launch.lock import LockedError


def recipe_folder(config: Mapping[str, Any]) -> Path:
    """Where the runs of a configuration's recipe are: its keys `runs` and `recipe` say so."""
    return Path(str(config.get("runs") or "runs")) / str(config.get("recipe") or "none")


@dataclass(frozen=True)
class Names:
    """The folders of a job; none of them need exist.

    Attributes:
        training: where the weights are trained; this job's own folder too, if it is the first on them.
        own: this job's own folder, if another one was the first.
        job: hash of the job.
        steps: length of the training.
    """

    training: Path
    own: Path
    job: str
    steps: int

    @classmethod
    def of(cls, config: Mapping[str, Any], data: str) -> Names:
        """The folders for a resolved configuration on training images with the fingerprint `data`."""
        parent, job = recipe_folder(config), job_hash(config)
        fingerprint = training_fingerprint(config, data)
        return cls(parent / fingerprint, parent / f"{fingerprint}-{job}", job, config["training"]["max_steps"])

    def branch(self, config: Mapping[str, Any], start: Path) -> Names:
        """The folders of a training that goes on from an older checkpoint than the newest: all in one of its own."""
        job = job_hash(config, start.name)
        own = self.training.with_name(f"{self.training.name}-{job}")
        return Names(own, own, job, self.steps)

    def trained_in(self, folder: Path) -> Names:
        """These names, or all in one where the same training is kept in a folder of another name (a copy, a branch)."""
        if folder.resolve() == self.training.resolve():
            return self
        return Names(folder, folder, self.job, self.steps)

    def home(self) -> Path | None:
        """The folder of this job, where that is decided already."""
        if job_of(self.own) is not None:
            return self.own
        first = job_of(self.training)
        return None if first is None else self.training if first == self.job else self.own

    def complete(self) -> Path | None:
        """The checkpoint of the last step, if it is there."""
        found = checkpoints(self.training / CHECKPOINTS)
        return found[-1] if found and (step_of(found[-1]) or 0) >= self.steps else None


class Place:
    """The folders of a job while it runs, held by locks; a `with` block writes how it ended and gives them back.

    Args:
        names: which folders.
        config: what is run.
        evaluates: whether the job writes more than a training; else it needs no folder of its own.

    Attributes:
        home: the job's own folder, once `advance` has it.
        training: the folder of the training, while this process is the one that trains; may be `home`.
        waiting: why `advance` cannot go on; names the process that is waited for.
    """

    def __init__(self, names: Names, config: Mapping[str, Any], evaluates: bool = True) -> None:
        self.names = names
        self.home: RunFolder | None = None
        self.training: RunFolder | None = None
        self.waiting = ""
        self._config = config
        self._evaluates = evaluates

    def advance(self) -> str | None:
        """Take what is free.

        Returns:
            "train": this process holds the folder of an incomplete training, and `home`; "trained": the weights are
            complete, and `home` is held; None: another process trains, ask again later.

        Raises:
            LockedError: the very same job runs already; its pid is named.
        """
        if self.home is None:
            try:
                self.home = self._settle()
            except LockedError as error:
                if error.job in ("", self.names.job):
                    raise
                self.waiting = str(error)
                return None
        if self.names.complete() is not None:
            return "trained"
        try:
            self.training = self._train_in(self.home)
        except LockedError as error:
            self._wait(str(error))
            return None
        if self.names.complete() is not None:  # by whoever held the lock before us
            self.give_back()
            return "trained"
        return "train"

    def give_back(self) -> None:
        """The training is complete: others may have its folder, unless it is this job's own."""
        folder, self.training = self.training, None
        if folder is not None and folder is not self.home:
            folder.message = f"trained for {self.names.own.name}"
            folder.__exit__(None, None, None)

    def _settle(self) -> RunFolder:
        """The job's own folder: that of the training for whoever comes first, and for a job that only trains."""
        names = self.names
        if not self._evaluates:
            return self._open(names.training).__enter__()
        if names.home() in (None, names.training):
            try:
                folder = self._open(names.training)
            except LockedError as error:
                if names.home() is not None or error.job in ("", names.job):
                    raise
                # else: that process is about to write its own configuration there
            else:
                if names.home() == names.training:
                    return folder.__enter__()
                folder.release()  # it has become another job's since we looked
        folder = self._open(names.own)
        if not (folder.path / TRAINED_IN).is_file():
            folder.refer(names.training, None)
        return folder.__enter__()

    def _train_in(self, home: RunFolder) -> RunFolder:
        """The folder of the training, held."""
        return home if home.path == self.names.training else self._open(self.names.training).__enter__()

    def _open(self, path: Path) -> RunFolder:
        """Take a folder; the first to do so, and the same job again, write down what they run."""
        folder = RunFolder.claim(path, self.names.job)
        try:
            if not folder.config or job_hash(folder.config) == self.names.job:
                folder.freeze(self._config)
        except BaseException:
            folder.release()
            raise
        return folder

    def _wait(self, reason: str) -> None:
        if reason != self.waiting and self.home is not None:
            self.home.write_status("running", f"waits for the training: {reason}")
        self.waiting = reason

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        folders = {id(folder): folder for folder in (self.training, self.home) if folder is not None}
        for folder in folders.values():
            folder.__exit__(kind, error, trace)
