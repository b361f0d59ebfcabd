"""Composition: the same configuration for every order, sweeps expanded as Hydra does, refusals in one line."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diffexp.core.errors import ConfigError
from diffexp.launch.command import normalise
from diffexp.launch.compose import Job, compose_jobs, config_hash, expand, resolve
from diffexp.launch.layout import Layout, read_layout


def one(words: list[str], layout: Layout) -> Job:
    (job,) = compose_jobs(expand(normalise(words, layout), layout), layout)
    return job


def test_every_order_and_plus_form_composes_the_same(layout: Layout) -> None:
    words = ("experiment=vp_one", "scale=quick", "training.lr=0.5")
    expected = one(list(words), layout)
    assert expected.config["training"] == {"_target_": "diffexp.network.toy.Training", "max_steps": 20, "lr": 0.5}
    assert expected.config["network"]["width"] == 4
    signs = [("", ""), ("+", ""), ("", "+"), ("+", "+"), ("++", "+")]
    lines = [
        list(order)
        for first, second in signs
        for order in itertools.permutations((first + words[0], second + words[1], words[2]))
    ]
    hashes = {config_hash(one(line, layout).config) for line in lines}
    assert len(lines) == 30
    assert hashes == {config_hash(expected.config)}


def test_the_hash_tells_configurations_apart(layout: Layout) -> None:
    base = one(["experiment=vp_one"], layout).config
    other = one(["experiment=vp_one", "seed=1"], layout).config
    assert config_hash(base) != config_hash(other)
    assert config_hash(base, without=["seed"]) == config_hash(other, without=["seed"])
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 1.0})
    assert config_hash({"a": [1, 2]}) == "01530d164d479cf0"  # stays the same between releases: runs are named by it


def test_a_job_is_plain_and_resolved(layout: Layout) -> None:
    job = one(["experiment=vp_one", "sampler=heun"], layout)
    assert job.config["recipe"] == "vp_one"
    assert job.config["evaluation"]["only"] == "heun"
    assert job.config["evaluation"]["arms"]["ddim"]["nfe"] == [5, 20]
    assert job.choices["sampler"] == "heun"
    assert "hydra" not in job.config
    assert type(job.config["network"]["depths"]) is list


def test_a_user_choice_beats_recipe_and_scale(layout: Layout) -> None:
    assert one(["network=wide", "scale=quick"], layout).config["network"]["width"] == 64


def test_sweeps_are_expanded_in_hydras_order(layout: Layout) -> None:
    words = normalise(["experiment=vp_one,vp_two", "seed=range(0,3)", "sampler=heun"], layout)
    jobs = expand(words, layout, multirun=True)
    assert len(jobs) == 6
    assert [job[:2] for job in jobs[:4]] == [
        ["experiment=vp_one", "seed=0"],
        ["experiment=vp_one", "seed=1"],
        ["experiment=vp_one", "seed=2"],
        ["experiment=vp_two", "seed=0"],
    ]
    configs = [job.config for job in compose_jobs(jobs, layout)]
    assert [config["recipe"] for config in configs] == ["vp_one"] * 3 + ["vp_two"] * 3
    assert len({config_hash(config) for config in configs}) == 6
    assert {config["evaluation"]["only"] for config in configs} == {"heun"}


def test_a_named_sampler_follows_the_sweep(layout: Layout) -> None:
    jobs = compose_jobs(expand(normalise(["sampler=ddim,heun"], layout), layout, multirun=True), layout)
    assert [job.config["evaluation"]["only"] for job in jobs] == ["ddim", "heun"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.max_stepz=3"], "training.max_stepz: there is no key 'max_stepz' in training; did you mean 'max_s"),
        (["experiment=vp_one", "evaluation.arms.dim.nfe=[3]"], "no key 'dim' in evaluation.arms; did you mean 'ddim'?"),
        (["training.max_steps.x=3"], "'training.max_steps' is a single value"),
        (["~training.max_stepz"], "did you mean 'max_steps'?"),
        (["sampler=dim"], "sampler=dim: there is no such sampler; did you mean 'ddim'?"),
        (["experiment=vp_ont"], "there is no such experiment; did you mean 'vp_one'?"),
        (["experiment=zzz"], "choose from: vp_one, vp_two"),
        (["sampler=3"], "sampler=3: a choice is needed; choose from: ddim, heun"),
        (["sampler=null"], "a choice is needed"),
        (["seed=1,2"], "seed=1,2: several values: add -m to run them all"),
        (["seed=[1"], "cannot be read"),
        (["seed=${nope}"], "seed: Interpolation key 'nope' not found"),
    ],
)  # fmt: skip
def test_refusals_name_the_nearest(words: list[str], message: str, layout: Layout) -> None:
    with pytest.raises(ConfigError) as caught:
        one(words, layout)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_names_a_missing_choice_is_named(conf: Path) -> None:
    (conf / "experiment" / "bad.yaml").write_text("# @package _global_\ndefaults:\n  - override /sampler: henu\n")
    with pytest.raises(ConfigError, match=r"sampler=henu: there is no such sampler.*did you mean 'heun'\?"):
        one(["experiment=bad"], read_layout(conf))


def test_broken_yaml_is_one_line(conf: Path) -> None:
    (conf / "experiment" / "bad.yaml").write_text("# @package _global_\nseed: [1\n")
    with pytest.raises(ConfigError) as caught:
        one(["experiment=bad"], read_layout(conf))
    assert "bad.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_values_survive_resolution() -> None:
    config = OmegaConf.create({"a": {"b": "???"}, "c": "${d}", "d": 4})
    assert resolve(config) == {"a": {"b": "???"}, "c": 4, "d": 4}
