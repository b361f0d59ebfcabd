"""Schedule, conversions, losses, samplers, training pieces of Progressive Distillation against its official code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from diffexp.network.embedding import PositionalFeatures
from diffexp.objective.bound import step_bits
from diffexp.objective.denoising import Denoising
from diffexp.objective.times import Discrete
from diffexp.prediction.head import X0, Eps, V
from diffexp.prediction.time_input import time_input
from diffexp.prediction.wrapper import Clipped
from diffexp.sampler.grid import Uniform
from diffexp.sampler.linear import DDIM, Ancestral, LinearStepper
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise
from diffexp.training.clipping import clip_gradients
from diffexp.training.ema import EMA, EMASettings
from diffexp.training.optimizer import Adam
from tests.parity.golden import Member
from tests.parity.progressive import WEIGHTINGS, around, cosine, denoiser, named, unknown

FILE = "progressive_distillation"
INPUT_TYPES = {"inv_cos": "angle", "linear": "log_snr_linear", "sigmoid": "log_snr_sigmoid"}
SCALE, CLIP, RANGE = 1000.0, [-20.0, 20.0], [-10.0, 10.0]  # constants of `time_input`

both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])


def trajectory(case: Member, stepper: LinearStepper, noise: FixedNoise, dtype: torch.dtype) -> Tensor:
    """Initial noise and the state after each step; the last one is the data estimate."""
    states = [noise.initial()]
    sampler = Sampler("parity", stepper, Uniform(last="data"), clip=case["clip"])
    net = denoiser(case, cosine(case))
    sampler.sample(net, noise, case["steps"], on_step=lambda k, u: states.append(u))
    assert all(state.dtype == dtype for state in states)
    return torch.stack(states)


@pytest.mark.golden(FILE, "schedule", later=unknown)
def test_schedule(case):
    process, u = cosine(case), case.input("u")
    case.check_each(
        logsnr=process.log_snr(u),
        alpha=process.signal(u).value,
        sigma=process.factor(u).value,
        log_sigma2=2.0 * process.log_sigma(u),
    )


@pytest.mark.golden(FILE, "float32_official", later=lambda case: unknown(case) or _no_quantity(case))
def test_official_float32_is_as_far_off_as_stated(case):
    case.check("value", cosine(case).log_snr(case.input("u")))


def _no_quantity(case: Member) -> str | None:
    if case["quantity"] in ("x_target", "loss"):
        return "tests/parity/test_progressive_targets.py has it"
    return None if case["quantity"] == "logsnr" else f"quantity {case['quantity']} has no test"


def _other_constants(case: Member) -> str | None:
    constants = case["constants"]
    if case["input_type"] not in INPUT_TYPES:
        return f"input_type {case['input_type']} has no time input"
    fixed = (constants["scale"], constants["clip"], constants["linear_range"]) == (SCALE, CLIP, RANGE)
    return None if fixed and constants["order"] == ["sin", "cos"] else "other constants than those of time_input"


@both_precisions
@pytest.mark.golden(FILE, "embedding", later=_other_constants)
def test_embedding(case, dtype):
    process, t = around(case.input("logsnr"))
    time = time_input(INPUT_TYPES[case["input_type"]], process, t)
    features = PositionalFeatures(case["dim"], case["constants"]["max_period"])
    case.check_each(input=(time / SCALE).to(dtype), emb=features(time.to(dtype)))


def pair(case: Member) -> Tensor:
    """Both times of a step, (u_t, u_s); the file repeats them as a row of an input array."""
    times = [case["u_t"], case["u_s"]]
    for rows in case.golden.of("inputs"):
        if rows["meaning"] == "rows (u_t,u_s)" and "pair_row" in case.words:
            assert case.golden.array(rows.inputs["value"])[case["pair_row"]].tolist() == times
    return torch.tensor(times, dtype=torch.float64)


@both_precisions
@pytest.mark.golden(FILE, "posterior_mean", later=unknown)
def test_posterior_mean(case, dtype):
    process, times = cosine(case), pair(case)
    form = X0().form(process.marginal(times[:1]))
    (row,) = Ancestral().bind(Ancestral().plan(process, times, "state"), form)
    x, z = case.input("x", dtype), case.input("z_t", dtype)
    case.check("mean", row.cast(dtype, "cpu").mix((z, x, torch.zeros_like(x))))


@pytest.mark.golden(FILE, "posterior_variance", later=unknown)
def test_posterior_variance(case):
    (std,) = Ancestral(*named(case["variance"])).plan(cosine(case), pair(case), "state").fresh.value
    case.check("var_std_logvar", torch.stack([std**2, std, 2.0 * std.log()]))


@pytest.mark.golden(FILE, "posterior_variance_array", later=unknown)
def test_posterior_variance_for_uncertain_data(case):
    """The law of total variance: the posterior's own and that of the data, through their coefficient in the mean."""
    process, times = cosine(case), pair(case)
    plan = Ancestral().plan(process, times, "state")
    (row,) = Ancestral().bind(plan, X0().form(process.marginal(times[:1])))
    share = row.mix.terms[1].value
    variance = plan.fresh.value**2 + share**2 * case.input("x_logvar").exp()
    case.check_each(var=variance, logvar=variance.log())


@both_precisions
@pytest.mark.golden(FILE, "conversion", later=unknown)
def test_conversion(case, dtype):
    process, t = around(case.input("logsnr"))
    law = process.marginal(t)
    given = {role: case.input(role, dtype) for role in case.inputs if role != "logsnr"}
    if case["op"] == "v_from_x_eps":
        cast = law.cast(dtype, "cpu")
        state = cast.perturb(given["x"], given["eps"])
        result = V().target(cast, given["x"], given["eps"], state)
    else:
        wanted, _, known = case["op"].split("_")
        form = {"x": X0, "eps": Eps, "v": V}[known]().form(law)
        combination = {"x": form.data, "eps": form.noise}[wanted]
        result = combination.cast(dtype, "cpu")((given["z"], given[known]))
    case.check("result", result)


@both_precisions
@pytest.mark.golden(FILE, "model_triple", later=unknown)
def test_model_triple(case, dtype):
    """Data, noise and velocity in what a network says; each image has its own log-SNR."""
    process, t = around(case.input("logsnr"))
    net = denoiser(case, process)
    asked = Clipped(net) if case["clip"] else net
    found: dict[str, list[Tensor]] = {"x": [], "eps": [], "v": []}
    with torch.no_grad():
        for z, point in zip(case.input("z", dtype).split(1), asked.prepare(t, dtype, "cpu"), strict=True):
            said = asked(z, point)
            found["x"].append(said.data)
            found["eps"].append(said.noise)
            found["v"].append(V().target(point.marginal, said.data, said.noise, z))
    case.check_each(**{role: torch.cat(values) for role, values in found.items()})


@both_precisions
@pytest.mark.golden(FILE, "train_state", later=unknown)
def test_training_state(case, dtype):
    process, u = cosine(case), case.input("u")
    law = process.marginal(u).cast(dtype, "cpu")
    x, eps = case.input("x", dtype), case.input("eps", dtype)
    z = law.perturb(x, eps)
    case.check_each(logsnr=process.log_snr(u).to(dtype), z=z, v_target=V().target(law, x, eps, z))


@both_precisions
@pytest.mark.golden(FILE, "train_loss", later=unknown)
def test_training_loss(case, dtype):
    process = cosine(case)
    steps = case["num_steps"]
    times = Discrete(steps or 1)
    t = times.times(process, case.input("i")) if steps else case.input("u")
    net = denoiser(case, process)
    objective = Denoising(WEIGHTINGS[case["weight"]](), times)
    losses = objective.losses(net, case.input("x", dtype), case.input("eps", dtype), t)
    case.check("loss", losses)
    if "grad" in case.outputs and dtype == torch.float64:
        losses.mean().backward()
        case.check("grad", net.network.vector.grad)


@both_precisions
@pytest.mark.golden(FILE, "ddim", later=unknown)
def test_ddim(case, dtype):
    case.check("trajectory", trajectory(case, DDIM(), FixedNoise(case.input("z", dtype)), dtype))


@both_precisions
@pytest.mark.golden(FILE, "ancestral", later=unknown)
def test_ancestral(case, dtype):
    # The file numbers noise by the step's index, which counts down to 0 for the last step.
    noise = FixedNoise(case.input("z", dtype), case.input("noise", dtype).flip(0))
    case.check("trajectory", trajectory(case, Ancestral(*named(case["variance"])), noise, dtype))


def _not_gaussian(case: Member) -> str | None:
    kind = case.golden.config["nets"][case["net"]]["type"]
    return unknown(case) or (None if kind == "gauss" else "the closed-form flow is known for Gaussian data")


@pytest.mark.golden(FILE, "convergence", later=_not_gaussian)
def test_ddim_converges_to_the_flow(case):
    process, noise = cosine(case), FixedNoise(case.input("z"))
    process.t_max = case["u_start"]
    net = denoiser(case, process)
    mean, std = net.network.means, net.network.stds
    (a1, s1), (a0, s0) = (
        (process.signal(t).value, process.factor(t).value)
        for t in torch.tensor([case["u_start"], case["u_end"]], dtype=torch.float64)
    )
    widths = ((a0**2 * std**2 + s0**2) / (a1**2 * std**2 + s1**2)).sqrt()
    exact = a0 * mean + (noise.initial() - a1 * mean) * widths

    def state(n: int) -> Tensor:
        sampler = Sampler("parity", DDIM(), Uniform(t_end=case["u_end"]), clip=case["clip"])
        return sampler.sample(net, noise, round(n * (case["u_start"] - case["u_end"]))).images

    errors = [(state(n) - exact).abs().max() for n in case.input("N").int().tolist()]
    case.check_each(exact=exact, state=state(case["state_grid"]), max_abs_err=torch.stack(errors))


@pytest.mark.golden(FILE, "vb", later=unknown)
def test_variational_bound(case):
    process, (t, s) = cosine(case), case.input("u_t_u_s")
    net, z = denoiser(case, process), case.input("z_t")
    form = net.form(process.marginal(t))
    data = form.data((z, *net.head.split(net.output(z, net.time_input(t)))))
    if case["clip"]:
        data = data.clamp(-1.0, 1.0)
    case.check("bits", step_bits(process, t, s, case.input("x"), data, *named(case["variance"])))


@pytest.mark.golden(FILE, "adam")
def test_adam(case):
    case.repeats("lr_wd", case["lr"], case["weight_decay"])
    parameter = nn.Parameter(case.input("p0"))
    words = {word: case[word] for word in ("lr", "eps", "weight_decay")}
    settings = Adam(**words, betas=tuple(case["betas"]), clip_norm=None)
    optimizer, schedule = settings.build([parameter])
    found = []
    for gradient in case.input("grads"):
        parameter.grad = gradient.clone()
        optimizer.step()
        schedule.step()
        found.append(parameter.detach().clone())
    case.check("params", torch.stack(found))


@pytest.mark.golden(FILE, "ema")
def test_average(case):
    case.repeats("decay", case["decay"])
    values = case.input("params")
    network = nn.Module()
    network.w = nn.Parameter(torch.full_like(values[0], math.pi))
    ema = EMA(network, EMASettings(decays=[case["decay"]], first_decay=case["first_decay"]))
    found = []
    for row in values:
        network.w.data.copy_(row)
        ema.update()
        (profile,) = ema.state_dict()["profiles"].values()
        found.append(profile["w"].clone())
    case.check("avg", torch.stack(found))


def clipped(gradients: list[Tensor], limit: float) -> tuple[list[Tensor], Tensor]:
    """The gradients after clipping, and their norm before it."""
    leaves = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for leaf, gradient in zip(leaves, gradients, strict=True):
        leaf.grad = gradient.clone()
    norm = clip_gradients(leaves, limit)
    return [leaf.grad for leaf in leaves], norm


@pytest.mark.golden(FILE, "grad_clip")
def test_gradient_clipping(case):
    case.repeats("clip_norm", case["clip_norm"])
    (a, b), norm = clipped([case.input("a"), case.input("b")], case["clip_norm"])
    case.check_each(a=a, b=b, gnorm=norm)


@pytest.mark.golden(FILE, "grad_clip_two_shards")
def test_gradient_clipping_in_two_shards(case):
    """What the official code does on two devices: clip each, then average. Ours clips the average."""
    case.repeats("clip_norm", case["clip_norm"])
    shards = [[case.input(f"g{shard}_{leaf}") for leaf in "ab"] for shard in (1, 2)]
    each = [clipped(shard, case["clip_norm"])[0] for shard in shards]
    case.check_each(a=0.5 * (each[0][0] + each[1][0]), b=0.5 * (each[0][1] + each[1][1]))
