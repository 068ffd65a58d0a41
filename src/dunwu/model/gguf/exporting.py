"""A model's folder to one GGUF file, a tensor at a time."""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from dunwu.core.errors import ModelError
from dunwu.model.config import DecoderConfig, differing_knobs
from dunwu.model.families import StoredTensor, config_from_hf, family_of
from dunwu.model.folder import model_name
from dunwu.model.gguf import metadata, quantise, vocabulary
from dunwu.model.gguf.container import BLOCK_TYPE, BlockType, Container, TensorEntry, Value, write_container
from dunwu.model.gguf.kquants import K_QUANTS, requantise
from dunwu.model.gguf.names import Slot, slots
from dunwu.model.hub import StoredWeights, load_config

# What no reader of GGUF expects in anything else than float32; as in llama.cpp's own converter.
_ALWAYS_F32 = (
    "_norm.weight",
    ".ffn_gate_inp.weight",
    "position_embd.weight",
    ".bias",
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
)
_PHI3, _PHI3_TOKENS = re.compile(r"(phi)-?3", re.IGNORECASE), {"</s>", "<unk>", "<s>", "<|endoftext|>"}
_ENDS = ("token_embd.weight", "output.weight")
_NOT_KNOBS = ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings")
_WINDOW = ("sliding_window", "sliding_layers")  # where llama.cpp has none, the context is cut to it


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written: bytes of the file, how many numbers are in each type, and what of it the user did not ask for."""

    size: int
    numbers: Mapping[str, int]
    notes: tuple[str, ...] = ()


def export_gguf(
    folder: Path,
    out: Path,
    *,
    dtype: str = "f16",
    rules: Mapping[str, str] | None = None,
    name: str | None = None,
    licence: str | None = None,
) -> Exported:
    """Write the model of `folder` to the GGUF file `out`, with its tokenizer and chat template.

    `dtype` is the type of the matrices: norms, biases and routers stay in F32, rows that a type's blocks do not divide go to
    F16, and with the 4- and 5-bit types the embedding and the head are Q8_0. K-quants are llama.cpp's own mixtures. `rules`:
    names of llama.cpp's for cutting rules beyond those that `patterns.py` knows.
    Raises ModelError or TokenizerError for a model that llama.cpp would not run as it is, MissingExtraError where quantising
    needs a package, DiskError.
    """
    quantise.require_written(dtype)
    about = {"general.name": name or model_name(folder), "general.license": licence}
    if dtype.lower() not in K_QUANTS:
        return _write(folder, out, BLOCK_TYPE[dtype.upper()], rules or {}, about)
    whole = out.with_name(f".{out.name}.float.tmp")
    try:
        _write(folder, whole, _float_type(folder), rules or {}, about)
        fallen, tensors = requantise(whole, out, dtype.lower())
    finally:
        whole.unlink(missing_ok=True)
    return _exported(out.stat().st_size, Container(out).tensors.values(), _notes(fallen, tensors, dtype.lower()))


def _float_type(folder: Path) -> BlockType:
    """The smallest float that holds the weights as they are stored."""
    stored = StoredWeights(folder, load_config(folder)).dtypes
    narrow = next((name for name in ("F16", "BF16") if stored == {quantise.FLOATS[name]}), "F32")
    return BLOCK_TYPE[narrow]


def _exported(size: int, entries: Iterable[TensorEntry], notes: tuple[str, ...] = ()) -> Exported:
    numbers: dict[str, int] = {}
    for entry in entries:
        numbers[entry.type.name] = numbers.get(entry.type.name, 0) + math.prod(entry.shape)
    return Exported(size=size, numbers=numbers, notes=notes)


def _notes(fallen: int, tensors: int, kind: str) -> tuple[str, ...]:
    if not fallen:
        return ()
    return (
        f"{fallen} of {tensors} tensors are in another type than {kind} has for them: their rows do not divide into its blocks",
    )


def _write(
    folder: Path, out: Path, wanted: BlockType, rules: Mapping[str, str], about: Mapping[str, str | None]
) -> Exported:
    config = load_config(folder)
    stored = {tensor.name: tensor for tensor in family_of(config.architecture).stored(config)}
    plan = slots(config, stored)
    files = vocabulary.TokenizerFiles.read(folder)
    words = vocabulary.key_values(files, config.vocab_size, rules=rules)
    header = (
        {"general.architecture": Value("str", metadata.GGUF_NAME[config.architecture])}
        | _about(
            {**about, "general.name": _safe_name(about["general.name"], words["tokenizer.ggml.tokens"].value)}, wanted
        )
        | metadata.key_values(config)
        | words
    )
    _require_nothing_lost(config, header, plan)
    weights = StoredWeights(folder, config)
    factors = metadata.rope_factors(config)
    slot_of = {file: (slot, place) for slot in plan for place, file in enumerate(slot.files)}
    entries = [
        *(TensorEntry(file, values.shape, BLOCK_TYPE["F32"]) for file, values in factors.items()),
        *(entry for slot in plan for entry in _entries(slot, stored, config, wanted)),
    ]

    def data(entry: TensorEntry) -> Iterator[npt.NDArray[Any]]:
        if entry.name in factors:
            yield factors[entry.name]
            return
        slot, place = slot_of[entry.name]
        packed = slot.layout.pack([weights.view(theirs) for theirs in slot.theirs], config)[place]
        yield from _parts(packed, entry)
        for theirs in slot.theirs:
            weights.forget(theirs)

    size = write_container(out, header, entries, data)
    matrices = [entry for entry in entries if len(entry.shape) > 1 and not entry.name.endswith(_ALWAYS_F32)]
    fallen = sum(entry.type.name == "F16" != wanted.name for entry in matrices)
    return _exported(size, entries, _notes(fallen, len(matrices), wanted.name.lower()))


def _safe_name(name: str | None, tokens: Collection[str]) -> str | None:
    """A name that llama.cpp loads: one with phi3 or phi-3 in it makes it look up Phi-3's tokens, and fail without them."""
    if name is None or set(tokens) >= _PHI3_TOKENS:
        return name
    return _PHI3.sub(r"\1_3", name)


def _about(about: Mapping[str, str | None], block: BlockType) -> dict[str, Value]:
    return {
        "general.type": Value("str", "model"),
        **{key: Value("str", text) for key, text in about.items() if text},
        "general.file_type": Value("u32", quantise.FILE_TYPE[block.name]),
        "general.quantization_version": Value("u32", 2),
    }


def _require_nothing_lost(config: DecoderConfig, header: Mapping[str, Value], plan: list[Slot]) -> None:
    """Read the header back as a reader of GGUF would, and compare: a knob that it cannot express would be lost in silence."""
    plain = {key: value.value for key, value in header.items()}
    names = {file for slot in plan for file in slot.files}
    factors = {name: values.tolist() for name, values in metadata.rope_factors(config).items()}
    back = config_from_hf(metadata.config_values(plain, names, factors) | {"model_type": config.architecture})
    allowed = _NOT_KNOBS + (() if plain["general.architecture"] in metadata.WINDOWED else _WINDOW)
    lost = [knob for knob in differing_knobs(config, back) if knob not in allowed]
    if lost:
        raise ModelError(
            f"a GGUF file of {config.architecture!r} cannot say that {lost[0]}={getattr(config, lost[0])!r} (it would be read as "
            f"{getattr(back, lost[0])!r}); export to Hugging Face instead: --to hf"
        )


def _entries(
    slot: Slot, stored: Mapping[str, StoredTensor], config: DecoderConfig, wanted: BlockType
) -> Iterator[TensorEntry]:
    shapes = [torch.empty(stored[theirs].shape, device="meta") for theirs in slot.theirs]
    for file, packed in zip(slot.files, slot.layout.pack(shapes, config), strict=True):
        yield TensorEntry(file, tuple(packed.shape), _type_for(file, tuple(packed.shape), wanted))


def _type_for(file: str, shape: tuple[int, ...], wanted: BlockType) -> BlockType:
    if len(shape) < 2 or file.endswith(_ALWAYS_F32):
        return BLOCK_TYPE["F32"]
    if file in _ENDS and wanted.name.startswith(("Q4", "Q5")):
        wanted = BLOCK_TYPE["Q8_0"]
    return wanted if shape[-1] % wanted.length == 0 else BLOCK_TYPE["F16"]


def _parts(values: Tensor, entry: TensorEntry) -> Iterator[npt.NDArray[Any]]:
    rows = values.reshape(-1, entry.shape[-1])
    step = max(1, quantise.CHUNK // entry.shape[-1])
    for start in range(0, len(rows), step):
        try:
            yield quantise.to_blocks(rows[start : start + step], entry.type)
        except ModelError as error:
            raise ModelError(f"{entry.name}: {error}; the export was not written") from error
