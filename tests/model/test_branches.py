"""Texts that branch: several continuations of one beginning in a row say what each says alone."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from dunwu.core.devices import prepare_cpu
from dunwu.model.blocks.branches import Branches
from dunwu.model.blocks.reading import branch_mask

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


def rows(*texts, width):
    """Documents and branches of one row: for each text the tokens of its beginning and of each of its branches."""
    documents, branches = [], []
    for number, (start, *lengths) in enumerate(texts):
        for branch, length in enumerate((start, *lengths)):
            documents += [number] * length
            branches += [branch] * length
    rest = width - len(documents)
    return documents + [len(texts)] * rest, branches + [0] * rest


def two_rows():
    made = [rows((9, 10, 3, 17, 16, 12), (2, 11, 12), width=96), rows((1, 15, 15, 16, 14, 15, 9), width=96)]
    return (torch.tensor([row[part] for row in made]) for part in (0, 1))


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_branches_by_themselves_equal_a_mask_over_whole_rows(kv_heads):
    document_BT, branch_BT = two_rows()
    branches = Branches.of(document_BT, branch_BT)
    mask = branch_mask(document_BT, branch_BT, torch.zeros_like(branch_BT))[:, None]
    torch.manual_seed(0)
    inputs = [torch.randn(2, heads, 96, 8, requires_grad=True) for heads in (4, kv_heads, kv_heads)]
    apart = branches.attend(*inputs, 0.3)
    whole = F.scaled_dot_product_attention(*inputs, attn_mask=mask, scale=0.3, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(apart, whole)
    weights = torch.randn_like(whole)
    for ours, theirs in zip(
        torch.autograd.grad((apart * weights).sum(), inputs),
        torch.autograd.grad((whole * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_model_reads_them_by_themselves_where_that_is_less_work(monkeypatch):
    prepare_cpu()
    model, (document_BT, branch_BT) = lively(TINY), two_rows()
    asked = {"ids_BT": torch.arange(192).view(2, 96) % 60, "document_BT": document_BT, "branch_BT": branch_BT}
    asked["positions_BT"] = torch.arange(96)[None].expand(2, -1)
    used = []
    attend = Branches.attend
    monkeypatch.setattr(Branches, "attend", lambda self, *given: used.append(1) or attend(self, *given))
    apart = model(**asked)
    assert len(used) == TINY.num_hidden_layers
    monkeypatch.setattr("dunwu.model.blocks.branches.WORTH", 0.0)
    torch.testing.assert_close(apart, model(**asked), atol=2e-5, rtol=1e-4)
    assert len(used) == TINY.num_hidden_layers


@pytest.mark.parametrize(
    "texts",
    [[(40, 1, 1)], [(0, 20, 20)], [(30,), (30,)]],
    ids=["a long beginning", "no beginning", "no branches"],
)
def test_a_mask_stays_where_it_is_less_work_or_there_is_no_beginning(texts):
    documents, branches = rows(*texts, width=64)
    assert Branches.of(torch.tensor([documents]), torch.tensor([branches])) is None
