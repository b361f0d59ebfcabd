"""The network of decoupled diffusion against the official one: names, shapes and outputs with weights by rule."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from diffexp.network.decoupled import DecoupledSpec
from diffexp.network.decoupled_unet import DecoupledUNet
from tests.parity.golden import Member

FILE = "ddm"
CONVOLVED = ("qkv", "proj")  # dense layers of ours that are 1x1 convolutions there


def unknown(case: Member) -> str | None:
    """Why a member cannot be tested."""
    said = case["architecture"]
    if said["label_dim"]:
        return "the family passes no class labels"
    sizes = [said["img_resolution"] >> level for level in range(len(said["channel_mult"]))]
    attended = [
        factor for size, factor in zip(sizes, said["channel_mult"], strict=True) if size in said["attn_resolutions"]
    ]
    if min([*attended, said["channel_mult"][-1]]) * said["model_channels"] < said["channels_per_head"]:
        return "an attention narrower than one head, which the official code leaves out and ours refuses"
    return None


def build(case: Member) -> DecoupledUNet:
    """The network that a member describes; what it does not say is in section 5.1 of the specification."""
    said = case["architecture"]
    sizes = {said["img_resolution"] >> level for level in range(len(said["channel_mult"]))}
    spec = DecoupledSpec(
        channels=said["model_channels"],
        multipliers=said["channel_mult"],
        blocks=said["num_blocks"],
        attention=sorted(sizes & set(said["attn_resolutions"])),
        head_dim=said["channels_per_head"],
        embedding="timestep",
        embedding_dim=said["channel_mult_emb"] * said["model_channels"],
        min_group_size=4,
        norm_eps=1e-5,
        dropout=said["dropout"],
        initialisation="pytorch",
        augment_dim=said["augment_dim"] or None,
        decoders=case["decoders"],
    )
    image = said["out_channels"] * said["out_mul"]
    out_channels = image if case["decoders"] == 1 else image + said["out_channels"]
    return spec.build(said["in_channels"], out_channels, said["img_resolution"])


def modules(network: DecoupledUNet) -> Iterator[tuple[str, str]]:
    """(official name, our name) of every layer with weights, in the official order."""
    sizes = network.spec.resolutions(network.resolution)
    last, blocks = len(sizes) - 1, network.spec.blocks
    yield from (("map_augment", "embedding.augment"), ("map_layer0", "embedding.dense1"))
    yield "map_layer1", "embedding.dense2"
    for level, size in enumerate(sizes):
        if level == 0:
            yield f"enc.{size}x{size}_conv", "conv_in"
        else:
            yield from block(f"enc.{size}x{size}_down", f"down.{level - 1}.downsample", None)
        for number in range(blocks):
            here = f"down.{level}"
            yield from block(
                f"enc.{size}x{size}_block{number}", f"{here}.blocks.{number}", f"{here}.attention.{number}"
            )
    for number in range(len(network.decoders)):
        theirs, ours = f"decouple{number + 1}", f"decoders.{number}.branch"
        yield f"{theirs}.0", f"{ours}.conv"
        yield from ((f"{theirs}.1.{a}", f"{ours}.gate.{b}") for a, b in (("map", "map"), ("q_conv", "query")))
        yield f"{theirs}.1.k_conv", f"{ours}.gate.key"
    for number in range(len(network.decoders)):
        mark, ours = str(number + 1) if number else "", f"decoders.{number}"
        for level in range(last, -1, -1):
            theirs, here = f"dec{mark}.{sizes[level]}x{sizes[level]}", f"{ours}.up.{last - level}"
            if level == last:
                yield from block(f"{theirs}_in0", f"{ours}.middle1", f"{ours}.middle_attention")
                yield from block(f"{theirs}_in1", f"{ours}.middle2", None)
            else:
                yield from block(f"{theirs}_up", f"{ours}.up.{last - level - 1}.upsample", None)
            for place in range(blocks + 1):
                yield from block(f"{theirs}_block{place}", f"{here}.blocks.{place}", f"{here}.attention.{place}")
        yield from ((f"out_norm{mark}", f"{ours}.norm_out"), (f"out_conv{mark}", f"{ours}.conv_out"))


def block(theirs: str, ours: str, attention: str | None) -> Iterator[tuple[str, str]]:
    """The layers of a residual block, and of the attention that is a part of it there; some may not exist."""
    names = {"norm0": "norm1", "conv0": "conv1", "affine": "project", "norm1": "norm2", "conv1": "conv2"}
    for official, own in {**names, "skip": "skip"}.items():
        yield f"{theirs}.{official}", f"{ours}.{own}"
    if attention is not None:
        for official, own in {"norm2": "norm", "qkv": "qkv", "proj": "out"}.items():
            yield f"{theirs}.{official}", f"{attention}.{own}"


def entries(network: DecoupledUNet) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Official name -> (our name, official shape) of all weights."""
    own, found = network.state_dict(), {}
    for theirs, ours in modules(network):
        for part in ("weight", "bias"):
            if f"{ours}.{part}" in own:
                shape = tuple(own[f"{ours}.{part}"].shape)
                convolved = theirs.endswith(CONVOLVED) and part == "weight"
                found[f"{theirs}.{part}"] = f"{ours}.{part}", (*shape, 1, 1) if convolved else shape
    assert {ours for ours, _ in found.values()} == set(own)
    return found


def by_rule(name: str, shape: tuple[int, ...], rule: dict) -> Tensor:
    """The values of one entry."""
    count = int(np.prod(shape))
    v = np.sin(rule["frequency"] * np.arange(count) + sum(name.encode()) % rule["name_hash_modulus"])
    for case in rule["rules"]:
        if name.endswith(case.get("if_name_endswith", "\0")):
            return torch.from_numpy(case["bias_scale"] * v).reshape(shape)
        if case.get("if_name_contains", "\0") in name:
            return torch.from_numpy(1.0 + case["norm_scale"] * v).reshape(shape)
    return torch.from_numpy(v / np.sqrt(count / shape[0])).reshape(shape)


def official(case: Member, dtype: torch.dtype) -> DecoupledUNet:
    """Our network with the weights that the rule gives the official one."""
    network, rule = build(case).to(dtype).eval(), case.golden.config[case["weights"]]
    assert case["eval_mode"]
    filled = {}
    for theirs, (ours, shape) in entries(network).items():
        value = by_rule(theirs, shape, rule)
        if ".qkv." in theirs:  # rows (head, channel, q | k | v) there, (q | k | v, head, channel) here
            heads = network.spec.heads(len(value) // 3)
            value = value.unflatten(0, (heads, -1, 3)).movedim(2, 0).flatten(0, 2)
        filled[ours] = value.reshape(network.state_dict()[ours].shape)
    network.load_state_dict(filled, strict=True)
    return network


@pytest.mark.golden(FILE, "unets", later=unknown)
def test_names_shapes_and_the_number_of_parameters_are_the_official_ones(case):
    network = build(case)
    found = entries(network)
    count = sum(parameter.numel() for parameter in network.parameters())
    shapes = ["x".join(map(str, shape)) for _, shape in found.values()]
    case.check_each(names=np.array(list(found)), shapes=np.array(shapes), nparam=np.array(count))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.golden(FILE, "unets", later=unknown)
def test_the_heads_agree_with_the_official_network(case, dtype):
    network = official(case, dtype)
    x, time = case.input("x", dtype), case.input("cnoise", dtype)
    assert len(x) == case["batch"]
    widths = [decoder.conv_out.out_channels for decoder in network.decoders]
    told = {"": None}
    if "augment_labels" in case.inputs:
        told["_augmented"] = case.input("augment_labels", dtype)
    with torch.no_grad():
        for ending, augment in told.items():
            heads = network(x, time, None, augment).split(widths, dim=1)
            case.check_each(**{f"head{number}{ending}": head for number, head in enumerate(heads)})
