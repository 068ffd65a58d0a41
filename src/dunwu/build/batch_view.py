"""A batch of conversations for a person to look at: what is learned, what is only read, and every special token."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from rich.text import Text

from dunwu.core.screen import harmless
from dunwu.corpus.stream import IGNORED, Batch
from dunwu.tokenizer.like import TokenizerLike

LEARNED, READ = "bold green", "dim"
SPECIAL_LEARNED, SPECIAL_READ = "black on green", "cyan"
OPEN, CLOSE = "⟦", "⟧"
NEWLINE = "↵\n"


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring tokens of one kind, as text."""

    text: str
    learned: bool
    special: bool


def batch_view(batch: Batch, tokenizer: TokenizerLike, *, first_row: int, colour: bool) -> Text:
    """All rows of a batch. Without colour what is learned stands between ⟦ and ⟧."""
    view = Text()
    for line in range(len(batch.ids_BT)):
        ids, targets = batch.ids_BT[line].tolist(), batch.targets_BT[line].tolist()
        documents = [0] * len(ids) if batch.document_BT is None else batch.document_BT[line].tolist()
        spans = [list(group) for _, group in itertools.groupby(range(len(ids)), key=documents.__getitem__)]
        padding = len(spans[-1]) if all(targets[place] == IGNORED for place in spans[-1]) else 0
        spans = spans[:-1] if padding else spans
        learned = sum(target != IGNORED for target in targets)
        counts = f"{learned} learned, {len(ids) - learned - padding} only read, {padding} of padding"
        view.append(f"row {first_row + line}: {len(spans)} conversation(s), {len(ids)} places: {counts}\n", "bold")
        for span in spans:
            begin, end = span[0], span[-1] + 1
            view.append("─" * 8 + "\n", READ)
            view.append_text(_conversation(ids[begin:end], targets[begin:end], tokenizer, colour=colour))
    return view


def legend(*, colour: bool) -> Text:
    """What the looks mean."""
    if not colour:
        return Text(f"{OPEN}learned{CLOSE} only read; names of special tokens are written out")
    pairs = (
        ("learned", LEARNED),
        ("only read", READ),
        ("special token, learned", SPECIAL_LEARNED),
        ("special token", SPECIAL_READ),
    )
    return Text("  ").join(Text(words, style) for words, style in pairs)


def _conversation(ids: list[int], targets: list[int], tokenizer: TokenizerLike, *, colour: bool) -> Text:
    view = Text()
    for learned, group in itertools.groupby(_pieces(ids, targets, tokenizer), key=lambda piece: piece.learned):
        view.append(OPEN if learned and not colour else "")
        for piece in group:
            view.append(piece.text, _style(piece))
        view.append(CLOSE if learned and not colour else "")
    return view if view.plain.endswith("\n") else view.append("\n")


def _pieces(ids: list[int], targets: list[int], tokenizer: TokenizerLike) -> Iterator[Piece]:
    """A token is learned where it is the target of the one before it; the last target is no input any more."""
    tokens = [(ids[0], False), *((ids[place + 1], targets[place] != IGNORED) for place in range(len(ids) - 1))]
    if targets[-1] != IGNORED:
        tokens.append((targets[-1], True))
    special = set(tokenizer.special_ids.values())
    for (learned, named), group in itertools.groupby(tokens, key=lambda token: (token[1], token[0] in special)):
        text = tokenizer.decode([number for number, _ in group], skip_special=False)
        yield Piece(harmless(text).replace("\n", NEWLINE), learned, named)


def _style(piece: Piece) -> str:
    if piece.special:
        return SPECIAL_LEARNED if piece.learned else SPECIAL_READ
    return LEARNED if piece.learned else READ
