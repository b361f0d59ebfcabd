"""Every choice of every group with one recipe, those to come too: it works, or is refused for a reason stated here.

That each is valid by its constructor's signature is tested in tests/launch/test_shipped.py; here its objects work
together: a loss, one optimiser step, averages, and a sampling.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffexp.core.errors import ConfigError
from diffexp.launch.command import normalise
from diffexp.launch.compose import compose_jobs
from diffexp.launch.layout import GLOBAL_GROUPS, read_layout
from diffexp.tasks.build import Parts, build, initialised_network, make, make_logger
from diffexp.tasks.evaluate import plan_evaluation
from diffexp.training.ema import EMA
from tests.e2e.standin import compose, loss_of, sample, untrained_vgg

LAYOUT = read_layout()
SMALL = ("experiment=gddim_vp", "scale=quick", "network.channels=8", "network.multipliers=[1,2]")
FULL = ("experiment=gddim_vp",)  # networks are tested at their own size, on the published images
GROUPS = [group for group in LAYOUT.choices if group not in GLOBAL_GROUPS]
CHOICES = [(group, choice) for group in GROUPS for choice in LAYOUT.choices[group]]
OWN = compose_jobs([normalise(SMALL, LAYOUT)], LAYOUT)[0].choices
OTHER = [(group, choice) for group, choice in CHOICES if group == "network" or OWN.get(group) != choice]
BUDGETLESS = ("no budgets; add e.g. evaluation.nfe=[10,20]", ["evaluation.nfe=[4,5]"])  # none of the recipe's arms
ARMS = ("ddim", "ddpm", "heun")
LANGEVIN = "of a Langevin process needs a velocity, unlike vp: use eps"
TABLE = "prediction.time=999t: process {} counts its times: use index"

JUMPS = ["prediction=consistency", "prediction@prediction.head=eps", "prediction.t_min=0.01", "objective=distilled"]
JUMPS += ["sampler=consistency", "grid.t_end=0.01", "evaluation.nfe=[2]"]
STUDENT = "trains no eps but a consistency function: add prediction=consistency"

SCHEDULED = ["objective=distilled", "distillation.tau=100"]

BRIDGE = {
    "process": "bridge_vp", "prediction": "ddbm", "dataset": "digits_paired", "sampler": "dbim",
    "evaluation.only": "dbim", "evaluation.nfe": "[5]", "grid": "bridge", "grid.t_end": "null",
}  # fmt: skip
UNSHOWN = "prediction=eps: its network is not shown the end point of process {}"
NO_BRIDGE = "prediction={} needs a bridge, and vp is none"
BRIDGES = ("bridge_vp", "bridge_ve", "brownian", "i2sb", "i2sb_discrete")


def on_a_bridge(choice: str, **changes: str) -> list[str]:
    """The words that make a bridge of the recipe, but for the group of the choice itself; `only` names its sampler."""
    words = {**BRIDGE, **{key.replace("only", "evaluation.only"): value for key, value in changes.items()}}
    return [f"{key}={value}" for key, value in words.items() if key != choice.partition("=")[0]]


SOURCES = "takes no source images, which "
# networks that want classes
CLASSES = {"adm_imagenet256", "small_inpainting", "pd_imagenet64", "pd_imagenet64_student"}
DIVIDED = {"ddm_cifar10", "small_decoupled"}  # networks that want a prediction with an image and noise
TWO_HEADS = ["process=ddm_const", "prediction=ddm", "objective=plain"]
PAIRS = {  # data sets of pairs, and what they need besides
    "digits_paired": [], "digits_dense": [], "digits_inpainting": ["network.class_conditional=true"],
    "edges2handbags": [], "diode": [],
    "imagenet256_inpainting": ["network.class_conditional=true"],
}  # fmt: skip
FOLDERS = {"paired_folders": ["dataset.target=a", "dataset.source=b"], "side_by_side": ["dataset.path=a"]}
OF_PAIRS = [name for name in LAYOUT.choices["evaluation"] if name.endswith(("_paired", "_dense", "inpainting"))]
OF_PAIRS += ["edges2handbags", "diode"]

HEADS = "compares the heads of prediction=ddm, which eps does not have: use objective=plain"
DECOUPLED = ["prediction=ddm", "evaluation.only=ddim"]
SIGNALLESS = "prediction=eps: says nothing of the data at t = 1, where process {} has no signal"
ENLARGED = "objective.reconstruction.perceptual.enlarge=true"

SCHEDULES = Path(__file__).parents[1] / "sampler" / "schedules.json"
PUBLISHED = [name for name in LAYOUT.choices["grid"] if name.startswith(("bddm_", "fastdiff"))]
ON_LEVELS = ["grid.t_end=null", "evaluation.nfe_policy=below"]  # they end in clean data, and have few budgets

# What a choice cannot do alone with this recipe, and the words with which it can.
NEEDS: dict[str, tuple[str, list[str]]] = {
    "dataset=cifar10_augmented": ("network.augment_dim=null: 9 numbers tell how", ["network.augment_dim=9"]),
    **{
        f"dataset={name}": ("dataset.labels=true has no effect on this network", ["network.class_conditional=true"])
        for name in ("imagenet64", "imagenet64_npz")
    },
    "dataset=npz": ("dataset.path: no value given", ["dataset.path=pictures.npz", "dataset.resolution=8"]),
    "dataset=edm_zip": ("dataset.path: no value given", ["dataset.path=pictures.zip", "dataset.resolution=8"]),
    "dataset=image_folder": ("dataset.path: no value given", ["dataset.path=pictures", "dataset.resolution=8"]),
    "evaluation/statistics=npz": (
        "evaluation.statistics.path: no value given",
        [
            f"evaluation.statistics.{said}"
            for said in ("path=a.npz", "dataset=digits", "split=train", "n=9", "extractor=digits", "resize=none")
        ],
    ),
    "grid=explicit": ("grid.values=[]: name at least one", ["grid.values=[0.9,0.5]", "evaluation.nfe_policy=below"]),
    "grid=file": ("grid.path=null: name a file of schedules", [f"grid.path={SCHEDULES}", *ON_LEVELS]),
    **{f"grid={name}": (f"steps of grid {name}", ON_LEVELS) for name in PUBLISHED},
    "grid=karras": ("grid.sigma_min=0.002: must be above 0.010486", ["grid.t_end=1.0e-5"]),
    "grid=stride": (
        "process vp has no table: use process=ddpm or grid=uniform",
        ["process=ddpm", "prediction.time=index", "grid.t_end=null"],
    ),
    **{f"distillation={name}": (STUDENT, JUMPS) for name in ("cbd", "cbt")},
    **{
        f"{group}={choice}": (f"Could not override '{group}'", ["distillation=cbt", *JUMPS])
        for group in ("distillation/schedule", "distillation/metric")
        for choice in LAYOUT.choices[group]
    },
    "distillation=bilateral": ("its loss takes the objective's place", SCHEDULED),
    **{
        f"distillation/schedule_network={name}": (
            "Could not override 'distillation/schedule_network'",
            ["distillation=bilateral", *SCHEDULED],
        )
        for name in LAYOUT.choices["distillation/schedule_network"]
    },
    "objective=distilled": ("the loss comes from a distillation", ["distillation=cbt", *JUMPS]),
    "objective=ddm_v1": (HEADS, [*DECOUPLED, "process=ddm_linear"]),
    "objective=ddm_v2": (HEADS, [*DECOUPLED, "process=ddm_const_t"]),
    "objective=ddm_v1_lpips": (HEADS, [*DECOUPLED, "process=ddm_const", ENLARGED]),
    "objective=ddm_v2_lpips": (HEADS, [*DECOUPLED, "process=ddm_const_t", ENLARGED]),
    "prediction=consistency": ("prediction=ddbm needs a bridge", ["distillation=cbt", *JUMPS]),
    "prediction=consistency_i2sb": (
        "prediction=i2sb needs a bridge",
        ["distillation=cbt", *JUMPS[1:]],
    ),
    "prediction=consistency_edm": (
        "the loss comes from a distillation",
        ["distillation=cbt", *JUMPS[3:]],
    ),
    "objective/times=discrete": ("process vp has no table: give a number", ["objective.times.num_times=4"]),
    "prediction=eps_cld": (LANGEVIN, ["process=cld"]),
    "prediction=eps_index": ("process vp has no table", ["process=ddpm", "grid.t_end=null"]),
    "prediction=velocity": (  # gives the score alone, which DDIM and DDPM cannot use
        LANGEVIN,
        ["process=cld", "sampler=sscs", "evaluation.only=sscs", "evaluation.nfe=[4]"],
    ),
    "process=ddpm": (TABLE.format("ddpm"), ["prediction.time=index"]),
    "process=iddpm": (TABLE.format("iddpm"), ["prediction.time=index"]),
    **{f"sampler={name}": BUDGETLESS for name in LAYOUT.choices["sampler"] if name not in (*ARMS, "rk45")},
    "sampler=consistency": (BUDGETLESS[0], ["distillation=cbt", *JUMPS]),
    "sampler=rk4": (BUDGETLESS[0], ["evaluation.nfe=[4,8]"]),
    "grid=bridge": ("grid bridge is for bridges, and process vp is none", on_a_bridge("grid=bridge")),
    "grid=bridge_karras": (
        "grid bridge_karras is for bridges, and process vp is none",
        on_a_bridge("grid=bridge_karras", sampler="ddbm_heun", only="ddbm_heun"),
    ),
    **{f"prediction={name}": (NO_BRIDGE.format(name), on_a_bridge(f"prediction={name}")) for name in ("ddbm", "i2sb")},
    **{f"process={name}": (UNSHOWN.format(name), on_a_bridge(f"process={name}")) for name in BRIDGES},
    **{f"dataset={name}": (SOURCES, [*on_a_bridge(f"dataset={name}"), *more]) for name, more in PAIRS.items()},
    **{
        f"dataset={name}": (f"{more[0].split('=')[0]}: no value given", [*on_a_bridge(f"dataset={name}"), *more])
        for name, more in FOLDERS.items()
    },
    **{f"evaluation={name}": ("holds no pairs", on_a_bridge(f"evaluation={name}")) for name in OF_PAIRS},
    "family=paired": (SOURCES, on_a_bridge("family=paired")),
    "family=dense": (SOURCES, on_a_bridge("family=dense", dataset="digits_dense")),
    "family=inpainting": (SOURCES, on_a_bridge("family=inpainting", dataset="digits_inpainting")),
    "grid=linear_to_sigma_min2": ("do not decrease", ["grid.t_end=null"]),
    **{
        f"process={name}": (SIGNALLESS.format(name), ["prediction=x0", "evaluation.only=ddim"])
        for name in ("ddm_const", "ddm_const_t", "ddm_quadratic")
    },
    "process=ddm_linear": (
        "process ddm_linear draws an image with its data, which has to be predicted too",
        [*DECOUPLED, "sampler=ddm_posterior"],
    ),
    **{
        f"prediction={name}": (
            f"prediction={name.removesuffix('_v1')} needs a decoupled process, and vp",
            [f"process={process}", *more],
        )
        for name, process, more in (
            ("ddm", "ddm_linear", ["evaluation.only=ddim", "sampler=ddm_ddim"]),
            ("ddm_v1", "ddm_const", ["evaluation.only=ddim"]),
            ("ddm_single", "ddm_const", ["evaluation.only=ddpm", "sampler=heun", "sampler.stepper.form=data"]),
        )
    },
    **{
        f"sampler={name}": (
            BUDGETLESS[0],
            ["process=ddm_const", "prediction=ddm", f"evaluation.only={name}", "evaluation.nfe=[4]"],
        )
        for name in ("ddm_posterior", "ddm_ddim")
    },
    "sampler=estimate": (
        BUDGETLESS[0],
        ["grid=explicit", "grid.values=[1.0]", "evaluation.only=estimate", "evaluation.nfe=[1]"],
    ),
    "sampler=dbim": (BUDGETLESS[0], on_a_bridge("sampler=dbim")),
    "sampler=ddbm_heun": (BUDGETLESS[0], on_a_bridge("sampler=ddbm_heun", only="ddbm_heun", grid="bridge_karras")),
}

LPIPS = ("distillation/metric=lpips", "objective=ddm_v1_lpips", "objective=ddm_v2_lpips")
LACKING = {  # files that tests do not have, and data that there are none of yet
    **dict.fromkeys(LPIPS, "no VGG-16 weights at"),
    "distillation/schedule_network=galr": r"GALR reads waveforms \(1, L\), these samples are \(1, 8, 8\): use",
}


def works(*words: str) -> None:
    """The objects of a command line do what they are for."""
    config = compose(LAYOUT, *words)
    parts = build(config)
    arms = plan_evaluation(config, parts).arms
    make_logger(config)
    samplers = [make(config, "sampler"), arms[0].sampler]
    if not parts.trainable:
        parts.dataset.prepare()
        for sampler in samplers:
            assert float(sample(parts, parts.oracle(), sampler, 4, 2).abs().max()) < 1.5  # it knows the images
        return
    denoiser = parts.denoiser(initialised_network(parts, 0))
    average = EMA(denoiser.network, parts.ema)
    before = copy.deepcopy(denoiser.network.state_dict())
    assert float(loss_of(parts, denoiser, 4)) > 0.0
    take_step(parts, denoiser.network, average)
    assert any(bool((value != before[name]).any()) for name, value in denoiser.network.state_dict().items())
    for sampler in samplers:
        assert float(sample(parts, denoiser, sampler, 4, 2).std()) > 0.0


def take_step(parts: Parts, network: torch.nn.Module, average: EMA) -> None:
    """One step of the optimiser and of the averages."""
    optimizer, schedule = parts.optimizer.build(network.parameters())
    optimizer.step()
    schedule.step()
    average.update()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with some pictures, and nothing that torch has downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "pictures").mkdir()
    for place in range(8):
        Image.new("RGB", (8, 8), (30 * place, 0, 0)).save(tmp_path / "pictures" / f"{place}.png")
    shutil.make_archive(str(tmp_path / "pictures"), "zip", tmp_path / "pictures")
    np.savez(tmp_path / "pictures.npz", images=np.zeros((8, 8, 8, 3), np.uint8))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("group", "choice"), OTHER, ids=map("=".join, OTHER))
def test_a_choice_works_or_says_what_it_needs(group: str, choice: str) -> None:
    word = f"{group}={choice}"
    if group == "network":
        return full_size(word)
    if word not in NEEDS:
        return works(*SMALL, word)
    reason, fix = NEEDS[word]
    with pytest.raises(ConfigError) as refused:
        works(*SMALL, word)
    assert reason in str(refused.value)
    if word in LACKING:
        with pytest.raises(ConfigError, match=LACKING[word]):
            works(*SMALL, word, *fix)
        return None
    return works(*SMALL, word, *fix)


def test_the_recipe_itself_works() -> None:
    """All choices that it makes."""
    assert {group for group, choice in CHOICES if OWN.get(group) == choice} == set(OWN) & set(GROUPS)
    works(*SMALL)


def full_size(word: str) -> None:
    """A network at its own size on the meta device; an oracle, which is as large as its data, on the digits."""
    name = word.partition("=")[2]
    more = ["dataset.labels=true"] if name in CLASSES else []
    if name in DIVIDED:
        with pytest.raises(ConfigError, match=r"has no image beside the noise: use prediction=ddm"):
            build(compose(LAYOUT, *FULL, word, "dataset=cifar10"))
        more = TWO_HEADS
    parts = build(compose(LAYOUT, *FULL, word, "dataset=cifar10", *more))
    if not parts.trainable:
        return works("experiment=gddim_vp", "scale=quick", word)
    denoiser = parts.meta_denoiser()
    loss_of(parts, denoiser, 2, "meta")
    return None


def test_a_loss_with_a_perceptual_distance_works_where_its_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    untrained_vgg(monkeypatch)
    works(*SMALL, "objective=ddm_v1_lpips", *NEEDS["objective=ddm_v1_lpips"][1])


@pytest.mark.parametrize("recipe", ["pd_imagenet64_base", "pd_imagenet64"])
def test_recipes_on_imagenet64_take_either_form_of_the_data(recipe: str) -> None:
    forms = [
        build(compose(LAYOUT, f"experiment={recipe}", f"dataset={name}")) for name in ("imagenet64", "imagenet64_npz")
    ]
    assert forms[0].data == forms[1].data
    assert (forms[1].data.shape, forms[1].data.num_classes) == ((3, 64, 64), 1000)


def test_what_is_listed_exists() -> None:
    assert {tuple(word.split("=")) for word in NEEDS} <= set(CHOICES)
