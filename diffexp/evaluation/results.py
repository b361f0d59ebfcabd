"""`results.csv`: one tidy row for each (arm, NFE, seed, metric), the truth that plots and reports are made from."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from diffexp.core.errors import DiffexpError
from diffexp.core.files import write_text_atomic
from diffexp.evaluation.protocol import Protocol, Provenance
from diffexp.sampler.grid import Ends

RESULTS_FILE = "results.csv"
CONTROL_PREFIX = "control:"
GIVEN = "given "
"""How the control is called that stands for images which others made."""


@dataclass(frozen=True)
class Row:
    """One measured number. Controls have a sampler named ``"control:<name>"``, an empty grid and no NFE.

    Attributes:
        sampler, grid: with every setting that changes the number, see `describe`.
        nfe: the counted network evaluations for each image, a mean where images choose their own steps; None for
            controls.
        seed: the evaluation's seed, not the training's.
        protocol: hash of the protocol.
        seconds_per_image: wall-clock time of sampling alone; None for controls.
    """

    experiment: str
    process: str
    prediction: str
    network: str
    sampler: str
    grid: str
    nfe: float | None
    metric: str
    value: float
    n: int
    seed: int
    protocol: str
    checkpoint: str
    seconds_per_image: float | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What the number is of: everything but the value and the time. Controls do not depend on the model."""
        names = _CONTROL_KEY if self.control is not None else _KEY
        return tuple(getattr(self, name) for name in names if name != "nfe" or not self.adaptive)

    @property
    def adaptive(self) -> bool:
        """Whether the sampler chose its steps: its evaluations are a result, and do not tell rows apart."""
        return self.grid.startswith(f"{Ends.name}(")

    @property
    def control(self) -> str | None:
        """The control's name, or None for a sampler's row."""
        return self.sampler.removeprefix(CONTROL_PREFIX) if self.sampler.startswith(CONTROL_PREFIX) else None


def blank_row(names: Provenance, protocol: Protocol, sampler: str, grid: str, nfe: float | None, seed: int) -> Row:
    """A row without its value, which is not a number yet."""
    return Row(
        experiment=names.experiment,
        process=names.process,
        prediction=names.prediction,
        network=names.network,
        sampler=sampler,
        grid=grid,
        nfe=nfe,
        metric=protocol.metric,
        value=math.nan,
        n=protocol.n,
        seed=seed,
        protocol=protocol.hash,
        checkpoint=names.checkpoint,
    )


COLUMNS = tuple(entry.name for entry in fields(Row))
_KEY = tuple(name for name in COLUMNS if name not in ("value", "seconds_per_image"))
_CONTROL_KEY = ("sampler", "metric", "n", "seed", "protocol")
_TEXT = tuple(entry.name for entry in fields(Row) if entry.type == "str")


def read_rows(path: Path) -> list[Row]:
    """All rows of a results file; empty where there is no file.

    Raises:
        DiffexpError: for other columns or a value that is not a number, naming file and line.
    """
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise DiffexpError(f"{path}: the columns are not those of a results file ({', '.join(COLUMNS)})")
        return [_parse(record, f"{path}, line {reader.line_num}") for record in reader]


def _parse(record: dict[str, str], where: str) -> Row:
    try:
        return Row(
            **{name: record[name] for name in _TEXT},
            nfe=_number(record["nfe"]) if record["nfe"] else None,
            value=float(record["value"]),
            n=int(record["n"]),
            seed=int(record["seed"]),
            seconds_per_image=float(record["seconds_per_image"]) if record["seconds_per_image"] else None,
        )
    except (TypeError, ValueError) as error:
        raise DiffexpError(f"{where}: {error}") from error


def _number(text: str) -> float:
    return float(text) if "." in text else int(text)


def merge(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """Rows of both; a new row replaces the old one of the same key, in its place."""
    merged = {row.key: row for row in old}
    merged.update((row.key, row) for row in new)
    return list(merged.values())


def write_rows(path: Path, rows: Iterable[Row]) -> list[Row]:
    """Merge `rows` into the file at `path`, atomically; return all rows that it now holds."""
    merged = merge(read_rows(path), rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(cells(row) for row in merged)
    write_text_atomic(path, text.getvalue())
    return merged


def cells(row: Row) -> list[object]:
    """A row as the file holds it: empty for None, floats with all their digits."""
    return [_spell(getattr(row, name)) for name in COLUMNS]


def _spell(value: object) -> object:
    return "" if value is None else repr(value) if isinstance(value, float) else value
