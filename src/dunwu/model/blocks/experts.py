"""Mixtures of experts: a router picks a few of many gated MLPs for each token.

Shapes: `N` tokens, `D` model width, `E` experts, `F` width of an expert, `P` experts a token.
"""

from torch import Tensor, nn

from dunwu.model.config import DecoderConfig


class SparseMLP(nn.Module):
    """A router, its experts, and an MLP that all tokens share if there is one."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        raise NotImplementedError

    def forward(self, x_BTD: Tensor) -> Tensor:
        raise NotImplementedError
