"""What all layers share while one batch is read: rotary tables, who may look at whom, and the cache.

Shapes: `B` batch, `T` time, `S` source time, `H` query heads, `K` key/value heads, `C` head channels, `D` model width.
"""

import contextlib
from collections.abc import Generator
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from dunwu.core.devices import products_of_few_rows
from dunwu.model import kernels
from dunwu.model.blocks.branches import Branches
from dunwu.model.blocks.norms import by_hand
from dunwu.model.blocks.ragged import attend_one, softmax
from dunwu.model.blocks.rotary import depends_on_length, rotary_tables, rotate
from dunwu.model.cache import Cache, RaggedCache, RowsCache, Span
from dunwu.model.config import DecoderConfig


class Reading:
    """One pass over one batch. Tables and masks are made once for each kind of layer that asks for them."""

    def __init__(
        self,
        x_BTD: Tensor,
        config: DecoderConfig,
        positions_BT: Tensor | None,
        document_BT: Tensor | None,
        cache: Cache | None,
        branch_BT: Tensor | None = None,
    ) -> None:
        time, device = x_BTD.shape[1], x_BTD.device
        self.config, self.cache, self.document_BT, self.branch_BT = config, cache, document_BT, branch_BT
        self.time, self.dtype, self.device = time, x_BTD.dtype, device
        if positions_BT is None:
            positions_BT = torch.arange(time, device=device)[None] if cache is None else cache.positions(time, device)
        self.positions_BT = positions_BT
        self.spans = None if cache is None else cache.spans
        self.changed: dict[
            int, Reading
        ] = {}  # what changes from outside make of this one, kept for the rest of the pass
        self._kept_by_hand = cache is None and by_hand(x_BTD) and time <= kernels.MAX_KEPT_TIME
        self._branches: Branches | None = None
        self._apart = branch_BT is not None and cache is None and not branch_BT.is_cuda
        self._tables: dict[bool, tuple[Tensor, Tensor]] = {}
        self._masks: dict[int | None, Tensor | None] = {}
        self._span_masks: dict[tuple[int, int | None], Tensor] = {}

    def rotate(self, x_BTHC: Tensor, layer: int) -> Tensor:
        """Queries or keys turned by their positions as this layer does it; gives `[B, H, T, C]`."""
        if self.config.positions != "rotary" or layer in self.config.nope_layers:
            return x_BTHC.transpose(1, 2)
        local = layer in self.config.sliding_layers and self.config.local_rope_theta is not None
        if local not in self._tables:
            self._tables[local] = rotary_tables(
                self.config, self.positions_BT, local=local, dtype=self.dtype, reach_BT=self._reach()
            )
        return rotate(x_BTHC, *self._tables[local], interleaved=self.config.rope_interleaved)

    def _reach(self) -> Tensor | None:
        """How long the text of each token is, `[B, T]`, where a row holds several."""
        if self.cache is not None:
            return self.cache.reach
        if self.document_BT is None or not depends_on_length(self.config):
            return None
        lengths_BN = self.positions_BT.new_zeros(len(self.document_BT), int(self.document_BT.max()) + 1)
        ends_BT = (self.positions_BT + 1).expand_as(self.document_BT)
        return lengths_BN.scatter_reduce(1, self.document_BT, ends_BT, "amax").gather(1, self.document_BT)

    def remember(self, layer: int, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Put a layer's new columns into the cache, if there is one; returns those of all columns.

        With spans the cache keeps them, and `columns` gives each its own.
        """
        return (first, second) if self.cache is None else self.cache.append(layer, first, second)

    def attend(
        self, q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, layer: int, sinks_H: Tensor | None = None
    ) -> Tensor:
        """Attention over what each token may see in this layer; gives `[B, T, H, C]`."""
        if self.spans is not None:
            return self._attend_spans(q_BHTC, layer, sinks_H)
        if self._attends_apart(layer, sinks_H):
            if self._branches is None:
                self._branches = Branches.of(self.document_BT, cast("Tensor", self.branch_BT))
            if self._branches is not None:
                return self._branches.attend(q_BHTC, k_BKSC, v_BKSC, self.config.score_scale)
            self._apart = False
        mask = self.mask(layer)
        return self.attend_under(mask, q_BHTC, k_BKSC, v_BKSC, sinks_H, causal=self.cache is None and mask is None)

    def _attends_apart(self, layer: int, sinks_H: Tensor | None) -> bool:
        """Whether each branch may be read by itself: not under a window, nor where scores are needed whole."""
        window = self.config.window(layer)
        return (
            self._apart
            and sinks_H is None
            and self.config.attention_softcap is None
            and (window is None or window >= self.time)
        )

    def _attend_spans(self, q_1HTC: Tensor, layer: int, sinks_H: Tensor | None) -> Tensor:
        """Each text of a ragged batch by itself; gives `[1, T, H, C]`."""
        cache, window = cast("RaggedCache", self.cache), self.config.window(layer)
        keys_KPC, values_KPC = cache.keys[layer], cache.values[layer]
        out_THC = q_1HTC.new_empty(q_1HTC.shape[2], q_1HTC.shape[1], values_KPC.shape[-1])
        groups = (keys_KPC.shape[0], q_1HTC.shape[1] // keys_KPC.shape[0])
        out_TKGC = out_THC.unflatten(1, groups)
        singles = [span for span in cast("list[Span]", self.spans) if span.count == 1]
        if singles:
            scaled_TKGC = (q_1HTC[0].transpose(0, 1) * self.config.score_scale).unflatten(1, groups)
            cap = self.config.attention_softcap
            with products_of_few_rows():  # the length differs at every step, and oneDNN prepares itself for each anew
                for span in singles:
                    row, runs, own = span.first_row, span.slots(window), (keys_KPC, values_KPC)
                    if keys_KPC.dtype != q_1HTC.dtype:
                        own = cache.columns(layer, span, window)
                        runs = ((0, own[0].shape[1]),)
                    attend_one(
                        scaled_TKGC[row],
                        *own,
                        runs,
                        out_TKGC[row],
                        cap=cap,
                        sinks_H=sinks_H,
                    )
        for span in cast("list[Span]", self.spans):
            if span.count > 1:
                k_1KSC, v_1KSC, mask = self.columns(layer, span, window)
                q_1HtC = q_1HTC[:, :, span.rows]
                whole = span.start == 0 and (window is None or window >= span.count)
                causal = whole and sinks_H is None and self.config.attention_softcap is None
                out_THC[span.rows] = self.attend_under(
                    None if causal else mask, q_1HtC, k_1KSC, v_1KSC, sinks_H, causal=causal
                )[0]
        return out_THC[None]

    def columns(self, layer: int, span: Span, window: int | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """What one span may look at in this layer, `[1, K, S, C]` twice, and its mask, `[1, 1, T, S]`; None is everything."""
        cache = cast("RaggedCache", self.cache)
        first, second = cache.columns(layer, span, window)
        if span.count == 1:
            return first[None], second[None], None
        key = span.first_row, window
        if key not in self._span_masks:
            self._span_masks[key] = span.mask(window, self.device)
        return first[None], second[None], self._span_masks[key]

    def attend_under(
        self,
        mask: Tensor | None,
        q_BHTC: Tensor,
        k_BKSC: Tensor,
        v_BKSC: Tensor,
        sinks_H: Tensor | None = None,
        *,
        causal: bool = False,
    ) -> Tensor:
        """Attention of queries that may look where the mask says, or, without one, everywhere (`causal`: not ahead)."""
        groups = q_BHTC.shape[1] // k_BKSC.shape[1]
        if sinks_H is not None or self.config.attention_softcap is not None:
            return self._attend_plainly(q_BHTC, k_BKSC, v_BKSC, mask, groups, sinks_H)
        if self._kept_by_hand and mask is not None and q_BHTC.shape[-1] == v_BKSC.shape[-1]:
            return kernels.attention(q_BHTC, k_BKSC, v_BKSC, mask, self.config.score_scale)
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]
        if groups > 1 and mask is not None and q_BHTC.is_cuda and q_BHTC.shape[2] == 1:
            return self._attend_single(mask, q_BHTC, k_BKSC, v_BKSC, groups)
        only_read = q_BHTC.is_cuda and not torch.is_grad_enabled() and (self.cache is None or self.spans is not None)
        return self._attend_by_torch(mask, q_BHTC, k_BKSC, v_BKSC, groups, causal=causal, only_read=only_read)

    def _attend_single(self, mask: Tensor, q_BH1C: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, groups: int) -> Tensor:
        """One query a row: those that share keys stand in the place of time, so that CUDA's fast kernels take them."""
        q_BKGC = q_BH1C.view(len(q_BH1C), -1, groups, q_BH1C.shape[-1])
        out_BKGC = F.scaled_dot_product_attention(q_BKGC, k_BKSC, v_BKSC, attn_mask=mask, scale=self.config.score_scale)
        return out_BKGC.reshape(len(out_BKGC), 1, -1, out_BKGC.shape[-1])

    def _attend_by_torch(
        self,
        mask: Tensor | None,
        q_BHTC: Tensor,
        k_BKSC: Tensor,
        v_BKSC: Tensor,
        groups: int,
        *,
        causal: bool,
        only_read: bool,
    ) -> Tensor:
        """`only_read`: each text has a length of its own, and a plan for it would cost a GPU more than reading it."""
        shared = groups > 1
        if shared and only_read and (mask is not None or q_BHTC.dtype == torch.float32):
            # The kernel that takes masks and float32 without a plan gives each query head keys of its own.
            k_BKSC, v_BKSC = (one.repeat_interleave(groups, dim=1) for one in (k_BKSC, v_BKSC))
            shared = False
        with without_plans() if only_read else contextlib.nullcontext():
            return F.scaled_dot_product_attention(
                q_BHTC,
                k_BKSC,
                v_BKSC,
                attn_mask=mask,
                is_causal=causal,
                enable_gqa=shared,
                scale=self.config.score_scale,
            ).transpose(1, 2)

    def _attend_plainly(
        self, q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, mask: Tensor | None, groups: int, sinks_H: Tensor | None
    ) -> Tensor:
        """Scores made whole: for a soft cap (arXiv:2408.00118) or sinks (arXiv:2309.17453, learned by each head)."""
        weights_BHTS = self.weights(q_BHTC, k_BKSC, mask, groups, sinks_H)
        return (weights_BHTS @ v_BKSC.repeat_interleave(groups, dim=1)).transpose(1, 2)

    def weights(
        self, q_BHTC: Tensor, k_BKSC: Tensor, mask: Tensor | None, groups: int, sinks_H: Tensor | None
    ) -> Tensor:
        """How much each query takes from each source token, `[B, H, T, S]`; without a mask, causally."""
        scores_BHTS = q_BHTC @ k_BKSC.repeat_interleave(groups, dim=1).mT * self.config.score_scale
        if (cap := self.config.attention_softcap) is not None:
            scores_BHTS = cap * torch.tanh(scores_BHTS / cap)
        if mask is None and self.time > 1:
            mask = attention_bias(self.time, None, None, self.dtype, self.device)
        if mask is not None:
            mask = mask[:, None] if mask.ndim == 3 else mask
            scores_BHTS = scores_BHTS.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores_BHTS + mask
        if sinks_H is None:
            return softmax(scores_BHTS)
        sinks_BHT1 = sinks_H[:, None, None].to(scores_BHTS.dtype).expand(*scores_BHTS.shape[:3], 1)
        return softmax(torch.cat((scores_BHTS, sinks_BHT1), dim=-1))[..., :-1]

    def mask(self, layer: int) -> Tensor | None:
        """Who may look at whom in this layer; see `_mask`."""
        return self._mask(self.config.window(layer))

    def _mask(self, window: int | None) -> Tensor | None:
        """Who may look at whom: booleans `[B, 1, T, S]`, or what is added to scores, `[T, T]` or `[B, T, T]`; None is causal."""
        if window not in self._masks:
            self._masks[window] = self._new_mask(window)
        return self._masks[window]

    def _new_mask(self, window: int | None) -> Tensor | None:
        if self.cache is not None:
            return cast("RowsCache", self.cache).mask(self.time, self.device, window)
        if window is not None and window >= self.time:
            return self._mask(None)
        if self.branch_BT is not None:
            allowed_BTS = branch_mask(self.document_BT, self.branch_BT, self.positions_BT, window)
            return added_to_scores(allowed_BTS, self.dtype) if self._kept_by_hand else allowed_BTS[:, None]
        if self._kept_by_hand:
            return attention_bias(self.time, self.document_BT, window, self.dtype, self.device)
        if self.document_BT is not None:
            return document_mask(self.document_BT, window)
        return None if window is None else causal_mask(self.time, window, self.device)[None, None]


@contextlib.contextmanager
def without_plans() -> Generator[None]:
    """Within, attention leaves out cuDNN's kernels, which Hopper prefers: they make a plan for each new shape, 60 to 200 ms."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def causal_mask(time: int, window: int | None, device: torch.device | None = None) -> Tensor:
    """What each token may look at, `[T, S]`: itself and the `window - 1` before it, or all."""
    allowed_TS = torch.ones(time, time, dtype=torch.bool, device=device).tril_()
    return allowed_TS if window is None else allowed_TS.triu_(1 - window)


def document_mask(document_BT: Tensor, window: int | None = None) -> Tensor:
    """What each token may look at, `[B, 1, T, S]`: itself and what came before it in its own document."""
    same_BTS = document_BT[:, :, None] == document_BT[:, None, :]
    same_BTS.tril_()
    return (same_BTS if window is None else same_BTS.triu_(1 - window))[:, None]


def branch_mask(
    document_BT: Tensor | None, branch_BT: Tensor, positions_BT: Tensor, window: int | None = None
) -> Tensor:
    """What each token may look at, `[B, T, S]`, where texts branch: itself and what came before it in its own branch, and in
    branch 0 of its document, from which the others go out. A window counts positions: branches begin at the same one."""
    branch_B1S = branch_BT[:, None, :]
    allowed_BTS = (branch_B1S == 0) | (branch_B1S == branch_BT[:, :, None])
    if document_BT is not None:
        allowed_BTS &= document_BT[:, :, None] == document_BT[:, None, :]
    if window is not None:
        allowed_BTS &= positions_BT[:, :, None] - positions_BT[:, None, :] < window
    return allowed_BTS.tril_()


def added_to_scores(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a token may look and -inf where not."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, -torch.inf)


def attention_bias(
    time: int,
    document_BT: Tensor | None,
    window: int | None,
    dtype: torch.dtype,
    device: torch.device | None = None,
) -> Tensor:
    """0 where a token may look and -inf where not: `[T, T]` for plain causal rows, `[B, T, T]` for packed or sliding ones."""
    if document_BT is None and window is None:
        return torch.full((time, time), -torch.inf, dtype=dtype, device=device).triu_(1)
    allowed = (
        causal_mask(time, window, device)[None] if document_BT is None else document_mask(document_BT, window)[:, 0]
    )
    return added_to_scores(allowed, dtype)
