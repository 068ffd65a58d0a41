"""Rotary positions (arXiv:2104.09864), and how they are stretched beyond the trained context.

Shapes: `B` batch, `T` time, `H` heads, `C` rotated channels of a head.
"""

import torch
from torch import Tensor

from dunwu.model import kernels
from dunwu.model.blocks.norms import by_hand
from dunwu.model.config import DecoderConfig


def rotary_tables(
    config: DecoderConfig, positions_BT: Tensor, *, local: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles, `[B, 1, T, C/2]`; `local`: those of sliding layers."""
    half = config.rotated_channels // 2
    theta = config.local_rope_theta if local and config.local_rope_theta else config.rope_theta
    exponents = torch.arange(half, device=positions_BT.device, dtype=torch.float32) / half
    angles_B1TC = positions_BT[:, None, :, None].float() * theta**-exponents
    return angles_B1TC.cos().to(dtype), angles_B1TC.sin().to(dtype)


def rotate(x_BTHC: Tensor, cos_B1TC: Tensor, sin_B1TC: Tensor, *, interleaved: bool) -> Tensor:
    """Turn the first `2 * C/2` channels of each head by their position and leave the rest; gives `[B, H, T, C]`."""
    turned = 2 * cos_B1TC.shape[-1]
    if turned < x_BTHC.shape[-1]:
        head, tail = x_BTHC[..., :turned], x_BTHC[..., turned:].transpose(1, 2)
        return torch.cat((rotate(head, cos_B1TC, sin_B1TC, interleaved=interleaved), tail), dim=-1)
    if interleaved:
        x_BHTC = x_BTHC.transpose(1, 2)
        even, odd = x_BHTC[..., ::2], x_BHTC[..., 1::2]
        return torch.stack((even * cos_B1TC - odd * sin_B1TC, odd * cos_B1TC + even * sin_B1TC), dim=-1).flatten(-2)
    if by_hand(x_BTHC):
        return kernels.rotate_to_heads(x_BTHC, cos_B1TC, sin_B1TC)
    left, right = x_BTHC.transpose(1, 2).chunk(2, dim=-1)
    return torch.cat((left * cos_B1TC - right * sin_B1TC, right * cos_B1TC + left * sin_B1TC), dim=-1)
