"""AdamW and Muon behind one small interface: matrices inside the blocks by Muon, all else by AdamW.

Shapes: `M` matrices of one shape stacked, `R` rows, `C` columns, `E` experts.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from dunwu.core.errors import CheckpointError
from dunwu.core.recipe import TrainSection
from dunwu.model.config import DecoderConfig
from dunwu.train.learned import Deltas

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # K. Jordan, kellerjordan.github.io/posts/muon


def default_lrs(config: DecoderConfig, optimizer: Literal["muon", "adamw"] = "muon") -> tuple[float, float]:
    """Peak learning rates of Muon and of AdamW for this width.

    From small runs on English books (widths 64 to 256, up to 0.4M tokens, one seed): Muon's best rate stays with width, since its update
    has a fixed spectral norm; AdamW's falls, and is much lower where it also moves the matrices (`optimizer="adamw"`).
    """
    narrower = (128 / config.hidden_size) ** 0.5
    return (0.012, 0.012 * narrower) if optimizer == "muon" else (0.0, 0.002 * narrower)


class Optimizer:
    """One update of all parameters: clip, step, forget the gradients."""

    def __init__(self, parts: list["AdamW | Muon"], parameters: list[nn.Parameter]) -> None:
        self.parts = parts
        self.parameters = parameters

    def step(self, lr_scale: float, grad_clip: float) -> dict[str, float]:
        """Clip the gradients to the global norm `grad_clip`, update at `lr_scale` of the peak rates, drop the gradients.

        Returns `{"grad_norm": norm before clipping}`. A norm that is not finite updates nothing.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        value = float(norm)
        if value == value and value != float("inf"):
            if value > grad_clip:
                nn.utils.clip_grads_with_norm_(self.parameters, grad_clip, norm, foreach=True)
            for part in self.parts:
                part.step(lr_scale)
        for parameter in self.parameters:
            parameter.grad = None
        return {"grad_norm": value}

    def state_tensors(self) -> dict[str, Tensor]:
        """All that a resumed run needs, by name; the tensors are the live ones."""
        return {f"{part.name}.{key}": value for part in self.parts for key, value in part.state().items()}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a saved state in. Raises CheckpointError when names or shapes differ."""
        mine = self.state_tensors()
        if set(mine) != set(tensors):
            odd = sorted(set(mine) ^ set(tensors))[:3]
            raise CheckpointError(
                f"the saved optimiser state differs in {odd}; it belongs to another model or optimiser"
            )
        for name, tensor in mine.items():
            if tensor.shape != tensors[name].shape:
                raise CheckpointError(
                    f"the saved optimiser state {name} has shape {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}; "
                    "it belongs to another model"
                )
            tensor.copy_(tensors[name])


class Together(Optimizer):
    """Two optimisers whose gradients are clipped apart, so that neither takes the other's room."""

    def __init__(self, first: Optimizer, second: Optimizer, name: str) -> None:
        super().__init__([*first.parts, *second.parts], [*first.parameters, *second.parameters])
        self._first, self._second, self._name = first, second, name

    def step(self, lr_scale: float, grad_clip: float) -> dict[str, float]:
        figures = self._first.step(lr_scale, grad_clip)
        second = self._second.step(lr_scale, grad_clip)
        return {**figures, **{f"{self._name}_{name}": value for name, value in second.items()}}


class AdamW:
    """AdamW (arXiv:1711.05101) in torch's fused kernel; vectors are not decayed, nor are the biases of stacked experts."""

    def __init__(
        self,
        named: list[tuple[str, nn.Parameter]],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        name: str = "adamw",
    ) -> None:
        self.lr, self.name = lr, name
        self.named = named
        groups = [
            {"params": [p for name, p in named if _is_matrix(name, p)], "weight_decay": weight_decay},
            {"params": [p for name, p in named if not _is_matrix(name, p)], "weight_decay": 0.0},
        ]
        self.inner = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, eps=1e-8, fused=True)
        for _, parameter in named:
            self.inner.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def step(self, lr_scale: float) -> None:
        for group in self.inner.param_groups:
            group["lr"] = self.lr * lr_scale
        self.inner.step()

    def state(self) -> dict[str, Tensor]:
        return {f"{name}.{key}": value for name, p in self.named for key, value in self.inner.state[p].items()}


class Muon:
    """Muon (K. Jordan 2024; arXiv:2502.16982): Nesterov momentum made orthogonal, all matrices of a shape at once.

    The update is scaled by sqrt(max(1, rows / columns)), and the weights decay by `lr · weight_decay`. A stack of experts
    `[E, R, C]` is so many matrices, each made orthogonal by itself.
    """

    name = "muon"

    def __init__(
        self, named: list[tuple[str, nn.Parameter]], *, lr: float, momentum: float = 0.95, weight_decay: float
    ) -> None:
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        shapes: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for _, parameter in named:
            shapes.setdefault(tuple(parameter.shape[-2:]), []).append(parameter)
        self.stacks = list(shapes.values())
        self.buffers = [torch.cat([torch.zeros_like(_matrices(p.detach())) for p in s]) for s in self.stacks]

    @torch.no_grad()
    def step(self, lr_scale: float) -> None:
        lr = self.lr * lr_scale
        for parameters, momentum_MRC in zip(self.stacks, self.buffers, strict=True):
            gradient_MRC = torch.cat(
                [_matrices(p.grad if p.grad is not None else torch.zeros_like(p)) for p in parameters]
            )
            momentum_MRC.lerp_(gradient_MRC, 1.0 - self.momentum)
            gradient_MRC.lerp_(momentum_MRC, self.momentum)
            update_MRC = orthogonalise(gradient_MRC)
            rows, columns = update_MRC.shape[1:]
            counts = [_matrices(parameter).shape[0] for parameter in parameters]
            for parameter, part_MRC in zip(parameters, update_MRC.split(counts), strict=True):
                parameter.mul_(1.0 - lr * self.weight_decay)
                parameter.add_(part_MRC.view(parameter.shape), alpha=-lr * max(1.0, rows / columns) ** 0.5)

    def state(self) -> dict[str, Tensor]:
        return {"x".join(map(str, b.shape[1:])): b for b in self.buffers}


def _matrices(values: Tensor) -> Tensor:
    """A matrix, or a stack of them, as a stack `[M, R, C]`."""
    return values.view(-1, *values.shape[-2:])


def _is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether it multiplies: a stack of the experts' biases is two-dimensional too."""
    return parameter.ndim >= 2 and not name.endswith("bias")


def _is_muons(name: str, parameter: Tensor) -> bool:
    """A block's matrix; not the router's, whose rows are classes rather than directions in the stream."""
    return ".layers." in name and _is_matrix(name, parameter) and not name.endswith("router.weight")


def orthogonalise(matrices_MRC: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: singular values end between 0.7 and 1.2.

    Newton–Schulz with Jordan's quintic, batched; float32 on a CPU (where bfloat16 products crawl), bfloat16 on CUDA.
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrices_MRC.to(torch.bfloat16 if matrices_MRC.is_cuda else torch.float32)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices_MRC.dtype)


def build_optimizer(model: nn.Module, section: TrainSection, lrs: tuple[float, float]) -> Optimizer:
    """The recipe's optimiser over all trainable parameters. `lrs`: peak learning rates of Muon and AdamW."""
    lr_muon, lr_adamw = lrs
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    by_muon = [(n, p) for n, p in named if section.optimizer == "muon" and _is_muons(n, p)]
    chosen = {n for n, _ in by_muon}
    by_adamw = [(n, p) for n, p in named if n not in chosen]
    parts: list[AdamW | Muon] = []
    if by_adamw:
        parts.append(AdamW(by_adamw, lr=lr_adamw, betas=section.betas, weight_decay=section.weight_decay))
    if by_muon:
        parts.append(Muon(by_muon, lr=lr_muon, weight_decay=section.weight_decay))
    return Optimizer(parts, [p for _, p in named])


def build_delta_optimizer(learned: Deltas, section: TrainSection, lr: float) -> Optimizer:
    """AdamW over what deltas learn. Parameters that learn at another rate than `lr` make a part of their own.

    The orthogonal steps of Muon would move all directions of a thin factor alike, which its product then squares.
    """
    named = learned.parameters()
    by_factor: dict[float, list[tuple[str, nn.Parameter]]] = {}
    for name, factor in learned.lr_factors().items():
        by_factor.setdefault(factor, []).append((name, named[name]))
    parts: list[AdamW | Muon] = [
        AdamW(
            own,
            lr=lr * factor,
            betas=section.betas,
            weight_decay=section.weight_decay,
            name="adamw" if factor == 1.0 else f"adamw_x{factor:g}",
        )
        for factor, own in sorted(by_factor.items())
    ]
    return Optimizer(parts, list(named.values()))


def with_values(policy: Optimizer, named: Mapping[str, nn.Parameter], section: TrainSection, lr: float) -> Optimizer:
    """A value model's parameters, by AdamW, beside the policy's."""
    own = [(name, parameter) for name, parameter in named.items() if parameter.requires_grad]
    part = AdamW(own, lr=lr, betas=section.betas, weight_decay=section.weight_decay, name="values")
    return Together(policy, Optimizer([part], [parameter for _, parameter in own]), "values")
