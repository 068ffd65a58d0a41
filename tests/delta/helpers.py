"""Models of all families with large, different weights, and what they say."""

import torch
from torch import Tensor, nn

from dunwu.delta.base import Delta
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder
from tests.model.helpers import TINY, lively
from tests.model.test_families import CONFIGS
from tests.model.test_mixtures import VARIANTS

ALL: dict[str, DecoderConfig] = {"tiny": TINY, **CONFIGS, **VARIANTS}


def base(name: str = "tiny", seed: int = 0) -> Decoder:
    return lively(ALL[name], seed)


def ids_of(model: Decoder, *, rows: int = 2, time: int = 9) -> Tensor:
    return torch.randint(0, model.config.vocab_size, (rows, time), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits(model: Decoder, ids: Tensor | None = None) -> Tensor:
    return model.logits(model(ids_of(model) if ids is None else ids))


def loss_of(model: Decoder) -> Tensor:
    ids = ids_of(model)
    said = model.logits(model(ids[:, :-1]))
    return nn.functional.cross_entropy(said.flatten(0, 1), ids[:, 1:].flatten())


def shake(delta: Delta, *, size: float = 0.05, seed: int = 5) -> Delta:
    """Give everything that learns a value away from its start, so that the delta does something."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in delta.trained().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=noise))
    return delta


def state(model: Decoder) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
