"""DINOv2 and CLIP from small stand-in files in every spelling, against torch's and torch-fidelity's transformers."""

import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from diffexp.core import random
from diffexp.core.errors import ConfigError, DiffexpError
from diffexp.evaluation.foundation import CLIP_URL, DINOV2_URL, CLIPFeatures, DINOv2Features

WIDTH, HIDDEN, DEPTH = 128, 512, 2
IMAGES = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _tensor(name, *shape, centre=0.0, spread=0.3):
    values = random.normal(0, f"stand-in/{name}", range(1), shape)[0].float()
    return (centre + spread * values).half().float()  # torch-fidelity's CLIP rounds weights to half precision


def _block(layer):
    found = {}
    for name in ("norm1", "norm2"):
        found[f"{name}.weight"] = _tensor(f"{layer}{name}w", WIDTH, centre=1.0)
        found[f"{name}.bias"] = _tensor(f"{layer}{name}b", WIDTH)
    for name, rows, columns in (
        ("attn.qkv", 3 * WIDTH, WIDTH),
        ("attn.proj", WIDTH, WIDTH),
        ("mlp.fc1", HIDDEN, WIDTH),
        ("mlp.fc2", WIDTH, HIDDEN),
    ):
        found[f"{name}.weight"] = _tensor(f"{layer}{name}w", rows, columns, spread=0.08)
        found[f"{name}.bias"] = _tensor(f"{layer}{name}b", rows)
    return found


@pytest.fixture(scope="module")
def dinov2():
    """A file as Meta writes it: positions of 3 x 3 patches, 16 x 16 are needed."""
    state = {
        "cls_token": _tensor("cls", 1, 1, WIDTH),
        "pos_embed": _tensor("pos", 1, 10, WIDTH),
        "mask_token": torch.zeros(1, WIDTH),
        "patch_embed.proj.weight": _tensor("patch", WIDTH, 3, 14, 14, spread=0.02),
        "patch_embed.proj.bias": _tensor("patchb", WIDTH),
        "norm.weight": _tensor("nw", WIDTH, centre=1.0),
        "norm.bias": _tensor("nb", WIDTH),
    }
    for layer in range(DEPTH):
        state |= {f"blocks.{layer}.{name}": value for name, value in _block(layer).items()}
        state |= {f"blocks.{layer}.ls{k}.gamma": _tensor(f"{layer}ls{k}", WIDTH, centre=0.5) for k in (1, 2)}
    return state


@pytest.fixture(scope="module")
def clip():
    """A file as OpenAI names it, pictures of 32 pixels in 4 x 4 patches, with a tower of text."""
    state = {
        "visual.class_embedding": _tensor("cls", WIDTH),
        "visual.positional_embedding": _tensor("pos", 17, WIDTH),
        "visual.conv1.weight": _tensor("patch", WIDTH, 3, 8, 8, spread=0.05),
        "visual.proj": _tensor("head", WIDTH, 24),
        "text_projection": torch.zeros(5, 24),
        "logit_scale": torch.zeros(()),
        "positional_embedding": torch.zeros(7, 5),
        "transformer.resblocks.0.ln_1.weight": torch.zeros(5),
        "ln_final.weight": torch.zeros(5),
        "token_embedding.weight": torch.zeros(9, 5),
    }
    for name in ("ln_pre", "ln_post"):
        state |= {
            f"visual.{name}.weight": _tensor(f"{name}w", WIDTH, centre=1.0),
            f"visual.{name}.bias": _tensor(name, WIDTH),
        }
    names = {
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    for layer in range(DEPTH):
        for name, value in _block(layer).items():
            for old, new in names.items():
                name = name.replace(old, new)
            state[f"visual.transformer.resblocks.{layer}.{name}"] = value
    return state


def _split(state, pattern, names):
    """The stacked queries, keys and values as tensors of their own."""
    found = {}
    for name, value in state.items():
        match = re.fullmatch(pattern, name)
        if match:
            found |= {
                names.format(*match.groups(), part): rows for part, rows in zip("012", value.chunk(3), strict=True)
            }
        else:
            found[name] = value.contiguous()
    return found


def _renamed(state, table):
    found = {}
    for name, value in state.items():
        for old, new in table:
            name = re.sub(old, new, name)
        found[name] = value
    return found


def _as_transformers(state):
    """The same weights as the library transformers saves DINOv2."""
    state = _split(state, r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", "blocks.{0}.attention.attention.{2}.{1}")
    parts = [(rf"attention\.{k}\.", f"attention.{name}.") for k, name in enumerate(("query", "key", "value"))]
    return _renamed(
        state,
        [
            *parts,
            (r"^blocks\.", "encoder.layer."),
            (r"attn\.proj", "attention.output.dense"),
            (r"ls([12])\.gamma", r"layer_scale\1.lambda1"),
            (r"^norm\.", "layernorm."),
            (r"^cls_token", "embeddings.cls_token"),
            (r"^pos_embed", "embeddings.position_embeddings"),
            (r"^mask_token", "embeddings.mask_token"),
            (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        ],
    )


def _as_transformers_clip(state):
    state = _split(
        state,
        r"visual\.transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)",
        "visual.transformer.resblocks.{0}.self_attn.{2}_proj.{1}",
    )
    found = _renamed(
        {k: v for k, v in state.items() if k.startswith("visual.")},
        [
            *[(rf"self_attn\.{k}_", f"self_attn.{name}_") for k, name in enumerate("qkv")],
            (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
            (r"attn\.out_proj", "self_attn.out_proj"),
            (r"ln_([12])", r"layer_norm\1"),
            (r"c_fc", "fc1"),
            (r"c_proj", "fc2"),
            (r"visual\.ln_pre", "vision_model.pre_layrnorm"),
            (r"visual\.ln_post", "vision_model.post_layernorm"),
            (r"visual\.class", "vision_model.embeddings.class"),
            (r"visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
            (r"visual\.conv1", "vision_model.embeddings.patch_embedding"),
        ],
    )
    found["visual_projection.weight"] = found.pop("visual.proj").T.contiguous()
    return {**found, "text_model.final_layer_norm.weight": torch.zeros(5), "logit_scale": torch.zeros(())}


def _layer(state, prefix):
    """torch's own layer with the same weights; layer scale is folded into the linear maps behind which it stands."""
    layer = nn.TransformerEncoderLayer(WIDTH, WIDTH // 64, HIDDEN, 0.0, "gelu", 1e-6, True, True)
    mine = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    names = {
        "attn.qkv.weight": "self_attn.in_proj_weight",
        "attn.qkv.bias": "self_attn.in_proj_bias",
        "attn.proj": "self_attn.out_proj",
        "mlp.fc1": "linear1",
        "mlp.fc2": "linear2",
    }
    for name, scale in (("attn.proj", mine.pop("ls1.gamma")), ("mlp.fc2", mine.pop("ls2.gamma"))):
        mine[f"{name}.weight"], mine[f"{name}.bias"] = (
            scale[:, None] * mine[f"{name}.weight"],
            scale * mine[f"{name}.bias"],
        )
    layer.load_state_dict(_renamed(mine, [(re.escape(old), new) for old, new in names.items()]))
    return layer.eval()


@torch.no_grad()
def test_dinov2_is_torchs_transformer_on_interpolated_positions(dinov2, tmp_path):
    torch.save(dinov2, tmp_path / "small.pth")
    extractor = DINOv2Features(str(tmp_path / "small.pth")).prepare()
    assert (extractor.dim, extractor.size, extractor.resize) == (WIDTH, 224, "bicubic_antialias_224")
    assert extractor.metric == f"fd_dinov2_{extractor.hash[:8]}"
    shown = F.interpolate(IMAGES.float(), size=(224, 224), mode="bicubic", antialias=True) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    shown = (shown - mean[:, None, None]) / std[:, None, None]
    x = F.conv2d(shown, dinov2["patch_embed.proj.weight"], dinov2["patch_embed.proj.bias"], stride=14)
    x = torch.cat([dinov2["cls_token"].expand(3, 1, WIDTH), x.flatten(2).transpose(1, 2)], dim=1)
    square = dinov2["pos_embed"][:, 1:].reshape(1, 3, 3, WIDTH).permute(0, 3, 1, 2)
    square = F.interpolate(square, scale_factor=(16.1 / 3, 16.1 / 3), mode="bicubic").permute(0, 2, 3, 1)
    x = x + torch.cat([dinov2["pos_embed"][:, :1], square.reshape(1, 256, WIDTH)], dim=1)
    for layer in range(DEPTH):
        x = _layer(dinov2, f"blocks.{layer}.")(x)
    expected = F.layer_norm(x[:, 0], (WIDTH,), dinov2["norm.weight"], dinov2["norm.bias"], 1e-6)
    features = extractor(IMAGES)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    assert float((features[0] - features[1]).norm() / features[0].norm()) > 0.05, "the image must matter"


@torch.no_grad()
def test_clip_is_torch_fidelitys(clip, tmp_path):
    oracle = pytest.importorskip("torch_fidelity.feature_extractor_clip")
    torch.save(clip, tmp_path / "small.pt")
    extractor = CLIPFeatures(str(tmp_path / "small.pt")).prepare()
    assert (extractor.dim, extractor.size) == (24, 32)
    network = oracle.build_model(dict(clip), torch.float32)
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    expected = network.visual((IMAGES / 255 - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(extractor(IMAGES), expected, rtol=1e-4, atol=1e-4)
    exact = CLIPFeatures(str(tmp_path / "small.pt"), "gelu").prepare()
    assert exact.name == f"{extractor.name}_gelu"
    assert not torch.allclose(exact(IMAGES), expected, rtol=1e-3, atol=1e-3)


def test_every_spelling_of_the_same_weights_gives_the_same_features(dinov2, clip, tmp_path):
    for make, official, other in (
        (DINOv2Features, dinov2, _as_transformers(dinov2)),
        (CLIPFeatures, clip, _as_transformers_clip(clip)),
    ):
        torch.save(official, tmp_path / "official.pth")
        save_file(other, tmp_path / "other.safetensors")
        assert not set(other) & set(official) - {"logit_scale"}
        features = [make(str(tmp_path / name))(IMAGES) for name in ("official.pth", "other.safetensors")]
        assert torch.equal(*features)


def test_missing_weights_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for make, url in ((DINOv2Features, DINOV2_URL), (CLIPFeatures, CLIP_URL)):
        with pytest.raises(DiffexpError, match="not found") as error:
            make().prepare()
        assert url in str(error.value)
        assert "evaluation.extractor.weights=" in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="choose from quick_gelu, gelu"):
        CLIPFeatures(activation="relu")


def test_other_files_are_refused(dinov2, clip, tmp_path):
    cases = {
        "holds no clip": (CLIPFeatures, dinov2),
        "holds no dinov2": (DINOv2Features, clip),
        "kind is not known .tensor registers": (DINOv2Features, {**dinov2, "registers": torch.zeros(2)}),
        "no tensor for patch.weight": (DINOv2Features, {"cls_token": torch.zeros(1, 1, 4)}),
        "holds no whole dinov2": (DINOv2Features, {k: v for k, v in dinov2.items() if k != "blocks.1.mlp.fc2.bias"}),
    }
    for message, (make, state) in cases.items():
        torch.save(state, tmp_path / "weights.pth")
        with pytest.raises(DiffexpError, match=message) as error:
            make(str(tmp_path / "weights.pth")).prepare()
        assert "\n" not in str(error.value)


def test_a_file_that_runs_code_is_refused(tmp_path):
    class Planted:
        def __reduce__(self):
            return (open, (str(tmp_path / "marker"), "w"))

    torch.save({"cls_token": Planted()}, tmp_path / "weights.pth")
    with pytest.raises(DiffexpError, match="does not hold weights alone"):
        DINOv2Features(str(tmp_path / "weights.pth")).prepare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(DiffexpError, match="does not hold weights alone"):
        CLIPFeatures(str(tmp_path / "script.pt")).prepare()
    assert not (tmp_path / "marker").exists()
