"""A decoder to and from a Hugging Face directory: `config.json`, `generation_config.json` and safetensors.

Tensors have the names and the layout of the model's family on disk, and ours in memory; `families/` say what lies where. Both
ways go tensor by tensor, so that there is never more in memory than the model and one tensor.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dunwu.core.errors import ModelError
from dunwu.core.files import write_json
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder
from dunwu.model.families import Family, StoredTensor, config_from_hf, config_to_hf, family_of
from dunwu.model.folder import INDEX, WEIGHTS, config_values, weight_files
from dunwu.model.safetensors_file import Entry, Outgoing, SafetensorsFile, write_file

_OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
MOST_LAYERS = 10_000
_PADDING_ROWS, _PADDING_SHARE = 128, 64
_WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_DERIVED = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
"""Ends of names of tensors that older checkpoints hold and that follow from the configuration: never read."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, atomically and without a second copy of the tensors in memory.

    Raises DiskError when the disk is full or may not be written.
    """
    outgoing = {
        name: Outgoing(dtype=tensor.dtype, shape=tuple(tensor.shape), values=(tensor,))
        for name, tensor in tensors.items()
    }
    write_file(path, outgoing, metadata)


def read_tensors(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Read a safetensors file; on a CPU without a copy (see `SafetensorsFile`).

    Raises ModelError naming the file when it is missing, cut short or damaged.
    """
    file = SafetensorsFile(path)
    return {name: file.view(name).to(device) for name in file.entries}


def model_state(model: Decoder) -> dict[str, Tensor]:
    """The weights under our own names; a tied head is not repeated."""
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def load_config(folder: Path) -> DecoderConfig:
    """Read `config.json`. Raises ModelError when it is missing, damaged or of an architecture that we do not have."""
    values = config_values(folder)
    try:
        layers = values.get("num_hidden_layers", values.get("n_layer", 1))
        if int(layers) > MOST_LAYERS:
            raise ModelError(f"num_hidden_layers={layers} is more than {MOST_LAYERS}, the most that dunwu reads")
        return config_from_hf(values)
    except ModelError as error:
        raise ModelError(f"{folder / 'config.json'}: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, ZeroDivisionError) as error:
        raise ModelError(
            f"{folder / 'config.json'} has a value that cannot be read ({error}); take the file from the model's own folder"
        ) from error


def load_model(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None, mapped: bool = True
) -> Decoder:
    """Read a model, in one file or sharded. `dtype` None keeps the stored one, where there are several that of most weights.

    On a CPU, weights that lie on disk as we hold them are not copied but mapped (see `SafetensorsFile`): training them in
    place is safe and never reaches the file, and so is replacing the file, but a file that is overwritten or truncated in
    place takes the model with it. `mapped` False copies everything, for who cannot trust the folder to be left alone.

    Raises ModelError when a file is missing or damaged; when names, shapes or dtypes are not those of the configuration; and
    when a weight is not a finite number.
    """
    config = load_config(folder)
    return _filled(StoredWeights(folder, config), config, torch.device(device), dtype, mapped=mapped)


def load_backbone(
    folder: Path, head: str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[Decoder, Tensor]:
    """A decoder whose folder has another head in place of the one that makes words, and that head, the tensor of this name.

    The decoder counts as tied, so that it has no head of its own. Raises ModelError as `load_model`, and without that tensor.
    """
    config = dataclasses.replace(load_config(folder), tie_word_embeddings=True)
    weights = StoredWeights(folder, config, besides=(head,))
    model = _filled(weights, config, torch.device(device), dtype, mapped=True)
    return model, weights.beside(head).to(device=device, dtype=next(model.parameters()).dtype)


def _filled(
    weights: "StoredWeights", config: DecoderConfig, device: torch.device, dtype: torch.dtype | None, *, mapped: bool
) -> Decoder:
    with torch.device("meta"):
        model = Decoder(config).to(dtype or weights.dtype)  # a few parameters keep one of their own
    state = weights.state(model.state_dict(), device, mapped=mapped)
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True)


@dataclass(frozen=True)
class _Source:
    """Where one of the family's tensors lies."""

    file: SafetensorsFile
    name: str
    tensor: StoredTensor

    @property
    def entry(self) -> Entry:
        return self.file.entries[self.name]


class StoredWeights:
    """The weights of a folder, their headers read and compared with the configuration, their bytes not yet touched.

    `besides`: names of tensors that are not the decoder's own. `unread`: names of tensors that the family has no use for, such as the vision side of a model that also reads text.
    """

    def __init__(self, folder: Path, config: DecoderConfig, *, besides: Collection[str] = ()) -> None:
        self.folder = folder
        self._besides = frozenset(besides)
        self.unread: tuple[str, ...] = ()
        self._files = _open(folder)
        self._sources = {source.tensor.name: source for source in self._match(config)}

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of most weights."""
        sizes: collections.Counter[torch.dtype] = collections.Counter()
        for source in self._sources.values():
            sizes[source.entry.dtype] += source.entry.end - source.entry.start
        return sizes.most_common(1)[0][0]

    @property
    def dtypes(self) -> set[torch.dtype]:
        """All dtypes that occur."""
        return {source.entry.dtype for source in self._sources.values()}

    @property
    def files(self) -> int:
        """How many files the weights are in."""
        return len(self._files)

    @property
    def bytes(self) -> int:
        """What the weights take on disk, headers left out."""
        return sum(source.entry.end - source.entry.start for source in self._sources.values())

    def state(self, like: Mapping[str, Tensor], device: torch.device, *, mapped: bool) -> dict[str, Tensor]:
        """All our tensors, of the shapes and dtypes of `like`, filled from the files one stored tensor after another."""
        state: dict[str, Tensor] = {}
        for source in self._sources.values():
            stored = source.file.view(source.name)
            self._require_finite(source, stored)
            copied = True
            for piece in source.tensor.pieces:
                theirs = piece.theirs(stored)
                if mapped and device.type == "cpu" and _is_ours(theirs, like[piece.ours]):
                    state[piece.ours] = theirs
                    copied = False
                    continue
                if piece.ours not in state:
                    state[piece.ours] = torch.empty_like(like[piece.ours], device=device)
                ours = state[piece.ours] if piece.index is None else state[piece.ours][piece.index]
                ours.copy_(theirs)
            if copied:
                source.file.forget(source.name)
        assert set(state) == set(like), "a family maps every one of our tensors"
        return state

    def view(self, name: str) -> Tensor:
        """A tensor by its family's name, mapped from its file. Raises ModelError when a value is not a finite number."""
        source = self._sources[name]
        stored = source.file.view(source.name)
        self._require_finite(source, stored)
        return stored

    def beside(self, name: str) -> Tensor:
        """A copy of a tensor that is not the decoder's own. Raises ModelError when it is missing or not finite."""
        file = next((file for file in self._files if name in file.entries), None)
        if file is None:
            raise ModelError(
                f"the weights in {self.folder} have no {name!r}; take the folder of a model that has that head"
            )
        stored = file.view(name)
        if not stored.is_floating_point() or not all_finite(stored):
            raise ModelError(f"{name} in {file.path} has values that are not finite numbers; fetch the file again")
        return stored.clone()

    def sampled(self, count: int) -> Iterator[tuple[str, Tensor]]:
        """About `count` values of each tensor, spread over it, by the family's names; the rest is not read."""
        for name, source in self._sources.items():
            flat = source.file.view(source.name).flatten()
            yield name, flat[:: max(1, flat.numel() // count)]

    def forget(self, name: str) -> None:
        """Let go of the pages of a tensor that was copied."""
        source = self._sources[name]
        source.file.forget(source.name)

    def outgoing(self) -> Iterator[tuple[str, Outgoing]]:
        """Every tensor as it is stored, to be written under its family's name."""
        for name, source in self._sources.items():
            yield name, Outgoing(dtype=source.entry.dtype, shape=source.entry.shape, values=self._copied(name))

    def _copied(self, name: str) -> Iterator[Tensor]:
        yield self.view(name)
        self.forget(name)

    def _match(self, config: DecoderConfig) -> list[_Source]:
        """Each tensor of the family with its place; names, shapes and dtypes as they should be."""
        places = {name: file for file in self._files for name in file.entries}
        if config.tie_word_embeddings:
            places.pop("lm_head.weight", None)  # some repeat the embedding
        family = family_of(config.architecture)
        wanted = list(family.stored(config))
        names = _names_on_disk(family, wanted, places)
        missing = [tensor.name for tensor in wanted if names[tensor.name] not in places]
        over = sorted(name for name in set(places) - set(names.values()) - self._besides if not name.endswith(_DERIVED))
        unknown = [name for name in over if family.rename(name) is not None]
        self.unread = tuple(name for name in over if family.rename(name) is None)
        if missing or unknown:
            raise ModelError(
                f"the weights in {self.folder} do not fit its config.json: missing {missing[:3]}, unknown {unknown[:3]} "
                f"({len(missing)} and {len(unknown)} in all){_quantised(unknown)}; take both files from the same model"
            )
        sources = [_Source(places[names[tensor.name]], names[tensor.name], tensor) for tensor in wanted]
        for source in sources:
            self._require_shape_and_dtype(source)
        return sources

    def _require_shape_and_dtype(self, source: _Source) -> None:
        entry, tensor = source.entry, source.tensor
        if entry.shape != tensor.shape:
            raise ModelError(
                f"{source.name} in {self.folder} has shape {entry.shape}, its config.json says {tensor.shape}; "
                "take both files from the same model"
            )
        if entry.dtype not in _WEIGHT_DTYPES:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in _WEIGHT_DTYPES)
            raise ModelError(
                f"{source.name} in {source.file.path} is {str(entry.dtype).removeprefix('torch.')}, and weights are one of "
                f"{names}; take the model in one of these, not quantised"
            )

    def _require_finite(self, source: _Source, stored: Tensor) -> None:
        if not all_finite(stored):
            count = sum(int((~part.isfinite()).sum()) for part in stored.flatten().split(1 << 20))
            raise ModelError(
                f"{source.name} in {source.file.path} has {count} values that are NaN or infinite, of {stored.numel()}; "
                "weights are finite: fetch the file again, or train from an earlier checkpoint"
            )


def _open(folder: Path) -> list[SafetensorsFile]:
    files: list[SafetensorsFile] = []
    for path, listed in weight_files(folder).items():
        file = SafetensorsFile(path)
        for name in sorted(listed or ()):
            if name not in file.entries:
                raise ModelError(
                    f"{path} lacks {name!r}, which {INDEX} puts there; take both files from the same model"
                )
        files.append(file)
    return files


def _names_on_disk(family: Family, wanted: list[StoredTensor], places: Mapping[str, object]) -> dict[str, str]:
    """Names of the family to names of the files. Those of a bare backbone, as GPT-2's own page has it, lack the first part."""
    spelled = {usual: name for name in places if (usual := family.rename(name)) is not None}
    names: dict[str, str] = {}
    for tensor in wanted:
        bare = tensor.name.partition(".")[2]
        known = spelled.get(tensor.name, tensor.name)
        names[tensor.name] = bare if known not in places and bare in places else known
    return names


def _quantised(unknown: list[str]) -> str:
    if unknown == ["score.weight"]:
        return (
            "; it has the head of a reward model, which scores answers and writes none: dunwu reward score FOLDER FILE"
        )
    ends = ("scale_inv", "scales", "blocks", "qweight", "qzeros", "absmax", "quant_map", "weight_scale")
    if any(name.endswith(ends) for name in unknown):
        return "; they look quantised: dunwu reads float32, float16 and bfloat16"
    return ""


def _is_ours(theirs: Tensor, ours: Tensor) -> bool:
    """Whether a view of the file can be our parameter as it is."""
    return theirs.shape == ours.shape and theirs.dtype == ours.dtype and theirs.is_contiguous()


def all_finite(values: Tensor) -> bool:
    """Whether there is neither NaN nor infinity. A sum shows both, and is several times cheaper than looking at each."""
    if values.numel() == 0:
        return True
    total = values.sum() if values.dtype in (torch.float32, torch.bfloat16) else values.sum(dtype=torch.float64)
    if bool(total.isfinite()):
        return True
    return all(bool(part.isfinite().all()) for part in values.flatten().split(1 << 20))  # the sum may have overflowed


def save_model(
    model: Decoder,
    folder: Path,
    *,
    shard_bytes: float = 5e9,
    head: Mapping[str, Tensor] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the model so that `transformers` loads the folder as it is; each file appears whole or not at all.

    `head`: tensors beside the decoder's own, by their names on disk. `settings`: entries of config.json that go before the
    decoder's own.

    More than `shard_bytes` of weights become several files with an index. Weights of an earlier save are removed last.
    Raises DiskError when the disk is full or may not be written.
    """
    more = {
        name: Outgoing(dtype=tensor.dtype, shape=tuple(tensor.shape), values=(tensor.detach(),))
        for name, tensor in (head or {}).items()
    }
    shards = _shards(itertools.chain(_outgoing(model), more.items()), shard_bytes)
    values = config_to_hf(model.config) | dict(settings or {})
    _write_model(folder, values, shards, next(model.parameters()).dtype)


def copy_model(folder: Path, out: Path, *, shard_bytes: float = 5e9) -> None:
    """Write the model of `folder` to `out` as `save_model` does, each tensor in the dtype that it is stored in.

    Raises ModelError as `load_model`, DiskError.
    """
    config = load_config(folder)
    weights = StoredWeights(folder, config)
    _write_model(out, config_to_hf(config), _shards(weights.outgoing(), shard_bytes), weights.dtype)


def _write_model(
    folder: Path, values: dict[str, Any], shards: list[dict[str, Outgoing]], main_dtype: torch.dtype
) -> None:
    files = {_shard_name(number, len(shards)): shard for number, shard in enumerate(shards, 1)}
    if any((folder / name).exists() for name in files if name != WEIGHTS):
        (folder / INDEX).unlink(missing_ok=True)  # killed from here on, this leaves no model rather than a mixed one
    for name, tensors in files.items():
        write_file(folder / name, tensors)
    if len(files) > 1:
        total = sum(tensor.bytes for shard in shards for tensor in shard.values())
        places = {name: file for file, shard in files.items() for name in shard}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    dtype = str(main_dtype).removeprefix("torch.")
    write_json(folder / "config.json", values | {"dtype": dtype})
    tokens = {key: values[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **tokens})
    kept = {*files, INDEX} if len(files) > 1 else set(files)
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in kept:
            path.unlink()


def _shard_name(number: int, count: int) -> str:
    return WEIGHTS if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def _outgoing(model: Decoder) -> Iterator[tuple[str, Outgoing]]:
    """All tensors under their family's names."""
    state = model_state(model)
    for tensor in family_of(model.config.architecture).stored(model.config):
        dtype = state[tensor.pieces[0].ours].dtype
        yield tensor.name, Outgoing(dtype=dtype, shape=tensor.shape, values=_stored_values(tensor, state))


def _shards(tensors: Iterable[tuple[str, Outgoing]], shard_bytes: float) -> list[dict[str, Outgoing]]:
    """The tensors in files of at most `shard_bytes`, or of one tensor that is larger."""
    shards: list[dict[str, Outgoing]] = [{}]
    held = 0
    for name, outgoing in tensors:
        if shards[-1] and held + outgoing.bytes > shard_bytes:
            shards.append({})
            held = 0
        shards[-1][name] = outgoing
        held += outgoing.bytes
    return shards


def _stored_values(tensor: StoredTensor, state: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """The tensor in its family's layout, made when it is asked for; ours itself where the layouts agree."""
    first = tensor.pieces[0]
    ours = _piece_of_ours(state, first.ours, first.index)
    probe = first.theirs(torch.empty(tensor.shape, dtype=ours.dtype, device="meta"))
    if len(tensor.pieces) == 1 and probe.is_contiguous() and probe.numel() == ours.numel():
        yield ours
        return
    stored = torch.empty(tensor.shape, dtype=ours.dtype)
    for piece in tensor.pieces:
        piece.theirs(stored).copy_(_piece_of_ours(state, piece.ours, piece.index))
    yield stored


def _piece_of_ours(state: Mapping[str, Tensor], name: str, index: int | None) -> Tensor:
    return state[name] if index is None else state[name][index]


def require_vocabulary(config: DecoderConfig, tokenizer_size: int, special_ids: Collection[int], folder: Path) -> None:
    """Raise ModelError unless a tokenizer with ids below `tokenizer_size` is that of a model with this configuration.

    A model may have rows that no token uses, since embeddings are padded to round sizes, but not many: published models have up
    to one in 180. A tokenizer may have control tokens beyond the last row (Gemma 3's for images), which no text becomes.
    """
    unknown = [number for number in range(config.vocab_size, tokenizer_size) if number not in special_ids]
    if unknown:
        raise ModelError(
            f"the tokenizer in {folder} has ids up to {tokenizer_size - 1}, and the model embeds {config.vocab_size} "
            f"(vocab_size), so that {unknown[0]} has no row; take both from the same model"
        )
    unused = config.vocab_size - tokenizer_size
    if unused > max(_PADDING_ROWS, config.vocab_size // _PADDING_SHARE):
        raise ModelError(
            f"the tokenizer in {folder} has {tokenizer_size} ids, and the model embeds {config.vocab_size} (vocab_size): "
            f"{unused} of the model's tokens have no text, more than padding explains; take both from the same model"
        )
