"""Files of released vision transformers: the authors' own, timm's and transformers' spell the same tensors differently.

Nothing is downloaded, and nothing in a file is run: safetensors, or torch files of tensors. OpenAI's files of CLIP are
TorchScript archives, which are read when their SHA-256 is one of the published ones.
"""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path

import torch
from torch import Tensor

from diffexp.core.errors import DiffexpError

OPENAI = {
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "ViT-B-32",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "ViT-B-16",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "ViT-L-14",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": "ViT-L-14-336px",
}
_LAYER = r"(?:blocks|encoder\.layer|transformer\.resblocks|encoder\.layers)\.(\d+)\."
_W = r"\.(weight|bias)"
_SPELLINGS = [  # (pattern of a name without the tower's prefix, the name here)
    (r"(?:embeddings\.)?(?:cls_token|class_embedding)", "cls"),
    (r"(?:embeddings\.)?(?:pos_embed|position_embeddings|positional_embedding|position_embedding\.weight)", "position"),
    (rf"(?:patch_embed\.proj|embeddings\.patch_embeddings\.projection){_W}", r"patch.\1"),
    (rf"(?:conv1|embeddings\.patch_embedding){_W}", r"patch.\1"),
    (rf"(?:ln_pre|pre_layrnorm){_W}", r"pre.\1"),
    (rf"(?:norm|layernorm|ln_post|post_layernorm){_W}", r"norm.\1"),
    (rf"{_LAYER}(?:norm|ln_|layer_norm)([12]){_W}", r"blocks.\1.norm\2.\3"),
    (rf"{_LAYER}attn\.(?:qkv\.|in_proj_)(weight|bias)", r"blocks.\1.qkv.\2"),
    (rf"{_LAYER}(?:attention\.attention\.query|self_attn\.q_proj){_W}", r"blocks.\1.qkv.\2#0"),
    (rf"{_LAYER}(?:attention\.attention\.key|self_attn\.k_proj){_W}", r"blocks.\1.qkv.\2#1"),
    (rf"{_LAYER}(?:attention\.attention\.value|self_attn\.v_proj){_W}", r"blocks.\1.qkv.\2#2"),
    (rf"{_LAYER}(?:attn\.proj|attention\.output\.dense|attn\.out_proj|self_attn\.out_proj){_W}", r"blocks.\1.proj.\2"),
    (rf"{_LAYER}(?:ls|layer_scale)([12])\.(?:gamma|lambda1)", r"blocks.\1.scale\2"),
    (rf"{_LAYER}mlp\.(?:fc1|c_fc){_W}", r"blocks.\1.fc1.\2"),
    (rf"{_LAYER}mlp\.(?:fc2|c_proj){_W}", r"blocks.\1.fc2.\2"),
    (r"proj", "head.transposed"),
    (r"visual_projection\.weight", "head.weight"),
]
_TOWERS = ("visual.", "vision_model.", "dinov2.")
_IDLE = re.compile(
    r"(text_model|transformer|token_embedding|ln_final|position_ids)\b.*|(embeddings\.)?mask_token|logit_scale|logit_bias|"
    r"text_projection.*|positional_embedding|input_resolution|context_length|vocab_size|.*position_ids"
)


def read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of a file, in float32; DiffexpError when it holds anything else."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        elif digest in OPENAI:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                found = torch.jit.load(path, map_location="cpu").state_dict()
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of archives, which are refused
                found = torch.load(path, map_location="cpu", weights_only=True)
            found = found.get("state_dict", found)
        return {name: value.float() for name, value in found.items()}
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise DiffexpError(f"evaluation.extractor: {path} does not hold weights alone ({reason})") from error


def own_names(found: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """Tensors under the names of `vit.VisionTransformer`; of CLIP those of the pictures' tower.

    Raises:
        DiffexpError: a name that is none of a vision transformer `what`, or a tensor that is missing.
    """
    towers = [tower for tower in _TOWERS if any(name.startswith(tower) for name in found)]
    state: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for name, value in found.items():
        own = _own(name, towers)
        if own is None:
            continue
        if not own:
            raise DiffexpError(f"evaluation.extractor: a {what} of this kind is not known (tensor {name})")
        base, _, part = own.partition("#")
        if part:
            parts.setdefault(base, {})[int(part)] = value
        elif base == "head.transposed":
            state["head.weight"] = value.T.contiguous()
        else:
            state[base] = value.reshape(-1, value.shape[-1]) if base in ("cls", "position") else value
    for base, three in parts.items():
        state[base] = torch.cat([three[place] for place in sorted(three)])
    for name in ("patch.weight", "cls", "position", "norm.weight", "blocks.0.fc1.weight"):
        if name not in state:
            raise DiffexpError(f"evaluation.extractor: the file holds no {what} (there is no tensor for {name})")
    return state


def _own(name: str, towers: list[str]) -> str | None:
    """The name here; None for what belongs to no picture, "" for what is not known."""
    plain = name
    for tower in towers:
        plain = plain.removeprefix(tower)
    if plain == name and towers and not name.startswith("visual_projection"):
        return None  # of another tower
    for pattern, own in _SPELLINGS:
        match = re.fullmatch(pattern, plain)
        if match:
            return match.expand(own)
    return None if _IDLE.fullmatch(plain) else ""
