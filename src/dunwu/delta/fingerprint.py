"""Which base a delta was trained on: a digest of what a merge, a cast to few bits or another delta leaves alone."""

import hashlib
from collections.abc import Mapping

from torch import Tensor, nn

from dunwu.core.lineage import stable_hash
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder
from dunwu.model.families import config_to_hf

_ROWS = 8


def base_fingerprint(model: Decoder) -> dict[str, str]:
    """Digests of the shape, the norms, and the first rows of the embedding (where that is not of few bits), in bfloat16."""
    found = {"shape": shape_digest(model.config)}
    norms = [p for name, p in model.named_parameters() if p.ndim == 1 and "norm" in name and name.endswith("weight")]
    found["norms"] = _digest(norms)
    embedding = model.model.embed_tokens
    if type(embedding) is nn.Embedding:
        found["embedding"] = _digest([embedding.weight[:_ROWS]])
    return found


def shape_digest(config: DecoderConfig) -> str:
    """A digest of all that `config.json` says but for the ids of special tokens."""
    return stable_hash({k: v for k, v in config_to_hf(config).items() if not k.endswith("token_id")})


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """What both know and say otherwise."""
    return [name for name in one if name in other and one[name] != other[name]]


def _digest(tensors: list[Tensor] | list[nn.Parameter]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().bfloat16().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
