"""Multi-head latent attention (arXiv:2405.04434)."""

from torch import Tensor, nn

from dunwu.model.blocks.reading import Reading
from dunwu.model.config import DecoderConfig


class LatentAttention(nn.Module):
    """Keys and values made from a small latent vector, which is all that the cache keeps."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        raise NotImplementedError

    def forward(self, x_BTD: Tensor, reading: Reading, layer: int) -> Tensor:
        raise NotImplementedError
