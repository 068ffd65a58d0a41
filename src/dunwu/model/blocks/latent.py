"""Multi-head latent attention (arXiv:2405.04434, section 2.1).

Shapes: `B` batch, `T` time, `S` source time, `H` heads, `D` model width, `L` channels of the latent vector, `R` those that carry
the position, `C` other channels of a key, `U` channels of a value.
"""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dunwu.core.devices import products_of_few_rows
from dunwu.model.blocks.norms import RMSNorm
from dunwu.model.blocks.reading import Reading
from dunwu.model.cache import Span
from dunwu.model.config import DecoderConfig

LATENT_NORM_EPS = 1e-6
"""The norms of the bottlenecks keep this epsilon whatever the model's is: so do the published models' code and transformers."""


class LatentAttention(nn.Module):
    """Keys and values made from a small latent vector, which is all that the cache keeps, beside the rotated channels.

    Two ways to the same result. Expanded, each source token's keys and values are made from its latent vector. Absorbed, the
    queries are brought into the latent space instead, and what attention gives is brought out of it: a step of decoding then
    works on one vector a source token for all heads together (their "weight absorption"), and makes no keys and values.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        latent = config.latent
        assert latent is not None
        self.latent, self.heads, self.scale = latent, config.num_attention_heads, config.score_scale
        width, bias = config.hidden_size, config.attention_bias
        query_size = self.heads * (latent.nope_dim + latent.rope_dim)
        if latent.q_rank is None:
            self.q_proj = nn.Linear(width, query_size, bias=False)
        else:
            self.q_a_proj = nn.Linear(width, latent.q_rank, bias=bias)
            self.q_a_layernorm = RMSNorm(latent.q_rank, LATENT_NORM_EPS)
            self.q_b_proj = nn.Linear(latent.q_rank, query_size, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(width, latent.kv_rank + latent.rope_dim, bias=bias)
        self.kv_a_layernorm = RMSNorm(latent.kv_rank, LATENT_NORM_EPS)
        self.kv_b_proj = nn.Linear(latent.kv_rank, self.heads * (latent.nope_dim + latent.value_dim), bias=False)
        self.o_proj = nn.Linear(self.heads * latent.value_dim, width, bias=config.attention_output_bias)

    def forward(self, x_BTD: Tensor, reading: Reading, layer: int) -> Tensor:
        q_BTHC, rotated_q_BTHR = self._queries(x_BTD).split((self.latent.nope_dim, self.latent.rope_dim), dim=-1)
        latent_BTL, rotated_k_BTR = self.kv_a_proj_with_mqa(x_BTD).split(
            (self.latent.kv_rank, self.latent.rope_dim), -1
        )
        q_BHTR = reading.rotate(rotated_q_BTHR, layer)
        k_B1TR = reading.rotate(rotated_k_BTR[:, :, None], layer)
        latent_B1SL, k_B1SR = reading.remember(layer, self.kv_a_layernorm(latent_BTL)[:, None], k_B1TR)
        if reading.spans is None:
            out_BTHU = self._attend(q_BTHC, q_BHTR, latent_B1SL, k_B1SR, reading, reading.mask(layer))
        else:
            out_BTHU = torch.cat(
                [self._attend_span(span, q_BTHC, q_BHTR, reading, layer) for span in reading.spans], dim=1
            )
        return self.o_proj(out_BTHU.flatten(2))

    def _attend_span(self, span: Span, q_BTHC: Tensor, q_BHTR: Tensor, reading: Reading, layer: int) -> Tensor:
        """One text of a ragged batch, `[1, T, H, U]`."""
        latent_11SL, k_11SR, mask = reading.columns(layer, span)
        # The length differs at every step of decoding, and oneDNN prepares itself for each anew.
        with products_of_few_rows() if span.count == 1 else contextlib.nullcontext():
            return self._attend(q_BTHC[:, span.rows], q_BHTR[:, :, span.rows], latent_11SL, k_11SR, reading, mask)

    def _attend(
        self, q_BTHC: Tensor, q_BHTR: Tensor, latent_B1SL: Tensor, k_B1SR: Tensor, reading: Reading, mask: Tensor | None
    ) -> Tensor:
        """The cheaper of the two ways, `[B, T, H, U]`."""
        if self._absorbing_is_cheaper(q_BTHC.shape[1], latent_B1SL.shape[2]):
            return self._attend_absorbed(q_BTHC, q_BHTR, latent_B1SL[:, 0], k_B1SR[:, 0], mask)
        k_BHSC, v_BHSU = self._expand(latent_B1SL[:, 0])
        k_BHSC = torch.cat((k_BHSC, k_B1SR.expand(-1, self.heads, -1, -1)), dim=-1)
        q_BHTC = torch.cat((q_BTHC.transpose(1, 2), q_BHTR), dim=-1)
        # A CPU's fast attention wants values as wide as keys: zeros beside them are cheaper than the plain formula.
        lacking = max(0, k_BHSC.shape[-1] - v_BHSU.shape[-1]) if v_BHSU.is_cpu else 0
        v_BHSU = F.pad(v_BHSU, (0, lacking))
        out_BTHU = reading.attend_under(mask, q_BHTC, k_BHSC, v_BHSU, causal=reading.cache is None and mask is None)
        return out_BTHU[..., : self.latent.value_dim]

    def _queries(self, x_BTD: Tensor) -> Tensor:
        if self.latent.q_rank is None:
            q_BTD = self.q_proj(x_BTD)
        else:
            q_BTD = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BTD)))
        return q_BTD.unflatten(-1, (self.heads, -1))

    def _expand(self, latent_BSL: Tensor) -> tuple[Tensor, Tensor]:
        """Keys without their rotated channels, and values."""
        both_BSHX = self.kv_b_proj(latent_BSL).unflatten(-1, (self.heads, -1))
        k_BSHC, v_BSHU = both_BSHX.split((self.latent.nope_dim, self.latent.value_dim), dim=-1)
        return k_BSHC.transpose(1, 2), v_BSHU.transpose(1, 2)

    def _absorbing_is_cheaper(self, new: int, source: int) -> bool:
        """Whether fewer products are needed for `new` queries over `source` tokens, a head; never without a cache.

        A projection that is more than its matrix (hooks on it, a quantised one) is never taken apart.
        """
        if new == source or type(self.kv_b_proj) is not nn.Linear or self.kv_b_proj._forward_hooks:
            return False
        plain, rank = self.latent.nope_dim + self.latent.value_dim, self.latent.kv_rank
        expanded = source * rank * plain + new * source * (plain + self.latent.rope_dim)
        absorbed = new * rank * plain + new * source * (2 * rank + self.latent.rope_dim)
        return absorbed < expanded

    def _attend_absorbed(
        self, q_BTHC: Tensor, q_BHTR: Tensor, latent_BSL: Tensor, k_BSR: Tensor, mask_B1TS: Tensor | None
    ) -> Tensor:
        """Attention in the latent space; `mask_B1TS` is true where a query may look, or what is added to scores; None: it may look
        everywhere."""
        batch, heads, time, _ = q_BHTR.shape
        weight_HXL = self.kv_b_proj.weight.unflatten(0, (heads, -1))
        key_HCL, value_HUL = weight_HXL.split((self.latent.nope_dim, self.latent.value_dim), dim=1)
        q_BHTL = q_BTHC.transpose(1, 2) @ key_HCL
        # All heads share the source, so that they stand beside the queries' time in one product.
        scores = q_BHTL.flatten(1, 2) @ latent_BSL.mT + q_BHTR.flatten(1, 2) @ k_BSR.mT
        scores_BHTS = scores.view(batch, heads, time, -1) * self.scale
        if mask_B1TS is not None:
            is_bias = mask_B1TS.is_floating_point()
            scores_BHTS = scores_BHTS + mask_B1TS if is_bias else scores_BHTS.masked_fill(~mask_B1TS, -torch.inf)
        weights_BHTS = torch.softmax(scores_BHTS, dim=-1, dtype=torch.float32).to(latent_BSL.dtype)
        out_BHTL = (weights_BHTS.flatten(1, 2) @ latent_BSL).view(batch, heads, time, -1)
        return (out_BHTL @ value_HUL.mT).transpose(1, 2)
