"""What a decoder costs, counted from its structure: parameters, floating-point operations and bytes."""

import functools
from typing import Literal

import torch

from dunwu.model import kernels
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder

RUNTIME_BYTES = 90_000_000
"""What the first step touches whatever the model: pages of torch's libraries, generated kernels, scratch of the products."""
HEAP_HOLES = 1.5
"""Bytes that glibc's heap takes for a byte of activations: blocks of many sizes leave holes. Measured, stable over steps."""
LOGITS_CHUNK_BYTES = 8 << 20
"""Logits that exist at a time (`train/objectives.py`)."""


@functools.cache
def _structure(config: DecoderConfig) -> tuple[int, int, int]:
    """All parameters, those of the blocks' matrices, and of the latter those that one token passes through."""
    with torch.device("meta"):
        model = Decoder(config)
    matrices = active = 0
    for name, parameter in model.model.layers.named_parameters():
        if parameter.ndim < 2:
            continue
        matrices += parameter.numel()
        # Experts lie in stacks, [E, ...]; a token passes through a few of them.
        share = config.experts.per_token / config.experts.count if config.experts and ".experts." in name else 1.0
        active += round(share * parameter.numel())
    return sum(parameter.numel() for parameter in model.parameters()), matrices, active


def parameters(config: DecoderConfig) -> int:
    """All parameters; a tied head is counted once."""
    return _structure(config)[0]


def active_parameters(config: DecoderConfig) -> int:
    """Those that one token passes through: all but the experts that it is not sent to."""
    count, matrices, active = _structure(config)
    return count - matrices + active


def matrix_parameters(config: DecoderConfig) -> int:
    """The matrices of all blocks."""
    return _structure(config)[1]


def forward_flops_per_token(config: DecoderConfig, context_length: int) -> float:
    """Two a weight and token, the head included and the embedding look-up not, and attention over what is seen."""
    matrices = _structure(config)[2] + config.vocab_size * config.hidden_size
    seen = sum(_seen_tokens(config.window(layer), context_length) for layer in range(config.num_hidden_layers))
    return 2.0 * matrices + 4 * seen * config.num_attention_heads * _score_channels(config)


def _seen_tokens(window: int | None, context_length: int) -> float:
    """How many tokens a token of the context sees on average: half of it, or less with a window."""
    if window is None or window >= context_length:
        return context_length / 2
    return window - window**2 / (2 * context_length)


def train_flops_per_token(config: DecoderConfig, context_length: int, *, frozen: bool = False) -> float:
    """Forward, and twice that backward; once where the weights are frozen and only gradients of what flows are made."""
    return (2.0 if frozen else 3.0) * forward_flops_per_token(config, context_length)


def kv_bytes_per_token(config: DecoderConfig, dtype_bytes: int = 4) -> int:
    """Bytes that one token takes in the key/value cache."""
    heads, first, second = config.cache_shape
    return config.num_hidden_layers * heads * (first + second) * dtype_bytes


def _score_channels(config: DecoderConfig) -> float:
    """Channels of a head that attention multiplies: the mean of keys and values."""
    if config.latent is None:
        return config.head_dim
    return (config.latent.nope_dim + config.latent.rope_dim + config.latent.value_dim) / 2


def training_bytes(
    config: DecoderConfig,
    micro_batch_rows: int,
    context_length: int,
    optimizer: Literal["adamw", "muon"],
    *,
    tuned: int | None = None,
) -> int:
    """Predicted peak bytes of training in float32 on a CPU, above what the process holds before the model is made.

    `tuned`: so many numbers of a delta learn, by AdamW, on the frozen model: it has neither gradients nor states.
    """
    count = parameters(config)
    matrices = matrix_parameters(config)
    state = 2 * count if optimizer == "adamw" else 2 * (count - matrices) + matrices
    # Muon's update at its widest: gradient, Gram matrices and two iterates of the largest stack of matrices.
    width = config.experts.count * config.experts.intermediate_size if config.experts else config.intermediate_size
    update = 0 if optimizer == "adamw" else 4 * config.num_hidden_layers * config.hidden_size * width
    tokens = micro_batch_rows * context_length
    kept = HEAP_HOLES * tokens * config.num_hidden_layers * _kept_per_token(config, context_length)
    passing = tokens * (4 * _mlp_channels(config) + 6 * config.hidden_size)
    head = config.vocab_size * config.hidden_size + LOGITS_CHUNK_BYTES // 2
    if tuned is not None:
        return RUNTIME_BYTES + 4 * round(count + 4 * tuned + kept + passing + LOGITS_CHUNK_BYTES // 2)
    return RUNTIME_BYTES + 4 * round(2 * count + state + max(update, kept + passing + head))


def _kept_per_token(config: DecoderConfig, context_length: int) -> float:
    """Numbers that one block keeps for its backward pass, a token."""
    query_chunk = min(context_length, kernels.QUERY_CHUNK)
    probabilities = (context_length + query_chunk) / 2 if context_length <= kernels.MAX_KEPT_TIME else 0
    qk_norm = config.query_size + config.key_value_size if config.qk_norm != "none" else 0
    stream = 4 * config.hidden_size + 4 * config.query_size + qk_norm
    if config.norm_placement == "both":
        stream += 2 * config.hidden_size
    if config.attention_softcap is not None or config.sinks:
        probabilities = 2 * context_length  # whole squares, before and after the softmax
    return stream + 3 * _mlp_channels(config) + config.num_attention_heads * probabilities


def _mlp_channels(config: DecoderConfig) -> int:
    """Channels between the matrices of an MLP that one token fills, with the rows that a token has among experts."""
    if config.experts is None:
        return config.intermediate_size
    experts = config.experts
    return experts.per_token * (experts.intermediate_size + config.hidden_size) + experts.shared_intermediate_size
