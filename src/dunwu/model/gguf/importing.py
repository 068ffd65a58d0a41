"""A GGUF file to a model's folder in Hugging Face's form, a tensor at a time."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dunwu.core.errors import ModelError
from dunwu.core.files import write_json
from dunwu.model.config import DecoderConfig
from dunwu.model.families import StoredTensor, config_from_hf, config_to_hf, family_of
from dunwu.model.gguf import metadata, quantise
from dunwu.model.gguf.container import Container
from dunwu.model.gguf.names import Slot, slots
from dunwu.model.gguf.reading import tokenizer_files
from dunwu.model.gguf.vocabulary import require_tokens
from dunwu.model.safetensors_file import Outgoing, write_file

_LICENCE_CHARACTERS = 120
_COMPUTED = (*metadata.FACTOR_TENSORS, "attn_rot_embd.weight")  # made from the configuration, and not weights


def import_gguf(
    path: Path, out: Path, *, dtype: torch.dtype | None = None, rules: Mapping[str, str] | None = None
) -> str | None:
    """Write the model of a GGUF file to the folder `out`: weights, configuration, tokenizer, chat template.

    Returns the licence that the file states, None where it states none.

    `dtype` None keeps float16 or bfloat16 where the matrices are in it and the norms fit it exactly, and is float32 otherwise,
    which holds dequantised numbers exactly. `rules`: cutting rules by name beyond those that `patterns.py` knows.
    Raises ModelError or TokenizerError for a file that is damaged or of a kind that we do not read, MissingExtraError where
    dequantising needs the `gguf` package, DiskError.
    """
    file = Container(path)
    parts = file.metadata.get("split.count")
    if isinstance(parts, int) and parts > 1:
        raise ModelError(
            f"{path} is one of {parts} parts of a model; join them first, with llama.cpp's llama-gguf-split --merge"
        )
    tokens = require_tokens(file.metadata, path)
    factors = {
        name: quantise.from_blocks(file, name).tolist() for name in metadata.FACTOR_TENSORS if name in file.tensors
    }
    config = config_from_hf(metadata.config_values(file.metadata, file.tensors, factors))
    stored = {tensor.name: tensor for tensor in family_of(config.architecture).stored(config)}
    plan = slots(config, stored)
    _check(file, plan, stored, config)
    spec, tokenizer_config = tokenizer_files(file.metadata, tokens, rules=rules or {})
    kept = dtype or _kept_dtype(file)
    write_file(out / "model.safetensors", _outgoing(file, plan, stored, config, kept))
    write_json(out / "tokenizer.json", spec)
    write_json(out / "tokenizer_config.json", tokenizer_config)
    values = config_to_hf(config)
    ids = {name: values.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(out / "generation_config.json", {"_from_model_config": True, **ids})
    write_json(out / "config.json", values | {"dtype": str(kept).removeprefix("torch.")})
    licence = file.metadata.get("general.license")
    return " ".join(licence.split())[:_LICENCE_CHARACTERS] or None if isinstance(licence, str) else None


def _check(file: Container, plan: Sequence[Slot], stored: Mapping[str, StoredTensor], config: DecoderConfig) -> None:
    """Raise ModelError unless the file has all tensors that its header makes one expect, of their shapes, and no others."""
    expected: set[str] = set()
    for slot in plan:
        shapes = [torch.empty(stored[theirs].shape, device="meta") for theirs in slot.theirs]
        for name, packed in zip(slot.files, slot.layout.pack(shapes, config), strict=True):
            expected.add(name)
            if name not in file.tensors:
                raise ModelError(
                    f"{file.path} lacks the tensor {name}, which its header makes one expect; it is damaged"
                )
            if file.tensors[name].shape != tuple(packed.shape):
                raise ModelError(
                    f"{name} in {file.path} has shape {file.tensors[name].shape}, its header says {tuple(packed.shape)}; "
                    "the file is damaged, or of a variant that dunwu does not read"
                )
    unknown = [name for name in file.tensors if name not in expected and not name.endswith(_COMPUTED)]
    if unknown:
        raise ModelError(
            f"{file.path} has the tensor {unknown[0]} ({len(unknown)} such), which a model of {config.architecture!r} does not "
            "have; it is of a variant that dunwu does not read"
        )


def _kept_dtype(file: Container) -> torch.dtype:
    matrices = {entry.type.name for entry in file.tensors.values() if len(entry.shape) > 1}
    rest = [name for name, entry in file.tensors.items() if entry.type.name not in matrices]
    if len(matrices) != 1 or not matrices <= {"F16", "BF16"}:
        return torch.float32
    kept = quantise.FLOATS[matrices.pop()]
    for name in rest:
        values = quantise.from_blocks(file, name)
        if not torch.equal(values.to(kept).to(values.dtype), values):
            return torch.float32
    return kept


def _outgoing(
    file: Container,
    plan: Sequence[Slot],
    stored: Mapping[str, StoredTensor],
    config: DecoderConfig,
    dtype: torch.dtype,
) -> dict[str, Outgoing]:
    outgoing: dict[str, Outgoing] = {}
    for slot in plan:
        unpacked = _Unpacked(file, slot, config, dtype)
        for place, theirs in enumerate(slot.theirs):
            outgoing[theirs] = Outgoing(dtype=dtype, shape=stored[theirs].shape, values=unpacked.at(place))
    return outgoing


class _Unpacked:
    """The checkpoint's tensors that lie together in the file (experts do), made once, when the first of them is asked for, and
    let go with the last."""

    def __init__(self, file: Container, slot: Slot, config: DecoderConfig, dtype: torch.dtype) -> None:
        self._file, self._slot, self._config, self._dtype = file, slot, config, dtype
        self._tensors: Sequence[Tensor] = ()

    def at(self, place: int) -> Iterator[Tensor]:
        if place == 0:
            packed = [quantise.from_blocks(self._file, name) for name in self._slot.files]
            self._tensors = self._slot.layout.unpack(packed, self._config)
        yield self._tensors[place].to(self._dtype)
        if place == len(self._slot.theirs) - 1:
            self._tensors = ()
