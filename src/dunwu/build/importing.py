"""A model from elsewhere as a model home: a Hugging Face folder, and `dunwu.json` that says where it came from.

Three forms: a Hugging Face folder (or owner/name on the hub), a GGUF file, and llama2.c's checkpoint with its tokenizer.
The home appears whole, its model read once and found sound, or not at all.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dunwu import __version__
from dunwu.build.export import CARD_FILE, FACTS_FILE
from dunwu.core.errors import (
    BuildError,
    DataError,
    DiskError,
    DunwuError,
    MissingExtraError,
    ModelError,
    TokenizerError,
)
from dunwu.core.files import disk_errors, sha256_file, write_json, write_text
from dunwu.core.records import Message
from dunwu.core.screen import harmless
from dunwu.model import fetch, llama2c
from dunwu.model.count import parameters
from dunwu.model.folder import INDEX, WEIGHTS, files_of, model_name, new_place, read_settings, weight_files
from dunwu.model.gguf.importing import import_gguf
from dunwu.model.hub import StoredWeights, load_model, require_vocabulary
from dunwu.model.inspect import inspect_model
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.load import load_tokenizer
from dunwu.tokenizer.template import render_chat

MODELS = Path("models")
_GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Where the home is, and what was found. `unread`: tensors that a model of text has no use for, such as a vision side.
    `template_fault`: why its chat template cannot be used, so that the model only continues text."""

    home: Path
    form: str
    parameters: int
    licence: str | None
    instruction_tuned: bool
    unread: tuple[str, ...] = ()
    template_fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Origin:
    """What a model is made from. `source`: as the user named it; `files`: by name; `revision`: the hub's commit."""

    source: str
    form: str
    files: Mapping[str, Path]
    name: str
    revision: str | None = None


def import_model(source: str, *, out: Path | None, tokenizer: Path | None, revision: str | None = None) -> Imported:
    """Make a home of `source`, in `out` or in ./models/NAME.

    Raises BuildError when something is at `out`; ModelError, TokenizerError or DiskError when the model cannot be used or
    written, and then there is no home.
    """
    origin = _origin(source, tokenizer, revision)
    home = new_place(out or MODELS / origin.name)
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise BuildError(f"{home} is there already; choose another folder with --out, or remove it")
    fresh = home.parent / f".{home.name}-{os.getpid()}.tmp"
    with disk_errors(home):
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            imported = _finish(origin, fresh, home, _write(origin, fresh))
            if home.exists():
                home.rmdir()
            os.replace(fresh, home)
        except DunwuError as error:
            raise _renamed(error, fresh, home, origin) from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return imported


def _renamed(error: DunwuError, fresh: Path, home: Path, origin: _Origin) -> DunwuError:
    """The error about the folder in the making, which goes away, as one about what the user gave."""
    said = str(error)
    if str(fresh) not in said or isinstance(error, MissingExtraError):
        return error
    if isinstance(error, DiskError):
        return DiskError(said.replace(str(fresh), str(home)))
    within = "/" if origin.form == "huggingface" else ": "
    said = said.replace(f"{fresh}/", f"{origin.source.rstrip('/')}{within}").replace(str(fresh), origin.source)
    return type(error)(said.replace("remove it and run again", "fetch it again"))


def _origin(source: str, tokenizer: Path | None, revision: str | None) -> _Origin:
    path = Path(source).expanduser()
    if not path.is_file():
        folder = fetch.model_folder(source, revision=revision)
        _refuse_tokenizer(tokenizer, source)
        commit = folder.name if not path.is_dir() else None
        name = model_name(folder) if path.is_dir() else source.rpartition("/")[2]
        return _Origin(source=source, form="huggingface", files=_hf_files(folder), name=name, revision=commit)
    with path.open("rb") as file:
        magic = file.read(len(_GGUF_MAGIC))
    if magic == _GGUF_MAGIC:
        _refuse_tokenizer(tokenizer, source)
        return _Origin(source=source, form="gguf", files={path.name: path}, name=path.stem)
    if path.suffix.lower() in {".pt", ".pth", ".ckpt", ".pkl"} or magic[:2] in {b"PK", b"\x80\x02"}:
        raise ModelError(
            f"{source} looks like a pickle: reading one can run any code, so dunwu never does; give the model as "
            "safetensors or GGUF"
        )
    vocab_size = abs(llama2c.read_header(path).vocab_size)
    beside = tokenizer or _tokenizer_beside(path, vocab_size)
    files = {path.name: path, beside.name: beside}
    return _Origin(source=source, form="llama2.c", files=files, name=path.stem)


def _refuse_tokenizer(tokenizer: Path | None, source: str) -> None:
    if tokenizer is not None:
        raise ModelError(f"--tokenizer {tokenizer} is for llama2.c checkpoints; {source} brings its own: leave it out")


def _tokenizer_beside(path: Path, vocab_size: int) -> Path:
    """llama2.c's own names for the tokenizer that a checkpoint goes with."""
    for name in (f"tok{vocab_size}.bin", "tokenizer.bin"):
        if (path.parent / name).is_file():
            return path.parent / name
    raise ModelError(
        f"{path} is a llama2.c checkpoint of {vocab_size} ids, and neither tok{vocab_size}.bin nor tokenizer.bin lies beside "
        "it; give its tokenizer with --tokenizer FILE"
    )


def _hf_files(folder: Path) -> dict[str, Path]:
    """The files of a folder that a home takes over, by their names there."""
    files = files_of(folder, (*fetch.FILES, FACTS_FILE))
    weights = {path.name: path for path in weight_files(folder)}
    if WEIGHTS in weights:
        files.pop(INDEX, None)
    return files | weights


def _write(origin: _Origin, folder: Path) -> str | None:
    """Returns the licence where the source states one that its files here will not."""
    if origin.form == "gguf":
        return import_gguf(next(iter(origin.files.values())), folder)
    if origin.form == "llama2.c":
        checkpoint, tokenizer = origin.files.values()
        config = llama2c.convert_checkpoint(checkpoint, folder)
        llama2c.convert_tokenizer(tokenizer, folder, config)
    else:
        for name, file in origin.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, folder / name)
    return None


def _finish(origin: _Origin, folder: Path, home: Path, stated: str | None) -> Imported:
    """Read the model as anybody would, and write down what it is; `stated`: the licence where no file here says it."""
    config = load_model(folder).config
    tokenizer = load_tokenizer(folder)
    require_vocabulary(config, tokenizer.vocab_size, set(tokenizer.special_ids.values()), folder)
    facts = inspect_model(folder)
    fault = _template_fault(tokenizer, facts.vocabulary.template)
    instruction_tuned = facts.instruction_tuned
    if fault:
        instruction_tuned = False
    elif instruction_tuned is None:
        instruction_tuned = facts.vocabulary.template is not None
    imported = Imported(
        home=home,
        form=origin.form,
        parameters=parameters(config),
        licence=facts.licence or stated,
        instruction_tuned=instruction_tuned,
        unread=StoredWeights(folder, config).unread,
        template_fault=fault,
    )
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    written = {name: _hashed(path) for name, path in paths.items() if name != FACTS_FILE}
    before = read_settings(folder, FACTS_FILE) or {}
    lineage = before["lineage"] if isinstance(before.get("lineage"), dict) else {}
    about: dict[str, Any] = {
        "name": origin.name,
        "system_prompt": "",
        **before,
        "dunwu": __version__,
        "instruction_tuned": instruction_tuned,
        "parameters": imported.parameters,
        "context_length": config.max_position_embeddings,
        "licence": imported.licence,
        "lineage": {
            **lineage,
            "imported": {
                "source": origin.source,
                "form": origin.form,
                "revision": origin.revision,
                "source_files": {name: _hashed(path) for name, path in origin.files.items()},
                "files": written,
                **({"before": lineage["imported"]} if "imported" in lineage else {}),
            },
        },
    }
    write_json(folder / FACTS_FILE, about)
    if not (folder / CARD_FILE).exists():
        write_text(folder / CARD_FILE, _card(about))
    return imported


def _template_fault(tokenizer: TokenizerLike, file: str | None) -> str | None:
    """What is wrong with a chat template that cannot write a user's message, with its file; one that refuses it may be right."""
    if tokenizer.chat_template is None:
        return None
    try:
        render_chat(tokenizer, [Message(role="user", content="Hello!")], add_generation_prompt=True)
    except DataError:
        return None
    except TokenizerError as error:
        return f"{file or 'tokenizer.json'}: {error}"
    return None


def _hashed(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _card(about: Mapping[str, Any]) -> str:
    """A card for a model that came without one; it claims nothing that the files did not say."""
    origin = about["lineage"]["imported"]
    said = about["licence"]
    licence = (
        f"It states the licence: {said}"
        if said
        else "The files do not say under which licence the model may be used: ask where it came from."
    )
    hashes = "\n".join(f"- `{name}`: {known['sha256']}" for name, known in origin["source_files"].items())
    return harmless(
        f"# {about['name']}\n\nRead by dunwu {about['dunwu']} from `{origin['source']}` ({origin['form']}), SHA-256:\n\n{hashes}\n\n"
        f"{licence}\n"
    )
