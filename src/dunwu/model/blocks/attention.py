"""Causal grouped-query attention.

Shapes: `B` batch, `T` time, `H` query heads, `K` key/value heads, `C` head channels, `D` model width.
"""

import torch
from torch import Tensor, nn

from dunwu.model.blocks.linear import project
from dunwu.model.blocks.norms import RMSNorm
from dunwu.model.blocks.reading import Reading
from dunwu.model.config import DecoderConfig


class Attention(nn.Module):
    """Grouped-query attention (arXiv:2305.13245) with positions, queries and keys normalised by head or as a whole if asked."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.query_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.key_value_size, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.key_value_size, bias=config.attention_bias)
        self.o_proj = nn.Linear(config.query_size, config.hidden_size, bias=config.attention_output_bias)
        self.norm_all = config.qk_norm == "all"
        if config.qk_norm != "none":
            sizes = (config.query_size, config.key_value_size) if self.norm_all else (config.head_dim,) * 2
            self.q_norm, self.k_norm = (RMSNorm(size, config.rms_norm_eps, config.norm_offset) for size in sizes)
        else:
            self.q_norm, self.k_norm = nn.Identity(), nn.Identity()
        self.sinks = nn.Parameter(torch.zeros(config.num_attention_heads)) if config.sinks else None

    def forward(self, x_BTD: Tensor, reading: Reading, layer: int) -> Tensor:
        heads = (*x_BTD.shape[:2], -1, self.head_dim)
        q, k, v = project(x_BTD, (self.q_proj, self.k_proj, self.v_proj))
        if self.norm_all:
            q_BTHC, k_BTKC = self.q_norm(q).view(heads), self.k_norm(k).view(heads)
        else:
            q_BTHC, k_BTKC = self.q_norm(q.view(heads)), self.k_norm(k.view(heads))
        q_BHTC, k_BKTC = reading.rotate(q_BTHC, layer), reading.rotate(k_BTKC, layer)
        v_BKTC = v.view(heads).transpose(1, 2)
        k_BKSC, v_BKSC = reading.remember(layer, k_BKTC, v_BKTC)
        attended = reading.attend(q_BHTC, k_BKSC, v_BKSC, layer, self.sinks).flatten(2)
        return project(attended, (self.o_proj,))[0]
