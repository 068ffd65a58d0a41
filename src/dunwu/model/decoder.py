"""A dense decoder: RMSNorm, rotary positions, grouped-query attention, gated MLP, optional QK-norm and tied embeddings.

Parameter names are those of Hugging Face's LlamaForCausalLM and Qwen3ForCausalLM, so a state dict goes both ways unchanged.

Shapes: `B` batch, `T` time, `S` source time, `D` model width, `H` query heads, `K` key/value heads, `C` head channels,
`F` MLP width, `V` vocabulary.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dunwu.model.cache import KeyValueCache
from dunwu.model.config import DecoderConfig


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis (arXiv:1910.07467), in float32 inside."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.query_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.key_value_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.key_value_size, bias=False)
        self.o_proj = nn.Linear(config.query_size, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self, x_BTD: Tensor, rotary: "Rotary", mask: Tensor | None, layer: int, cache: KeyValueCache | None
    ) -> Tensor:
        heads = (*x_BTD.shape[:2], -1, self.head_dim)
        q_BHTC = rotary(self.q_norm(self.q_proj(x_BTD).view(heads)).transpose(1, 2))
        k_BKTC = rotary(self.k_norm(self.k_proj(x_BTD).view(heads)).transpose(1, 2))
        v_BKTC = self.v_proj(x_BTD).view(heads).transpose(1, 2)
        is_causal = mask is None and (cache is None or q_BHTC.shape[2] > 1)
        if cache is not None:
            k_BKTC, v_BKTC = cache.append(layer, k_BKTC, v_BKTC)
        grouped = q_BHTC.shape[1] != k_BKTC.shape[1]
        out_BHTC = F.scaled_dot_product_attention(
            q_BHTC, k_BKTC, v_BKTC, attn_mask=mask, is_causal=is_causal, enable_gqa=grouped
        )
        return self.o_proj(out_BHTC.transpose(1, 2).flatten(2))


class GatedMLP(nn.Module):
    """SwiGLU (arXiv:2002.05202): `down(silu(gate(x)) * up(x))`."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and MLP, each normalised before and added to the residual stream."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config)

    def forward(
        self, x_BTD: Tensor, rotary: "Rotary", mask: Tensor | None, layer: int, cache: KeyValueCache | None
    ) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rotary, mask, layer, cache)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Rotary:
    """Rotary positions (arXiv:2104.09864) of one batch: the second half of the channels is paired with the first half."""

    def __init__(self, positions_BT: Tensor, config: DecoderConfig, dtype: torch.dtype) -> None:
        half = config.head_dim // 2
        exponents = torch.arange(half, device=positions_BT.device, dtype=torch.float32) / half
        angles_B1TC = positions_BT[:, None, :, None].float() * config.rope_theta**-exponents
        angles_B1TC = torch.cat((angles_B1TC, angles_B1TC), dim=-1)
        self.cos_B1TC, self.sin_B1TC = angles_B1TC.cos().to(dtype), angles_B1TC.sin().to(dtype)

    def __call__(self, x_BHTC: Tensor) -> Tensor:
        left, right = x_BHTC.chunk(2, dim=-1)
        return x_BHTC * self.cos_B1TC + torch.cat((-right, left), dim=-1) * self.sin_B1TC


class Backbone(nn.Module):
    """Embedding, blocks and the final norm: Hugging Face's `model.` prefix."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    """The whole network. `forward` gives hidden states; `logits` or an objective makes words of them."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def head_weight(self) -> Tensor:
        """The matrix `[V, D]` that turns hidden states into logits; the embedding itself when tied."""
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `[..., V]` of hidden states `[..., D]`."""
        return F.linear(hidden, self.head_weight)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        document_BT: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Final, normalised hidden states `[B, T, D]`.

        Causal; with `document_BT` also blind across documents of a row. With a cache the new columns are appended to it, and
        `document_BT` is not looked at.
        """
        x_BTD = self.model.embed_tokens(ids_BT)
        columns = ids_BT.shape[1]
        if cache is not None:
            positions_BT = cache.positions(columns, ids_BT.device) if positions_BT is None else positions_BT
            mask = cache.mask(columns, ids_BT.device)
        else:
            mask = None if document_BT is None else document_mask(document_BT)
        if positions_BT is None:
            positions_BT = torch.arange(columns, device=ids_BT.device)[None]
        rotary = Rotary(positions_BT, self.config, x_BTD.dtype)
        for number, block in enumerate(self.model.layers):
            x_BTD = block(x_BTD, rotary, mask, number, cache)
        if cache is not None:
            cache.advance(columns)
        return self.model.norm(x_BTD)


def document_mask(document_BT: Tensor) -> Tensor:
    """What each token may look at, `[B, 1, T, S]`: itself and what came before it in its own document."""
    same_BTS = document_BT[:, :, None] == document_BT[:, None, :]
    return same_BTS.tril_()[:, None]


def initialise(model: Decoder, *, seed: int) -> Decoder:
    """Fill all weights from `seed` and return the model: normal with deviation 0.02, norms at one.

    The two matrices that write to the residual stream are divided by sqrt(2 · layers) (GPT-2, section 2.3), so that depth
    does not widen the stream.
    """
    generator = torch.Generator().manual_seed(seed)
    residual_std = 0.02 / math.sqrt(2 * model.config.num_hidden_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
                continue
            std = residual_std if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
    return model


def new_decoder(
    config: DecoderConfig, *, seed: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Decoder:
    """A freshly initialised decoder. The same seed gives the same weights on every device."""
    with torch.device("meta"):
        model = Decoder(config)
    return initialise(model.to(dtype).to_empty(device=device), seed=seed)
