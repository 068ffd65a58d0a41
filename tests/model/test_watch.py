"""Attention weights seen from outside are those of transformers, in every family's own kind of attention."""

import pytest
import torch

from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder
from dunwu.model.watch import attention_weights

from .helpers import transformers_twin
from .test_families import CONFIGS, ids_of, strong
from .test_mixtures import VARIANTS as MIXTURES

TIME = 24
TWINS = {**CONFIGS, "gpt_oss": MIXTURES["gpt_oss"]}
REST = {
    name: config for name, config in MIXTURES.items() if name not in TWINS
}  # transformers stores their experts otherwise


def watched(model: Decoder, ids_BT: torch.Tensor) -> dict[int, torch.Tensor]:
    """The weights of all layers; the output is as without."""
    seen: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        plain = model(ids_BT)
        with attention_weights(model, lambda layer, weights_BHTS: seen.update({layer: weights_BHTS})):
            while_watched = model(ids_BT)
        again = model(ids_BT)
    torch.testing.assert_close(while_watched, plain, atol=2e-4, rtol=0)
    assert torch.equal(again, plain)  # the hooks are gone
    assert sorted(seen) == list(range(model.config.num_hidden_layers))
    return seen


@pytest.mark.parametrize("config", TWINS.values(), ids=list(TWINS))
def test_weights_are_those_of_transformers(config: DecoderConfig) -> None:
    pytest.importorskip("transformers")
    model = strong(config).eval()
    ids_BT = ids_of(2, TIME) % config.vocab_size
    with torch.no_grad():
        theirs = transformers_twin(model)(ids_BT, output_attentions=True).attentions
    for layer, weights_BHTS in watched(model, ids_BT).items():
        torch.testing.assert_close(weights_BHTS, theirs[layer], atol=1e-4, rtol=0)


@pytest.mark.parametrize("config", REST.values(), ids=list(REST))
def test_weights_of_the_rest_give_their_output_and_add_up(config: DecoderConfig) -> None:
    for weights_BHTS in watched(strong(config), ids_of(2, TIME) % config.vocab_size).values():
        torch.testing.assert_close(weights_BHTS.sum(-1), torch.ones(2, config.num_attention_heads, TIME))
        assert float(weights_BHTS.triu(1).abs().max()) == 0.0


def test_documents_of_a_packed_row_are_apart() -> None:
    model = strong(CONFIGS["llama"])
    document_BT = torch.tensor([[0] * 10 + [1] * 14])
    seen: list[torch.Tensor] = []
    with torch.no_grad(), attention_weights(model, lambda _, weights_BHTS: seen.append(weights_BHTS)):
        model(ids_of(1, TIME), document_BT=document_BT)
    for weights_BHTS in seen:
        assert float(weights_BHTS[:, :, 10:, :10].abs().max()) == 0.0
        torch.testing.assert_close(weights_BHTS.sum(-1), torch.ones(1, 4, TIME))
