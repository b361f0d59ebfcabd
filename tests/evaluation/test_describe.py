"""Descriptions: whatever changes a number changes the text, and tables show as little of it as tells rows apart."""

import pytest

from diffexp.evaluation.describe import describe_grid, describe_sampler, shorten, slug
from diffexp.sampler.grid import Power, Uniform
from diffexp.sampler.linear import DDIM
from diffexp.sampler.loop import Sampler


class Gentle(DDIM):
    """A stepper with settings of every kind; what is private or derived is no setting."""

    def __init__(self, order=2, eta=0.1, lower=False, knots=(0.5, 1.0), inner=None):
        self.order, self.eta, self.lower, self.knots, self.inner = order, eta, lower, list(knots), inner
        self._cache = 3


def test_the_text_holds_every_setting():
    assert describe_grid(Power(p=2.0, t_end=1e-3)) == "power(p=2,t_end=0.001,last=state)"
    assert describe_grid(Uniform(last="data")) == "uniform(t_end=null,last=data)"
    assert describe_sampler(Sampler("ddim", DDIM(eta=0.5), Uniform(), guidance=2.0)) == "ddim(eta=0.5,guidance=2)"
    assert describe_sampler(Sampler("ddim", DDIM(), Uniform())) == "ddim"
    assert describe_sampler(Sampler("ddim", DDIM(), Power(), clip=True)) == "ddim(clip)"
    stepper = Gentle(order=3, eta=0.2, lower=True, knots=(0.5, 2.0), inner=Power())
    sampler = Sampler("gentle", stepper, Uniform(), clip=True)
    assert describe_sampler(sampler) == (
        "gentle(order=3,eta=0.2,lower,knots=[0.5,2],inner=power(p=2,t_end=null,last=state),clip)"
    )


@pytest.mark.parametrize("change", [{"p": 2.0000001}, {"t_end": 1.0000001e-3}, {"last": "data"}])
def test_grids_that_differ_in_the_eighth_digit_differ_in_text(change):
    base = {"p": 2.0, "t_end": 1e-3, "last": "state"}
    assert describe_grid(Power(**base)) != describe_grid(Power(**{**base, **change}))


def test_short_forms_tell_apart_and_say_no_more():
    assert shorten(["ddim(clip)", "heun"]) == {"ddim(clip)": "ddim", "heun": "heun"}
    assert shorten(["ddim(clip)", "ddim", "ddim"]) == {"ddim(clip)": "ddim(clip)", "ddim": "ddim"}
    grids = ["power(p=2,t_end=0.001)", "power(p=3,t_end=0.001)", "uniform(t_end=0.001)"]
    assert list(shorten(grids).values()) == ["power(p=2)", "power(p=3)", "uniform"]
    nested = ["s(q=f(a=1,b=2),k=[1,2])", "s(q=f(a=1,b=3),k=[1,2])"]
    assert list(shorten(nested).values()) == ["s(q=f(a=1,b=2))", "s(q=f(a=1,b=3))"]
    assert shorten([]) == {}


def test_slugs_are_file_names():
    assert slug("ddim(clip)") == "ddim_clip"
    assert slug("power(p=2,t_end=0.001)") == "power_p_2_t_end_0.001"
