"""Settings and arms: budgets come from the right place and impossible ones are refused in one line."""

import pytest

from diffexp.core.errors import ConfigError
from diffexp.evaluation.settings import (
    Arm,
    EvaluationSettings,
    at_own_steps,
    build_arms,
    build_settings,
    file_stems,
    short_names,
)
from diffexp.sampler.gddim import GDDIM
from diffexp.sampler.grid import Power
from diffexp.sampler.linear import DDIM as Stepper
from diffexp.sampler.loop import Sampler

DDIM = {"_target_": "ddim", "name": "ddim", "clip": False}
HEUN = {"_target_": "heun", "name": "heun", "clip": False}
RK45 = {"_target_": "rk45", "name": "rk45", "clip": False}
NODE = {
    "n": 8, "seeds": [0], "nfe": None, "nfe_policy": "exact", "only": None,
    "arms": {"ddim": {**DDIM, "nfe": [5, 10]}, "heun": {**HEUN, "nfe": [5, 9]}},
}  # fmt: skip


@pytest.fixture
def make(samplers):
    built = []

    def make(node, where):
        built.append((where, dict(node)))
        return EvaluationSettings(**node) if where == "evaluation" else samplers[node["_target_"]]

    make.built = built
    return make


def _plan(arms):
    return {arm.name: list(arm.nfe) for arm in arms}


def test_arms_of_the_recipe_with_their_budgets(make):
    assert _plan(build_arms(NODE, DDIM, make)) == {"ddim": [5, 10], "heun": [5, 9]}
    assert make.built[0] == ("evaluation.arms.ddim", DDIM), "the budgets are not an argument of the sampler"


def test_common_budgets_replace_the_arms_own(make):
    assert _plan(build_arms({**NODE, "nfe": [3]}, DDIM, make)) == {"ddim": [3], "heun": [3]}


def test_only_takes_the_command_lines_sampler_with_the_arms_budgets(make):
    changed = {**HEUN, "clip": True}
    assert _plan(build_arms({**NODE, "only": "heun"}, changed, make)) == {"heun": [5, 9]}
    assert make.built[0][1]["clip"] is True
    assert _plan(build_arms({**NODE, "only": "ddim"}, HEUN, make)) == {"ddim": [5, 10]}
    other = {"_target_": "ddpm", "name": "ddpm"}
    assert _plan(build_arms({**NODE, "only": "ddpm", "nfe": [7]}, other, make)) == {"ddpm": [7]}


def test_a_distilled_student_keeps_its_own_budget(make):
    arms = build_arms(NODE, DDIM, make)
    assert _plan(at_own_steps(arms, 5, named=False)) == {"ddim": [5], "heun": [9]}, "steps, not evaluations"
    assert _plan(at_own_steps(arms, 10, named=False)) == {"ddim": [10]}
    named = build_arms({**NODE, "arms": {"ddim": {**DDIM, "nfe": [5]}}, "nfe": [5]}, DDIM, make)
    assert _plan(at_own_steps(named, 5, named=True)) == {"ddim": [5]}
    with pytest.raises(ConfigError, match=r"nfe=5: the network was distilled to take exactly 4 steps.*allow_off_grid"):
        at_own_steps(named, 4, named=True)
    with pytest.raises(ConfigError, match=r"nfe=5, 10, 5, 9: the network was distilled to take exactly 1 step, "):
        at_own_steps(arms, 1, named=False)


def test_a_recipe_without_arms_evaluates_its_sampler(make):
    assert _plan(build_arms({**NODE, "arms": {}, "nfe": [4]}, DDIM, make)) == {"ddim": [4]}


def test_large_budgets_are_left_out_and_arms_that_have_no_other(make):
    assert _plan(build_arms({**NODE, "nfe_max": 9}, DDIM, make)) == {"ddim": [5], "heun": [5, 9]}
    one = {"ddim": {**DDIM, "nfe": 6}, "heun": {**HEUN, "nfe": [5, 9]}}
    assert _plan(build_arms({**NODE, "arms": one, "nfe_max": 5}, DDIM, make)) == {"heun": [5]}
    assert _plan(build_arms({**NODE, "arms": one, "nfe_max": 6}, DDIM, make)) == {"ddim": [6], "heun": [5]}


def test_budgets_that_are_asked_for_have_no_limit(make):
    assert _plan(build_arms({**NODE, "nfe": [13], "nfe_max": 9}, DDIM, make)) == {"ddim": [13], "heun": [13]}


BY_SCALE = {
    "ddim": {**DDIM, "nfe": {"paper": [10, 1000], "quick": [10, 100]}},
    "heun": {**HEUN, "nfe": {"paper": 9}},
    "ddpm": {"_target_": "ddpm", "name": "ddpm", "nfe": [5, 100]},
}


def test_budgets_of_a_scale(make):
    node = {**NODE, "arms": BY_SCALE}
    everything = {"ddim": [10, 1000], "heun": [9], "ddpm": [5, 100]}
    assert _plan(build_arms(node, DDIM, make)) == everything
    assert _plan(build_arms(node, DDIM, make, "quick")) == {"ddim": [10, 100], "ddpm": [5, 100]}
    # the limit is for budgets that were not named for the scale
    assert _plan(build_arms({**node, "nfe_max": 50}, DDIM, make, "quick")) == {"ddim": [10, 100], "ddpm": [5]}
    assert _plan(build_arms({**node, "nfe": [3]}, DDIM, make, "quick")) == {"ddim": [3], "ddpm": [3]}
    assert _plan(build_arms({**node, "only": "heun", "nfe": [3]}, DDIM, make, "quick")) == {"heun": [3]}
    assert _plan(build_arms({**node, "only": "ddim"}, DDIM, make, "quick")) == {"ddim": [10, 100]}
    with pytest.raises(ConfigError, match=r"evaluation\.arms\.heun: no budgets; add e\.g\. evaluation\.nfe="):
        build_arms({**node, "only": "heun"}, DDIM, make, "quick")


def test_adaptive_samplers_have_no_budget(make):
    named = {"rk45": {**RK45, "nfe": {"quick": None}}}
    elsewhere = {"rk45": {**RK45, "nfe": {"paper": None}}}
    for arms, only in (({"rk45": RK45}, None), (named, None), (elsewhere, "rk45")):
        (arm,) = build_arms({**NODE, "arms": arms, "only": only}, DDIM, make, "quick")
        assert arm.nfe == (None,)
        assert arm.feasible("exact") == arm.feasible("below") == [None]
    both = {"ddim": {**DDIM, "nfe": [5]}, "rk45": RK45}
    assert _plan(build_arms({**NODE, "arms": both, "nfe": [7]}, DDIM, make)) == {"ddim": [7], "rk45": [None]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"nfe_max": 4},
            "evaluation.arms: ddim, heun has no budgets for scale=paper up to evaluation.nfe_max=4; add",
        ),
        (
            {"arms": {"ddim": {**DDIM, "nfe": {"quick": [5]}}}},
            "evaluation.arms: ddim has no budgets for scale=paper; add evaluation.nfe=[...]",
        ),
        (
            {"arms": {"rk45": {**RK45, "nfe": 50}}},
            "nfe=50: sampler rk45 takes no budget, its evaluations are counted",
        ),
        ({"arms": {"rk45": RK45}, "nfe": [50]}, "evaluation.nfe=[50]: rk45 takes no budget; leave evaluation.nfe out"),
        ({"only": "ddmi"}, "evaluation.only=ddmi: not among the arms; did you mean 'ddim'"),
        ({"arms": {}}, "evaluation.arms.ddim: no budgets"),
        ({"nfe": [0]}, "a budget is at least one evaluation"),
        ({"nfe": [10]}, "nfe=10 is not reachable with sampler heun: choose 9 or 11"),
    ],
)
def test_mistakes_are_one_line(make, changes, message):
    with pytest.raises(ConfigError) as error:
        build_arms({**NODE, **changes}, DDIM, make)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_two_arms_that_are_one_are_refused(make):
    twice = {**NODE, "arms": {"ddim": {**DDIM, "nfe": [5]}, "mine": {**DDIM, "nfe": [5]}}}
    with pytest.raises(ConfigError, match=r"evaluation\.arms\.mine: the same as arm 'ddim' \(ddim on uniform") as error:
        build_arms(twice, DDIM, make)
    assert "evaluation.arms.mine.name=mine" in str(error.value)


def test_file_names_tell_arms_apart(samplers):
    clipped = Sampler("ddim", Stepper(), samplers["ddim"].grid, clip=True)
    odd = Sampler("ddim_clip", Stepper(), samplers["ddim"].grid)
    arms = [Arm(samplers["ddim"], (2,)), Arm(samplers["heun"], (3,)), Arm(clipped, (2,))]
    assert list(file_stems(arms)) == ["ddim", "heun", "ddim_clip"]
    assert list(file_stems([*arms, odd_arm := Arm(odd, (2,))]).values()) == [*arms, odd_arm]


def test_short_names_have_what_tells_arms_apart(samplers):
    grid = samplers["ddim"].grid
    arms = [
        Arm(samplers["heun"], (3,)),
        Arm(Sampler("gddim", GDDIM(3), grid), (3,)),
        Arm(Sampler("gddim", GDDIM(1, 0.5), grid), (3,)),
        Arm(samplers["ddim"], (2,)),
        Arm(Sampler("ddim", Stepper(), Power(p=3.0)), (2,)),
    ]
    names = ["heun", "gddim(order=3)", "gddim(order=1,lam=0.5)", "ddim on uniform", "ddim on power"]
    assert list(short_names(arms)) == names
    assert list(short_names(arms).values()) == arms


def test_policy_below_lowers_budgets(samplers):
    arm = Arm(samplers["heun"], (5, 10, 6, 9))
    assert arm.feasible("below") == [5, 9]
    assert Arm(samplers["ddim"], (5, 5, 2)).feasible("exact") == [5, 2]


def test_settings_are_built_without_their_arms(make):
    settings = build_settings({**NODE, "grid_images": 3}, make)
    assert (settings.n, settings.grid_images, settings.controls) == (8, 3, [])
    assert make.built[0][1]["arms"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 1}, "evaluation.n=1"),
        ({"nfe_max": 0}, "evaluation.nfe_max=0"),
        ({"seeds": [1, 1]}, "give different seeds"),
        ({"seeds": []}, "give different seeds"),
        ({"batch_size": 0}, "evaluation.batch_size=0"),
        ({"grid_images": 101}, "evaluation.grid_images=101"),
        ({"controls": ["reel"]}, "no control 'reel'; did you mean 'real'"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError) as error:
        EvaluationSettings(**{"n": 100, "seeds": [0], **changes})
    assert message in str(error.value)
