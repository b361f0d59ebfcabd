"""Command lines taken apart and normalised."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffexp.core.errors import ConfigError
from diffexp.launch import manual
from diffexp.launch.command import TASKS, normalise, parse, refuse_idle_sampler
from diffexp.launch.compose import compose_jobs
from diffexp.launch.layout import Layout, read_layout

FORMS = [
    ("experiment=vp_one", "experiment=vp_one"),
    ("+experiment=vp_one", "experiment=vp_one"),
    ("++experiment=vp_one", "experiment=vp_one"),
    ("+scale=quick", "scale=quick"),
    ("+seed=3", "seed=3"),
    ("training.max_steps=5", "training.max_steps=5"),
    ("+training.max_steps=5", "++training.max_steps=5"),
    ("~evaluation.arms", "~evaluation.arms"),
    ("+sampler@evaluation.arms.heun=heun", "+sampler@evaluation.arms.heun=heun"),
    ("hydra.verbose=true", "hydra.verbose=true"),
    ("ckpt=runs/a=b/step=3.ckpt", "ckpt=runs/a=b/step=3.ckpt"),
]


@pytest.mark.parametrize(("word", "normal"), FORMS)
def test_one_form_for_every_way_of_writing(word: str, normal: str, layout: Layout) -> None:
    assert normalise([word], layout) == [normal]


def test_a_group_outside_the_defaults_list_keeps_one_plus(conf: Path) -> None:
    (conf / "logger").mkdir()
    (conf / "logger" / "csv.yaml").write_text("a: 1\n")
    layout = read_layout(conf)
    assert normalise(["+logger=csv"], layout) == normalise(["++logger=csv"], layout) == ["+logger=csv"]


@pytest.mark.parametrize("word", ["sampler=heun", "+sampler=heun", "sampler=ddim,heun"])
def test_a_named_sampler_is_evaluated_alone(word: str, layout: Layout) -> None:
    assert normalise([word], layout) == [word.lstrip("+"), "++evaluation.only=${sampler.name}"]


@pytest.mark.parametrize("word", ["sampler.clip=true", "sampler.stepper.order=1", "~sampler.clip"])
def test_a_changed_sampler_is_evaluated_alone(word: str, layout: Layout) -> None:
    assert normalise([word], layout) == [word, "++evaluation.only=${sampler.name}"]
    assert normalise([word, "evaluation.only=ddim"], layout) == [word, "evaluation.only=ddim"]


@pytest.mark.parametrize("word", ["~sampler", "evaluation.arms.ddim.clip=true", "training.clip=1.0"])
def test_other_words_leave_the_arms(word: str, layout: Layout) -> None:
    assert normalise([word], layout) == [word]


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["sampler.clip=true"], None),
        (["sampler=heun"], None),
        (["sampler=heun", "evaluation.only=heun"], None),
        (["evaluation.only=ddim"], None),
        (["sampler.clip=true", "evaluation.only=heun"], "sampler.clip=true: has no effect beside evaluation.only=heun"),
        (["+sampler.clip=true", "evaluation.only=null"], "has no effect beside evaluation.only=null"),
        (["sampler=heun", "evaluation.only=ddim"], "leave evaluation.only out to evaluate this heun alone"),
    ],
)
def test_a_sampler_that_is_not_evaluated_is_refused(words: list[str], refused: str | None, layout: Layout) -> None:
    (job,) = compose_jobs([normalise(["experiment=vp_one", *words], layout)], layout)
    if refused is None:
        refuse_idle_sampler(job.overrides, job.config)
        return
    with pytest.raises(ConfigError) as caught:
        refuse_idle_sampler(job.overrides, job.config)
    assert refused in str(caught.value)


def test_evaluation_only_is_not_overruled(layout: Layout) -> None:
    words = ["sampler=heun", "evaluation.only=ddim"]
    assert normalise(words, layout) == words
    assert normalise(["+sampler@evaluation.arms.heun=heun"], layout) == ["+sampler@evaluation.arms.heun=heun"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+experimnt=vp_one"], "unknown group or key 'experimnt' in '+experimnt=vp_one': did you mean 'experiment'?"),
        (["trainin.max_steps=3"], "unknown group or key 'trainin.max_steps'"),
        (["sede=3"], "did you mean 'seed'?"),
        (["vp_one"], "did you mean 'experiment=vp_one'?"),
        (["train"], "did you mean 'task=train'?"),
        (["nonsense"], "write group=choice or key=value"),
        (["scale=quick", "+scale=paper"], "scale is named twice"),
    ],
)
def test_refused_words(words: list[str], message: str, layout: Layout) -> None:
    with pytest.raises(ConfigError) as caught:
        normalise(words, layout)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flags_are_separated_from_overrides() -> None:
    command = parse(["seed=1", "-m", "--config-dir", "/a b", "scale=quick"])
    assert command.words == ("seed=1", "scale=quick")
    assert command.multirun
    assert command.config_dir == Path("/a b")
    assert command.argv() == ["--multirun", "seed=1", "scale=quick"]
    assert parse(["-c", "job", "--resolve"]).flags == {"--cfg": "job", "--resolve": ""}
    assert parse(["--cfg=all"]).flags == {"--cfg": "all"}
    assert parse(["--info", "seed=1"]).flags == {"--info": "all"}
    assert parse(["--info", "searchpath"]).words == ()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--multirn"], "unknown flag '--multirn': did you mean '--multirun'?"),
        (["--config-name", "x"], "unknown flag '--config-name'"),
        (["--experimental-rerun", "x"], "unknown flag '--experimental-rerun'"),  # it would load a pickle
        (["--cfg", "jbo"], "did you mean 'job'?"),
        (["--cfg"], "--cfg="),
        (["--config-dir"], "a value is needed"),
        (["--resolve"], "belongs to --cfg"),
        (["-m", "--cfg", "job"], "exclude each other"),
        (["--help=yes"], "takes no value"),
    ],
)
def test_refused_flags(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(argv)
    assert message in str(caught.value)


def test_a_config_folder_of_ones_own(conf: Path, tmp_path: Path) -> None:
    extra = tmp_path / "my conf"
    (extra / "experiment").mkdir(parents=True)
    (extra / "experiment" / "mine.yaml").write_text("# @package _global_\n# Mine.\nseed: 7\n")
    layout = read_layout(conf, [extra])
    assert layout.choices["experiment"] == ("mine", "vp_one", "vp_two")
    assert normalise(["experiment=mine"], layout)[-1] == f'hydra.searchpath=["file://{extra}"]'
    with pytest.raises(ConfigError, match="no such folder"):
        read_layout(conf, [tmp_path / "nowhere"])


def test_the_manual_explains_every_task() -> None:
    assert tuple(manual._TASKS) == TASKS
