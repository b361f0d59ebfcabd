"""Names of checkpoints, and which files in a folder are one."""

from __future__ import annotations

from pathlib import Path

from diffexp.core.naming import checkpoint_name, checkpoints, step_of


def test_a_name_says_its_step() -> None:
    assert checkpoint_name(1234) == "step_00001234.ckpt"
    assert step_of("runs/x/step_00001234.ckpt") == 1234


def test_checkpoints_are_listed_by_step_and_foreign_files_are_none(tmp_path: Path) -> None:
    assert checkpoints(tmp_path) == []
    for step in (5, 123_456_789, 20):
        (tmp_path / checkpoint_name(step)).write_text("x")
    for foreign in (".step_99999999.ckpt.ab12.tmp", "step_99999999.ckpt.tmp", "last.ckpt", "step_9.ckpt"):
        (tmp_path / foreign).write_text("x")
        assert step_of(foreign) is None
    (tmp_path / checkpoint_name(999_999_999)).touch()  # empty: its writer died
    assert [step_of(path) for path in checkpoints(tmp_path)] == [5, 20, 123_456_789]
