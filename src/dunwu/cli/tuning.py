"""`dunwu tune`: what it is given, as words of `dunwu build`."""

from collections.abc import Sequence
from pathlib import Path

from dunwu.core.errors import RecipeError
from dunwu.core.overrides import looks_like_override

METHODS = {"full": [], "qlora": ["sft.delta.method=lora", "sft.base_weights=nf4"]}
"""Methods that are more, or less, than a delta of that name."""


def words(model: str, data: Sequence[str], *, method: str, out: Path | None) -> list[str]:
    """A base, files of conversations, and a method, as overrides. Raises RecipeError where there is no file."""
    overrides = [word for word in data if looks_like_override(word) and not Path(word).exists()]
    files = [word for word in data if word not in overrides]
    if not files:
        raise RecipeError("there is nothing to tune on; give a file of conversations: dunwu tune MODEL FILE")
    return [
        f"base={model}",
        *(f"sft.sources.{number}.path={file}" for number, file in enumerate(files)),
        *METHODS.get(method, [f"sft.delta.method={method}"]),
        *([f"out={out}"] if out is not None else []),
        *overrides,
    ]
