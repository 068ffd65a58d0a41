"""Numbers to blocks and back. F32, F16 and BF16 are our own; the quantised types are those of the `gguf` package."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dunwu.core.errors import MissingExtraError, ModelError
from dunwu.model.gguf.container import BlockType, Container
from dunwu.model.gguf.kquants import K_QUANTS, require_llama_cpp

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
WRITTEN = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
"""What we write. Of the k-quants the package has the way back only: see `kquants.py`. Its ternary types are for networks that
were trained to three values."""

FILE_TYPE = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "BF16": 32}
"""llama.cpp's `general.file_type` (enum llama_ftype in llama.h): what most matrices are."""

CHUNK = 1 << 22
"""Numbers that are quantised at a time: bounds the scratch memory of the package, which computes in float64 for some types."""


def require_written(name: str) -> None:
    """Raise ModelError for a type that we do not write, naming those that we do; MissingExtraError for what it would need."""
    if name.lower() in K_QUANTS:
        require_llama_cpp()
    elif name.upper() not in WRITTEN:
        own, theirs = (", ".join(one.lower() for one in names) for names in (WRITTEN, K_QUANTS))
        raise ModelError(
            f"GGUF type {name!r} is not written; choose one of {own}, or, with llama-cpp-python, of {theirs}"
        )
    elif name.upper() not in FLOATS:
        _package()


def to_blocks(values: Tensor, block: BlockType) -> npt.NDArray[Any]:
    """Bytes of `values`, whose last axis is a multiple of the block's length.

    Raises ModelError where a number does not fit the type, or is not a number; MissingExtraError without the package.
    """
    dtype = FLOATS.get(block.name)
    flat = values.detach().to("cpu").contiguous()
    if dtype is not None:
        stored = flat.to(dtype)
        if not bool(torch.isfinite(stored).all()):
            reason = (
                "is not finite" if not bool(torch.isfinite(flat).all()) else f"is too large for {block.name}; take bf16"
            )
            raise ModelError(f"a weight {reason}")
        return stored.reshape(-1).view(torch.uint8).numpy()
    numbers = flat.to(torch.float32)
    if not bool(torch.isfinite(numbers).all()):
        raise ModelError("a weight is not finite")
    return _package().quantize(numbers.numpy(), _number_type(block))


def from_blocks(file: Container, name: str) -> Tensor:
    """A tensor of the file: as stored when it is a float, else dequantised to float32.

    Raises ModelError for a type that cannot be dequantised and for numbers that are not finite.
    """
    entry = file.tensors[name]
    data = file.data(name)
    dtype = FLOATS.get(entry.type.name)
    if dtype is not None:
        values = torch.from_numpy(np.array(data)).view(dtype).reshape(entry.shape)
    else:
        try:
            dequantised = _package().dequantize(np.asarray(data), _number_type(entry.type))
        except NotImplementedError as error:
            raise ModelError(
                f"{name} in {file.path} is {entry.type.name}, which the installed gguf package does not dequantise; "
                "take the model in F16, Q8_0 or a k-quant"
            ) from error
        values = torch.from_numpy(dequantised).reshape(entry.shape)
    if not bool(torch.isfinite(values).all()):
        raise ModelError(f"{name} in {file.path} holds a value that is not finite; the file is damaged: fetch it again")
    return values


def _package() -> Any:
    try:
        from gguf import quants
    except ImportError as error:
        raise MissingExtraError("gguf", "gguf", "a quantised GGUF file") from error
    return quants


def _number_type(block: BlockType) -> Any:
    from gguf import GGMLQuantizationType

    try:
        return GGMLQuantizationType(block.number)
    except ValueError as error:
        raise NotImplementedError(block.name) from error
