"""The real conf tree through the real entry, in fresh processes: refusals, no torch, and what the start costs."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffexp.core.errors import ConfigError
from diffexp.launch.command import normalise
from diffexp.launch.compose import compose_jobs, config_hash, expand
from diffexp.launch.layout import GLOBAL_GROUPS, read_layout, read_yaml
from diffexp.launch.schema import validate

LAYOUT = read_layout()
RECIPES = LAYOUT.choices["experiment"]
SCALES = LAYOUT.choices["scale"]

_GIVEN = {  # for the keys that a choice leaves to the user
    "path": "x", "target": "x", "source": "y", "resolution": "8", "dataset": "d", "split": "train", "n": "9",
    "extractor": "e", "resize": "r",
}  # fmt: skip

_DRIVER = """
import sys
from diffexp.__main__ import main
code = main(sys.argv[1:])
heavy = sorted({"torch", "lightning", "numpy", "pandas", "scipy", "matplotlib"} & set(sys.modules))
if heavy: print("HEAVY", *heavy)
sys.exit(code)
"""


def _run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _DRIVER, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(("recipe", "scale"), list(itertools.product(RECIPES, SCALES)))
def test_every_recipe_is_valid_at_every_scale(recipe: str, scale: str) -> None:
    (job,) = compose_jobs([[f"experiment={recipe}", f"scale={scale}"]], LAYOUT)
    validate(job.config, LAYOUT)
    assert job.config["recipe"] == recipe
    assert job.config["paper"]["title"]


GROUPS = [group for group in LAYOUT.choices if group not in GLOBAL_GROUPS]


def _turns(groups: list[str]) -> list[dict[str, str]]:
    """Choices of all these groups at a time, until each choice has had its turn."""
    choices = {group: LAYOUT.choices[group] for group in groups}
    return [
        {group: names[turn % len(names)] for group, names in choices.items()}
        for turn in range(max(map(len, choices.values())))
    ]


def _rounds() -> list[dict[str, str]]:
    """All choices. A family only chooses other groups' files, so that it comes alone, and so do inner groups."""
    outer = [group for group in GROUPS if "/" not in group and group != "family"]
    inner: dict[tuple[str, str], list[str]] = {}  # those that one choice has come together
    for group in GROUPS:
        if "/" in group:
            inner.setdefault(_around(group), []).append(group)
    rounds = _turns(outer) + _turns(["family"])
    return rounds + [{name: choice, **turn} for (name, choice), groups in inner.items() for turn in _turns(groups)]


def _around(group: str) -> tuple[str, str]:
    """The choice of the outer group that has this inner one: its default, or the first that does."""
    outer, _, name = group.rpartition("/")

    def has(choice: str) -> bool:
        listed = read_yaml(LAYOUT.folder / outer / f"{choice}.yaml").get("defaults", [])
        return any(name in entry for entry in listed if isinstance(entry, dict))

    return outer, next(filter(has, (LAYOUT.defaults[outer], *LAYOUT.choices[outer])))


def _given(group: str, choice: str) -> list[str]:
    """What a choice leaves to the user."""
    body = read_yaml(LAYOUT.folder / group / f"{choice}.yaml")
    return [f"{group.replace('/', '.')}.{key}={_GIVEN[key]}" for key, value in body.items() if value == "???"]


def _tunings(recipe: str) -> list[str]:
    return [name for name in LAYOUT.choices["tuning"] if name in {f"{recipe}_{scale}" for scale in SCALES}]


def _written(recipe: str) -> list[str]:
    """The groups into which a recipe, or what belongs to it at a scale, writes values of its own."""
    files = [f"experiment/{recipe}", *(f"tuning/{name}" for name in _tunings(recipe))]
    keys = dict.fromkeys(key for file in files for key in read_yaml(LAYOUT.folder / f"{file}.yaml"))
    return [group for group in GROUPS if group in keys]


def _refuse_nothing(base: list[str], rounds: list[dict[str, str]]) -> None:
    lines = []
    for chosen in rounds:
        words = [word for group, choice in chosen.items() for word in (f"{group}={choice}", *_given(group, choice))]
        lines.append(normalise([*base, *words], LAYOUT))
    for job, chosen in zip(compose_jobs(lines, LAYOUT), rounds, strict=True):
        validate(job.config, LAYOUT)
        assert {group: job.choices[group] for group in chosen} == chosen


def test_every_choice_of_every_group_is_valid() -> None:
    rounds = _rounds()
    assert {pair for chosen in rounds for pair in chosen.items()} == {
        (group, choice) for group in GROUPS for choice in LAYOUT.choices[group]
    }
    _refuse_nothing([], rounds)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_recipe_writes_into_a_group_suits_its_every_choice(recipe: str) -> None:
    """Else nobody could replace the group; a scale writes into more of them."""
    written = _written(recipe)
    _refuse_nothing([f"experiment={recipe}"], _turns(written) if written else [{}])


@pytest.mark.parametrize("family", ["gddim_vp", "ddbm_e2h", "ddbm_imagenet"])
def test_what_quick_writes_into_a_group_suits_its_every_choice(family: str) -> None:
    keys = read_yaml(LAYOUT.folder / "scale" / "quick.yaml")
    _refuse_nothing([f"experiment={family}", "scale=quick"], _turns([group for group in GROUPS if group in keys]))


def test_hydra_makes_no_folders_and_no_logs() -> None:
    (job,) = compose_jobs([["scale=quick"]], LAYOUT)
    assert job.hydra["run"]["dir"] == "."
    assert job.hydra["output_subdir"] is None
    for name in ("job_logging", "hydra_logging"):
        assert not job.hydra[name].get("handlers")
        assert job.hydra[name]["disable_existing_loggers"] is False  # Lightning's warnings stay


@pytest.mark.parametrize("recipe", ["gddim_vp", "cdbm_e2h"])
def test_every_order_and_plus_form_is_the_same_run(recipe: str) -> None:
    words = (f"experiment={recipe}", "scale=quick", "seed=1")
    orders = list(itertools.permutations(enumerate(words)))
    plain = [normalise([word for _, word in order], LAYOUT) for order in orders]
    plus = [normalise([f"+{word}" if place < 2 else word for place, word in order], LAYOUT) for order in orders]
    assert plus == plain
    jobs = [job for line in plain for job in compose_jobs(expand(line, LAYOUT), LAYOUT)]
    assert len(jobs) == 6
    assert len({config_hash(job.config) for job in jobs}) == 1
    (paper,) = compose_jobs([[f"experiment={recipe}", "seed=1"]], LAYOUT)
    assert jobs[0].config["training"]["max_steps"] < paper.config["training"]["max_steps"]


MUST_SHOW = [
    (["training.max_stepz=3"], "did you mean 'max_steps'?"),
    (["sampler=dim"], "did you mean 'ddim'?"),
    (["+experimnt=gddim_vp"], "did you mean 'experiment'?"),
    (["training.max_steps=abc"], "training.max_steps=abc: expected int, got 'abc'"),
    (["ckpt=latest:nothing"], "ckpt=latest:nothing: no run of 'nothing'"),
    (["ckpt=nothing.ckpt"], "ckpt=nothing.ckpt: no such file or folder"),
    (["sampler.stepper._target_=os.system"], "sampler.stepper._target_=os.system"),
    (["dataset=image_folder"], "dataset.path: no value given; add dataset.path=..."),
    (["-m", "seed=0,1,x"], "seed=x: expected an int, 0 or larger"),
    (["--unknown"], "unknown flag '--unknown'"),
]


@pytest.mark.parametrize(("words", "message"), MUST_SHOW)
def test_refusals_are_one_line_without_torch_and_without_traces(words: list[str], message: str, tmp_path: Path) -> None:
    recipe = [] if words[0].startswith("+experimnt") else ["experiment=gddim_vp"]
    done = _run(*recipe, "+scale=quick", *words, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""  # nor "HEAVY"
    assert os.listdir(tmp_path) == []


def test_a_command_without_recipe_lists_them(tmp_path: Path) -> None:
    done = _run("scale=quick", folder=tmp_path)
    assert done.returncode == 2
    assert all(recipe in done.stderr for recipe in RECIPES)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("words", [["--help"], [], ["experiment=gddim_vp", "--cfg", "job", "--resolve"], ["--version"]])
def test_answers_do_not_import_anything_heavy(words: list[str], tmp_path: Path) -> None:
    done = _run(*words, folder=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "HEAVY" not in done.stdout
    assert os.listdir(tmp_path) == []


@pytest.mark.alone
@pytest.mark.slow
def test_the_start_costs_a_third_of_importing_lightning(tmp_path: Path) -> None:
    entry = [sys.executable, "-m", "diffexp"]
    commands = {
        "lightning": [sys.executable, "-c", "import lightning"],
        "help": [*entry, "--help"],
        "cfg": [*entry, "experiment=gddim_vp", "scale=quick", "--cfg", "job"],
        "key": [*entry, "experiment=gddim_vp", "training.max_stepz=3"],
        "type": [*entry, "experiment=gddim_vp", "training.max_steps=abc"],
    }
    best = dict.fromkeys(commands, float("inf"))
    for turn in range(4):  # interleaved, so that a busy machine slows all of them; more often when it is very busy
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
            best[name] = min(best[name], time.perf_counter() - started)
        ratios = {name: seconds / best["lightning"] for name, seconds in best.items() if name != "lightning"}
        if turn > 0 and max(ratios.values()) <= 0.35:
            break
    assert max(ratios.values()) <= 0.35, ratios


def test_a_recipe_says_what_it_needs_besides_at_a_scale() -> None:
    """The file tuning/<recipe>_<scale> counts where there is one, in any order of the words, and can be left out."""

    def told(*words: str) -> tuple[object, object]:
        (job,) = compose_jobs([[*words]], LAYOUT)
        return job.config["prediction"]["mixed"], job.config["evaluation"]["n"]

    assert told("experiment=gddim_bdm", "scale=quick") == told("scale=quick", "experiment=gddim_bdm") == (True, 400)
    assert told("experiment=gddim_bdm") == (False, 50000)
    assert told("experiment=gddim_cld", "scale=quick") == ("normal", 512)
    assert told("experiment=gddim_cld", "scale=quick", "tuning=none") == (None, 768)
    assert told("experiment=gddim_vp", "scale=quick") == (False, 768)
    (job,) = compose_jobs([["experiment=gddim_bdm", "scale=quick", "tuning=none", "prediction=v"]], LAYOUT)
    assert job.config["prediction"]["_target_"] == "diffexp.prediction.head.V"
    with pytest.raises(ConfigError, match="tuning=gddim_bdm_quik: there is no such tuning; did you mean 'gddim_bdm_qu"):
        expand(["experiment=gddim_bdm", "tuning=gddim_bdm_quik"], LAYOUT)
