"""Rotary positions (arXiv:2104.09864), and how they are stretched beyond the trained context.

Each kind is written as transformers computes it (`modeling_rope_utils.py`), operation by operation: far positions multiply
the last bit of a frequency. Two kinds depend on the length of what is read, `dynamic` and `longrope`: they take the last
position of each row in the pass (transformers: of all rows), so that a row reads the same in a batch as alone. What a cache
holds stays as it was made, so reading on beyond the trained context is not what reading anew would be. transformers reads
anew once when Phi-3 crosses longrope's border while it generates, and never otherwise: `crosses_border` says when.

Shapes: `B` batch, `T` time, `H` heads, `C` rotated channels of a head.
"""

import math

import torch
from torch import Tensor

from dunwu.model import kernels
from dunwu.model.blocks.norms import by_hand
from dunwu.model.cache import KeyValueCache
from dunwu.model.config import DecoderConfig, RopeScaling


def rotary_tables(
    config: DecoderConfig,
    positions_BT: Tensor,
    *,
    local: bool,
    dtype: torch.dtype,
    reach_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles, `[B, 1, T, C/2]`; `local`: those of sliding layers, which nothing stretches.

    YaRN and LongRoPE also lengthen them by the attention factor. `reach_BT`: how long the text of each token is, where a row
    is several texts.
    """
    channels, device = config.rotated_channels, positions_BT.device
    scaling = config.rope_scaling
    if local and config.local_rope_theta is not None:
        scaling, frequencies_C = None, plain_frequencies(config.local_rope_theta, channels, device)
    else:
        frequencies_C = plain_frequencies(config.rope_theta, channels, device)
    if scaling is not None:
        length_B1T1 = _lengths(positions_BT) if reach_BT is None else reach_BT[:, None, :, None]
        frequencies_C = _stretched(config, scaling, frequencies_C, length_B1T1)
    angles_B1TC = positions_BT[:, None, :, None].float() * frequencies_C
    cos_B1TC, sin_B1TC = angles_B1TC.cos(), angles_B1TC.sin()
    if scaling is not None and (factor := attention_factor(scaling)) != 1.0:
        cos_B1TC, sin_B1TC = cos_B1TC * factor, sin_B1TC * factor
    return cos_B1TC.to(dtype), sin_B1TC.to(dtype)


def depends_on_length(config: DecoderConfig) -> bool:
    """Whether a text's angles depend on how long it is."""
    return config.rope_scaling is not None and config.rope_scaling.kind in ("dynamic", "longrope")


def plain_frequencies(theta: float | Tensor, channels: int, device: torch.device | None = None) -> Tensor:
    """Radians a position of each pair of channels, `[C/2]`, or `[..., C/2]` of several thetas `[..., 1]`."""
    return 1.0 / _powers(theta, channels, device)


def _powers(theta: float | Tensor, channels: int, device: torch.device | None) -> Tensor:
    return theta ** (torch.arange(0, channels, 2, device=device, dtype=torch.float32) / channels)


def crosses_border(config: DecoderConfig, cache: KeyValueCache, new: int) -> bool:
    """Whether reading `new` more columns takes a row of the cache from longrope's short factors to its long ones.

    What the cache holds is of the short side then: set its `length` to 0 and read everything anew, in one pass.
    """
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "longrope":
        return False
    border = scaling.original_max_position_embeddings or 0
    starts = [0] if cache.starts_B is None else cache.starts_B.tolist()
    return any(cache.length - start <= border < cache.length + new - start for start in starts)


def attention_factor(scaling: RopeScaling) -> float:
    """What YaRN (arXiv:2309.00071, eq. 22) and LongRoPE (arXiv:2402.13753, section 3.3) multiply cosine and sine by.

    DeepSeek's `mscale` and `mscale_all_dim` divide two of YaRN's (arXiv:2405.04434, section 3.1.4).
    """
    if scaling.kind not in ("yarn", "longrope"):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.kind == "longrope":
        original = scaling.original_max_position_embeddings
        assert original is not None
        return math.sqrt(1 + math.log(scaling.factor) / math.log(original)) if scaling.factor > 1.0 else 1.0
    if scaling.mscale and scaling.mscale_all_dim:
        return yarn_mscale(scaling.factor, scaling.mscale) / yarn_mscale(scaling.factor, scaling.mscale_all_dim)
    return yarn_mscale(scaling.factor, 1.0)


def yarn_mscale(factor: float, mscale: float) -> float:
    """YaRN's temperature for a context `factor` times as long."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1.0 else 1.0


def _stretched(config: DecoderConfig, scaling: RopeScaling, frequencies_C: Tensor, length_B1T1: Tensor) -> Tensor:
    if scaling.kind == "linear":
        return frequencies_C / scaling.factor  # position interpolation, arXiv:2306.15595
    if scaling.kind == "llama3":
        return _llama3(scaling, frequencies_C)
    if scaling.kind == "yarn":
        return _yarn(config, scaling, frequencies_C)
    if scaling.kind == "dynamic":
        return _dynamic(config, scaling, frequencies_C, length_B1T1)
    return _longrope(config, scaling, length_B1T1)


def _lengths(positions_BT: Tensor) -> Tensor:
    """How far each row reaches, `[B, 1, 1, 1]`."""
    return positions_BT.amax(dim=1)[:, None, None, None] + 1


def _llama3(scaling: RopeScaling, frequencies_C: Tensor) -> Tensor:
    """Llama 3.1 (arXiv:2407.21783; `apply_scaling` of its reference code): waves that are long against the trained context
    are interpolated, short ones are not, and those between are blended."""
    original = scaling.original_max_position_embeddings
    assert original is not None
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    waves_C = 2 * math.pi / frequencies_C
    slowed_C = frequencies_C / scaling.factor
    blend_C = (original / waves_C - low) / (high - low)
    blended_C = (1 - blend_C) * frequencies_C / scaling.factor + blend_C * frequencies_C
    between_C = ~(waves_C < original / high) & ~(waves_C > original / low)
    return torch.where(between_C, blended_C, torch.where(waves_C > original / low, slowed_C, frequencies_C))


def _yarn(config: DecoderConfig, scaling: RopeScaling, frequencies_C: Tensor) -> Tensor:
    """YaRN's "NTK by parts" (arXiv:2309.00071, section 3.2): channels that turn more than `beta_fast` times within the
    trained context stay, those that turn less than `beta_slow` times are interpolated, and between is a ramp."""
    channels = config.rotated_channels
    assert scaling.original_max_position_embeddings is not None

    def channel_of(turns: float) -> float:
        reach = scaling.original_max_position_embeddings or 0
        return channels * math.log(reach / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low, high = channel_of(scaling.beta_fast), channel_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, channels - 1)
    places_C = torch.arange(channels // 2, device=frequencies_C.device, dtype=torch.float32)
    stay_C = 1 - ((places_C - low) / (high - low if high != low else 0.001)).clamp(0, 1)
    slowed_C = 1.0 / (scaling.factor * _powers(config.rope_theta, channels, frequencies_C.device))
    return slowed_C * (1 - stay_C) + frequencies_C * stay_C


def _dynamic(config: DecoderConfig, scaling: RopeScaling, frequencies_C: Tensor, length_B1T1: Tensor) -> Tensor:
    """Dynamic NTK (arXiv:2309.00071, section 3.3, and appendix A.1 for the change of base): beyond the trained context theta
    grows with the length."""
    channels, trained = config.rotated_channels, config.max_position_embeddings
    growth_B1T1 = (scaling.factor * length_B1T1 / trained) - (scaling.factor - 1)
    theta_B1T1 = config.rope_theta * growth_B1T1.clamp(min=1.0) ** (channels / (channels - 2))
    return torch.where(
        length_B1T1 > trained, plain_frequencies(theta_B1T1, channels, length_B1T1.device), frequencies_C
    )


def _longrope(config: DecoderConfig, scaling: RopeScaling, length_B1T1: Tensor) -> Tensor:
    """LongRoPE (arXiv:2402.13753): each channel is slowed by its own factor, found by search; one set for what fits into the
    original context, one for what is longer."""
    channels, device, border = config.rotated_channels, length_B1T1.device, scaling.original_max_position_embeddings
    assert border is not None
    powers_C = _powers(config.rope_theta, channels, device)
    short_C, long_C = (
        1.0 / (torch.tensor(factors, dtype=torch.float32, device=device) * powers_C)
        for factors in (scaling.short_factor, scaling.long_factor)
    )
    return torch.where(length_B1T1 > border, long_C, short_C)


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
