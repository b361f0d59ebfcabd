"""Dashboards show what the run folder says: read back from TensorBoard's and W&B's own files, without a network."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import logging
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffexp.core.errors import ConfigError, DiffexpError, PreemptedError
from diffexp.evaluation.results import Row
from diffexp.training.loggers import Both, NoLogger, TensorBoard, WandB
from diffexp.training.mirror import Mirror, Work

wandb = pytest.importorskip("wandb")
pytest.importorskip("tensorboard")

OFFLINE = WandB(mode="offline", tags=["a"])
NAMES = ("loss", "gradient_norm", "lr", "images_per_second")


def line(step: int, scale: float = 1.0) -> dict[str, float]:
    return {"step": step, **{name: scale * step / (place + 3) for place, name in enumerate(NAMES)}}


def write_lines(run: Path, steps: range) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line(step)) + "\n" for step in steps))


def row(sampler: str, nfe: int | None, value: float, seed: int = 0) -> Row:
    names = {"experiment": "e", "process": "vp", "prediction": "eps", "network": "n", "checkpoint": "c"}
    grid = "" if nfe is None else "uniform"
    return Row(**names, sampler=sampler, grid=grid, nfe=nfe, metric="fd", value=value, n=8, seed=seed, protocol="p")


ROWS = [
    row("control:noise", None, 9.0),
    row("ddim", 5, 3.0),
    row("ddim", 5, 4.0, seed=1),
    row("ddim", 10, 2.0),
    row("ddim", 10, 2.5, seed=1),
    row("heun", 5, 1.0),
    row("heun", 5, 1.0, seed=1),
]
MEANS = {("ddim", 5): 3.5, ("ddim", 10): 2.25, ("heun", 5): 1.0}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "samples_ddim.png"
    Image.fromarray(np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)).save(path)
    return path


# --- TensorBoard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_holds_the_lines(tmp_path: Path) -> None:
    with TensorBoard().open(Work(tmp_path, "train", {}, 0)) as mirror:
        for step in (10, 20, 30):
            mirror.line(line(step))
    found = scalars(tmp_path / "tensorboard" / "train")
    assert sorted(found) == sorted(f"train/{name}" for name in NAMES)
    for name in NAMES:
        assert found[f"train/{name}"] == [(step, np.float32(line(step)[name])) for step in (10, 20, 30)]


def test_steps_that_are_repeated_after_a_resume_appear_once_in_tensorboard(tmp_path: Path) -> None:
    """Stopped at 30, gone on from the checkpoint of 20: what had been shown for 30 is replaced."""
    with TensorBoard().open(Work(tmp_path, "train", {}, 0)) as mirror:
        for step in (10, 20, 30):
            mirror.line(line(step, 7.0 if step == 30 else 1.0))
    write_lines(tmp_path, range(10, 31, 10))
    with TensorBoard().open(Work(tmp_path, "train", {}, 20)) as mirror:
        for step in (30, 40):
            mirror.line(line(step))
    found = scalars(tmp_path / "tensorboard" / "train")["train/loss"]
    assert found == [(step, np.float32(line(step)["loss"])) for step in (10, 20, 30, 40)]


def test_tensorboard_shows_distances_by_nfe_and_the_grids(tmp_path: Path, picture: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # an evaluation that is repeated replaces itself
        with TensorBoard().open(Work(tmp_path, "eval", {}, 40)) as mirror:
            mirror.results(ROWS, [picture])
    folder = tmp_path / "tensorboard" / "eval"
    assert scalars(folder) == {"fd by NFE/ddim": [(5, 3.5), (10, 2.25)], "fd by NFE/heun": [(5, 1.0)]}
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    (image,) = events.Images("samples_ddim")
    assert (image.step, image.height, image.width) == (40, 4, 6)
    text = events.Tensors("results/text_summary")[-1]
    assert b"| ddim | uniform | 10 | fd | 2.25 | 2 |" in text.tensor_proto.string_val[0]
    assert b"| noise |  |  | fd | 9.0 | 1 |" in text.tensor_proto.string_val[0]


# --- W&B


def records(folder: Path) -> list[Any]:
    """The records in the one file of a finished offline run, which W&B's service writes a moment later."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("*.wandb")
    deadline = time.monotonic() + 20.0
    while True:
        found = [Record.FromString(data) for data in _chunks(path.read_bytes())]
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        assert time.monotonic() < deadline, f"{path} does not end"
        time.sleep(0.02)


def _chunks(data: bytes) -> Iterator[bytes]:
    """The entries of a log in LevelDB's form (blocks of 32 KiB), behind seven bytes of W&B's own."""
    place, parts = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # no header fits: the block's rest is empty
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def offline_runs(run: Path) -> list[Path]:
    return sorted((run / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime_ns)


def history(folder: Path) -> list[dict[str, Any]]:
    """What was logged, row by row, without W&B's own entries."""
    lines = [record.history for record in records(folder) if record.WhichOneof("record_type") == "history"]
    rows = [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in one.item} for one in lines]
    return [{key: value for key, value in one.items() if not key.startswith("_")} for one in rows]


def one(folder: Path, kind: str) -> Any:
    found = [getattr(record, kind) for record in records(folder) if record.WhichOneof("record_type") == kind]
    return found[0]


def interrupted(logger: Any, work: Work, steps: tuple[int, ...], error: Exception) -> None:
    """Work that ends with an error, which its dashboard lets through."""

    def train() -> None:
        with logger.open(work) as mirror:
            for step in steps:
                mirror.line(line(step))
            raise error

    with pytest.raises(type(error)) as caught:
        train()
    assert caught.value is error


def shown(steps: tuple[int, ...]) -> list[dict[str, float]]:
    return [{"trainer/step": step, **{f"train/{name}": line(step)[name] for name in NAMES}} for step in steps]


def test_wandb_holds_the_lines_and_knows_what_they_are_of(tmp_path: Path) -> None:
    run = tmp_path / "recipe" / "run"
    run.mkdir(parents=True)
    with OFFLINE.open(Work(run, "train", {"network": {"width": 3}}, 0, sweep="sweep7")) as mirror:
        for step in (10, 20):
            mirror.line(line(step))
    (folder,) = offline_runs(run)
    assert history(folder) == shown((10, 20))
    told = one(folder, "run")
    known = json.loads((run / "wandb.json").read_text())
    assert (told.run_id, told.run_group, told.job_type, told.project) == (known["train"], "sweep7", "train", "diffexp")
    assert (told.display_name, list(told.tags)) == ("recipe/run", ["a"])
    config = {item.key: json.loads(item.value_json) for item in told.config.update}
    assert config["network"] == {"width": 3}
    axes = {record.metric.name or record.metric.glob_name: record.metric.step_metric for record in records(folder)}
    assert axes["*"] == "trainer/step"
    assert one(folder, "exit").exit_code == 0
    assert wandb.run is None


def test_a_resumed_training_goes_on_in_the_same_wandb_run_and_each_file_is_whole(tmp_path: Path) -> None:
    """Offline, W&B cannot know what an earlier process has logged: the newest file has everything."""
    interrupted(OFFLINE, Work(tmp_path, "train", {}, 0), (10, 20, 30), PreemptedError("stopped", 143))
    write_lines(tmp_path, range(10, 31, 10))
    with OFFLINE.open(Work(tmp_path, "train", {}, 20)) as mirror:
        for step in (30, 40):  # 30 once more: it is not dropped
            mirror.line(line(step))
    first, second = offline_runs(tmp_path)
    assert one(first, "exit").exit_code == 143
    assert any(record.WhichOneof("record_type") == "preempting" for record in records(first))
    assert one(first, "run").run_id == one(second, "run").run_id
    assert history(first) == shown((10, 20, 30))
    assert history(second) == shown((10, 20, 30, 40))
    assert one(second, "run").run_group == tmp_path.name


def test_a_run_that_wandb_knows_is_not_told_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, float]] = []

    class Known:
        resumed = True

        def define_metric(self, *names: str, **options: str) -> None: ...

        def log(self, values: dict[str, float]) -> None:
            told.append(values)

        def finish(self, exit_code: int) -> None: ...

    monkeypatch.setattr(wandb, "init", lambda **options: Known())
    write_lines(tmp_path, range(10, 31, 10))
    with OFFLINE.open(Work(tmp_path, "train", {}, 20)) as mirror:
        mirror.line(line(30))
    assert told == shown((30,))


def test_wandb_shows_an_evaluation(tmp_path: Path, picture: Path) -> None:
    with OFFLINE.open(Work(tmp_path, "train", {}, 0)):
        pass
    with OFFLINE.open(Work(tmp_path, "eval", {}, 40)) as mirror:
        mirror.results(ROWS, [picture])
    folder = offline_runs(tmp_path)[-1]
    known = json.loads((tmp_path / "wandb.json").read_text())
    assert sorted(known) == ["eval", "train"]
    assert known["eval"] != known["train"]
    assert (one(folder, "run").run_id, one(folder, "run").job_type) == (known["eval"], "eval")
    found, *curves = history(folder)
    assert found["trainer/step"] == 40
    assert curves == [
        {"nfe": 5, "by_nfe/fd/ddim": 3.5, "by_nfe/fd/heun": 1.0},
        {"nfe": 10, "by_nfe/fd/ddim": 2.25},
    ]
    told = [record.metric for record in records(folder) if record.WhichOneof("record_type") == "metric"]
    axes = {metric.name or metric.glob_name: metric.step_metric for metric in told}
    assert axes == {
        "trainer/step": "",
        "*": "trainer/step",
        "nfe": "",
        **dict.fromkeys(curves[0].keys() - {"nfe"}, "nfe"),
    }
    assert {key: found[f"eval/fd/{key[0]}/nfe_{key[1]}"] for key in MEANS} == MEANS
    tables = {path.stem.split("_")[0]: json.loads(path.read_text()) for path in folder.rglob("*.table.json")}
    assert tables["results"]["columns"] == ["sampler", "grid", "nfe", "metric", "mean", "seeds"]
    assert ["ddim", "uniform", 10, "fd", 2.25, 2] in tables["results"]["data"]
    assert ["noise", "", None, "fd", 9.0, 1] in tables["results"]["data"]
    points = {(key, x): y for x, key, y in (map(entry.__getitem__, (0, 1, 2)) for entry in tables["distance"]["data"])}
    assert points == MEANS
    (image,) = (folder / "files" / "media" / "images" / "eval").iterdir()
    assert np.array_equal(np.asarray(Image.open(image)), np.asarray(Image.open(picture)))


def test_both_show_the_same(tmp_path: Path) -> None:
    both = Both(TensorBoard(), OFFLINE)
    both.check()
    interrupted(both, Work(tmp_path, "train", {}, 0), (10,), ValueError("mistake"))
    (folder,) = offline_runs(tmp_path)
    assert history(folder) == shown((10,))
    assert one(folder, "exit").exit_code == 1
    assert scalars(tmp_path / "tensorboard" / "train")["train/lr"] == [(10, np.float32(line(10)["lr"]))]


# --- what may go wrong


def test_a_dashboard_that_fails_is_left_out_with_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(logging.getLogger("diffexp"), "warning", lambda text, *values: heard.append(text % values))

    def refuse(*arguments: Any) -> None:
        raise OSError("No space\nleft")

    with TensorBoard().open(Work(tmp_path, "train", {}, 0)) as mirror:
        monkeypatch.setattr(type(mirror), "_line", refuse)
        mirror.line(line(10))
        mirror.line(line(20))
    assert heard == ["logger: No space left; it is left out from here on, the run folder holds everything"]


@pytest.mark.parametrize(("logger", "name"), [(TensorBoard(), "tensorboard"), (OFFLINE, "wandb")])
@pytest.mark.parametrize("folder", [False, True])
def test_a_missing_package_is_named(logger: Any, name: str, folder: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mere folder of that name, which W&B itself leaves in working folders, is no package."""
    spec = importlib.machinery.ModuleSpec(name, None, is_package=True) if folder else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: spec)
    with pytest.raises(ConfigError, match=rf"logger={name}: needs the package {name}; pip install 'diffexp\[{name}\]'"):
        logger.check()


def test_nobody_logged_in_to_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse() -> None:
        raise wandb.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "login", refuse)
    OFFLINE.check()
    with pytest.raises(ConfigError, match=r"logger=wandb: No API key configured. Or use logger.mode=offline"):
        WandB(mode="online").check()

    def unreachable(**options: Any) -> None:
        raise wandb.errors.CommError("Timed out\nwhile retrying")

    monkeypatch.setattr(wandb, "init", unreachable)
    with pytest.raises(DiffexpError, match=r"^logger=wandb: Timed out while retrying; logger.mode=offline needs no"):
        OFFLINE.open(Work(tmp_path, "train", {}, 0))


def test_the_run_folder_alone(tmp_path: Path) -> None:
    logger = NoLogger()
    logger.check()
    with logger.open(Work(tmp_path, "train", {}, 0)) as mirror:
        mirror.line(line(10))
        mirror.results(ROWS, [])
    assert type(mirror) is Mirror
    assert list(tmp_path.iterdir()) == []
