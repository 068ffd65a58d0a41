"""The log-probabilities of answers under a model as it was: computed once, kept on disk by what they follow from, and gone on
with where the work was interrupted.

Shapes: `A` answers.
"""

import hashlib
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dunwu.align.answers import Item, judge_answers, rows_of
from dunwu.align.stream import items_fingerprint, row_width
from dunwu.core.errors import ModelError
from dunwu.core.files import atomic_write, disk_errors
from dunwu.core.lineage import stable_hash
from dunwu.core.progress import Progress
from dunwu.corpus.packing import pack
from dunwu.delta.registry import deltas_of
from dunwu.model.decoder import Decoder
from dunwu.model.families import config_to_hf
from dunwu.model.hub import model_state

Logprobs = list[npt.NDArray[np.float32]]
SAVE_EVERY_S = 20.0


def reference_logprobs(
    model: Decoder,
    items: Sequence[Item],
    folder: Path,
    *,
    share: bool = True,
    rows: int = 4,
    progress: Progress,
    save_every_s: float = SAVE_EVERY_S,
) -> Logprobs:
    """The summed log-probability of each answer of each item, nats, under the model without its deltas.

    Kept in `folder` under a hash of the weights and of all ids, which are what the chat template made of the data: another
    method, or the same one with other settings, finds them there. Rows are made and read the same way whether it was
    interrupted or not, so the values are the same bit for bit on a CPU.
    """
    key = stable_hash([weights_fingerprint(model), items_fingerprint(items), share])[:32]
    file = folder / f"{key}.f32"
    values_A = _read(file, sum(len(item.answers) for item in items))
    starts = np.cumsum([0, *(len(item.answers) for item in items)])
    saved_s, fresh = time.monotonic(), False
    try:
        for number, members in enumerate(chunks := list(packed(items, share=share, rows=rows))):
            places = np.concatenate([np.arange(starts[item], starts[item + 1]) for row in members for item in row])
            if np.isfinite(values_A[places]).all():
                continue
            values_A[places], fresh = _logprobs(model, items, members, share=share), True
            progress.update(number + 1, len(chunks))
            if time.monotonic() - saved_s > save_every_s:
                _write(file, values_A)
                saved_s = time.monotonic()
    finally:
        if fresh:
            _write(file, values_A)
    return [values_A[starts[at] : starts[at + 1]] for at in range(len(items))]


def answer_logprobs(model: Decoder, items: Sequence[Item], *, share: bool = True, rows: int = 4) -> Logprobs:
    """The same under the model as it is, kept nowhere."""
    found: dict[int, npt.NDArray[np.float32]] = {}
    for members in packed(items, share=share, rows=rows):
        values = iter(_logprobs(model, items, members, share=share, deltas=True).tolist())
        for number in (number for row in members for number in row):
            found[number] = np.array([next(values) for _ in items[number].answers], np.float32)
    return [found[number] for number in range(len(items))]


@contextmanager
def without_deltas(model: Decoder) -> Generator[None]:
    """Within, the model is what its deltas began from: no second copy of the weights is needed."""
    with ExitStack() as stack:
        for delta in deltas_of(model):
            stack.enter_context(delta.disabled())
        yield


def weights_fingerprint(model: Decoder) -> str:
    """A hash of the configuration and of every weight, without deltas."""
    digest = hashlib.sha256(stable_hash(config_to_hf(model.config)).encode())
    with without_deltas(model):
        for name, tensor in sorted(model_state(model).items()):
            flat = tensor.detach().contiguous().cpu().view(torch.uint8).numpy()
            digest.update(f"{name}/{tensor.dtype}/{tuple(tensor.shape)}".encode() + flat.tobytes())
    return digest.hexdigest()


def packed(items: Sequence[Item], *, share: bool, rows: int) -> Iterator[list[list[int]]]:
    """Items packed into rows, a few rows at a time, always the same: their numbers."""
    lengths = np.array([item.length if share else item.length_apart for item in items], np.int64)
    packing = pack(lengths, row_width(int(lengths.max()), 0))
    order = np.argsort(-lengths, kind="stable")
    whole = [order[packing.places(row)].tolist() for row in range(packing.rows)]
    for at in range(0, len(whole), rows):
        yield whole[at : at + rows]


@torch.inference_mode()
def _logprobs(
    model: Decoder, items: Sequence[Item], members: list[list[int]], *, share: bool, deltas: bool = False
) -> npt.NDArray[np.float32]:
    device = next(model.parameters()).device
    longest = max(sum(length_of(items[number], share=share) for number in row) for row in members)
    batch = rows_of(items, members, row_width(longest, 0), share=share).to(device)
    training = model.training
    with ExitStack() as stack:
        if not deltas:
            stack.enter_context(without_deltas(model))
        model.eval()
        try:
            values_A = judge_answers(model, batch).logprobs_A.float().cpu().numpy()
        finally:
            model.train(training)
    if not np.isfinite(values_A).all():
        raise ModelError(
            f"the model's log-probability of an answer is {values_A[~np.isfinite(values_A)][0]}: preferences cannot be learned "
            "with it; check its weights, or take another"
        )
    return values_A


def length_of(item: Item, *, share: bool) -> int:
    """Places that it takes in a row."""
    return item.length if share else item.length_apart


def _read(file: Path, count: int) -> npt.NDArray[np.float32]:
    """What is known already; NaN where nothing is. A file that does not fit is not looked at."""
    with disk_errors(file):
        data = file.read_bytes() if file.is_file() else b""
    digest, values = data[:32], data[32:]
    if len(values) != 4 * count or hashlib.sha256(values).digest() != digest:
        return np.full(count, np.nan, np.float32)
    return np.frombuffer(values, np.float32).copy()


def _write(file: Path, values_A: npt.NDArray[np.float32]) -> None:
    data = values_A.tobytes()
    with atomic_write(file) as out:
        out.write(hashlib.sha256(data).digest() + data)
