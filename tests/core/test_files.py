"""Files are whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffexp.core.files import atomic_path, write_bytes_atomic, write_json_atomic, write_text_atomic


def test_contents_arrive_and_nothing_else_stays(tmp_path: Path) -> None:
    write_bytes_atomic(tmp_path / "a.bin", b"\x00\xff")
    write_text_atomic(tmp_path / "b.txt", "grün\n")
    write_json_atomic(tmp_path / "c.json", {"z": 1, "a": [0.5]})
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b.txt").read_bytes() == "grün\n".encode()
    assert json.loads((tmp_path / "c.json").read_text()) == {"z": 1, "a": [0.5]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "b.txt", "c.json"]


def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "state"
    target.write_text("old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            assert temporary.parent == target.parent
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_target_keeps_its_old_content_until_the_end(tmp_path: Path) -> None:
    target = tmp_path / "state"
    target.write_text("old")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text_atomic(tmp_path / "absent" / "file", "x")
