"""What dashboards have in common: a mirror of a run folder, opened for one piece of work and closed whatever happens.

metrics.jsonl and results.csv stay the truth. A dashboard that fails in the middle is left out with one warning, and
the work goes on. Nothing here draws random numbers or touches the model.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from diffexp.core.errors import ConfigError
from diffexp.evaluation.results import Row
from diffexp.evaluation.table import summarise_arms, summarise_controls

log = logging.getLogger("diffexp")

METRICS = "metrics.jsonl"
COLUMNS = ("sampler", "grid", "nfe", "metric", "mean", "seeds")
"""Of the table of an evaluation."""


@dataclass(frozen=True)
class Work:
    """What is mirrored.

    Attributes:
        run: the run folder that it writes to.
        kind: W&B's job type, and the sub-folder of TensorBoard's files.
        config: the resolved configuration.
        step: optimiser steps at its beginning; an evaluation's are those of its checkpoint.
        sweep: name of the sweep that it is a job of, or None.
    """

    run: Path
    kind: Literal["train", "eval"]
    config: Mapping[str, Any]
    step: int
    sweep: str | None = None

    def lines(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl up to `step` that a training goes on from."""
        path = self.run / METRICS
        if self.kind != "train" or not path.is_file():
            return []
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        return [line for line in lines if line["step"] <= self.step]


class Mirror:
    """One open dashboard; this one shows nothing. Use it in a `with` block."""

    failures: tuple[type[Exception], ...] = (OSError,)
    _broken = False

    def line(self, line: Mapping[str, float]) -> None:
        """Show a line of metrics.jsonl."""
        self._try(lambda: self._line(line))

    def results(self, rows: Sequence[Row], pictures: Sequence[Path]) -> None:
        """Show an evaluation: its rows of results.csv and the PNG files of its sample grids."""
        self._try(lambda: self._results(rows, pictures))

    def _try(self, act: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            act()
        except self.failures as error:
            self._broken = True
            reason = " ".join(str(error).split())
            log.warning("logger: %s; it is left out from here on, the run folder holds everything", reason)

    def _line(self, line: Mapping[str, float]) -> None: ...

    def _results(self, rows: Sequence[Row], pictures: Sequence[Path]) -> None: ...

    def _close(self, error: BaseException | None) -> None: ...

    def __enter__(self) -> Mirror:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._try(lambda: self._close(error))


class Logger(Protocol):
    """What a choice of the group `logger` builds."""

    def check(self) -> None:
        """Raise ConfigError when it could not work here; called before anything is read or written."""

    def knows(self, work: Work) -> bool:
        """Whether this work was shown before."""

    def open(self, work: Work) -> Mirror:
        """Begin to mirror; raises DiffexpError when the dashboard refuses."""


class Several(Mirror):
    """Mirrors that fail and close independently of each other."""

    def __init__(self, mirrors: Sequence[Mirror]) -> None:
        self._mirrors = mirrors

    def _line(self, line: Mapping[str, float]) -> None:
        for mirror in self._mirrors:
            mirror.line(line)

    def _results(self, rows: Sequence[Row], pictures: Sequence[Path]) -> None:
        for mirror in self._mirrors:
            mirror.results(rows, pictures)

    def _close(self, error: BaseException | None) -> None:
        for mirror in self._mirrors:
            mirror.__exit__(None, error, None)


def require(module: str, extra: str, what: str = "") -> None:
    """Refuse a logger, or what else needs it, whose package is not installed; a mere folder of its name is none."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        whose, way_out = (what, "") if what else (f"logger={extra}", ", or logger=none")
        package = module.replace("_", "-")
        raise ConfigError(f"{whose}: needs the package {package}; pip install 'diffexp[{extra}]'{way_out}")


def table(rows: Sequence[Row]) -> list[list[Any]]:
    """One line for each metric, sampler and budget, then one for each control; see `COLUMNS`."""
    found = [*summarise_arms(rows), *summarise_controls(rows)]
    return [[item.label, item.grid, item.nfe, item.metric, item.mean, len(item.values)] for item in found]


def pixels(path: Path) -> Any:
    """A PNG file as uint8 (H, W, 3)."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
