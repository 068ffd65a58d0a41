"""The files of a model's folder, taken with distrust: no way out of it, no pickle, no code.

A folder may come from anywhere. What is read of it lies in it; the one exception is a hub cache, where
`models--owner--name/snapshots/REVISION/` holds links to `models--owner--name/blobs/`, and these may be links to the cache's
store of files that several models share, `blobs/XX/HASH`.
"""

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dunwu.core.errors import DataError, ModelError
from dunwu.core.files import read_json
from dunwu.core.modelfiles import TEMPLATE_FOLDER
from dunwu.model.families import FAMILIES, family_of

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARED_BLOB = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def file_of(folder: Path, name: str) -> Path:
    """The path of a file of the folder, or of its folder of chat templates, whether it exists or not.

    Raises ModelError when the name leads elsewhere, or the file is a link out of the folder.
    """
    part = name.removeprefix(f"{TEMPLATE_FOLDER}/")
    if not part or part in (".", "..") or any(mark in part for mark in "/\\\0") or Path(part).drive:
        raise ModelError(f"{folder} names the file {name!r}; a model's files lie in its folder itself: rename it there")
    path = folder / name
    target, home = path.resolve(), folder.resolve()
    if target.parent != (home if part == name else home / TEMPLATE_FOLDER) and not _is_blob(target, home):
        raise ModelError(
            f"{path} is a link to {target}, outside the model's folder; dunwu does not follow it: put the file itself there"
        )
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is not a file; take the folder from the model's own page again")
    return path


def files_of(folder: Path, patterns: Iterable[str]) -> dict[str, Path]:
    """The files of the folder whose names fit, by their names within it (`additional_chat_templates/tool_use.jinja`).

    Raises ModelError when one of them is a link out of the folder.
    """
    names = (path.relative_to(folder).as_posix() for pattern in patterns for path in sorted(folder.glob(pattern)))
    files = {name: file_of(folder, name) for name in dict.fromkeys(names)}
    return {name: path for name, path in files.items() if path.exists()}


def copy_files(source: Path, folder: Path, patterns: Iterable[str]) -> None:
    """Copy those files of `source` whose names fit to the same names in `folder`. Raises as `files_of`, and OSError."""
    for name, path in files_of(source, patterns).items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / name)


def model_name(folder: Path) -> str:
    """What to call the model of a folder: in a hub's cache the model's own name, of a build its home's, else the folder's."""
    folder = folder.resolve()
    parts = folder.parent.parent.name.split("--", 2)
    if folder.parent.name == "snapshots" and parts[0] == "models" and parts[-1]:
        return parts[-1]
    return folder.parent.name if folder.name == "model" else folder.name


def new_place(out: Path) -> Path:
    """`out` as a place where a folder or file can be made, which has a name of its own.

    Raises ModelError for the working folder and those that it lies in.
    """
    target, here = Path(os.path.realpath(out)), Path.cwd().resolve()
    if target == here or target in here.parents:
        raise ModelError(
            f"{out} is the working folder, or holds it; give a new name with --out, such as {here / 'model'}"
        )
    return target if out.name == ".." else out


def _is_blob(target: Path, home: Path) -> bool:
    """Whether a link from this folder is a hub cache's own."""
    repository = home.parent.parent
    if home.parent.name != "snapshots" or not repository.name.startswith("models--"):
        return False
    store = repository.parent / "blobs"
    is_shared = target.parent.parent == store and _SHARED_BLOB.fullmatch(f"{target.parent.name}/{target.name}")
    return target.parent == repository / "blobs" or bool(is_shared)


def read_settings(folder: Path, name: str) -> dict[str, Any] | None:
    """A JSON object of the folder; None where there is no such file. Raises ModelError when it is something else."""
    path = file_of(folder, name)
    if not path.exists():
        return None
    try:
        values = read_json(path)
    except DataError as error:
        raise ModelError(f"{folder} is not a model: {error}") from error
    except (OSError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}); take it from the model's own page again") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds no JSON object; take it from the model's own page again")
    return values


def config_values(folder: Path) -> dict[str, Any]:
    """What `config.json` holds. Raises ModelError when it is missing, damaged, or the folder asks to run its own code."""
    values = read_settings(folder, "config.json")
    if values is None:
        raise ModelError(f"{folder / 'config.json'} does not exist; give the folder of a model")
    _refuse_code(folder, values)
    return values


def _refuse_code(folder: Path, values: Mapping[str, Any]) -> None:
    """`auto_map` names Python files in the folder that transformers would run.

    Repositories that are older than transformers' own support keep it (Phi-3, DeepSeek-V3). So it is passed over, and never
    run, where every class it names belongs to an architecture that we have; else the numbers might mean something else.
    """
    named = values.get("auto_map")
    if named:
        family = FAMILIES.get(str(values.get("model_type")))
        stem = family.class_name.removesuffix("ForCausalLM") if family else None
        foreign = [name for name in _class_names(named) if stem is None or not name.startswith(stem)]
        if foreign:
            raise ModelError(
                f"{folder / 'config.json'} has auto_map for {foreign[0]!r}: the model is defined by code that comes with it, "
                f"and dunwu never runs such code; choose a model of an architecture that dunwu has ({', '.join(FAMILIES)})"
            )
        family_of(values.get("model_type"))
    tokenizer = read_settings(folder, "tokenizer_config.json") or {}
    if tokenizer.get("auto_map"):
        raise ModelError(
            f"{folder / 'tokenizer_config.json'} has auto_map: the tokenizer is defined by code that comes with it, and dunwu "
            "never runs such code; choose a model whose tokenizer.json says it all, and remove auto_map if it does here"
        )


def _class_names(named: Any) -> list[str]:
    values = named.values() if isinstance(named, Mapping) else [named]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value]) if item is not None]
    return [str(item).rsplit(".", 1)[-1] for item in flat]


def weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The safetensors files of a model, each with the tensors that the index puts there, or None where there is no index.

    Raises ModelError when there are none, a shard is missing, or the index leads out of the folder.
    """
    single = file_of(folder, WEIGHTS)
    if single.exists():  # as transformers: one file goes before an index
        return {single: None}
    index = read_settings(folder, INDEX)
    if index is None:
        raise _no_weights(folder)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()) or not places:
        raise ModelError(f"{folder / INDEX} has no weight_map of tensors to files; take it from the model's page again")
    files: dict[Path, set[str] | None] = {}
    for shard in sorted(set(places.values())):
        path = file_of(folder, shard)
        if not path.exists():
            raise ModelError(
                f"{path} is missing, and {INDEX} puts {_count(places, shard)} tensors there; fetch it again"
            )
        files[path] = {name for name, place in places.items() if place == shard}
    return files


def _count(places: Mapping[str, str], shard: str) -> int:
    return sum(place == shard for place in places.values())


def _no_weights(folder: Path) -> ModelError:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return ModelError(
            f"{folder} has its weights in {pickles[0]} only, a pickle: reading one can run any code, so dunwu never does; "
            "take the same model as safetensors (most pages have it, also under the revision refs/pr/1), or convert it where "
            "nothing can be harmed, with transformers' save_pretrained"
        )
    return ModelError(f"{folder / WEIGHTS} does not exist, nor {INDEX}; give the folder of a model with its weights")
