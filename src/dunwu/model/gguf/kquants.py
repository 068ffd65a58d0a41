"""The k-quants, which mix types within a file by rules of llama.cpp's own: it makes them, of a float file that we write first."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dunwu.core.errors import MissingExtraError, ModelError
from dunwu.model.gguf.said import listen

K_QUANTS: Mapping[str, int] = {
    "q6_k": 18, "q5_k_m": 17, "q5_k_s": 16, "q4_k_m": 15, "q4_k_s": 14, "iq4_xs": 30, "iq4_nl": 25, "q3_k_l": 13, "q3_k_m": 12,
    "q3_k_s": 11, "q2_k": 10,
}  # fmt: skip
"""By the names that llama-quantize takes, in lower case, to llama.h's enum llama_ftype."""


def require_llama_cpp() -> None:
    """Raise MissingExtraError where llama.cpp is not installed."""
    if importlib.util.find_spec("llama_cpp") is None:
        raise MissingExtraError("llama-cpp-python", "llamacpp", "writing a k-quant")


def requantise(source: Path, out: Path, kind: str) -> tuple[int, int]:
    """Write the float GGUF file `source` as the k-quant `kind` to `out`, whole or not at all. Raises ModelError when it fails.

    Rows that blocks of 256 do not divide get a type with smaller blocks, as llama.cpp has it. Returns how many tensors did, and
    of how many; (0, 0) where none.
    """
    require_llama_cpp()
    import llama_cpp  # pyright: ignore[reportMissingImports]

    params: Any = llama_cpp.llama_model_quantize_default_params()
    params.ftype = K_QUANTS[kind]
    params.nthread = torch.get_num_threads()
    fresh = out.with_name(f".{out.name}.{kind}.tmp")
    said = listen()
    try:
        code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(fresh), params)
        if code != 0 or not fresh.is_file():
            why = said.last_error() or f"code {code}"
            raise ModelError(
                f"llama.cpp could not write {out} as {kind} ({why}); is the disk full? Else take q8_0, or --dtype f16 "
                "and llama.cpp's llama-quantize"
            )
        os.replace(fresh, out)
        return said.fallbacks() or (0, 0)
    finally:
        fresh.unlink(missing_ok=True)
