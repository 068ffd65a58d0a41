"""The teacher of on-policy distillation; what its word is worth to each token is in `align/advantages/distill.py`."""

from pathlib import Path

import torch

from dunwu.core.errors import DataError, ModelError
from dunwu.model.decoder import Decoder
from dunwu.model.hub import load_model
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.load import load_tokenizer


def load_teacher(folder: Path, student: TokenizerLike, *, device: torch.device, tokens: int) -> Decoder:
    """A frozen model that reads the student's ids, `tokens` of them at a time.

    Raises ModelError where there is none or it reads fewer, and DataError where its vocabulary is another.
    """
    if not folder.is_dir():
        raise ModelError(f"the teacher {folder} does not exist; give rl.algorithm.teacher the folder of a model")
    require_same_vocabulary(student, load_tokenizer(folder), folder)
    teacher = load_model(folder, device=device, dtype=torch.float32).requires_grad_(False).eval()
    reads = teacher.config.max_position_embeddings
    if reads < tokens:
        raise ModelError(
            f"the teacher {folder} reads {reads} tokens and prompts with answers have up to {tokens}; lower rl.answer_tokens"
        )
    return teacher


def require_same_vocabulary(student: TokenizerLike, teacher: TokenizerLike, folder: Path) -> None:
    """Raise DataError unless every id that a text can become means the same to both: then alone a teacher can say how likely a
    student's token is."""
    remedy = "take a teacher with the student's tokenizer, or fine-tune on the teacher's answers instead"
    if dict(student.special_ids) != dict(teacher.special_ids):
        ours, theirs = (sorted(set(one.special_ids.items())) for one in (student, teacher))
        other = sorted(set(ours) ^ set(theirs))[0]
        raise DataError(
            f"the teacher {folder} has another vocabulary: {other[0]!r} is not {other[1]} in both; {remedy}"
        )
    skipped = {*student.special_ids.values(), *student.unused_ids, *teacher.unused_ids}
    for number in range(max(student.rows_needed, teacher.rows_needed)):
        if number in skipped:
            continue
        if number >= min(student.rows_needed, teacher.rows_needed):
            raise DataError(
                f"the teacher {folder} has another vocabulary: {teacher.rows_needed} ids, and the student {student.rows_needed}; "
                f"{remedy}"
            )
        here, there = student.id_bytes(number), teacher.id_bytes(number)
        if here != there:
            raise DataError(
                f"the teacher {folder} has another vocabulary: id {number} is {there!r} there and {here!r} in the student; {remedy}"
            )
