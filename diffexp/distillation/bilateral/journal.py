"""What a search has found out so far, a line for each schedule: a search that was stopped asks nothing twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffexp.core.errors import DiffexpError
from diffexp.core.files import write_bytes_atomic
from diffexp.distillation.bilateral.scheduling import Mode, Start
from diffexp.distillation.bilateral.search import Assessment

JOURNAL_FILE = "search.jsonl"
_COLUMNS = ("key", "alpha", "beta", "mode", "betas", "scores", "made", "judged")


class Journal:
    """A file of assessments, those of other searches among them.

    Args:
        path: the file; it need not exist. An unfinished last line, which a kill leaves, is taken away.
        key: what the assessments of this search depend on, as a hash: lines with another one are not looked at.

    Attributes:
        made: network evaluations that the schedules which were asked for have cost, whenever that was.
        judged: the same of the images that they were judged by.

    Raises:
        DiffexpError: a line is damaged; it is named.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        self.made = self.judged = 0
        self._schedules: dict[tuple[float, float, str], Tensor] = {}
        self._scores: dict[tuple[float, ...], tuple[float, ...]] = {}
        self._lines: dict[tuple[float, float, str, int], Mapping[str, Any]] = {}
        for line in _lines(path):
            if line["key"] == key:
                self._take(line)

    def schedule(self, start: Start, mode: Mode) -> Tensor | None:
        """The betas that a start gave, float64 (n,); None when nobody has asked."""
        return self._schedules.get((start.alpha, start.beta, mode))

    def scores(self, betas: Tensor) -> tuple[float, ...] | None:
        """What the judge has said of these very betas; None when nobody has asked."""
        return self._scores.get(tuple(betas.tolist()))

    def note(self, found: Assessment, made: int, judged: int) -> None:
        """Add an assessment to the bill, and to the file unless it holds it.

        Args:
            found: the assessment.
            made: evaluations since the last one for making schedules.
            judged: the same for judging them.
        """
        known = self._lines.get(_name(found.start.alpha, found.start.beta, found.mode, found.steps))
        if known is None:
            values = (
                self.key, found.start.alpha, found.start.beta, found.mode, found.betas.tolist(), list(found.scores),
                made, judged,
            )  # fmt: skip
            known = dict(zip(_COLUMNS, values, strict=True))
            with open(self.path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(known) + "\n")
                handle.flush()
                os.fsync(handle.fileno())
            self._take(known)
        self.made += known["made"]
        self.judged += known["judged"]

    def _take(self, line: Mapping[str, Any]) -> None:
        """Remember a line."""
        alpha, beta, mode, betas = (line[name] for name in ("alpha", "beta", "mode", "betas"))
        self._schedules.setdefault((alpha, beta, mode), torch.tensor(betas, dtype=torch.float64))  # the whole one first
        self._scores.setdefault(tuple(betas), tuple(line["scores"]))
        self._lines.setdefault(_name(alpha, beta, mode, len(betas)), line)


def _name(alpha: float, beta: float, mode: str, steps: int) -> tuple[float, float, str, int]:
    """What tells a line from the others of its key: a start gives one schedule for each mode, and its cut-off ones."""
    return alpha, beta, mode, steps


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of a file, which is left with whole ones only."""
    text = path.read_bytes() if path.is_file() else b""
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        write_bytes_atomic(path, whole)
    for number, line in enumerate(whole.decode("utf-8").splitlines(), 1):
        try:
            found = json.loads(line)
            if set(found) != set(_COLUMNS):
                raise ValueError(f"its columns are not {', '.join(_COLUMNS)}")
        except (ValueError, TypeError) as error:
            raise DiffexpError(f"{path}, line {number}: no assessment of a search ({error}); delete it") from error
        yield found
