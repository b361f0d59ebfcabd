"""Whether an evaluation is complete already, told from its folder alone: no network, no checkpoint is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffexp.dataset.split import Dataset
from diffexp.evaluation.controls import tells
from diffexp.evaluation.protocol import Protocol, Provenance
from diffexp.evaluation.record import picture_path
from diffexp.evaluation.report import REPORT_FILE
from diffexp.evaluation.results import CONTROL_PREFIX, RESULTS_FILE, Row, blank_row, read_rows
from diffexp.evaluation.selection import settled
from diffexp.evaluation.settings import Arm, EvaluationSettings, file_stems
from diffexp.evaluation.sweep import protocols_of


def complete_rows(
    folder: Path, arms: Sequence[Arm], settings: EvaluationSettings, dataset: Dataset, names: Provenance
) -> list[Row] | None:
    """The rows of an evaluation that is complete.

    Args:
        folder: where it was written.
        arms: samplers and budgets.
        settings: how many images, which seeds, controls and features.
        dataset: prepared.
        names: what would name its rows.

    Returns:
        its rows (none without extractor and metrics), or None when a row, a picture or the report is missing.
    """
    found = settled(arms, folder, settings, dataset, names.checkpoint)
    if found is None:
        return None
    arms, pictures = found, [picture_path(folder, stem) for stem in file_stems(found)]
    if settings.again or not all(path.is_file() for path in (folder / REPORT_FILE, *pictures)):
        return None
    wanted = [row for protocol in protocols_of(dataset, settings) for row in _wanted(arms, settings, protocol, names)]
    known = {row.key: row for row in read_rows(folder / RESULTS_FILE)}
    return [known[row.key] for row in wanted] if all(row.key in known for row in wanted) else None


def _wanted(arms: Sequence[Arm], settings: EvaluationSettings, protocol: Protocol, names: Provenance) -> list[Row]:
    """All rows of one protocol, without values."""
    plans = [(CONTROL_PREFIX + name, "", None) for name in settings.controls if tells(name, protocol.metric)]
    plans += [(arm.label, arm.grid, nfe) for arm in arms for nfe in arm.feasible(settings.nfe_policy)]
    return [blank_row(names, protocol, *plan, seed) for plan in plans for seed in settings.seeds]
