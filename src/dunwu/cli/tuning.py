"""`dunwu tune` and `dunwu align`: what they are given, as words of `dunwu build`."""

from collections.abc import Sequence
from pathlib import Path

from dunwu.core.errors import RecipeError
from dunwu.core.overrides import looks_like_override

METHODS = {"full": [], "qlora": ["sft.delta.method=lora", "sft.base_weights=nf4"]}
"""Methods that are more, or less, than a delta of that name."""


def words(model: str, data: Sequence[str], *, method: str, out: Path | None) -> list[str]:
    """A base, files of conversations, and a method, as overrides. Raises RecipeError where there is no file."""
    learning = METHODS.get(method, [f"sft.delta.method={method}"])
    return _words(
        model,
        data,
        "sft",
        learning,
        out,
        "there is nothing to tune on; give a file of conversations: dunwu tune MODEL FILE",
    )


def preferring_words(model: str, data: Sequence[str], *, method: str, delta: str, out: Path | None) -> list[str]:
    """A base, files of preferences, a method and what learns, as overrides. Raises RecipeError where there is no file."""
    learning = [f"prefer.objective.method={method}", *([] if delta == "full" else [f"prefer.delta.method={delta}"])]
    nothing = "there is nothing to learn from; give a file of preferences: dunwu align MODEL FILE"
    return _words(model, data, "prefer", learning, out, nothing)


def _words(
    model: str, data: Sequence[str], section: str, learning: Sequence[str], out: Path | None, nothing: str
) -> list[str]:
    overrides = [word for word in data if looks_like_override(word) and not Path(word).exists()]
    files = [word for word in data if word not in overrides]
    if not files:
        raise RecipeError(nothing)
    return [
        f"base={model}",
        *(f"{section}.sources.{number}.path={file}" for number, file in enumerate(files)),
        *learning,
        *([f"out={out}"] if out is not None else []),
        *overrides,
    ]
