"""Whole configurations against the sources they name; nothing that is validated may be imported."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest

from diffexp.core.errors import ConfigError
from diffexp.launch.command import normalise
from diffexp.launch.compose import compose_jobs
from diffexp.launch.layout import Layout
from diffexp.launch.schema import check_hydra, check_targets, validate


@pytest.fixture
def config(layout: Layout) -> dict[str, Any]:
    (job,) = compose_jobs([normalise(["experiment=vp_one"], layout)], layout)
    return job.config


def _put(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of `config` with one value replaced (`<gone>` removes the key)."""
    changed = copy.deepcopy(config)
    node = changed
    *parents, last = path.split(".")
    for part in parents:
        node = node[part]
    if value == "<gone>":
        del node[last]
    else:
        node[last] = value
    return changed


def test_the_shipped_tree_of_the_tests_is_valid(config: dict[str, Any], layout: Layout) -> None:
    validate(config, layout)
    assert "diffexp.network.toy" not in sys.modules  # and it would have raised


CASES = [
    ("training.max_steps", "abc", "training.max_steps=abc: expected int, got 'abc'"),
    ("training.clip", "x", "training.clip=x: expected float or null, got 'x'"),
    ("training.max_stepz", 3, "training.max_stepz: Training has no argument 'max_stepz'; did you mean 'max_steps'?"),
    ("training.max_steps", "<gone>", "training.max_steps: Training needs it"),
    ("training.max_steps", "???", "training.max_steps: no value given; add training.max_steps=..."),
    ("network.width", "<gone>", "network.width: Network needs it"),
    ("network.law", "lgo", "network.law=lgo: expected one of 'uniform', 'log', got 'lgo'; did you mean 'log'?"),
    ("network.hidden", 3, "network.hidden: Network has no argument 'hidden'"),
    ("network.depths", [1, 2.5], "network.depths[1]=2.5: expected int"),
    ("sampler.stepper.order", "two", "sampler.stepper.order=two: expected int"),
    ("sampler.stepper.ordre", 2, "did you mean 'order'?"),
    ("sampler.stepper", "heun", "sampler.stepper=heun: expected a node with _target_ (a Stepper)"),
    ("sampler.stepper._target_", "diffexp.network.toy.Huen", "diffexp.network.toy has no 'Huen'; did you mean 'Heun'?"),
    ("sampler.stepper._target_", "diffexp.toi.Heun", "diffexp has no 'toi'; choose from"),
    ("evaluation.arms.ddim.nfe", [5, "x"], "evaluation.arms.ddim.nfe[1]=x: expected int"),
    ("evaluation.arms.ddim.nfe", "five", "evaluation.arms.ddim.nfe=five: expected int or one of 'searched'"),
    ("evaluation.arms.ddim.clip", 1, "evaluation.arms.ddim.clip=1: expected bool"),
    ("evaluation.arms.ddim.nfes", [5], "evaluation.arms.ddim.nfes: Sampler has no argument 'nfes'"),
    ("evaluation.only", 3, "evaluation.only=3: expected str or null"),
    ("sampler.nfe", [5], "sampler.nfe: Sampler has no argument 'nfe'"),
    ("trainin", {}, "trainin: unknown key at the top level; did you mean 'training'?"),
    ("training._target_", "<gone>", "training: no _target_"),
    ("task", "trian", "task=trian: did you mean 'train'?"),
    ("seed", -1, "seed=-1: expected an int, 0 or larger"),
    ("seed", True, "seed=true: expected an int"),
    ("seed", 1.0, "seed=1.0: expected an int"),
    ("ckpt", 3, "ckpt=3: expected str or null"),
    ("runs", None, "runs=null: expected str"),
    ("training._target_", "os.system", "training._target_=os.system: not in an allowed package"),
    ("paper.hook", {"_target_": "subprocess.run"}, "paper.hook._target_=subprocess.run: not in an allowed package"),
    ("network.depths", [{"_target_": "builtins.eval"}], "network.depths[0]._target_=builtins.eval: not in an allowed"),
    ("training._target_", "diffexp", "training._target_=diffexp: not in an allowed package"),
    ("training._target_", "diffexpert.Evil", "not in an allowed package"),
    ("training._target_", "diffexp.network.toy.nn.Linear", "which is not in an allowed package"),
    ("training._target_", "diffexp.network.toy.Law", "diffexp.network.toy, which is not a class"),
    ("training._target_", "diffexp.network.toy.Heun.__init__", "toy.Heun.__init__: is not a class"),
    ("training._target_", "diffexp.core.files.write_text_atomic", "write_text_atomic: is not a class"),
    ("training._target_", "diffexp.core.files.os.mkdir", "diffexp.core.files.os.mkdir: "),
    ("training._target_", "diffexp.core.files.Path", "which is not in an allowed package"),
    ("training._target_", "diffexp.tasks.build.torch.hub.load", "leads to torch.hub.load, which is not in an allowed"),
    ("training._target_", "diffexp.launch.folder.RunFolder", "is not for configurations: a class of diffexp.{process,"),
    ("network", {"_target_": "lightning.pytorch.cli.LightningCLI"}, "is not for configurations: it builds whatever"),
    ("network", {"_target_": "torch.optim.swa_utils.get_ema_avg_fn"}, "get_ema_avg_fn: is not a class"),
    ("training.max_steps", "${oc.create:{_target_:os.mkdir}}", "an interpolation that is left over"),
    ("network.depths", ["${seed}"], "network.depths[0]=${seed}: an interpolation that is left over"),
    ("training._target_", 3, "training._target_=3: not in an allowed package"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), CASES)
def test_refusals(path: str, value: Any, message: str, config: dict[str, Any], layout: Layout) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(_put(config, path, value), layout)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training.lr", 1),
        ("training.clip", 0.5),
        ("evaluation.arms", {}),
        ("paper", {"free": ["form", {"a": None}, "in TeX: ${x}$"]}),
        ("ckpt", "latest:vp_one"),
        ("network", {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.1, "betas": [0.9, 0.99]}),
        ("network", {"_target_": "torchmetrics.MeanMetric"}),
    ],
)
def test_accepted(path: str, value: Any, config: dict[str, Any], layout: Layout) -> None:
    validate(_put(config, path, value), layout)


def test_a_planted_module_is_neither_imported_nor_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], layout: Layout
) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "planted.py").write_text(f"open({str(marker)!r}, 'w')\nclass A: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="planted"):
        validate(_put(config, "training._target_", "planted.A"), layout)
    assert not marker.exists()
    assert "planted" not in sys.modules


def test_targets_in_frozen_configs_and_in_hydras_own_node() -> None:
    check_targets({"a": [{"_target_": "torch.optim.Adam"}], "b": 1})
    check_hydra({"launcher": {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}})
    with pytest.raises(ConfigError, match=r"hydra.callbacks.x._target_=os.system"):
        check_hydra({"callbacks": {"x": {"_target_": "os.system"}}})
