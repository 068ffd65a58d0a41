"""Which base a finished delta goes with: digests of a model's folder, its chat template among them, without loading it.

`fingerprint.py` looks at a model in memory, which may be merged or of few bits; this one looks at the files, and sees a merge.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from dunwu.core.errors import ModelError
from dunwu.core.lineage import HASH_LENGTH, stable_hash
from dunwu.delta.fingerprint import shape_digest
from dunwu.model.hub import StoredWeights, load_config
from dunwu.tokenizer.open import optional_json, read_templates

_VALUES = 64
_MEANINGS = {
    "shape": "its shape",
    "norms": "the weights of its norms",
    "embedding": "its embedding",
    "weights": "its weights",
    "template": "its chat template",
}


def base_of_folder(folder: Path) -> dict[str, str]:
    """Digests of a model's shape, of some values of each tensor (in bfloat16, so that saving in another dtype is no other
    base), and of its chat templates. Raises ModelError or TokenizerError for a folder that holds no model."""
    config = load_config(folder)
    digest = hashlib.sha256()
    for name, values in sorted(StoredWeights(folder, config).sampled(_VALUES), key=lambda one: one[0]):
        digest.update(name.encode())
        digest.update(values.bfloat16().float().contiguous().numpy().tobytes())
    return {
        "shape": shape_digest(config),
        "weights": digest.hexdigest()[:32],
        "template": stable_hash(read_templates(folder, optional_json(folder / "tokenizer_config.json")))[:32],
    }


def base_key(base: Mapping[str, str]) -> str:
    """A short name of a base: by what is known of its folder, or else of the model in memory."""
    of_folder = {name: base[name] for name in ("shape", "weights", "template") if name in base}
    return stable_hash(of_folder if "weights" in base else dict(base))[:HASH_LENGTH]


def require_base(said: Mapping[str, str], folder: Path, delta: str, base_name: str) -> None:
    """Raise ModelError unless the model in `folder` is the base that a delta says it was trained on."""
    here = base_of_folder(folder)
    changed = [name for name in said if name in here and said[name] != here[name]]
    if changed:
        differ = ", ".join(_MEANINGS.get(name, name) for name in changed)
        where = f" ({base_name})" if base_name else ""
        raise ModelError(
            f"the delta {delta!r} was trained on another base{where}: {folder} has {differ} otherwise; give the base that it was "
            "trained on, or allow any base of this shape with --any-base"
        )
