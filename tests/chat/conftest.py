import json

import pytest

from dunwu.chat.local import LocalChat
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import new_decoder
from dunwu.model.hub import save_model
from dunwu.tokenizer.bpe import train_tokenizer


def make_home(folder, *, context=96, facts=None):
    """A model home with random weights."""
    tokenizer = train_tokenizer(["a cat sat. 猫坐着。" * 3], vocab_size=280, out=folder)
    config = DecoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=context,
        tie_word_embeddings=False,  # a tied one would only repeat its last token
    )
    model = new_decoder(config, seed=1)
    for weight in (model.model.embed_tokens.weight, model.lm_head.weight):
        weight.data.mul_(50)
    save_model(model, folder)
    if facts is not None:
        (folder / "dunwu.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="session")
def chat(tmp_path_factory) -> LocalChat:
    facts = {"instruction_tuned": True, "system_prompt": "Be kind.", "name": "kitten"}
    return LocalChat.load(make_home(tmp_path_factory.mktemp("home"), facts=facts))


@pytest.fixture(scope="session")
def base_chat(tmp_path_factory) -> LocalChat:
    return LocalChat.load(make_home(tmp_path_factory.mktemp("base"), facts={"instruction_tuned": False}))
