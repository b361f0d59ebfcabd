"""The U-Net against the official one of Progressive Distillation: outputs, and the statistics of every module."""

from __future__ import annotations

import ast
import re

import pytest
import torch
from torch import Tensor, nn

from diffexp.network.spec import UNetSpec
from diffexp.network.unet import UNet
from tests.parity.golden import Member

FILE = "progressive_distillation_unet"


def build(network: dict, config: dict) -> UNet:
    norm = config["architecture"]["norm"]
    spec = UNetSpec(
        channels=network["ch"],
        multipliers=network["ch_mult"],
        blocks=network["num_res_blocks"],
        attention=network["attn_resolutions"],
        num_heads=network["num_heads"],
        head_dim=network["head_dim"],
        embedding_dim=network["emb_ch"],
        class_conditional=network["class_conditional"],
        resampling="box" if network["resblock_resample"] else "conv",
        dropout=network["dropout"],
        max_groups=norm["groups"],
        norm_eps=norm["eps"],
    )
    return spec.build(network["in_ch"], network["out_ch"], network["image_size"], network["num_classes"])


def our_name(module: str, levels: int) -> str:
    """The name in `UNet` of a module of the official network; query, key and value become .q, .k, .v of `qkv`."""
    rules = {
        r"^dense0": "embedding.dense1",
        r"^dense1": "embedding.dense2",
        r"^class_emb": "embedding.label",
        r"^mid\.block_": "middle",
        r"^mid\.attn_\d+": "middle_attention",
        r"^down_(\d+)": r"down.\1",
        r"\.block_": ".blocks.",
        r"\.attn_": ".attention.",
        r"\.temb_proj$": ".project",
        r"\.nin_shortcut$": ".skip",
        r"\.proj_out$": ".out",
    }
    for pattern, name in rules.items():
        module = re.sub(pattern, name, module, count=1)
    return re.sub(r"^up_(\d+)", lambda match: f"up.{levels - 1 - int(match[1])}", module)


def convert(weight: Tensor, rule: str) -> Tensor:
    if rule == "conv":
        return weight.permute(3, 2, 0, 1)
    if rule == "linear":
        return weight.t()
    if rule == "heads_in":
        return weight.flatten(1).t()
    if rule == "heads_out":
        return weight.flatten(0, 1).t()
    return weight.flatten()  # heads_bias, and biases and norms, which have one axis


def state(case: Member, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The official weights under our names. The official 1x1 shortcuts are dense layers, ours convolutions."""
    found: dict[str, Tensor] = {}
    fields = case["params_fields"]
    for row in case["params"]:
        said = dict(zip(fields, row, strict=True))
        name = f"{our_name(said['module'], len(case['network']['ch_mult']))}.{said['parameter']}"
        found[name] = convert(case.golden.tensor(said["key"]), said["map"])
    for name in [name for name in own if ".qkv." in name]:
        found[name] = torch.cat([found.pop(name.replace(".qkv.", f".{part}.")) for part in "qkv"])
    return {name: weight.reshape(own[name].shape) for name, weight in found.items()}


def time_input(logsnr: Tensor, network: dict, scale: float) -> Tensor:
    if network["logsnr_input_type"] == "inv_cos":
        angle = torch.arctan(torch.exp(-logsnr.clip(*network["logsnr_clip"]) / 2.0)) / (torch.pi / 2.0)
        return (scale * angle).float()  # the official code rounds the argument to float32
    if network["logsnr_input_type"] == "sigmoid":
        return scale * torch.sigmoid(logsnr)
    low, high = network["logsnr_range"]
    return scale * (logsnr - low) / (high - low)


def official(case: Member, dtype: torch.dtype) -> UNet:
    """Our network with the official weights."""
    network = build(case["network"], case.golden.config).to(dtype).eval()
    network.load_state_dict(state(case, network.state_dict()), strict=True)
    return network


def forward(case: Member, network: UNet, dtype: torch.dtype) -> Tensor:
    scale = case.golden.config["architecture"]["time_embedding"]["scale"]
    time = time_input(case.input("logsnr"), case["network"], scale).to(dtype)
    labels = case.input("y").long() if "y" in case.inputs else None
    with torch.no_grad():
        return network(case.input("x", dtype), time, labels)


@pytest.mark.parametrize(("role", "dtype"), [("out_f64", torch.float64), ("out_f32", torch.float32)])
@pytest.mark.golden(FILE, "unet")
def test_forward_pass_agrees_with_the_official_network(case, role, dtype):
    network = official(case, dtype)
    case.check(role, forward(case, network, dtype))


@pytest.mark.golden(FILE, "unet")
def test_every_module_agrees_with_the_official_one(case):
    """Mean of |.|, mean and standard deviation of each module's output."""
    network = official(case, torch.float64)
    found: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module) -> None:
        def note(module: nn.Module, inputs: object, output: Tensor) -> None:
            found[name] = torch.stack([output.abs().mean(), output.mean(), output.std(correction=0)])

        module.register_forward_hook(note)

    for name in case["absmean_outputs"]:
        watch(name, network.get_submodule(our_name(name, len(case["network"]["ch_mult"]))))
    forward(case, network, torch.float64)
    for name, key in case["absmean_outputs"].items():
        case.compare("absmean", found[name], case.golden.array(key))


@pytest.mark.golden(FILE, "unet")
def test_the_stored_arguments_are_those_of_the_config(case):
    arguments: dict = ast.literal_eval(str(case.golden.array(case["config_key"])))
    plain = {word: list(value) if isinstance(value, tuple) else value for word, value in arguments.items()}
    assert plain == {word: case["network"][word] for word in arguments}
