"""Samplers on decoupled processes: steps of any size, the data form's orders, closed forms, refusals."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from diffexp.core.errors import ConfigError
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import X0, Eps
from diffexp.prediction.oracle.finite import Finite
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.prediction.redundant import ClippedHeads
from diffexp.prediction.two_head import SingleHead, TwoHead
from diffexp.process.attenuation import Constant, Linear, Quadratic
from diffexp.process.decoupled import Decoupled
from diffexp.process.vp import VP
from diffexp.sampler.adaptive import Adaptive, DormandPrince
from diffexp.sampler.decoupled import Deterministic, Posterior
from diffexp.sampler.encode import encode
from diffexp.sampler.euler import Euler, EulerMaruyama
from diffexp.sampler.gddim import GDDIM
from diffexp.sampler.grid import Ends, Power, Uniform
from diffexp.sampler.grid_decoupled import LinearToSigmaMin2, UniformEps
from diffexp.sampler.grid_snr import Karras, LogSNR
from diffexp.sampler.heun import Heun
from diffexp.sampler.linear import DDIM, Ancestral
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise, KeyedNoise
from tests.sampler.affine import moments
from tests.sampler.heads import Faster, Given, Known
from tests.sampler.test_convergence import MEANS, STDS, WEIGHTS, quantile_flow

ATTENUATIONS = [Constant(), Linear(), Quadratic(), Faster()]
PROCESSES = [Decoupled(attenuation, noise) for attenuation in ATTENUATIONS for noise in ("sqrt", "linear")]
each_process = pytest.mark.parametrize("process", PROCESSES, ids=[process.name for process in PROCESSES])
STEPPERS = {
    "posterior": Posterior(),
    "reconciled": Posterior(True),
    "as predicted": Posterior(False),
    "deterministic": Deterministic(),
    "ddim": DDIM(),
    "eta": DDIM(0.5),
    "ddpm": Ancestral(),
    "gddim": GDDIM(1, form="data"),
    "gddim stochastic": GDDIM(1, lam=0.7, form="data"),
    "heun": Heun("data"),
}
X = torch.linspace(-1.0, 1.0, 2 * 3 * 4 * 4, dtype=torch.float64).reshape(2, 3, 4, 4)
K = torch.sin(11.0 * X).clamp(-0.8, 0.8)
NOISE = [torch.cos(7.0 * X + k) * 1.5 for k in range(20)]


def random_grids(count: int, least: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    found = []
    for k in range(count):
        inner = torch.rand(least - 1 + k % (8 - least), generator=generator, dtype=torch.float64).sort(descending=True)
        found.append(torch.cat([torch.ones(1).double(), inner.values, torch.zeros(1).double()]))
    return found


def run(stepper, process, source, times: Tensor, clip: bool = False) -> Tensor:
    sampler = Sampler("s", stepper, Given(times), clip)
    return sampler.sample(source, FixedNoise(NOISE[-1], NOISE), sampler.evaluations(len(times) - 1)).images


@each_process
@pytest.mark.parametrize("name", STEPPERS)
def test_true_heads_end_in_the_image_on_any_grid(process, name):
    """200 random grids of 1 to 7 steps, stochastic or not, as predicted or clipped: steps of any size are exact."""
    source = Known(process, X, K)
    for k, times in enumerate(random_grids(200)):
        found = run(STEPPERS[name], process, source, times, clip=k % 2 == 0)
        torch.testing.assert_close(found, X, rtol=0, atol=2e-14)


@each_process
@pytest.mark.parametrize(
    "stepper", [GDDIM(2, form="data"), GDDIM(3, form="data"), GDDIM(2, corrector=3, form="data")], ids=["2", "3", "pc"]
)
def test_higher_orders_of_the_data_form_do_too(process, stepper):
    """Where x^ does not change, all orders are the first; a corrector evaluates at the end too, where noise is left."""
    if stepper.corrector is None:
        for times in random_grids(16, least=stepper.min_steps):
            found = run(stepper, process, Known(process, X, K), times)
            torch.testing.assert_close(found, X, rtol=0, atol=1e-11)
        return
    times = torch.tensor([1.0, 0.6, 0.3, 0.1], dtype=torch.float64)
    found = run(stepper, process, Known(process, X, K), times)
    law = process.marginal(times[-1])
    torch.testing.assert_close(found, law.perturb(X, NOISE[-1], Known(process, X, K).drawn), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["posterior", "deterministic", "ddim", "heun"])
def test_the_last_step_is_exact_in_float32(name):
    """It adds nothing that cancels: an image to a few units of its last digit, from noise of size one."""
    for process in PROCESSES:
        source = Known(process, X.float(), K.float())
        sampler = Sampler("s", STEPPERS[name], UniformEps())
        noise = FixedNoise(NOISE[-1].float(), [draw.float() for draw in NOISE])
        found = sampler.sample(source, noise, sampler.evaluations(5)).images
        torch.testing.assert_close(found, X.float(), rtol=0, atol=2e-6)


@each_process
def test_with_heads_that_agree_the_deterministic_step_is_ddim(process):
    """Identity 5: and for noise t it is Euler's rule on the flow of velocity C + n."""

    class Net(nn.Module):
        def forward(self, u, time, labels=None):
            said = [torch.tanh((0.8 - 0.3 * j) * u) * torch.cos(time) for j in range(process.attenuation.n_params)]
            return torch.cat(said, 1)

    head = SingleHead("optimal")
    source = NetworkDenoiser(Net(), head, process)
    times = torch.tensor([1.0, 0.7, 0.2, 1e-3, 0.0], dtype=torch.float64)
    if process.attenuation.name != "faster":  # whose two parameters need not agree about one image
        found = run(Deterministic(), process, source, times)
        torch.testing.assert_close(found, run(DDIM(), process, source, times), rtol=0, atol=1e-11)
    if process.drawn:
        return
    plain = Finite(process, X)
    found = run(Deterministic(), process, plain, times)
    torch.testing.assert_close(found, run(DDIM(), process, plain, times), rtol=0, atol=1e-11)
    clipped = run(Deterministic(), process, plain, times, clip=True)
    torch.testing.assert_close(found, clipped, rtol=0, atol=1e-11)


def test_noise_t_makes_it_eulers_rule_on_rectified_flow():
    process = Decoupled(Constant(), "linear")
    source = Mixture(process, WEIGHTS, MEANS, STDS)
    times = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0], dtype=torch.float64)
    u, points = NOISE[-1], source.prepare(times[:-1], torch.float64, "cpu")
    for point, (t, s) in zip(points, pairwise(times.tolist()), strict=True):
        said = source(u, point)
        u = u + (s - t) * (said.noise - said.data)
    torch.testing.assert_close(run(Deterministic(), process, source, times), u, rtol=0, atol=1e-14)


@pytest.mark.parametrize("noise", ["sqrt", "linear"])
@pytest.mark.parametrize("attenuation", [Constant(), Quadratic(), Faster()], ids=lambda found: found.name)
def test_moments_of_the_posterior_chain_on_gaussian_data(attenuation, noise):
    """Identity 7: m' = a m + b and v' = a^2 v + C^2, from Bayes' rule written out for a Gaussian."""
    process, mu, d = Decoupled(attenuation, noise), 0.25, 0.5
    times = torch.tensor([1.0, 0.8, 0.45, 0.2, 0.05], dtype=torch.float64)
    mean, variance = 0.0, 1.0
    for t, s in pairwise(times):
        a, b = (float(process.signal(x).value) for x in (t, s))
        low, high = (float(process.factor(x).value) ** 2 for x in (s, t))
        gain = a * d**2 / (a**2 * d**2 + high)  # x^ = mu + gain (u - a mu)
        kept = low / high  # u_s = b x^ + kept (u - a x^) + C z
        slope = kept + (b - kept * a) * gain
        mean = slope * mean + (b - kept * a) * mu * (1 - gain * a)
        variance = slope**2 * variance + low * (high - low) / high
    found = moments(Posterior(), Given(times), Mixture(process, [1.0], [mu], [d]), len(times) - 1)
    assert float(found[0]) == pytest.approx(mean, rel=1e-12)
    assert float(found[1]) == pytest.approx(variance, rel=1e-12)


def orders(stepper, process, counts, grading: float) -> list[float]:
    """Slopes of the largest error over doubled numbers of steps from 1 to 0.1, against the exact flow of a mixture.

    The times are uniform in (1 - t)^(1 / grading): above one, the first steps are short.
    """
    start = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
    exact, errors = quantile_flow(process, start, 1.0, 0.1), []
    source = Mixture(process, WEIGHTS, MEANS, STDS)
    for n in counts:
        times = 1.0 - 0.9 * torch.linspace(0.0, 1.0, n + 1, dtype=torch.float64) ** grading
        sampler = Sampler("s", stepper, Given(times))
        images = sampler.sample(source, FixedNoise(start), sampler.evaluations(n)).images
        errors.append(float((images - exact).abs().max()))
    assert 1e-13 < errors[-1] < 0.1
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


DATA_FORMS = [
    (GDDIM(1, form="data"), 1.0, 1.0, (160, 320)),
    (GDDIM(2, form="data"), 2.0, 1.0, (160, 320)),
    (GDDIM(3, form="data"), 3.0, 2.0, (640, 1280)),
    (GDDIM(4, form="data"), 4.0, 2.0, (640, 1280)),
    (GDDIM(1, corrector=2, form="data"), 2.0, 1.0, (160, 320)),
    (GDDIM(2, corrector=3, form="data"), 3.0, 1.0, (160, 320)),
    (Heun("data"), 2.0, 1.0, (160, 320)),
]
NAMES = ["1", "2", "3", "4", "pc2", "pc3", "heun"]


@pytest.mark.parametrize(
    "process",
    [Decoupled(Constant()), Decoupled(Constant(), "linear"), Decoupled(Quadratic())],
    ids=lambda process: process.name,
)
@pytest.mark.parametrize(("stepper", "order", "grading", "counts"), DATA_FORMS, ids=NAMES)
def test_the_data_form_has_its_order(process, stepper, order, grading, counts):
    """From the prior, where there is no signal; orders 3 and 4 with short first steps, for those know less."""
    assert orders(stepper, process, counts, grading)[-1] == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_data_form_has_its_order_on_vp(order):
    assert orders(GDDIM(order, form="data"), VP(), (320, 640), 1.0 + (order > 3))[-1] == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("process", [VP(), Decoupled(Constant(), t_prior=0.9)], ids=lambda process: process.name)
def test_of_order_one_both_forms_are_the_same_step(process):
    times = torch.tensor([0.9, 0.6, 0.3, 0.05], dtype=torch.float64)
    source = Mixture(process, WEIGHTS, MEANS, STDS)
    for lam in (0.0, 0.5, 1.0):
        noise, data = (run(GDDIM(1, lam=lam, form=form), process, source, times) for form in ("noise", "data"))
        torch.testing.assert_close(noise, data, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        run(GDDIM(1, form="data"), process, source, times), run(DDIM(), process, source, times), rtol=0, atol=1e-13
    )
    torch.testing.assert_close(
        run(GDDIM(1, lam=1.0, form="data"), process, source, times),
        run(Ancestral(), process, source, times), rtol=0, atol=1e-12,
    )  # fmt: skip


def test_the_data_form_of_order_one_is_ddim_from_the_prior_to_the_data():
    for process in PROCESSES:
        source, times = Known(process, X, K), torch.linspace(1.0, 0.0, 6, dtype=torch.float64)

        def said(u, point, conditions=None, source=source):
            return u, *(torch.tanh(part) for part in Known.parts(source, 2 * u, point)[1:])

        source.parts = said
        data, ddim = (run(stepper, process, source, times) for stepper in (GDDIM(1, form="data"), DDIM()))
        torch.testing.assert_close(data, ddim, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [TwoHead, SingleHead])
def test_every_prediction_can_be_sampled_by_every_family(kind):
    """Two heads, one head and the data alone, on the same process; the flow of ODE solvers wants a signal."""

    class Net(nn.Module):
        def forward(self, u, time, labels=None):
            return torch.tanh(u).repeat(1, out // 3, 1, 1)

    for process in PROCESSES:
        for head in [kind(), *([] if process.drawn else [X0()])]:
            out = head.on(process).out_channels(3)
            source = NetworkDenoiser(Net(), head, process)
            for stepper in STEPPERS.values():
                for clip in (False, True):
                    sampler = Sampler("s", stepper, Uniform(), clip)
                    noise = KeyedNoise(0, range(2), (3, 4, 4))
                    assert bool(sampler.sample(source, noise, sampler.evaluations(4)).images.isfinite().all())


def test_noise_alone_is_sampled_from_where_there_is_a_signal():
    process = Decoupled(Constant(), t_prior=0.999)
    source = NetworkDenoiser(nn.Tanh(), Eps(), process)
    source.network.forward = lambda u, time, labels=None: torch.tanh(u)
    for stepper in (DDIM(), Posterior(), Deterministic(), Euler(), EulerMaruyama(), GDDIM(2), Heun()):
        sampler = Sampler("s", stepper, Uniform(t_end=0.01))
        images = sampler.sample(source, KeyedNoise(0, range(2), (3, 4, 4)), sampler.evaluations(4)).images
        assert bool(images.isfinite().all())


def test_without_clipping_the_denoiser_is_asked_itself():
    source = Known(Decoupled(Constant()), X)
    assert Sampler("s", Posterior(), Uniform())._wrap(source) is source


def test_unclipped_data_leave_the_posterior_step_and_clipped_ones_do_not():
    """Reconciled parameters follow the clipped data, the noise does not (section 4 of the derivation)."""

    class Net(nn.Module):
        def forward(self, u, time, labels=None):
            return torch.cat([-2.0 * torch.tanh(u), 0.3 * u], 1)

    process = Decoupled(Constant())
    source = NetworkDenoiser(Net(), TwoHead("none", "t"), process)
    t, s = 1.0, 0.4
    for clip in (False, True):
        sampler = Sampler("s", Posterior(), Given(torch.tensor([t, s, 0.0], dtype=torch.float64)), clip)
        states = []
        sampler.sample(source, FixedNoise(NOISE[-1], NOISE), 2, on_step=lambda k, u, states=states: states.append(u))
        u = NOISE[-1]
        shown = u / math.sqrt(2.0)
        data = u + t * 2.0 * torch.tanh(shown) - math.sqrt(t) * 0.3 * shown
        assert float(data.abs().max()) > 1.5
        held = data.clamp(-1, 1) if clip else data
        wanted = u + (t - s) * held - (t - s) / math.sqrt(t) * 0.3 * shown + math.sqrt(s * (t - s) / t) * NOISE[0]
        torch.testing.assert_close(states[0], wanted, rtol=0, atol=1e-14)


def test_without_parameters_of_its_own_a_denoiser_has_those_of_its_clipped_data():
    """With a noise prediction x^ is huge where there is hardly a signal, and so would the parameters be."""

    class Net(nn.Module):
        def forward(self, u, time, labels=None):
            return torch.sin(3.0 * u)

    process, t, s = Decoupled(Constant(), t_prior=0.999), 0.999, 0.6
    source = NetworkDenoiser(Net(), Eps("t"), process)
    states = []
    sampler = Sampler("s", Deterministic(), Given(torch.tensor([t, s, 0.0], dtype=torch.float64)), clip=True)
    sampler.sample(source, FixedNoise(NOISE[-1], NOISE), 2, on_step=lambda k, u: states.append(u))
    u = NOISE[-1] * math.sqrt(t)
    data = ((u - math.sqrt(t) * torch.sin(3.0 * u)) / (1.0 - t)).clamp(-1, 1)
    wanted = (1.0 - s) * data + math.sqrt(s) * torch.sin(3.0 * u)
    torch.testing.assert_close(states[0], wanted, rtol=0, atol=1e-12)


def test_published_grids():
    process = Decoupled(Constant())
    assert UniformEps().times(process, 1).tolist() == [1.0, 0.0]
    assert UniformEps().times(process, 2).tolist() == [1.0, 1e-4, 0.0]
    five = [1.0, 0.8, 0.6, 0.4, 0.2, 1e-4, 0.0]
    assert UniformEps().times(process, 6).tolist() == pytest.approx(five, rel=1e-15)
    assert UniformEps(0.1).times(process, 3).tolist() == [1.0, 0.5, 0.1, 0.0]
    shifted = UniformEps(1e-3, t_end=0.1).times(process, 3).tolist()
    assert shifted == pytest.approx([1.0, 0.55, 0.101, 0.1], rel=1e-15)
    assert LinearToSigmaMin2().times(process, 1).tolist() == [1.0, 0.0]
    line = LinearToSigmaMin2().times(process, 10).tolist()
    assert line == pytest.approx([*(1 + k / 9 * (1e-4 - 1) for k in range(10)), 0.0], rel=1e-12)
    ends = Uniform().times(process, 4).tolist()
    assert ends == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: UniformEps(0.0), r"grid\.eps=0\.0: must be > 0"),
        (lambda: LinearToSigmaMin2(-1.0), r"grid\.sigma_min=-1\.0: must be > 0"),
        (lambda: UniformEps(0.3).times(Decoupled(Constant()), 6), "do not decrease"),
        (lambda: LogSNR(0.01).times(Decoupled(Constant()), 6), r"no signal at t = 1: .*process\.t_prior=0\.999"),
        (lambda: Karras().times(Decoupled(Constant()), 6), r"no signal at t = 1: use grid=uniform"),
        (lambda: GDDIM(1, factor="cholesky", form="data"), r"form=data: needs sampler\.stepper\.factor=R"),
    ],
    ids=["eps", "sigma_min", "order", "log_snr", "karras", "factor"],
)
def test_what_cannot_be_built_is_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


INFINITE = (
    "sampler s: its steps are infinite at t = 1, where process ddm_const has no signal: use ddim, or gddim or heun "
    r"with sampler\.stepper\.form=data, or process\.t_prior=0\.999"
)
LEFT_OUT = "leaves out the image that process ddm_linear draws with its data"


@pytest.mark.parametrize(
    ("stepper", "attenuation", "said"),
    [
        (GDDIM(2), Constant(), INFINITE),
        (Heun(), Constant(), INFINITE),
        (Euler(), Constant(), INFINITE),
        (EulerMaruyama(), Constant(), INFINITE),
        (GDDIM(2), Linear(), f"sampler s {LEFT_OUT}: use ddm_posterior, ddm_ddim, ddim or ddpm, or gddim or heun with"),
        (Euler(), Linear(), f"sampler s {LEFT_OUT}"),
        (Posterior(), None, "sampler.stepper=Posterior: is for decoupled processes, and process vp is none: use ddim"),
        (Deterministic(), None, "sampler.stepper=Deterministic: is for decoupled processes"),
    ],
    ids=["gddim", "heun", "euler", "em", "drawn", "drawn_euler", "vp", "vp_ddim"],
)
def test_samplers_say_where_they_are_not_at_home(stepper, attenuation, said):
    process = VP() if attenuation is None else Decoupled(attenuation)
    sampler = Sampler("s", stepper, Uniform())
    with pytest.raises(ConfigError, match=said):
        sampler.plan(process, sampler.evaluations(4))


def test_further_refusals():
    process, linear = Decoupled(Constant()), Decoupled(Linear())
    with pytest.raises(ConfigError, match="steps are infinite at t = 1"):
        Adaptive("s", DormandPrince(), Ends(0.01)).times(process, None)
    with pytest.raises(ConfigError, match=f"sampler s {LEFT_OUT}"):
        Adaptive("s", DormandPrince(), Ends(0.01)).times(linear, None)
    with pytest.raises(ConfigError, match=rf"grid\.last=denoise_em {LEFT_OUT}"):
        Sampler("s", DDIM(), Uniform(t_end=0.01, last="denoise_em")).times(linear, 5)
    source = Mixture(VP(), [1.0], [0.0], [1.0])
    with pytest.raises(ConfigError, match="is for decoupled processes, and process vp is none"):
        Sampler("s", Posterior(), Uniform(), clip=True).sample(source, FixedNoise(X), 3)
    with pytest.raises(ConfigError, match="clipping of predicted parameters: process vp has none"):
        ClippedHeads(source)
    with pytest.raises(ConfigError, match="whose law no oracle knows"):
        Mixture(linear, [1.0], [0.0], [1.0])
    with pytest.raises(ConfigError, match="encoding: process ddm_linear draws an image"):
        encode(Known(linear, X, K), X, Power(t_end=0.01), 3)
    rk45 = Adaptive("s", DormandPrince(1e-7, 1e-7), Ends(0.1))
    signalled = Decoupled(Constant(), t_prior=0.9)
    start = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
    found = rk45.sample(Mixture(signalled, WEIGHTS, MEANS, STDS), FixedNoise(start / math.sqrt(0.9))).images
    torch.testing.assert_close(found, quantile_flow(signalled, start, 0.9, 0.1), rtol=0, atol=1e-5)
