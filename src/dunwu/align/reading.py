"""What a model says to each token of answers, read a few rows at a time, without gradients.

Shapes: `N` learned tokens.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dunwu.align.answers import Item, rows_of
from dunwu.align.reference import length_of, packed
from dunwu.align.stream import row_width
from dunwu.core.errors import ModelError
from dunwu.corpus.stream import Batch
from dunwu.model.decoder import Decoder
from dunwu.train.logprobs import token_logprobs

Floats = npt.NDArray[np.float64]
Precision = Callable[[], AbstractContextManager[object]]
POSITIONS = {"cpu": 4096, "cuda": 65536}  # of a pass


def logprobs_of_tokens(model: Decoder, batch: Batch) -> Tensor:
    """The log-probability of each learned token, `[N]`, nats."""
    hidden_BTD = model(
        ids_BT=batch.ids_BT, positions_BT=batch.positions_BT, document_BT=batch.document_BT, branch_BT=batch.branch_BT
    )
    hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, batch.annotations["at_N"])
    return token_logprobs(
        hidden_ND, model.head_weight, batch.annotations["target_N"], softcap=model.config.logits_softcap
    )


@torch.inference_mode()
def read_tokens(
    module: nn.Module,
    items: Sequence[Item],
    say: Callable[[Batch], Tensor],
    *,
    share: bool = True,
    precision: Precision = nullcontext,
) -> Floats:
    """What `say` says to each token, item after item and answer after answer. `module`: what is put into the mood to be asked.

    Raises ModelError for what is not a number.
    """
    device = next(module.parameters()).device
    lengths = [length_of(item, share=share) for item in items]
    rows = max(1, POSITIONS[device.type] // row_width(max(lengths), 0))
    found: dict[int, Floats] = {}
    training = module.training
    module.eval()
    try:
        for members in packed(items, share=share, rows=rows):
            longest = max(sum(lengths[number] for number in row) for row in members)
            with precision():
                values = say(rows_of(items, members, row_width(longest, 0), share=share).to(device))
            whole = values.float().cpu().numpy().astype(np.float64)
            numbers = [number for row in members for number in row]
            sizes = [sum(int(answer.learned.sum()) for answer in items[number].answers) for number in numbers]
            found |= dict(zip(numbers, np.split(whole, np.cumsum(sizes)[:-1]), strict=True))
    finally:
        module.train(training)
    values_N = np.concatenate([found[number] for number in range(len(items))])
    if not np.isfinite(values_N).all():
        raise ModelError(
            "the model's log-probability or value of a token is not a number: training diverged or its weights are damaged; "
            "lower the learning rate, or train it again"
        )
    return values_N
