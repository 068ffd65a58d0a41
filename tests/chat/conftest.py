import json

import pytest

from dunwu.chat.local import LocalChat
from dunwu.model.hub import save_model
from tests.infer.tiny import tiny_model, tiny_tokenizer


def make_home(folder, *, context=96, facts=None):
    """A model home with random weights."""
    tokenizer = tiny_tokenizer(folder)
    save_model(tiny_model(tokenizer.vocab_size, context=context), folder)
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
