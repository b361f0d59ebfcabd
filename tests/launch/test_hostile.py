"""Checkpoints and run folders from strangers: their configuration builds our classes and runs nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import diffexp
from diffexp.__main__ import main
from diffexp.checkpoint.file import save
from diffexp.core.errors import ConfigError
from diffexp.launch.command import normalise
from diffexp.launch.compose import compose_jobs
from diffexp.launch.folder import load_frozen
from diffexp.launch.layout import read_layout
from diffexp.tasks.build import build, initialised_network

WORDS = ["experiment=gddim_vp", "scale=quick", "network.channels=8", "network.multipliers=[1,2]"]
Forge = Callable[[dict[str, Any]], Path]


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    """What a training would save, untrained; `config` is still a dictionary."""
    layout = read_layout()
    (job,) = compose_jobs([normalise(WORDS, layout)], layout)
    parts = build(job.config)
    weights = {f"network.{name}": value for name, value in initialised_network(parts, 0).state_dict().items()}
    ema = {"profiles": {"half": {}}}
    return {"config": job.config, "data": asdict(parts.data), "state_dict": weights, "ema": ema, "global_step": 1}


@pytest.fixture
def forge(state: dict[str, Any], room: Path) -> Forge:
    """Writes a checkpoint with some groups of its configuration replaced."""

    def write(changes: dict[str, Any]) -> Path:
        path = room / "weights.ckpt"
        save(path, {**state, "config": yaml.safe_dump({**state["config"], **changes})})
        return path

    return write


def test_an_honest_checkpoint_loads(forge: Forge) -> None:
    images = diffexp.load(forge({})).sample(4, 3)
    assert images.shape == (4, 1, 8, 8)
    assert torch.isfinite(images).all()


NODES = [
    {"_target_": "diffexp.tasks.build.torch.hub.load", "repo_or_dir": ".", "model": "m", "source": "local"},
    {"_target_": "os.system", "command": "touch ran"},
    {"_target_": "diffexp.core.files.os.mkdir", "path": "ran"},
    {"_target_": "diffexp.core.files.write_text_atomic", "path": "ran", "text": "x"},
    {"_target_": "diffexp.launch.lock.Lock", "path": "ran"},
    {"_target_": "diffexp.process.vp.VP", "beta_min": {"_target_": "diffexp.core.files.os.mkdir", "path": "ran"}},
    {"_target_": "diffexp.process.vp.VP", "beta_min": "${oc.create:{_target_:os.mkdir,path:ran}}"},
    {"beta_min": ["${oc.create:{_target_:os.mkdir,path:ran}}"]},
]


@pytest.mark.parametrize("node", NODES)
def test_a_hostile_one_is_refused_and_runs_nothing(node: dict[str, Any], forge: Forge, room: Path) -> None:
    (room / "hubconf.py").write_text("def m():\n    open('ran', 'w').close()\n")
    path = forge({"process": node})
    before = sorted(room.iterdir())
    with pytest.raises(ConfigError, match=r"^process\.\S+=") as caught:
        diffexp.load(path)
    assert "\n" not in str(caught.value)
    assert sorted(room.iterdir()) == before


def test_a_hostile_run_folder_is_refused(room: Path) -> None:
    (room / "config.yaml").write_text(yaml.safe_dump({"recipe": "gddim_vp", "process": NODES[1]}))
    with pytest.raises(ConfigError, match=r"config.yaml: process._target_=os.system: "):
        load_frozen(room)


def test_a_hostile_export_is_refused(forge: Forge, room: Path, evil: Path) -> None:
    """Whoever changes the configuration of an export can also change the hash in the weights' metadata."""
    honest = diffexp.load(forge({}))
    for node, message in (({"_target_": "os.system", "command": "touch ran"}, "os.system"), (EVIL, "evil.Evil")):
        network = {**honest.config, "network": node, "plugins": ["evil"]}
        replace(honest, config=network).export(room / "shared")
        with pytest.raises(ConfigError, match=rf"^network._target_={message}: not in an allowed package"):
            diffexp.load(room / "shared")
    assert not evil.exists()
    assert not (room / "ran").exists()


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists once the importable package `evil` has run; nobody names that package."""
    marker, folder = tmp_path / "evil_ran", tmp_path / "site"
    folder.mkdir()
    act = f"open({str(marker)!r}, 'w').close()"
    (folder / "evil.py").write_text(f"{act}\nclass Evil:\n    def __init__(self) -> None:\n        {act}\n")
    monkeypatch.syspath_prepend(folder)
    return marker


EVIL = {"_target_": "evil.Evil"}


def test_a_checkpoint_cannot_permit_its_own_plugin(forge: Forge, evil: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFEXP_RANK_PLUGINS", "evil")  # is for ranks that a parent of ours starts
    path = forge({"plugins": ["evil"], "network": EVIL})
    with pytest.raises(ConfigError, match=r"if 'evil' is a plugin that you trust, name it: plugins=\[evil\]"):
        diffexp.load(path)
    assert not evil.exists()
    assert "evil" not in sys.modules


RECIPES = {
    "system": "process: {_target_: os.system, command: touch ran}\n",
    "plugin": "plugins: [evil]\nnetwork: {_target_: evil.Evil}\n",
    "target": "network: {_target_: evil.Evil}\n",
    "sweep": "hydra: {sweeper: {params: {++plugins: '[evil]'}}}\nnetwork: {_target_: evil.Evil}\n",
    "data": "paper: {hook: {_target_: evil.Evil}}\n",
}
REFUSALS = [
    ("system", "process._target_=os.system: not in an allowed package"),
    ("plugin", "not in an allowed package"),
    ("target", "if 'evil' is a plugin that you trust, name it: plugins=[evil]"),
    ("sweep", "not in an allowed package"),
    ("data", "paper.hook._target_=evil.Evil: not in an allowed package"),
]


@pytest.mark.parametrize(("recipe", "message"), REFUSALS)
@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1"]])
def test_a_hostile_recipe_is_refused(
    recipe: str, message: str, sweep: list[str], room: Path, evil: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("DIFFEXP_RANK_PLUGINS", "evil")
    _planted(room, recipe)
    before = sorted(room.rglob("*"))
    assert main(["--config-dir", "mine", f"experiment={recipe}", "scale=quick", "task=check", *sweep]) == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1
    assert sorted(room.rglob("*")) == before
    assert not evil.exists()


@pytest.mark.parametrize(("recipe", "words"), [("named", []), ("sweep", ["-m", "seed=0,1"])])
def test_a_recipe_cannot_name_plugins(
    recipe: str, words: list[str], room: Path, evil: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Even one that names no class of it: what the job would be told differs from what the command says."""
    monkeypatch.setitem(RECIPES, "named", "plugins: [evil]\n")
    monkeypatch.setitem(RECIPES, "sweep", "hydra: {sweeper: {params: {++plugins: '[evil]'}}}\n")
    _planted(room, recipe)
    assert main(["--config-dir", "mine", f"experiment={recipe}", "scale=quick", "task=check", *words]) == 2
    assert "plugins=['evil']: a file has set this; only the command line may name plugins" in capsys.readouterr().err
    assert not evil.exists()


def _planted(room: Path, recipe: str) -> None:
    (room / "mine" / "experiment").mkdir(parents=True)
    (room / "mine" / "experiment" / f"{recipe}.yaml").write_text("# @package _global_\n" + RECIPES[recipe])


@pytest.mark.parametrize("node", [{"_target_": "os.system", "command": "touch ran"}, EVIL])
def test_a_hostile_run_folder_stops_a_command(node: dict[str, str], room: Path, evil: Path, capsys: Any) -> None:
    run = room / "runs" / "gddim_vp" / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"recipe": "gddim_vp", "plugins": ["evil"], "network": node}))
    (run / "checkpoints" / "step_00000001.ckpt").write_bytes(b"never read")
    assert main(["task=evaluate", "ckpt=latest:gddim_vp"]) == 2
    line = capsys.readouterr().err
    assert f"config.yaml: network._target_={node['_target_']}: not in an allowed package" in line
    assert line.count("\n") == 1
    assert not evil.exists()
    assert not (room / "ran").exists()


HYDRA = {
    "logging": "job_logging: {root: {level: INFO}, filters: {x: {(): shutil.copy, src: mine, dst: ran}}}",
    "sweep_logging": "hydra_logging: {root: {level: INFO}, filters: {x: {(): shutil.copy, src: mine, dst: ran}}}",
    "environment": "job: {env_set: {LD_PRELOAD: evil.so}}",
    "folder": "run: {dir: ran}",
    "launcher": "launcher: {_target_: evil.Evil}",
    "swept": "sweeper: {params: {hydra.job_logging.root.level: INFO}}",
}
NAMED = {
    "logging": "hydra.job_logging.", "sweep_logging": "hydra.hydra_logging.", "environment": "hydra.job.env_set.",
    "folder": "hydra.run.dir: ", "launcher": "hydra.launcher._target_", "swept": "hydra.sweeper.params: ",
}  # fmt: skip


@pytest.mark.parametrize("recipe", HYDRA)
def test_a_recipe_cannot_change_hydra(
    recipe: str, room: Path, evil: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Hydra's logging calls what it is told to before a job begins, and its environment is inherited by ranks."""
    monkeypatch.setitem(RECIPES, recipe, f"hydra:\n  {HYDRA[recipe]}\n")
    _planted(room, recipe)
    before = sorted(room.rglob("*"))
    sweep = ["-m", "seed=0,1"] if recipe in ("swept", "sweep_logging") else []
    assert main(["--config-dir", "mine", f"experiment={recipe}", "scale=quick", "task=check", *sweep]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"diffexp: {NAMED[recipe]}")
    assert line.count("\n") == 1
    assert sorted(room.rglob("*")) == before
    assert not evil.exists()


def test_a_recipe_may_say_what_to_sweep_over_and_the_command_line_may_change_hydra(room: Path, capsys: Any) -> None:
    RECIPES["swept"] = "defaults: [gddim_vp]\nhydra: {sweeper: {params: {seed: '3,4'}}}\n"
    _planted(room, "swept")
    words = ["--config-dir", "mine", "experiment=swept", "scale=quick", "task=check", "hydra.job.name=other"]
    assert main([*words, "-m"]) == 0
    assert capsys.readouterr().out.count("recipe     swept") == 2
