"""The reference store: computed once, by one process of several; damaged files are told and replaced."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from diffexp.core.errors import DiffexpError
from diffexp.evaluation.store import ReferenceStore

KEY = {"extractor": "pixels", "weights": "abc", "reference": "pixels-sha256:0", "n": 7}


class Work:
    """Counts how often it is done."""

    def __init__(self, value: float = 1.5) -> None:
        self.value, self.times = value, 0

    def __call__(self) -> dict[str, torch.Tensor]:
        self.times += 1
        return {"mean": torch.full((3,), self.value, dtype=torch.float64), "count": torch.tensor(7)}


def _file(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def test_it_is_computed_once_and_read_again(tmp_path):
    work = Work()
    made = ReferenceStore(tmp_path / "a" / "b").obtain("moments", KEY, work)
    read = ReferenceStore(tmp_path / "a" / "b").obtain("moments", KEY, work)
    assert work.times == 1
    assert torch.equal(read["mean"], made["mean"])
    assert (read["mean"].dtype, int(read["count"])) == (torch.float64, 7)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [_file(tmp_path / "a" / "b").name]
    assert _file(tmp_path / "a" / "b").name.startswith("moments-")


@pytest.mark.parametrize("change", [{"n": 8}, {"weights": "abd"}, {"reference": "pixels-sha256:1"}, {"resize": "x"}])
def test_another_key_is_another_file(tmp_path, change):
    store, work = ReferenceStore(tmp_path), Work()
    store.obtain("moments", KEY, work)
    store.obtain("moments", {**KEY, **change}, work)
    store.obtain("moments", dict(reversed(KEY.items())), work)
    assert work.times == 2, "the order of a key's entries says nothing"
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 1  # within the numbers: safetensors itself would not notice
    path.write_bytes(bytes(data))


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _exchanged(path: Path) -> None:
    store = ReferenceStore(path.parent / "other")
    store.obtain("moments", {**KEY, "n": 8}, Work(9.0))
    path.write_bytes(_file(path.parent / "other").read_bytes())


@pytest.mark.parametrize(
    ("damage", "told"),
    [(_flipped, "SHA-256 differs"), (_truncated, "truncated, damaged"), (_exchanged, "something else than its name")],
)
def test_a_damaged_file_is_told_in_one_line_and_computed_again(tmp_path, damage, told, caplog):
    store, work = ReferenceStore(tmp_path), Work()
    store.obtain("moments", KEY, work)
    damage(_file(tmp_path))
    with caplog.at_level(logging.WARNING, "diffexp"):
        again = store.obtain("moments", KEY, work)
    assert (work.times, float(again["mean"][0])) == (2, 1.5)
    (record,) = caplog.records
    assert told in record.message
    assert record.message.endswith("it is computed again")
    assert str(_file(tmp_path)) in record.message
    assert float(store.obtain("moments", KEY, work)["mean"][0]) == 1.5
    assert work.times == 2


def test_without_a_folder_nothing_is_kept():
    work = Work()
    for _ in range(2):
        ReferenceStore(None).obtain("moments", KEY, work)
    assert work.times == 2


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING, "diffexp"):
        assert float(ReferenceStore(tmp_path / "file" / "x").obtain("moments", KEY, Work())["mean"][0]) == 1.5
    assert "cannot be written" in caplog.text


def test_work_that_fails_leaves_nothing(tmp_path):
    def fail() -> dict[str, torch.Tensor]:
        raise DiffexpError("no images")

    with pytest.raises(DiffexpError, match="no images"):
        ReferenceStore(tmp_path).obtain("moments", KEY, fail)
    assert list(tmp_path.iterdir()) == []


def _obtain_slowly(folder: str, log: str, barrier) -> None:
    def work() -> dict[str, torch.Tensor]:
        with open(log, "a", encoding="utf-8") as handle:
            handle.write(f"{os.getpid()}\n")
        time.sleep(0.4)
        return Work()()

    barrier.wait()
    found = ReferenceStore(folder).obtain("moments", KEY, work)
    assert float(found["mean"][2]) == 1.5


def test_of_several_processes_one_computes(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, log = context.Barrier(3), tmp_path / "log"
    arguments = (str(tmp_path / "store"), str(log), barrier)
    processes = [context.Process(target=_obtain_slowly, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(log.read_text().splitlines()) == 1
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_who_waits_can_give_up(tmp_path):
    """The lock of a live process (this one) stands for work that goes on."""

    def give_up() -> None:
        raise KeyboardInterrupt

    def inner() -> dict[str, torch.Tensor]:
        with pytest.raises(KeyboardInterrupt):
            ReferenceStore(tmp_path, alive=give_up).obtain("moments", KEY, Work(2.0))
        return Work()()

    assert float(ReferenceStore(tmp_path).obtain("moments", KEY, inner)["mean"][0]) == 1.5


def test_the_draft_of_a_killed_process_is_removed_and_its_lock_taken_over(tmp_path):
    store = ReferenceStore(tmp_path)
    store.obtain("moments", KEY, Work())
    path = _file(tmp_path)
    path.unlink()
    path.with_suffix(".lock").write_text(f'{{"pid": 0, "host": "{os.uname().nodename}", "token": "x"}}')
    draft = tmp_path / f".{path.name}.0123abcd.tmp"
    draft.touch()
    store.obtain("moments", KEY, Work())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
