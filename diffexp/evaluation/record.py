"""What an evaluation leaves in its run folder, from which plots and report are made.

results.csv         one row for each (arm, NFE, seed, metric), controls included; added to by every evaluation
protocol.json       the protocols of the rows, by hash
provenance.json     where the rows come from
samples_<name>.png  the first images of one sampler, a row for each NFE, from the same noise; of pairs also source
                    and target
"""

from __future__ import annotations

from pathlib import Path

from diffexp.evaluation.grid import draw_grid
from diffexp.evaluation.passes import Evaluation
from diffexp.evaluation.protocol import write_protocol, write_provenance
from diffexp.evaluation.results import RESULTS_FILE, Row, write_rows


def save_row(folder: Path, found: Evaluation, row: Row) -> None:
    """Add one row of an evaluation to an existing folder, as soon as it is there: a kill costs the unfinished ones.

    A row of the same arm, seed, protocol and checkpoint is replaced, others stay.
    """
    _save_rows(folder, found, [row])


def save_evaluation(folder: Path, found: Evaluation) -> list[Path]:
    """Write an evaluation's rows and pictures to an existing folder, atomically file by file.

    Returns:
        the paths of the picture grids. A grid names its checkpoint, and replaces that of another.
    """
    if found.rows or not found.protocols:
        _save_rows(folder, found, found.rows)
    return [_draw_samples(folder, name, found) for name in found.grids]


def _save_rows(folder: Path, found: Evaluation, rows: list[Row]) -> None:
    # Before the rows: a protocol without rows is harmless, rows without their protocol cannot be read.
    write_provenance(folder, found.provenance)
    for protocol in found.protocols:
        write_protocol(folder, protocol)
    if rows:
        write_rows(folder / RESULTS_FILE, rows)


def _draw_samples(folder: Path, name: str, found: Evaluation) -> Path:
    pictures = found.grids[name]
    rows = [(f"NFE {nfe}", images) for nfe, images in pictures.rows.items()]
    if found.real is not None and len(found.real):
        rows.append(("real" if found.sources is None else "target", found.real))
    if found.sources is not None and len(found.sources):
        rows.insert(0, ("source", found.sources))
    path = picture_path(folder, name)
    draw_grid(rows, path, f"{pictures.title}, {found.provenance.checkpoint}")
    return path


def picture_path(folder: Path, name: str) -> Path:
    """The file of a sampler's picture grid; `name` is one of `settings.file_stems`."""
    return folder / f"samples_{name}.png"
