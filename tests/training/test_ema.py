"""Averages against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from diffexp.core.errors import CheckpointError, ConfigError
from diffexp.training.ema import EMA, EMASettings, power_exponent


class Vector(nn.Module):
    """One trainable vector, one frozen one, one buffer."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("count", torch.tensor(10))


def averages(settings: EMASettings, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each profile after the rows of `values` were the parameters one after another, starting from zeros."""
    network = Vector(values.shape[1])
    ema = EMA(network, settings)
    for row in values:
        network.w.data.copy_(row)
        ema.update()
    return {key: profile["w"] for key, profile in ema.state_dict()["profiles"].items()}


def test_constant_decays_are_geometric_sums():
    values = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 5.0], [2.0, 2.0, 2.0]])
    found = averages(EMASettings(decays=[0.9, 0.5, 0.0]), values)
    for decay in (0.9, 0.5, 0.0):
        weights = torch.tensor([(1 - decay) * decay**k for k in (2, 1, 0)])
        torch.testing.assert_close(found[f"decay_{decay:g}"], weights @ values, rtol=1e-6, atol=1e-7)
    assert list(found) == ["decay_0.9", "decay_0.5", "decay_0"]


def test_ramp_limits_the_decay_of_early_updates():
    found = averages(EMASettings(decays=[0.9999], ramp=True), torch.tensor([[1.0], [0.0]]))
    # Decays 1/10 and 2/11: the first value enters with 9/10 and is then kept with 2/11.
    assert float(found["decay_0.9999"]) == pytest.approx(0.9 * 2 / 11, rel=1e-6)


def test_the_first_update_may_have_its_own_decay():
    found = averages(EMASettings(decays=[0.9], first_decay=0.0), torch.tensor([[1.0], [0.0]]))
    assert float(found["decay_0.9"]) == pytest.approx(0.9, rel=1e-6)  # starts at 1, not at the initial 0


def test_averages_start_late_warm_up_and_rest_between_updates():
    """Steps 0, 2, 4 copy (4 is the first one behind `after`), 6 and 8 have decays 1 - (1 + e)^-1 for e = 3 and 5."""
    settings = EMASettings(decays=[0.8], every=2, after=3, warmup_power=1.0)
    values = torch.tensor([[9.0], [7.0], [9.0], [7.0], [1.0], [7.0], [5.0], [7.0], [2.0], [7.0]])
    found = [float(averages(settings, values[: k + 1])["decay_0.8"]) for k in range(10)]
    at_six = 0.75 * 1.0 + 0.25 * 5.0
    at_eight = 0.8 * at_six + 0.2 * 2.0  # 1 - 1 / 6 is above the limit
    assert found == pytest.approx([9, 9, 9, 9, 1, 1, at_six, at_six, at_eight, at_eight], rel=1e-6)
    assert [settings.decay(0.8, k) for k in (0, 3, 4, 6)] == [0.0, 0.0, 0.5, 0.75]


def test_a_warm_up_without_a_late_start_begins_at_the_first_parameters():
    found = averages(EMASettings(decays=[0.9], warmup_power=1.0), torch.tensor([[3.0], [1.0]]))
    assert float(found["decay_0.9"]) == pytest.approx(0.5 * 3.0 + 0.5 * 1.0, rel=1e-6)


def test_a_late_start_holds_for_all_profiles_and_the_smallest_decay_counts():
    settings = EMASettings(decays=[0.9, 0.05], power_stds=[0.1], ramp=True, after=1, warmup_power=1.0)
    values = torch.tensor([[9.0], [7.0], [5.0], [1.0]])
    found = averages(settings, values[:3])  # step 2 is the first one behind `after`
    assert {name: float(value) for name, value in found.items()} == {"decay_0.9": 5, "decay_0.05": 5, "power_0.1": 5}
    after = averages(settings, values)
    ramp = 4.0 / 13.0  # below the warm-up's 1 - 1 / 3
    assert float(after["decay_0.9"]) == pytest.approx(ramp * 5.0 + (1.0 - ramp), rel=1e-6)
    assert float(after["decay_0.05"]) == pytest.approx(0.05 * 5.0 + 0.95, rel=1e-6)
    kept = (1.0 - 0.25) ** (power_exponent(0.1) + 1.0)
    assert float(after["power_0.1"]) == pytest.approx(kept * 5.0 + (1.0 - kept), rel=1e-6)


def test_profiles_count_updates_and_not_steps():
    """With an update in every third step, ramps and power profiles are those of a third of the steps."""
    values = torch.arange(9.0)[:, None]
    kept = {"decays": [0.9], "ramp": True, "power_stds": [0.1]}
    rare, own = averages(EMASettings(**kept, every=3), values), averages(EMASettings(**kept), values[::3])
    assert rare.keys() == own.keys()
    for name, average in own.items():
        assert torch.equal(rare[name], average)


def test_power_profiles_have_the_width_they_are_named_after():
    n, std = 400, 0.1
    weights = averages(EMASettings(decays=[], power_stds=[std]), torch.eye(n))[f"power_{std}"].double()
    assert float(weights.sum()) == pytest.approx(1.0, rel=1e-5)
    times = torch.arange(1, n + 1, dtype=torch.float64) / n
    mean = float((weights * times).sum())
    assert math.sqrt(float((weights * times**2).sum()) - mean**2) == pytest.approx(std, rel=0.02)
    assert power_exponent(0.1) == pytest.approx(6.94, abs=0.01)  # EDM2's table


def test_frozen_parameters_and_buffers_are_not_averaged():
    state = EMA(Vector(), EMASettings()).state_dict()["profiles"]["decay_0.9999"]
    assert list(state) == ["w"]


def test_averages_stay_in_float32_beside_a_low_precision_network():
    network = Vector().to(torch.bfloat16)
    ema = EMA(network, EMASettings(decays=[0.9999]))
    network.w.data.fill_(1.0)
    ema.update()
    average = ema.state_dict()["profiles"]["decay_0.9999"]["w"]
    assert average.dtype == torch.float32
    torch.testing.assert_close(average, torch.full((3,), 1e-4), rtol=1e-3, atol=0)  # bfloat16 would have lost it


def test_averages_of_a_float64_network_keep_its_digits():
    network = Vector().double()
    ema = EMA(network, EMASettings(decays=[0.9999]))
    network.w.data.fill_(1.0)
    ema.update()
    assert ema.state_dict()["profiles"]["decay_0.9999"]["w"].tolist() == pytest.approx([1e-4] * 3, rel=1e-12)


def test_averages_follow_a_network_that_becomes_float64():
    """As in a training: averages, then a checkpoint's, then the trainer's precision."""
    network = Vector(1)
    before, ema = EMA(Vector(1).double(), EMASettings(decays=[0.5])), EMA(network, EMASettings(decays=[0.5]))
    before.load_state_dict({"updates": 3, "profiles": {"decay_0.5": {"w": torch.tensor([0.1], dtype=torch.float64)}}})
    ema.load_state_dict(before.state_dict())
    network.double()
    ema.to(torch.device("cpu"))
    ema.update()
    found = ema.state_dict()["profiles"]["decay_0.5"]["w"]
    assert found.dtype == torch.float64
    assert float(found) == 0.05
    assert float(before.state_dict()["profiles"]["decay_0.5"]["w"]) == 0.1  # its own copy


def test_state_goes_round():
    settings = EMASettings(decays=[0.9], power_stds=[0.05])
    first, second = EMA(Vector(), settings), EMA(Vector(), settings)
    first._parameters[0].data.fill_(3.0)
    first.update()
    second.load_state_dict(first.state_dict())
    assert second.updates == 1
    for key, profile in first.state_dict()["profiles"].items():
        assert torch.equal(second.state_dict()["profiles"][key]["w"], profile["w"])


def test_an_average_goes_on_where_it_stopped():
    """The number of steps is a part of the state: late start, warm-up and rests go on undisturbed."""
    settings = EMASettings(decays=[0.9], every=2, after=2, warmup_power=0.5)
    whole, part = EMA(Vector(), settings), EMA(Vector(), settings)
    for k in range(9):
        for ema in (whole, part):
            ema._parameters[0].data.fill_(float(k))
            ema.update()
        restored = EMA(Vector(), settings)
        restored.load_state_dict(part.state_dict())
        part = restored
        assert torch.equal(*(ema.state_dict()["profiles"]["decay_0.9"]["w"] for ema in (whole, part)))


def test_a_state_of_other_profiles_or_another_network_is_refused():
    state = EMA(Vector(), EMASettings(decays=[0.9])).state_dict()
    with pytest.raises(CheckpointError, match=r"profiles \['decay_0.9'\], the run wants \['decay_0.5'\]"):
        EMA(Vector(), EMASettings(decays=[0.5])).load_state_dict(state)
    with pytest.raises(CheckpointError, match="another network"):
        EMA(nn.Linear(2, 2), EMASettings(decays=[0.9])).load_state_dict(state)


@pytest.mark.parametrize(
    "settings",
    [
        {"decays": [1.0]},
        {"decays": [-0.1]},
        {"decays": [], "power_stds": []},
        {"power_stds": [0.3]},
        {"first_decay": 1.0},
        {"every": 0},
        {"after": -1},
        {"warmup_power": 0.0},
    ],
)
def test_impossible_profiles_are_refused(settings):
    with pytest.raises(ConfigError, match="ema"):
        EMASettings(**settings)
