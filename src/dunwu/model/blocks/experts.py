"""Mixtures of experts: a router picks a few of many gated MLPs for each token, and no token is ever dropped.

Shapes: `N` tokens, `D` model width, `E` experts, `F` width of an expert, `P` experts a token, `G` groups of experts, `M` rows:
a token stands in as many as it has experts. `R`, `C` rows and columns of an expert's matrix.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dunwu.model import kernels
from dunwu.model.blocks.mlp import GatedMLP, activate
from dunwu.model.blocks.norms import by_hand
from dunwu.model.config import Activation, DecoderConfig, Experts

CLAMPED_ALPHA = 1.702
"""How steep gpt-oss's activation is: with it `x * sigmoid(1.702 x)` is nearly GELU (arXiv:1606.08415)."""


class SparseMLP(nn.Module):
    """A router, its experts, and an MLP that all tokens share if there is one."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        experts = config.experts
        assert experts is not None
        self.router = Router(config.hidden_size, experts)
        self.experts = ExpertStack(config, experts)
        self.shared = GatedMLP(config, experts.shared_intermediate_size) if experts.shared_intermediate_size else None
        self.shared_gate = nn.Linear(config.hidden_size, 1, bias=False) if experts.shared_gate else None

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_ND = x_BTD.flatten(0, -2)
        chosen_NP, weights_NP = self.router(x_ND)
        out_ND = self.experts(x_ND, chosen_NP, weights_NP)
        if self.shared is not None:
            shared_ND = self.shared(x_ND)
            if self.shared_gate is not None:
                shared_ND = torch.sigmoid(self.shared_gate(x_ND)) * shared_ND
            out_ND = out_ND + shared_ND
        return out_ND.view(x_BTD.shape)


class Router(nn.Module):
    """Says for each token which experts serve it and how much each counts.

    Softmax over all experts or over the chosen (arXiv:2401.04088), groups (arXiv:2405.04434, section 2.2.2), sigmoids with a
    correction that balances load (arXiv:2412.19437, section 2.1.2). `correction` stays in float32 whatever the dtype of the
    model: its values are far larger than their differences, which alone matter.
    """

    def __init__(self, width: int, config: Experts) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(config.count, width))
        self.bias = nn.Parameter(torch.zeros(config.count)) if config.router_bias else None
        # Moved by what balances load, never by a gradient: it counts for the choice alone.
        zeros_E = torch.zeros(config.count, dtype=torch.float32)
        self.correction = nn.Parameter(zeros_E, requires_grad=False) if config.correction else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Router":
        kept_E = None if self.correction is None else self.correction.detach()
        super()._apply(fn, recurse)
        if kept_E is not None and self.correction is not None and self.correction.dtype != torch.float32:
            self.correction.data = kept_E.to(self.correction.device, torch.float32)
        return self

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen experts, int64, and their weights, both `[N, P]`; in no particular order."""
        config = self.config
        logits_NE = self._logits(x_ND)
        if config.scores == "softmax_after":
            best_NP, chosen_NP = logits_NE.topk(config.per_token, dim=-1)
            return chosen_NP, best_NP.float().softmax(dim=-1).to(x_ND.dtype)
        scores_NE = logits_NE.float().sigmoid() if config.scores == "sigmoid" else logits_NE.float().softmax(dim=-1)
        with torch.no_grad():
            chosen_NP = self._choose(scores_NE)
        weights_NP = scores_NE.gather(1, chosen_NP)
        if config.normalise:
            weights_NP = weights_NP / (weights_NP.sum(dim=-1, keepdim=True) + 1e-20)
        return chosen_NP, (weights_NP * config.scale).to(x_ND.dtype)

    def _logits(self, x_ND: Tensor) -> Tensor:
        if not self.config.router_float32:
            return F.linear(x_ND, self.weight, self.bias)
        return F.linear(x_ND.float(), self.weight.float(), None if self.bias is None else self.bias.float())

    def _choose(self, scores_NE: Tensor) -> Tensor:
        config = self.config
        if self.correction is not None:
            scores_NE = scores_NE + self.correction
        if config.groups_per_token < config.groups:
            scores_NGE = scores_NE.unflatten(1, (config.groups, -1))
            summed = 1 if config.group_score == "best" else 2
            groups_NG = scores_NGE.topk(summed, dim=-1).values.sum(dim=-1)
            open_NG = torch.zeros_like(groups_NG, dtype=torch.bool)
            open_NG.scatter_(1, groups_NG.topk(config.groups_per_token, dim=-1).indices, True)
            scores_NE = scores_NGE.masked_fill(~open_NG[..., None], -torch.inf).flatten(1)
        return scores_NE.topk(config.per_token, dim=-1).indices


class StackProduct(nn.Module):
    """Each row times the matrix of its expert. A module of its own, without weights, for what changes it from outside."""

    def __init__(self) -> None:
        super().__init__()
        _keep_from_compilers()

    def forward(
        self, x_MC: Tensor, stack_ERC: Tensor, bias_ER: Tensor | None, ends_E: Tensor, expert_M: Tensor
    ) -> Tensor:
        """Rows sorted by expert, those of expert `e` ending before row `ends_E[e]`: `[M, R]`."""
        out_MR = expert_product(x_MC, stack_ERC, ends_E)
        return out_MR if bias_ER is None else out_MR + bias_ER[expert_M]


class ExpertStack(nn.Module):
    """All experts' gated MLPs, each of the three matrices in one stack."""

    def __init__(self, config: DecoderConfig, experts: Experts) -> None:
        super().__init__()
        count, size, width = experts.count, experts.intermediate_size, config.hidden_size
        self.activation: Activation = config.activation
        self.limit = config.activation_limit
        self.gate_proj = nn.Parameter(torch.zeros(count, size, width))
        self.up_proj = nn.Parameter(torch.zeros(count, size, width))
        self.down_proj = nn.Parameter(torch.zeros(count, width, size))
        self.gate_proj_bias = nn.Parameter(torch.zeros(count, size)) if experts.bias else None
        self.up_proj_bias = nn.Parameter(torch.zeros(count, size)) if experts.bias else None
        self.down_proj_bias = nn.Parameter(torch.zeros(count, width)) if experts.bias else None
        self.gate, self.up, self.down = StackProduct(), StackProduct(), StackProduct()

    def forward(self, x_ND: Tensor, chosen_NP: Tensor, weights_NP: Tensor) -> Tensor:
        """Each token's experts, summed by weight: `[N, D]`."""
        tokens, per_token = chosen_NP.shape
        expert_M, order_M = chosen_NP.flatten().sort(stable=True)
        # Not a count of each: its size would depend on the values, for which a device waits and a compiler stops.
        ends_E = torch.searchsorted(expert_M, torch.arange(len(self.gate_proj), device=expert_M.device), right=True)
        x_MD = x_ND.index_select(0, order_M // per_token)
        gate_MF = self.gate(x_MD, self.gate_proj, self.gate_proj_bias, ends_E, expert_M)
        up_MF = self.up(x_MD, self.up_proj, self.up_proj_bias, ends_E, expert_M)
        middle_MF = self._gated(gate_MF, up_MF)
        out_MD = self.down(middle_MF, self.down_proj, self.down_proj_bias, ends_E, expert_M)
        # Back into the order of tokens: a sum without atomics, the same at every run on every device.
        place_M = torch.empty_like(order_M).scatter_(0, order_M, torch.arange(len(order_M), device=order_M.device))
        out_NPD = out_MD.index_select(0, place_M).view(tokens, per_token, -1)
        return torch.bmm(weights_NP[:, None], out_NPD).squeeze(1)

    def _gated(self, gate_MF: Tensor, up_MF: Tensor) -> Tensor:
        if self.activation == "clamped_silu":
            gate_MF = gate_MF.clamp(max=self.limit)
            up_MF = up_MF if self.limit is None else up_MF.clamp(-self.limit, self.limit)
            return gate_MF * torch.sigmoid(CLAMPED_ALPHA * gate_MF) * (up_MF + 1.0)
        if self.activation == "silu" and by_hand(gate_MF):
            return kernels.gated_silu(gate_MF, up_MF)
        return activate(gate_MF, self.activation) * up_MF


def expert_product(x_MC: Tensor, stack_ERC: Tensor, ends_E: Tensor) -> Tensor:
    """`x @ stack[expert].T` for rows sorted by expert, where those of expert `e` end before row `ends_E[e]`: `[M, R]`.

    One grouped product where torch has it: on CUDA nothing waits for the device, and a compiler sees one operation. Elsewhere
    one product for each expert that has rows, for which the ends must be read back: a compiler breaks its graph there.
    """
    kind = x_MC.device.type
    if torch.is_autocast_enabled(kind):
        x_MC, stack_ERC = (operand.to(torch.get_autocast_dtype(kind)) for operand in (x_MC, stack_ERC))
    if _has_grouped(x_MC, stack_ERC):
        return grouped_product(x_MC, stack_ERC, ends_E)
    return _apart(x_MC, stack_ERC, ends_E)


def _has_grouped(x_MC: Tensor, stack_ERC: Tensor) -> bool:
    """Whether `F.grouped_mm` takes these: rows of whole 16 bytes; bfloat16, or float32 on a CPU when nothing is compiled."""
    in_16_bytes = 16 // x_MC.element_size()
    if x_MC.shape[1] % in_16_bytes or stack_ERC.shape[1] % in_16_bytes:
        return False
    if x_MC.is_cuda:
        return x_MC.dtype == torch.bfloat16 and torch.cuda.get_device_capability(x_MC.device) >= (8, 0)
    return x_MC.is_cpu and x_MC.dtype == torch.float32 and not torch.compiler.is_compiling()


def grouped_product(x_MC: Tensor, stack_ERC: Tensor, ends_E: Tensor) -> Tensor:
    """`expert_product` as one operation, without reading the ends back."""
    return F.grouped_mm(x_MC, stack_ERC.mT, offs=ends_E.to(torch.int32))


def one_by_one(x_MC: Tensor, stack_ERC: Tensor, ends_E: Tensor) -> Tensor:
    """`expert_product` as one product for each expert that has rows."""
    return cast("Tensor", _ExpertProduct.apply(x_MC, stack_ERC, ends_E.tolist()))


_apart: Callable[[Tensor, Tensor, Tensor], Tensor] = one_by_one


def _keep_from_compilers() -> None:
    """A compiler would make another graph for every share of tokens among the experts. To say so brings torch's compiler, which
    takes a second: where there are no experts nobody waits for it."""
    global _apart
    if _apart is one_by_one:
        _apart = cast("Callable[[Tensor, Tensor, Tensor], Tensor]", torch.compiler.disable(one_by_one))


class _ExpertProduct(torch.autograd.Function):
    """By hand, because the backward pass of indexing a stack makes a whole stack of zeros for each expert."""

    @staticmethod
    def forward(ctx: Any, x_MC: Tensor, stack_ERC: Tensor, ends: list[int]) -> Tensor:
        ctx.save_for_backward(x_MC, stack_ERC)
        ctx.ends = ends
        out_MR = x_MC.new_empty(x_MC.shape[0], stack_ERC.shape[1])
        for expert, start, end in _spans(ends):
            torch.mm(x_MC[start:end], stack_ERC[expert].mT, out=out_MR[start:end])
        return out_MR

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None]:
        x_MC, stack_ERC = ctx.saved_tensors
        grad_MR = grads[0]
        grad_x = torch.empty_like(x_MC) if ctx.needs_input_grad[0] else None
        grad_stack = torch.zeros_like(stack_ERC) if ctx.needs_input_grad[1] else None
        for expert, start, end in _spans(ctx.ends):
            if grad_x is not None:
                torch.mm(grad_MR[start:end], stack_ERC[expert], out=grad_x[start:end])
            if grad_stack is not None:
                torch.mm(grad_MR[start:end].mT, x_MC[start:end], out=grad_stack[expert])
        return grad_x, grad_stack, None


def _spans(ends: list[int]) -> list[tuple[int, int, int]]:
    """Experts that have rows: number, first row and the one after the last."""
    starts = [0, *ends[:-1]]
    return [(n, start, end) for n, (start, end) in enumerate(zip(starts, ends, strict=True)) if end > start]
