"""What a decoder costs, counted from its structure: parameters, floating-point operations and bytes."""

from typing import Literal

from dunwu.model import kernels
from dunwu.model.config import DecoderConfig

RUNTIME_BYTES = 90_000_000
"""What the first step touches whatever the model: pages of torch's libraries, generated kernels, scratch of the products."""
HEAP_HOLES = 1.5
"""Bytes that glibc's heap takes for a byte of activations: blocks of many sizes leave holes. Measured, stable over steps."""
LOGITS_CHUNK_BYTES = 4 << 20
"""Logits that exist at a time (`train/objectives.py`)."""


def parameters(config: DecoderConfig) -> int:
    """All parameters; a tied head is counted once."""
    embedding = config.vocab_size * config.hidden_size
    norms = config.hidden_size * (2 * config.num_hidden_layers + 1)
    qk_norms = 2 * config.head_dim * config.num_hidden_layers if config.qk_norm else 0
    heads = 1 if config.tie_word_embeddings else 2
    return heads * embedding + config.num_hidden_layers * block_matrix_parameters(config) + norms + qk_norms


def block_matrix_parameters(config: DecoderConfig) -> int:
    """The matrices of one block: queries, keys, values, output, gate, up and down."""
    attention = config.hidden_size * (2 * config.query_size + 2 * config.key_value_size)
    return attention + 3 * config.hidden_size * config.intermediate_size


def forward_flops_per_token(config: DecoderConfig, context_length: int) -> float:
    """Two a weight and token, the head included and the embedding look-up not, and causal attention over half the context."""
    matrices = config.num_hidden_layers * block_matrix_parameters(config) + config.vocab_size * config.hidden_size
    attention = config.num_hidden_layers * 2 * context_length * config.query_size
    return 2.0 * matrices + attention


def train_flops_per_token(config: DecoderConfig, context_length: int) -> float:
    """Forward, and twice that backward."""
    return 3.0 * forward_flops_per_token(config, context_length)


def kv_bytes_per_token(config: DecoderConfig, dtype_bytes: int = 4) -> int:
    """Bytes that one token takes in the key/value cache."""
    return 2 * config.num_hidden_layers * config.key_value_size * dtype_bytes


def training_bytes(
    config: DecoderConfig, micro_batch_rows: int, context_length: int, optimizer: Literal["adamw", "muon"]
) -> int:
    """Predicted peak bytes of training in float32 on a CPU, above what the process holds before the model is made."""
    count = parameters(config)
    matrices = config.num_hidden_layers * block_matrix_parameters(config)
    state = 2 * count if optimizer == "adamw" else 2 * (count - matrices) + matrices
    # Muon's update at its widest: gradient, Gram matrices and two iterates of the largest stack of matrices.
    update = 0 if optimizer == "adamw" else 4 * config.num_hidden_layers * config.hidden_size * config.intermediate_size
    tokens = micro_batch_rows * context_length
    kept = HEAP_HOLES * tokens * config.num_hidden_layers * _kept_per_token(config, context_length)
    passing = tokens * (4 * config.intermediate_size + 6 * config.hidden_size)
    head = config.vocab_size * config.hidden_size + LOGITS_CHUNK_BYTES // 2
    return RUNTIME_BYTES + 4 * round(2 * count + state + max(update, kept + passing + head))


def _kept_per_token(config: DecoderConfig, context_length: int) -> float:
    """Numbers that one block keeps for its backward pass, a token."""
    query_chunk = min(context_length, kernels.QUERY_CHUNK)
    probabilities = (context_length + query_chunk) / 2 if context_length <= kernels.MAX_KEPT_TIME else 0
    qk_norm = config.query_size + config.key_value_size if config.qk_norm else 0
    stream = 4 * config.hidden_size + 4 * config.query_size + qk_norm
    return stream + 3 * config.intermediate_size + config.num_attention_heads * probabilities
