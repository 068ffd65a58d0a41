"""Optimisers over an ensemble, where each member has a weight decay of its own.

`adamw` decays weights beside the update (arXiv:1711.05101); `adam` and `sgd` add the decay to the gradient, as an L2 penalty.
All weights are decayed, biases and embeddings too, as in arXiv:2301.05217.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from dunwu.core.errors import CheckpointError, RecipeError

NAMES = ("adamw", "adam", "sgd")
MOMENTUM = 0.9


class Optimiser:
    """One update of all members. `decays`: a weight decay for each member."""

    def __init__(
        self,
        name: str,
        weights: Mapping[str, nn.Parameter],
        *,
        lr: float,
        decays: Sequence[float],
        betas: tuple[float, float],
    ) -> None:
        if name not in NAMES:
            raise RecipeError(f"optimizer {name!r} is not known; use {', '.join(NAMES)}")
        self.name, self.lr, self.weights = name, lr, weights
        self.decay_M = torch.tensor(decays)
        parameters = list(weights.values())
        if name == "sgd":
            self.inner: torch.optim.Optimizer = torch.optim.SGD(parameters, lr=lr, momentum=MOMENTUM, fused=True)
        else:
            self.inner = torch.optim.Adam(parameters, lr=lr, betas=betas, eps=1e-8, fused=True)
        for parameter in parameters:
            self.inner.state[parameter] = self._blank(parameter)

    def _blank(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        if self.name == "sgd":
            return {"momentum_buffer": torch.zeros_like(parameter)}
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.zeros((), dtype=torch.float32), **moments}

    @torch.no_grad()
    def step(self, share: float) -> None:
        """Update at `share` of the learning rate, and drop the gradients."""
        for group in self.inner.param_groups:
            group["lr"] = self.lr * share
        parameters = list(self.weights.values())
        for parameter in parameters if bool(self.decay_M.any()) else ():
            decay = self.decay_M.view(-1, *[1] * (parameter.ndim - 1))
            if self.name == "adamw":
                parameter.mul_(1 - share * self.lr * decay)
            elif parameter.grad is not None:
                parameter.grad.addcmul_(decay, parameter)
        self.inner.step()
        for parameter in parameters:
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """All that a resumed run needs, by name; the tensors are the live ones."""
        return dict(self._tensors())

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.weights.items():
            for key, value in self.inner.state[parameter].items():
                yield f"{name}.{key}", value

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a saved state in. Raises CheckpointError where names or shapes differ."""
        mine = self.tensors()
        if {n: t.shape for n, t in mine.items()} != {n: t.shape for n, t in tensors.items()}:
            raise CheckpointError("the saved optimiser belongs to other networks; begin again in another folder")
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])
