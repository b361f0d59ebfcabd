"""What an evaluation leaves in its run folder, from which plots and report are made.

    results.csv         one row for each (arm, NFE, seed, metric), controls included; added to by every evaluation
    protocol.json       the protocols of the rows, by hash
    provenance.json     where the rows come from, by checkpoint
    samples_<name>.png  the first images of one sampler, a row for each NFE, from the same noise
"""

from __future__ import annotations

from pathlib import Path

from diffexp.evaluation.grid import draw_grid
from diffexp.evaluation.protocol import write_protocol, write_provenance
from diffexp.evaluation.results import RESULTS_FILE, write_rows
from diffexp.evaluation.sweep import Evaluation


def save_evaluation(folder: Path, found: Evaluation) -> list[Path]:
    """Write an evaluation to an existing folder, atomically file by file; return the paths of the picture grids.

    Rows of an earlier evaluation stay, except those of the same arm, seed, protocol and checkpoint.
    """
    # Before the rows: a protocol without rows is harmless, rows without their protocol cannot be read.
    write_provenance(folder, found.provenance)
    if found.protocol is not None:
        write_protocol(folder, found.protocol)
    if found.rows:
        write_rows(folder / RESULTS_FILE, found.rows)
    return [_draw_samples(folder, name, found) for name in found.grids]


def _draw_samples(folder: Path, name: str, found: Evaluation) -> Path:
    rows = [(f"NFE {nfe}", images) for nfe, images in found.grids[name].items()]
    if found.real is not None and len(found.real):
        rows.append(("real", found.real))
    path = folder / f"samples_{name}.png"
    draw_grid(rows, path, f"{name}: same noise in each column ({found.provenance.checkpoint})")
    return path
