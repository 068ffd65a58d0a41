"""Prefix tuning (arXiv:2101.00190) and P-tuning v2 (arXiv:2110.07602): keys and values in front of every text, in every layer.

They lie as attention reads them, keys already turned. With latent attention they are latent vectors and turned channels, which
the cache keeps there in place of keys and values; peft has no such form.

Shapes: `P` columns, `N` numbers of one of them over all layers, `K` key/value heads, `C` head channels.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dunwu.core.deltas import DeepFrontSpec, PrefixSpec
from dunwu.core.errors import ModelError
from dunwu.delta.exchange import Exchange
from dunwu.delta.fronts import Columns, Front, random_words, read_alone
from dunwu.model.decoder import Decoder

PROMPT = "prompt_embeddings"
"""What peft calls what stands in front, of whatever kind."""


class Encoder(nn.Module):
    """The MLP that the columns come out of while they are trained (arXiv:2101.00190 section 4.3): `w2 tanh(w1 e)`."""

    def __init__(self, length: int, width: int, hidden: int, numbers: int, generator: torch.Generator) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(length, width).normal_(generator=generator))
        self.first = nn.Parameter(_uniform(hidden, width, generator))
        self.first_bias = nn.Parameter(torch.zeros(hidden))
        self.second = nn.Parameter(_uniform(numbers, hidden, generator))
        self.second_bias = nn.Parameter(torch.zeros(numbers))

    def forward(self) -> Tensor:
        return F.linear(
            torch.tanh(F.linear(self.embedding, self.first, self.first_bias)), self.second, self.second_bias
        )


class Prefix(Front[DeepFrontSpec]):
    """Columns that learn themselves, or out of an MLP. `numbers`: theirs, `[P, N]`, layer by layer, keys before values."""

    def __init__(self, model: Decoder, spec: DeepFrontSpec, *, seed: int) -> None:
        super().__init__(model, spec)
        config = model.config
        heads, first, second = config.cache_shape
        size, generator = config.num_hidden_layers * heads * (first + second), torch.Generator().manual_seed(seed)
        device = next(model.parameters()).device
        if spec.mlp:
            self.encoder = Encoder(spec.length, config.hidden_size, spec.mlp, size, generator).to(device)
        else:
            self.own = nn.Parameter(self._start(size, seed, generator).to(device))

    @property
    def numbers(self) -> Tensor:
        return self.encoder() if self.spec.mlp else self.own

    def columns(self) -> Columns:
        heads, first, second = self.model.config.cache_shape
        found: Columns = []
        for layer_PN in self.numbers.unflatten(1, (self.model.config.num_hidden_layers, -1)).unbind(1):
            halves = layer_PN.split((heads * first, heads * second), dim=1)
            one, two = (half.unflatten(1, (heads, -1)).transpose(0, 1)[None] for half in halves)
            found.append((one, two))
        return found

    def exchanged(self) -> Exchange | None:
        """None with latent attention. The MLP, if any, stays behind: what came out of it is what counts."""
        config = self.model.config
        if config.latent is not None:
            return None
        values = {
            **front_config("PREFIX_TUNING", self.spec.length, self.model, width=config.key_value_size),
            "num_attention_heads": config.num_key_value_heads,
            "encoder_hidden_size": self.spec.mlp or config.key_value_size,
            "prefix_projection": False,
        }
        return Exchange(config=values, tensors={PROMPT: self.numbers.detach().contiguous()})

    def _start(self, size: int, seed: int, generator: torch.Generator) -> Tensor:
        if self.spec.start == "random":
            return torch.empty(self.spec.length, size).normal_(0.0, 0.02, generator=generator)
        with torch.no_grad():
            words = random_words(self.model, self.spec.length, seed).to(next(self.model.parameters()).dtype)
            read = read_alone(self.model, words)
        return torch.cat([part[0].transpose(0, 1).flatten(1) for pair in read for part in pair], dim=1).float()


def prefix_from_peft(model: Decoder, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Prefix:
    """A delta from peft's files, not attached yet. Raises ModelError for what it cannot be."""
    if model.config.latent is not None:
        raise ModelError(
            "the adapter is a prefix of keys and values, which a model with latent attention does not keep"
        )
    numbers = prompt_of(tensors)
    delta = Prefix(model, PrefixSpec(length=len(numbers), start="random"), seed=0)
    delta.load({"own": numbers.float()})
    return delta


def front_config(kind: str, length: int, model: Decoder, *, width: int) -> dict[str, Any]:
    """What peft's kinds that stand in front share."""
    return {
        "peft_type": kind,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "num_virtual_tokens": length,
        "token_dim": width,
        "num_transformer_submodules": 1,
        "num_attention_heads": model.config.num_attention_heads,
        "num_layers": model.config.num_hidden_layers,
    }


def prompt_of(tensors: Mapping[str, Tensor]) -> Tensor:
    """What stands in front, of peft's file. Raises ModelError where it lacks that."""
    if set(tensors) != {PROMPT} or tensors[PROMPT].ndim != 2:
        found = ", ".join(sorted(tensors)[:3])
        raise ModelError(
            f"the adapter has {found or 'nothing'} where {PROMPT} is expected; save it with peft once it is trained"
        )
    return tensors[PROMPT]


def _uniform(outputs: int, inputs: int, generator: torch.Generator) -> Tensor:
    bound = 1.0 / math.sqrt(inputs)
    return torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator)
