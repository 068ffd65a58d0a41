"""How tensors of a Hugging Face checkpoint lie in a GGUF file, for the cases where they are not simply renamed.

Each layout goes both ways; `pack` also runs on tensors of the meta device, to know shapes before any data is read.
Shapes: `R` rows, `D` columns, `E` experts, `H` heads, `C` channels of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dunwu.model.config import DecoderConfig

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class Layout:
    """`pack`: tensors of the checkpoint to tensors of the file; `unpack`: the way back."""

    pack: Callable[[Tensors, DecoderConfig], Tensors]
    unpack: Callable[[Tensors, DecoderConfig], Tensors]


def _same(tensors: Tensors, _config: DecoderConfig) -> Tensors:
    return tensors


AS_IS = Layout(_same, _same)


def _interleave(heads: int, x: Tensor) -> Tensor:
    """Channels i and i+C/2 of each head side by side: llama.cpp turns neighbours where Hugging Face turns halves."""
    return x.view(heads, 2, -1, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


def _separate(heads: int, x: Tensor) -> Tensor:
    return x.view(heads, -1, 2, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


QUERY_ROTATION = Layout(
    lambda xs, config: [_interleave(config.num_attention_heads, x) for x in xs],
    lambda xs, config: [_separate(config.num_attention_heads, x) for x in xs],
)
KEY_ROTATION = Layout(
    lambda xs, config: [_interleave(config.num_key_value_heads, x) for x in xs],
    lambda xs, config: [_separate(config.num_key_value_heads, x) for x in xs],
)
PLUS_ONE = Layout(  # llama.cpp multiplies by the weight alone where Gemma multiplies by one more
    lambda xs, _config: [x.float() + 1.0 for x in xs],
    lambda xs, _config: [x.float() - 1.0 for x in xs],
)
TRANSPOSED = Layout(  # GPT-2 stores its matrices the other way round
    lambda xs, _config: [x.mT.contiguous() for x in xs],
    lambda xs, _config: [x.mT.contiguous() for x in xs],
)
STACKED = Layout(  # the experts' matrices [R, D] as one tensor [E, R, D]
    lambda xs, _config: [torch.stack(list(xs))],
    lambda xs, _config: list(xs[0].unbind(0)),
)
FLATTENED = Layout(  # a matrix of one row as a vector
    lambda xs, _config: [x.reshape(-1) for x in xs],
    lambda xs, _config: [x.reshape(1, -1) for x in xs],
)
TURNED = Layout(  # gpt-oss multiplies its experts from the right
    lambda xs, _config: [x.mT for x in xs],
    lambda xs, _config: [x.mT for x in xs],
)


def _woven(gate: Tensor, up: Tensor) -> Tensor:
    return torch.stack((gate, up), dim=-1).flatten(-2)


WOVEN_TURNED = Layout(  # gate and up in turns along the last axis, [E, D, 2F], to two tensors [E, F, D]
    lambda xs, _config: [xs[0][..., ::2].mT, xs[0][..., 1::2].mT],
    lambda xs, _config: [_woven(xs[0].mT, xs[1].mT)],
)
WOVEN = Layout(
    lambda xs, _config: [xs[0][..., ::2], xs[0][..., 1::2]],
    lambda xs, _config: [_woven(xs[0], xs[1])],
)


def _latent_parts(xs: Tensors, config: DecoderConfig) -> Tensors:
    """The matrix that makes keys and values of the latent vector, as one for keys, turned, and one for values, by head."""
    assert config.latent is not None
    by_head = xs[0].view(config.num_attention_heads, -1, xs[0].shape[-1])
    return [by_head[:, : config.latent.nope_dim].mT, by_head[:, config.latent.nope_dim :]]


def _latent_whole(xs: Tensors, _config: DecoderConfig) -> Tensors:
    return [torch.cat((xs[0].mT, xs[1]), dim=1).flatten(0, 1)]


LATENT = Layout(_latent_parts, _latent_whole)
