"""The forward pass against the official U-Net of Progressive Distillation, driven by the golden file's `config`.

Needs `--golden-dir`, the folder that holds `progressive_distillation_unet.npz`; skipped without it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from diffexp.network.spec import UNetSpec
from diffexp.network.unet import UNet

FILE = "progressive_distillation_unet.npz"


@pytest.fixture
def golden(request) -> tuple[np.lib.npyio.NpzFile, dict]:
    folder = request.config.getoption("--golden-dir", default=None)
    if folder is None or not (Path(folder) / FILE).is_file():
        pytest.skip(f"give --golden-dir, a folder that holds {FILE}")
    arrays = np.load(Path(folder) / FILE)
    return arrays, json.loads(str(arrays["config"]))


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


def convert(array: np.ndarray, rule: str) -> Tensor:
    weight = torch.from_numpy(array.astype(np.float64))
    if rule == "conv":
        return weight.permute(3, 2, 0, 1)
    if rule == "linear":
        return weight.t()
    if rule == "heads_in":
        return weight.flatten(1).t()
    if rule == "heads_out":
        return weight.flatten(0, 1).t()
    return weight.flatten()  # heads_bias, and biases and norms, which have one axis


def state(member: dict, arrays: np.lib.npyio.NpzFile, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The official weights under our names. The official 1x1 shortcuts are dense layers, ours convolutions."""
    found: dict[str, Tensor] = {}
    for key, module, parameter, rule, _ in member["params"]:
        name = f"{our_name(module, len(member['network']['ch_mult']))}.{parameter}"
        found[name] = convert(arrays[key], rule)
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


@pytest.mark.parametrize(("role", "dtype"), [("out_f64", torch.float64), ("out_f32", torch.float32)])
def test_forward_pass_agrees_with_the_official_network(golden, role, dtype):
    arrays, config = golden
    family = config["families"]["unet"]
    tolerance = family["tolerance_by_output"][role]
    for member in family["members"]:
        inputs = {name: torch.from_numpy(arrays[key]) for name, key in member["inputs"].items()}
        network = build(member["network"], config).to(dtype).eval()
        network.load_state_dict(state(member, arrays, network.state_dict()), strict=True)
        scale = config["architecture"]["time_embedding"]["scale"]
        time = time_input(inputs["logsnr"].double(), member["network"], scale).to(dtype)
        labels = inputs["y"].long() if "y" in inputs else None
        with torch.no_grad():
            output = network(inputs["x"].to(dtype), time, labels)
        want = torch.from_numpy(arrays[member["outputs"][role]])
        torch.testing.assert_close(output, want.to(dtype), rtol=tolerance["rel"], atol=tolerance["abs"])
