"""Texts that branch: several continuations of one beginning in a row say what each says alone."""

from dataclasses import replace

import pytest
import torch

from dunwu.core.devices import prepare_cpu

from .helpers import TINY, lively

PROMPT, ANSWERS = [5, 9, 2, 33, 7], ([11, 12, 13, 14, 15], [21, 22], [11, 12, 40])
OTHER = [50, 51, 52, 53]


def branching(model):
    """Hidden states of the answers, from one row that holds another text first, and padding last."""
    ids, positions, documents, branches = [*OTHER], [*range(4)], [0] * 4, [0] * 4
    ids, positions = [*ids, *PROMPT], [*positions, *range(5)]
    documents, branches = documents + [1] * 5, branches + [0] * 5
    places = []
    for number, answer in enumerate(ANSWERS, 1):
        places.append(slice(len(ids), len(ids) + len(answer)))
        ids, positions = [*ids, *answer], [*positions, *range(5, 5 + len(answer))]
        documents, branches = documents + [1] * len(answer), branches + [number] * len(answer)
    row = (
        torch.tensor([[*values, last, last]])
        for values, last in ((ids, 0), (positions, 0), (documents, 2), (branches, 0))
    )
    ids_BT, positions_BT, document_BT, branch_BT = row
    hidden = model(ids_BT, positions_BT=positions_BT, document_BT=document_BT, branch_BT=branch_BT)
    return hidden[0, :4], [hidden[0, place] for place in places]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"num_key_value_heads": 2, "qk_norm": "head"},
        {"sliding_window": 4, "sliding_layers": (1,)},
        {"architecture": "gemma2", "attention_softcap": 5.0, "norm_placement": "both"},
    ],
    ids=["plain", "grouped", "window", "softcap"],
)
@pytest.mark.parametrize("by_hand", [True, False])
def test_each_branch_is_what_it_is_alone(more, by_hand):
    prepare_cpu()
    model = lively(replace(TINY, **more))
    if not by_hand:
        model.double()
    other, branches = branching(model)
    torch.testing.assert_close(other, model(torch.tensor([OTHER]))[0], atol=2e-5, rtol=1e-4)
    for answer, found in zip(ANSWERS, branches, strict=True):
        alone = model(torch.tensor([[*PROMPT, *answer]]))[0, 5:]
        torch.testing.assert_close(found, alone, atol=2e-5, rtol=1e-4)
