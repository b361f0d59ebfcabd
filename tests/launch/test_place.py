"""Which folders a job takes: one training for many jobs, whatever starts when, and whoever is killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffexp.core.errors import PreemptedError
from diffexp.launch.lock import LockedError
from diffexp.launch.place import Names, Place

STEPS = 10
Config = dict[str, Any]


def config_of(tmp_path: Path, sampler: str = "ddim", **changes: Any) -> Config:
    base = {"recipe": "vp", "runs": str(tmp_path / "runs"), "seed": 0, "training": {"max_steps": STEPS}}
    return {**base, "sampler": {"name": sampler}, **changes}


def place_of(config: Config, **options: Any) -> Place:
    return Place(Names.of(config, "pixels"), config, **options)


def save(names: Names, step: int = STEPS) -> None:
    """What a training leaves."""
    folder = names.training / "checkpoints"
    folder.mkdir(exist_ok=True)
    (folder / f"step_{step:08d}.ckpt").write_text("weights")


def state(run: Path) -> tuple[str, str]:
    found = json.loads((run / "status.json").read_text())
    return found["state"], found["message"]


def frozen(run: Path) -> Config:
    return yaml.safe_load((run / "config.yaml").read_text())


def finish(config: Config) -> Path:
    """Let a job train if it must, and end; its own folder."""
    with place_of(config) as place:
        if place.advance() == "train":
            save(place.names)
            place.give_back()
        if place.home.path != place.names.training:
            place.home.refer(place.names.training, place.names.complete())
        return place.home.path


def test_the_first_job_trains_and_the_others_follow(tmp_path: Path) -> None:
    configs = [config_of(tmp_path, sampler) for sampler in ("ddim", "heun", "ddpm")]
    first = place_of(configs[0])
    with first:
        assert first.advance() == "train"
        assert first.home is first.training
        assert first.home.path == first.names.training
        save(first.names)
        first.give_back()
        assert first.advance() == "trained"
        assert (first.home.path / "lock").exists(), "it still evaluates"
        for config in configs[1:]:  # while the first one evaluates: its lock does not matter any more
            with place_of(config) as place:
                assert place.advance() == "trained"
                assert place.training is None
                assert place.home.path == place.names.own
            where = json.loads((place.names.own / "training.json").read_text())
            assert where == {"folder": f"../{first.names.training.name}", "checkpoint": None}
    runs = sorted(path.name for path in (tmp_path / "runs" / "vp").iterdir())
    assert len(runs) == 3
    assert {name[:12] for name in runs} == {first.names.training.name}
    assert [frozen(Names.of(config, "pixels").home()) for config in configs] == configs
    assert not list(tmp_path.rglob("lock"))


def test_the_same_job_finds_its_folder_again(tmp_path: Path) -> None:
    configs = [config_of(tmp_path, sampler) for sampler in ("ddim", "heun")]
    before = [finish(config) for config in configs]
    assert [finish({**config, "task": "run", "ckpt": None}) for config in configs] == before
    assert [Names.of(config, "pixels").home() for config in configs] == before
    assert state(before[0]) == state(before[1]) == ("ok", "")


def test_the_same_job_twice_is_refused_with_the_pid(tmp_path: Path) -> None:
    for sampler in ("ddim", "heun"):
        config = config_of(tmp_path, sampler)
        with place_of(config) as place:
            place.advance()
            for other in (place_of(config), place_of({**config, "task": "train"}, evaluates=sampler == "heun")):
                with pytest.raises(LockedError, match=f"in use by process {os.getpid()}$"):
                    other.advance()
                assert other.home is other.training is None
            assert state(place.home.path)[0] == "running"
            save(place.names)


def test_another_job_waits_and_says_for_whom(tmp_path: Path) -> None:
    first, second = place_of(config_of(tmp_path)), place_of(config_of(tmp_path, "heun"))
    with first, second:
        assert first.advance() == "train"
        for _ in range(3):
            assert second.advance() is None
        assert second.waiting == f"{first.names.training}: in use by process {os.getpid()}"
        assert state(second.names.own) == ("running", f"waits for the training: {second.waiting}")
        save(first.names)
        assert second.advance() == "trained"


def test_whoever_is_left_trains(tmp_path: Path) -> None:
    """The trainer stops half-way: the waiting job goes on; the first one, started again, waits and then evaluates."""
    configs = [config_of(tmp_path, sampler) for sampler in ("ddim", "heun")]
    second = place_of(configs[1])
    with second:
        first = place_of(configs[0])
        assert first.advance() == "train"
        save(first.names, 4)
        assert second.advance() is None
        with pytest.raises(PreemptedError), first:
            raise PreemptedError("stopped", 143)
        assert state(first.names.training) == ("preempted", "stopped")
        assert second.advance() == "train"
        assert second.training.path == first.names.training
        assert frozen(first.names.training) == configs[0], "it is still the first job's folder"
        again = place_of(configs[0])
        with again:
            assert again.advance() is None
            assert again.home is None
            save(second.names)
            second.give_back()
            assert state(first.names.training) == ("ok", f"trained for {second.names.own.name}")
            assert again.advance() == "trained"
            assert again.home.path == first.names.training
            assert second.home.path == second.names.own


def test_a_job_that_only_trains_needs_one_folder(tmp_path: Path) -> None:
    train = config_of(tmp_path, "ddim", task="train")
    with place_of(train, evaluates=False) as place:
        assert place.advance() == "train"
        save(place.names)
    with place_of(config_of(tmp_path, "heun", task="train"), evaluates=False) as other:
        assert other.advance() == "trained"
        assert other.home.path == place.names.training
    assert frozen(place.names.training) == train
    assert finish(config_of(tmp_path)) == place.names.training, "its evaluation is the rest of the same job"
    assert len(list((tmp_path / "runs" / "vp").iterdir())) == 1


SCRIPT = """
import sys, json, time
from pathlib import Path
from diffexp.launch.place import Names, Place
config = json.loads(sys.argv[1])
place = Place(Names.of(config, "pixels"), config)
with place:
    trained = 0
    while (turn := place.advance()) != "trained":
        if turn == "train":
            trained = 1
            folder = place.names.training / "checkpoints"
            folder.mkdir(exist_ok=True)
            time.sleep(0.1)
            (folder / "step_00000010.ckpt").write_text("weights")
            place.give_back()
        time.sleep(0.01)
    print(trained, place.home.path.name)
"""


def test_processes_that_start_at_once_train_once(tmp_path: Path) -> None:
    """Of six, two of each job: one trains, and each job is done by one of its two (or by both, after each other)."""
    configs = [config_of(tmp_path, sampler) for sampler in ("ddim", "heun", "ddpm")] * 2
    commands = [[sys.executable, "-c", SCRIPT, json.dumps(config)] for config in configs]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for command in commands]
    answers = [process.communicate(timeout=60) for process in processes]
    said = [out.split() for out, _ in answers if out]
    assert sum(int(trained) for trained, _ in said) == 1
    assert len({folder for _, folder in said}) == 3
    assert all("LockedError" in error and "in use by process" in error for out, error in answers if not out)
    assert len(list((tmp_path / "runs" / "vp").iterdir())) == 3
    assert not list(tmp_path.rglob("*lock*"))


def killed(config: Config, left: int) -> bool:
    """Do a whole job in a process that is killed before its file operation number `left`; whether it came to that."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == signal.SIGKILL
    try:
        operations = itertools.count()

        def counted(original: Any) -> Any:
            def operation(*arguments: Any, **options: Any) -> Any:
                if next(operations) == left:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **options)

            return operation

        for name in ("replace", "link", "unlink", "mkdir", "fsync"):
            setattr(os, name, counted(getattr(os, name)))
        finish(config)
    finally:
        os._exit(0)


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_a_kill_between_any_two_file_operations_is_gone_on_from(tmp_path: Path, sampler: str) -> None:
    """The same command afterwards ends in the same folder with the same files as one that was never killed."""

    def world(name: str) -> tuple[Config, Path]:
        folder = tmp_path / name
        if sampler == "heun":
            finish(config_of(folder))
        return config_of(folder, sampler), folder

    def names(folder: Path) -> list[str]:
        found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        return [name for name in found if not name.split("/")[-1].startswith(".lock.")]  # drafts of locks may stay

    config, folder = world("whole")
    finish(config)
    expected, kills = names(folder), 0
    while True:
        config, folder = world(f"killed-{kills}")
        if not killed(config, kills):
            break
        assert finish(config) == Names.of(config, "pixels").home()
        assert state(Names.of(config, "pixels").home()) == ("ok", "")
        assert names(folder) == expected, f"after {kills} operations"
        kills += 1
    assert kills > 10
