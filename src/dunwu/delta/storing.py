"""Deltas on disk: kilobytes to megabytes beside a base that stays as it is.

Kinds that peft has are written as peft writes them (`adapter_config.json`, `adapter_model.safetensors`), with what only dunwu
knows in the header of the weights; others as `delta.json` and `delta.safetensors`. Both are read from anywhere.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dunwu.core.deltas import delta_spec
from dunwu.core.errors import DataError, DunwuError, ModelError
from dunwu.core.files import disk_errors, read_json, write_json
from dunwu.delta.base import Delta, base_of
from dunwu.delta.fingerprint import differing
from dunwu.delta.peft_kinds import PEFT_KINDS
from dunwu.delta.registry import DELTAS, attached
from dunwu.model.decoder import Decoder
from dunwu.model.hub import all_finite, write_tensors
from dunwu.model.safetensors_file import SafetensorsFile

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OWN_CONFIG, OWN_WEIGHTS = "delta.json", "delta.safetensors"
FORMAT = 1


def save_delta(delta: Delta[Any], folder: Path, *, base_name: str = "") -> None:
    """Write the delta into `folder`. `base_name`: what others find its base by, a hub id or a folder.

    Raises DiskError when the disk is full or may not be written.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    exchange = delta.exchanged()
    own = {"format": FORMAT, "spec": delta.spec.model_dump(mode="json"), "base": delta.base}
    if exchange is None:
        write_tensors(folder / OWN_WEIGHTS, delta.tensors())
        write_json(folder / OWN_CONFIG, {**own, "base_name": base_name})
    else:
        write_tensors(folder / PEFT_WEIGHTS, exchange.tensors, metadata={"dunwu": json.dumps(own)})
        write_json(folder / PEFT_CONFIG, {**exchange.config, "base_model_name_or_path": base_name or None})


def load_delta(folder: Path, model: Decoder, *, any_base: bool = False) -> Delta[Any]:
    """Read a delta and attach it; otherwise as `read_delta`."""
    return attached(read_delta(folder, model, any_base=any_base))


def read_delta(folder: Path, model: Decoder, *, any_base: bool = False) -> Delta[Any]:
    """Read a delta of this model, which is left as it is. `any_base`: also one that fits but was trained on another base.

    Raises ModelError where there is none, where files are damaged, and where it belongs to another base.
    """
    if (folder / PEFT_CONFIG).is_file():
        return _load_peft(folder, model, any_base)
    if (folder / OWN_CONFIG).is_file():
        return _load_own(folder, model, any_base)
    raise _no_delta(folder)


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What the files of a delta say of it. `numbers`: how many it is made of; `base`: digests of the base, where they are known."""

    method: str
    numbers: int
    files: tuple[str, ...]
    base: Mapping[str, str]
    base_name: str


def describe(folder: Path) -> Saved:
    """Read what can be said without a model. Raises ModelError where there is no delta, or its files are damaged."""
    is_peft = (folder / PEFT_CONFIG).is_file()
    if not is_peft and not (folder / OWN_CONFIG).is_file():
        raise _no_delta(folder)
    names = (PEFT_CONFIG, PEFT_WEIGHTS) if is_peft else (OWN_CONFIG, OWN_WEIGHTS)
    values, file = _settings(folder / names[0]), _weights(folder, names[1])
    own = _parsed(file.metadata.get("dunwu")) if is_peft else values
    spec, base = own.get("spec"), own.get("base")
    method = str(spec.get("method", "")) if isinstance(spec, dict) else ""
    if is_peft and not method:
        method = "dora" if values.get("use_dora") is True else str(values.get("peft_type", "")).lower()
    said = values.get("base_model_name_or_path" if is_peft else "base_name")
    return Saved(
        method=method,
        numbers=sum(math.prod(entry.shape) for entry in file.entries.values()),
        files=names,
        base={str(name): str(value) for name, value in base.items()} if isinstance(base, dict) else {},
        base_name=said if isinstance(said, str) else "",
    )


def _no_delta(folder: Path) -> ModelError:
    return ModelError(f"{folder} holds no adapter (neither {PEFT_CONFIG} nor {OWN_CONFIG}); give the folder of one")


def _load_peft(folder: Path, model: Decoder, any_base: bool) -> Delta[Any]:
    config = _settings(folder / PEFT_CONFIG)
    kind = str(config.get("peft_type"))
    if kind not in PEFT_KINDS:
        raise ModelError(
            f"{folder / PEFT_CONFIG} has peft_type={kind!r}, which dunwu does not read; it reads {', '.join(PEFT_KINDS)}"
        )
    file = _weights(folder, PEFT_WEIGHTS)
    own = _parsed(file.metadata.get("dunwu"))
    _require_base(own.get("base"), model, folder, any_base)
    try:
        return PEFT_KINDS[kind](model, config, _tensors(file))
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{folder / PEFT_CONFIG} has a value that cannot be read ({error}); take the files of one adapter"
        ) from error


def _load_own(folder: Path, model: Decoder, any_base: bool) -> Delta[Any]:
    values = _settings(folder / OWN_CONFIG)
    if values.get("format") != FORMAT:
        raise ModelError(
            f"{folder / OWN_CONFIG} has format={values.get('format')!r}; this version of dunwu reads {FORMAT}"
        )
    _require_base(values.get("base"), model, folder, any_base)
    try:
        spec = delta_spec(values.get("spec") or {})
        delta = DELTAS[spec.name](model, spec, seed=0)
        delta.load(_tensors(_weights(folder, OWN_WEIGHTS)))
    except DunwuError as error:
        raise ModelError(f"{folder}: {error}") from error
    return delta


def _require_base(said: Any, model: Decoder, folder: Path, any_base: bool) -> None:
    if any_base or not isinstance(said, dict):
        return
    changed = differing({str(k): str(v) for k, v in said.items()}, base_of(model))
    if changed:
        raise ModelError(
            f"the adapter in {folder} was trained on another base: {', '.join(changed)} differ; load that base, or say that any "
            "base of this shape will do (any_base)"
        )


def _settings(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except DataError as error:
        raise ModelError(f"{path} cannot be read ({error}); take the files of one adapter") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} is no JSON object; take the files of one adapter")
    return values


def _weights(folder: Path, name: str) -> SafetensorsFile:
    if not (folder / name).is_file():
        found = next((path.name for path in folder.glob("adapter_model.*")), None)
        remedy = (
            f"; {found} is pickle, which dunwu never loads: save the adapter anew with safetensors" if found else ""
        )
        raise ModelError(f"{folder / name} does not exist{remedy or '; take all files of the adapter'}")
    return SafetensorsFile(folder / name)


def _tensors(file: SafetensorsFile) -> dict[str, Tensor]:
    tensors = {name: file.view(name) for name in file.entries}
    for name, tensor in tensors.items():
        if not all_finite(tensor):
            raise ModelError(f"{name} in {file.path} has values that are NaN or infinite; fetch the file again")
    return tensors


def _parsed(text: str | None) -> dict[str, Any]:
    """What dunwu wrote into the header; nothing where another program wrote the file."""
    try:
        values = json.loads(text) if text else {}
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
