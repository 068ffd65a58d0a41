"""A decoder, put together from the blocks that its configuration asks for.

Parameters are named as in Hugging Face's LlamaForCausalLM wherever it has them; `families/` say how each architecture's
checkpoint stores them.

Shapes: `B` batch, `T` time, `D` model width, `V` vocabulary.
"""

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dunwu.core.errors import ModelError
from dunwu.model.blocks.attention import Attention
from dunwu.model.blocks.experts import SparseMLP
from dunwu.model.blocks.latent import LatentAttention
from dunwu.model.blocks.mlp import GatedMLP, PlainMLP
from dunwu.model.blocks.norms import RMSNorm, new_norm
from dunwu.model.blocks.quantised import QuantisedMatrix
from dunwu.model.blocks.reading import Reading
from dunwu.model.cache import Cache, KeyValueCache
from dunwu.model.config import DecoderConfig

_WRITES_TO_THE_STREAM = ("o_proj.weight", "down_proj.weight", "experts.down_proj")


class Block(nn.Module):
    """Attention and MLP on the residual stream; each may have its input normalised, its output, or both."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        before, after = config.norm_placement != "post", config.norm_placement != "pre"
        self.input_layernorm = new_norm(config) if before else nn.Identity()
        self.self_attn = LatentAttention(config) if config.latent is not None else Attention(config)
        self.attention_output_norm = new_norm(config) if after else nn.Identity()
        self.post_attention_layernorm = new_norm(config) if before else nn.Identity()
        self.mlp = _new_mlp(config, layer)
        self.mlp_output_norm = new_norm(config) if after else nn.Identity()

    def forward(self, x_BTD: Tensor, reading: Reading, layer: int) -> Tensor:
        return self.feed(self.attend(x_BTD, reading, layer))

    def attend(self, x_BTD: Tensor, reading: Reading, layer: int) -> Tensor:
        """The stream after attention."""
        attended_BTD = self.self_attn(self.input_layernorm(x_BTD), reading, layer)
        return x_BTD + self.attention_output_norm(attended_BTD)

    def feed(self, x_BTD: Tensor) -> Tensor:
        """The stream after the MLP."""
        return x_BTD + self.mlp_output_norm(self.mlp(self.post_attention_layernorm(x_BTD)))


def _new_mlp(config: DecoderConfig, layer: int) -> nn.Module:
    if config.has_experts(layer):
        return SparseMLP(config)
    return GatedMLP(config) if config.mlp == "gated" else PlainMLP(config)


class Backbone(nn.Module):
    """Embedding, blocks and the final norm: Hugging Face's `model.` prefix."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.positions == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = new_norm(config)


class Change(Protocol):
    """What changes a finished model from outside, by hooks on its modules; see `delta/`."""

    @property
    def active(self) -> bool:
        """Whether modules do, at present, other than their weights say: kernels that read weights alone then leave the pass."""
        ...

    @property
    def columns_in_front(self) -> int:
        """How many columns it lets every text see in front of itself."""
        ...


class Decoder(nn.Module):
    """The whole network. `forward` gives hidden states; `logits` or an objective makes words of them.

    `changes`: what was attached to it, in order; the network itself never looks at them.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.changes: tuple[Change, ...] = ()
        self.model = Backbone(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def columns_in_front(self) -> int:
        """How many columns stand in front of every text, put there from outside: its first position."""
        return sum(change.columns_in_front for change in self.changes)

    @property
    def head_weight(self) -> Tensor:
        """The matrix `[V, D]` that turns hidden states into logits; the embedding itself when tied."""
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `[..., V]` of hidden states `[..., D]`."""
        head = self.model.embed_tokens if self.config.tie_word_embeddings else self.lm_head
        if isinstance(head, QuantisedMatrix):
            return self.capped(head.product(hidden))
        return self.capped(F.linear(hidden, self.head_weight))

    def capped(self, logits: Tensor) -> Tensor:
        """Logits within the model's soft cap, where it has one (arXiv:2408.00118)."""
        cap = self.config.logits_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings `[..., D]` of ids."""
        x = self.model.embed_tokens(ids)
        if self.config.embedding_scale != 1.0:
            x = x * torch.tensor(self.config.embedding_scale, dtype=x.dtype)  # rounded as the weights are
        return x

    def forward(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        document_BT: Tensor | None = None,
        branch_BT: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Final, normalised hidden states `[B, T, D]`.

        Causal; with `document_BT` also blind across documents of a row, and with `branch_BT` across the branches of a
        document, but that all see branch 0. With a cache the new columns are appended to it, and neither is looked at.
        """
        x_BTD = self.embed(ids_BT)
        reading = Reading(x_BTD, self.config, positions_BT, document_BT, cache, branch_BT)
        if self.config.positions == "learned":
            if positions_BT is None:
                self.require_positions(ids_BT.shape[1] + (cache.length if isinstance(cache, KeyValueCache) else 0))
            x_BTD = x_BTD + self.model.embed_positions(reading.positions_BT)
        for number, block in enumerate(self.model.layers):
            x_BTD = block(x_BTD, reading, number)
        if cache is not None:
            cache.advance(ids_BT.shape[1])
        return self.model.norm(x_BTD)

    def require_positions(self, tokens: int) -> None:
        """Raise ModelError where learned positions end before."""
        if tokens > self.config.max_position_embeddings:
            raise ModelError(
                f"{tokens} tokens are more than the {self.config.max_position_embeddings} that this model has positions for; "
                "shorten the text, or choose a model with rotary positions"
            )


def initialise(model: Decoder, *, seed: int) -> Decoder:
    """Fill all weights from `seed` and return the model: normal with deviation 0.02, norms at one, biases at zero.

    The two matrices that write to the residual stream are divided by sqrt(2 · layers) (GPT-2, section 2.3), so that depth
    does not widen the stream.
    """
    generator = torch.Generator().manual_seed(seed)
    residual_std = 0.02 / math.sqrt(2 * model.config.num_hidden_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or name.endswith("bias"):  # a stack of the experts' biases is two-dimensional
                parameter.fill_(_start(model, name))
                continue
            std = residual_std if name.endswith(_WRITES_TO_THE_STREAM) else 0.02
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
    return model


def _start(model: Decoder, name: str) -> float:
    """What a vector starts at: a norm multiplies by one, whatever its offset; biases and sinks add nothing."""
    owner = model.get_submodule(name.rpartition(".")[0])
    if isinstance(owner, RMSNorm):
        return 1.0 - owner.offset
    return 1.0 if isinstance(owner, nn.LayerNorm) and name.endswith(".weight") else 0.0


def new_decoder(
    config: DecoderConfig, *, seed: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Decoder:
    """A freshly initialised decoder. The same seed gives the same weights on every device."""
    with torch.device("meta"):
        model = Decoder(config)
    return initialise(model.to(dtype).to_empty(device=device), seed=seed)
