"""Answers in steps, as ids that are read at the last token of each step."""

import math
from collections.abc import Sequence

import numpy as np

from dunwu.align.answers import CHOSEN, Ids, Item
from dunwu.align.encode import TooLong, encode_preference
from dunwu.align.reward.items import UNLIMITED, Judged, read_at
from dunwu.core.records import Message, Preference, StepwiseAnswer
from dunwu.corpus.json_rows import BadRow
from dunwu.tokenizer.like import TokenizerLike

STEP_SEPARATOR = "\n"


def encode_steps(
    tokenizer: TokenizerLike,
    answer: StepwiseAnswer,
    *,
    context_length: int,
    too_long: TooLong = "cut",
    system_prompt: str = "",
) -> Judged:
    """The steps, a line each, read where each ends. Raises BadRow where they cannot be used.

    Steps beyond the context are left out, or with `too_long="drop"` the whole answer.
    """
    steps = [step.strip() for step in answer.steps]
    said = Message(role="assistant", content=STEP_SEPARATOR.join(steps))
    asked = Preference(prompt=answer.prompt, chosen=(said,), rejected=None, source=answer.source)
    whole = encode_preference(tokenizer, asked, context_length=UNLIMITED, system_prompt=system_prompt)
    ids, start = whole.answers[0].ids, len(whole.prompt)
    ends = step_ends(tokenizer, ids, steps)
    fitting = [number for number, end in enumerate(ends) if start + end < context_length]
    if not fitting or (too_long == "drop" and len(fitting) < len(ends)):
        raise BadRow("has steps that are too long", f"{start + len(ids)} tokens with its prompt, of {context_length}")
    labels = tuple(math.nan if label is None else float(label) for label in answer.labels[: len(fitting)])
    if all(map(math.isnan, labels)):
        raise BadRow("has no step that is judged", f"none of {len(labels)} steps within the context")
    places = [ends[number] for number in fitting]
    return Judged(item=Item(whole.prompt, (read_at(ids[: places[-1] + 1], places, CHOSEN),)), labels=labels)


def step_ends(tokenizer: TokenizerLike, ids: Ids, steps: Sequence[str]) -> list[int]:
    """The place in `ids` of the token with which each step ends. Raises BadRow where two end in the same token."""
    special = set(tokenizer.special_ids.values())
    spelled = [b"" if number in special else tokenizer.id_bytes(number) for number in ids.tolist()]
    text, wanted = b"".join(spelled), STEP_SEPARATOR.join(steps).encode()
    begin = text.find(wanted)
    if begin < 0:
        raise BadRow("has steps that the chat template changes", f"it shows {text[:60]!r}")
    sizes = np.cumsum([len(step.encode()) + len(STEP_SEPARATOR) for step in steps]) - len(STEP_SEPARATOR)
    ends = np.searchsorted(np.cumsum([len(one) for one in spelled]), begin + sizes, side="left").tolist()
    if len(set(ends)) < len(ends):
        raise BadRow("has steps too short to be told apart", f"two of {len(ends)} end in one token")
    return ends
