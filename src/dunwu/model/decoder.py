"""A dense decoder: RMSNorm, rotary positions, grouped-query attention, gated MLP, optional QK-norm and tied embeddings.

Parameter names are those of Hugging Face's LlamaForCausalLM and Qwen3ForCausalLM, so a state dict goes both ways unchanged.

Shapes: `B` batch, `T` time, `S` source time, `D` model width, `H` query heads, `K` key/value heads, `C` head channels,
`F` MLP width, `V` vocabulary.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dunwu.model import kernels
from dunwu.model.cache import KeyValueCache
from dunwu.model.config import DecoderConfig


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis (arXiv:1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if by_hand(x):
            return kernels.rms_norm(x, self.weight, self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.groups = config.num_attention_heads // config.num_key_value_heads
        self.q_proj = nn.Linear(config.hidden_size, config.query_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.key_value_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.key_value_size, bias=False)
        self.o_proj = nn.Linear(config.query_size, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x_BTD: Tensor, reading: "Reading", layer: int) -> Tensor:
        heads = (*x_BTD.shape[:2], -1, self.head_dim)
        q_BHTC = reading.rotate(self.q_norm(self.q_proj(x_BTD).view(heads)))
        k_BKTC = reading.rotate(self.k_norm(self.k_proj(x_BTD).view(heads)))
        v_BKTC = self.v_proj(x_BTD).view(heads).transpose(1, 2)
        return self.o_proj(reading.attend(q_BHTC, k_BKTC, v_BKTC, layer, self.groups).flatten(2))


class GatedMLP(nn.Module):
    """SwiGLU (arXiv:2002.05202): `down(silu(gate(x)) * up(x))`."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj(kernels.gated_silu(gate, up) if by_hand(gate) else F.silu(gate) * up)


class Block(nn.Module):
    """Attention and MLP, each normalised before and added to the residual stream."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config)

    def forward(self, x_BTD: Tensor, reading: "Reading", layer: int) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), reading, layer)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


def by_hand(x: Tensor) -> bool:
    """Whether `kernels` serve this tensor: on a CPU, and not while a compiler traces the plain formulas."""
    return x.is_cpu and not torch.compiler.is_compiling()


class Reading:
    """What all layers share while one batch is read: rotary tables, who may look at whom, and the cache."""

    def __init__(
        self,
        x_BTD: Tensor,
        config: DecoderConfig,
        positions_BT: Tensor | None,
        document_BT: Tensor | None,
        cache: KeyValueCache | None,
    ) -> None:
        time, device = x_BTD.shape[1], x_BTD.device
        self.cache = cache
        self.mask: Tensor | None = None
        self.bias_BTT: Tensor | None = None
        if positions_BT is None:
            positions_BT = torch.arange(time, device=device)[None] if cache is None else cache.positions(time, device)
        if cache is not None:
            self.mask = cache.mask(time, device)
        elif by_hand(x_BTD) and time <= kernels.MAX_KEPT_TIME:
            self.bias_BTT = attention_bias(time, document_BT, x_BTD.dtype)
        elif document_BT is not None:
            self.mask = document_mask(document_BT)
        half = config.head_dim // 2
        exponents = torch.arange(half, device=device, dtype=torch.float32) / half
        angles_B1TC = positions_BT[:, None, :, None].float() * config.rope_theta**-exponents
        self.cos_B1TC, self.sin_B1TC = angles_B1TC.cos().to(x_BTD.dtype), angles_B1TC.sin().to(x_BTD.dtype)

    def rotate(self, x_BTHC: Tensor) -> Tensor:
        """Rotary positions (arXiv:2104.09864): channel `c` turns with channel `c + C/2`; gives `[B, H, T, C]`."""
        if by_hand(x_BTHC):
            return kernels.rotate_to_heads(x_BTHC, self.cos_B1TC, self.sin_B1TC)
        left, right = x_BTHC.transpose(1, 2).chunk(2, dim=-1)
        cos, sin = self.cos_B1TC, self.sin_B1TC
        return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)

    def attend(self, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, layer: int, groups: int) -> Tensor:
        """Attention over what each token may see; gives `[B, T, H, C]`."""
        if self.bias_BTT is not None:
            if groups > 1:
                k_BKTC, v_BKTC = k_BKTC.repeat_interleave(groups, dim=1), v_BKTC.repeat_interleave(groups, dim=1)
            return kernels.attention(q_BHTC, k_BKTC, v_BKTC, self.bias_BTT)
        is_causal = self.cache is None and self.mask is None
        if self.cache is not None:
            k_BKTC, v_BKTC = self.cache.append(layer, k_BKTC, v_BKTC)
        return F.scaled_dot_product_attention(
            q_BHTC, k_BKTC, v_BKTC, attn_mask=self.mask, is_causal=is_causal, enable_gqa=groups > 1
        ).transpose(1, 2)


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
        reading = Reading(x_BTD, self.config, positions_BT, document_BT, cache)
        for number, block in enumerate(self.model.layers):
            x_BTD = block(x_BTD, reading, number)
        if cache is not None:
            cache.advance(ids_BT.shape[1])
        return self.model.norm(x_BTD)


def attention_bias(time: int, document_BT: Tensor | None, dtype: torch.dtype) -> Tensor:
    """0 where a token may look and -inf where not, `[T, T]` for plain causal rows and `[B, T, T]` for packed ones."""
    if document_BT is None:
        return torch.full((time, time), -torch.inf, dtype=dtype).triu_(1)
    allowed_BTT = document_mask(document_BT)[:, 0]
    return torch.zeros(allowed_BTT.shape, dtype=dtype).masked_fill_(~allowed_BTT, -torch.inf)


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
