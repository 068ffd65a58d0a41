"""The feed-forward part: gated (arXiv:2002.05202) or plain."""

from torch import Tensor, nn
from torch.nn import functional as F

from dunwu.model import kernels
from dunwu.model.blocks.linear import only_products, project
from dunwu.model.blocks.norms import by_hand
from dunwu.model.config import Activation, DecoderConfig


def activate(x: Tensor, activation: Activation) -> Tensor:
    """The activation, element by element."""
    if activation == "silu":
        return F.silu(x)
    return F.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")


class GatedMLP(nn.Module):
    """`down(activation(gate(x)) * up(x))`."""

    def __init__(self, config: DecoderConfig, intermediate_size: int | None = None) -> None:
        super().__init__()
        size = intermediate_size or config.intermediate_size
        self.activation: Activation = config.activation
        self.gate_proj = nn.Linear(config.hidden_size, size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = project(x, (self.gate_proj, self.up_proj))
        if self.activation == "silu" and only_products(gate, (self.down_proj,)):
            return kernels.gated_linear(gate, up, self.down_proj.weight)
        if self.activation == "silu" and by_hand(gate):
            gated = kernels.gated_silu(gate, up)
        else:
            gated = activate(gate, self.activation) * up
        return project(gated, (self.down_proj,))[0]


class PlainMLP(nn.Module):
    """`down(activation(up(x)))`."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.activation: Activation = config.activation
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(activate(self.up_proj(x), self.activation))
