"""A decoder to and from a Hugging Face directory: `config.json`, `generation_config.json` and `model.safetensors`."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dunwu.core.errors import DataError, ModelError
from dunwu.core.files import atomic_write, read_json, write_json
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder
from dunwu.model.families import config_from_hf, config_to_hf

_DTYPE_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, atomically and without a second copy of the tensors in memory.

    Raises DiskError when the disk is full or may not be written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with atomic_write(path) as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for tensor in tensors.values():
            flat = tensor.detach().to("cpu").contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)


def read_tensors(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Read a safetensors file. Raises ModelError naming the file when it is missing, cut short or damaged."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist; give the folder of a finished model") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read as safetensors ({error}); it may have been cut short: fetch it again"
        ) from error


def model_state(model: Decoder) -> dict[str, Tensor]:
    """The weights under Hugging Face's names; a tied head is not repeated."""
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def save_model(model: Decoder, folder: Path) -> None:
    """Write the model so that `transformers` loads the folder as it is; each file appears whole or not at all."""
    config = model.config
    write_tensors(folder / "model.safetensors", model_state(model))
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    values = config_to_hf(config)
    write_json(folder / "config.json", values | {"dtype": dtype})
    tokens = {key: values[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **tokens})


def load_config(folder: Path) -> DecoderConfig:
    """Read `config.json`. Raises ModelError when it is missing, damaged or of an architecture that we do not have."""
    try:
        return config_from_hf(read_json(folder / "config.json"))
    except DataError as error:
        raise ModelError(f"{folder} is not a model: {error}") from error


def load_model(folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Decoder:
    """Read a model, in one file or sharded. `dtype` None keeps the stored one.

    Raises ModelError when a file is missing or damaged, or when names or shapes are not those of the configuration.
    """
    config = load_config(folder)
    with torch.device("meta"):
        model = Decoder(config)
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        tensors |= read_tensors(path, device=device)
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    _check_names_and_shapes(model, tensors, folder)
    model.load_state_dict(tensors, assign=True)
    model.requires_grad_(True)
    return model.to(device=device, dtype=dtype)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return sorted({folder / name for name in read_json(index)["weight_map"].values()})
    return [folder / "model.safetensors"]


def _check_names_and_shapes(model: Decoder, tensors: Mapping[str, Tensor], folder: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing, unknown = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or unknown:
        raise ModelError(
            f"the weights in {folder} do not fit its config.json: missing {missing[:3]}, unknown {unknown[:3]} "
            f"({len(missing)} and {len(unknown)} in all); take both files from the same model"
        )
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise ModelError(
                f"{name} in {folder} has shape {tuple(tensors[name].shape)}, its config.json says {shape}; "
                "take both files from the same model"
            )
