"""`dunwu show-batch`."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dunwu.build.base import base_folder
from dunwu.build.batch_view import batch_view, legend
from dunwu.build.conversations import load_conversations
from dunwu.build.graph import Step, lay_out
from dunwu.build.held_out import held_out
from dunwu.build.registry import STAGES
from dunwu.cli.target import resolve
from dunwu.core.errors import RecipeError
from dunwu.core.progress import TerminalProgress
from dunwu.core.recipe import Recipe
from dunwu.tokenizer.bpe import SMALLEST_VOCABULARY, train_tokenizer
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.load import load_tokenizer

CONTEXT_LENGTH = 1024  # where neither the recipe nor a build says


def show_batch(
    words: Sequence[str], *, rows: int, first_row: int, tokenizer: Path | None, context_length: int | None
) -> None:
    """Print rows of the batches that fine-tuning would learn from. Nothing is trained, and nothing written."""
    recipe, home = resolve(words)
    if not recipe.sft.sources:
        raise RecipeError("the recipe has no sft.sources, so there is no batch of conversations to show; give some")
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    with TerminalProgress() as progress:
        done = {step.stage.name: step for step in lay_out(STAGES, recipe, home) if step.record is not None}
        context = context_length or _context_length(recipe, done)
        cutter = _tokenizer(recipe, done, tokenizer, progress)
        found = load_conversations(recipe, cutter, context, progress, without=held_out(recipe))
    colour = console.color_system is not None
    console.print(legend(colour=colour))
    console.print(batch_view(found.stream.batch(first_row, rows), cutter, first_row=first_row, colour=colour), end="")


def _context_length(recipe: Recipe, done: dict[str, Step]) -> int:
    for name in ("pretrain", "sft"):
        record = done[name].record if name in done else None
        if record is not None:
            return record.facts["context_length"]
    asked = recipe.model.context_length
    return CONTEXT_LENGTH if asked == "auto" else asked


def _tokenizer(recipe: Recipe, done: dict[str, Step], asked: Path | None, progress: TerminalProgress) -> TokenizerLike:
    """The one that was asked for, that of the build, that of the base, or a stand-in with a token for each byte."""
    if asked is not None:
        return load_tokenizer(asked)
    if "tokenizer" in done:
        return load_tokenizer(done["tokenizer"].folder)
    if recipe.base:
        if recipe.tokenizer.extend_by:
            progress.note("the base's tokenizer, without the tokens that the build will add")
        return load_tokenizer(base_folder(recipe, weights=False))
    progress.note(
        "this build has no tokenizer yet: every byte is a token here, so that conversations are longer, and cut sooner, than "
        "they will be; --tokenizer FOLDER takes that of a model"
    )
    with tempfile.TemporaryDirectory() as folder:
        return train_tokenizer([], vocab_size=SMALLEST_VOCABULARY, out=Path(folder))
