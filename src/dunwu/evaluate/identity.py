"""Which model answered: the hash of all that its answers follow from, so that answers are remembered under it."""

from collections.abc import Iterator
from pathlib import Path

from dunwu.core.errors import ModelError
from dunwu.core.files import read_json
from dunwu.core.lineage import FileHashes, stable_hash, user_cache_folder
from dunwu.core.modelfiles import REPEATED_TOKENIZER_FILES, TOKENIZER_FILES

WEIGHTS = ("*.safetensors", "*.gguf", "config.json", *TOKENIZER_FILES, *REPEATED_TOKENIZER_FILES)
_MANNER = ("instruction_tuned", "system_prompt")


def model_identity(folder: Path, delta: Path | None = None) -> str:
    """Of a model's folder, with a delta's on it: weights, configuration, tokenizer and chat template, wherever they lie.

    Big files are read once; what they hash to is remembered by size and time of change. Raises ModelError where there are no weights.
    """
    hashes = FileHashes(user_cache_folder() / "model-files.json")
    found = {str(file.relative_to(folder)): hashes.of(file) for file in _files(folder)}
    if not any(name.endswith((".safetensors", ".gguf")) for name in found):
        raise ModelError(f"{folder} holds no weights (*.safetensors); give a build's home or a model's folder")
    on_it = {str(file.relative_to(delta)): hashes.of(file) for file in _files(delta)} if delta is not None else {}
    hashes.save()
    facts = read_json(folder / "dunwu.json") if (folder / "dunwu.json").is_file() else {}
    return stable_hash([found, on_it, {key: facts.get(key) for key in _MANNER}])


def endpoint_identity(url: str, model: str) -> str:
    """Of a model behind an endpoint, where nobody sees the weights: its address and name."""
    return stable_hash(["endpoint", url.rstrip("/"), model])


def _files(folder: Path) -> Iterator[Path]:
    names = {file for pattern in (*WEIGHTS, "adapter_config.json", "delta.json") for file in folder.glob(pattern)}
    yield from sorted(file for file in names if file.is_file())
