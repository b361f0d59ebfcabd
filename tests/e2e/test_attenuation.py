"""A user's attenuation is one class in a package of his own, chosen in one word."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from diffexp.core.errors import ConfigError
from diffexp.launch.layout import read_layout
from diffexp.launch.plugins import permission
from diffexp.tasks.build import build, initialised_network, make
from tests.e2e.standin import compose, loss_of, sample

OWN = '''
"""The image fades like a cosine: H_t = (1 - cos(pi t / 2)) C with C = -x0."""
import math

from diffexp.process.attenuation import Attenuation


class Cosine(Attenuation):
    name = "cosine"
    of_data = (-1.0,)

    def coefficients(self, t):
        return (1.0 - (0.5 * math.pi * t).cos(),)


class Late(Cosine):
    """Not at zero in time."""

    of_data = (-0.75,)
'''
WORDS = (
    "experiment=gddim_vp", "scale=quick", "network.channels=8", "network.multipliers=[1,2]", "process=ddm_const",
    "prediction=ddm", "sampler=ddm_posterior", "evaluation.only=ddim", "plugins=[ownlab]",
)  # fmt: skip


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site" / "ownlab"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "fading.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(folder.parent))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "ownlab"]:
        del sys.modules[name]


@pytest.mark.usefixtures("package")
def test_it_trains_and_samples() -> None:
    with permission(["ownlab"]):
        config = compose(read_layout(), *WORDS, "process.attenuation._target_=ownlab.fading.Cosine")
        parts = build(config)
        assert parts.process.name == "ddm_cosine"
        denoiser = parts.denoiser(initialised_network(parts, 0))
        assert float(loss_of(parts, denoiser, 4)) > 0.0
        assert float(sample(parts, denoiser, make(config, "sampler"), 4, 2).std()) > 0.0


@pytest.mark.usefixtures("package")
def test_one_that_does_not_end_in_zero_is_refused() -> None:
    with permission(["ownlab"]):
        config = compose(read_layout(), *WORDS, "process.attenuation._target_=ownlab.fading.Late")
        with pytest.raises(ConfigError, match=r"attenuation=Late: x0 \+ H_1 must be 0, but .* = 0\.25"):
            build(config)
