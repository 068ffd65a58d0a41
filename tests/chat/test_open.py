"""Talking to models that others made, with their own tokenizers and templates."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dunwu.chat.local import LocalChat
from dunwu.chat.terminal import BASE_NOTE
from dunwu.cli import talking
from dunwu.core.errors import DataError
from dunwu.core.records import Message
from dunwu.model.hub import save_model
from dunwu.tokenizer.load import load_tokenizer
from tests.infer.tiny import tiny_model
from tests.tokenizer import foreign, templates

from .test_terminal import play


def model_home(folder, build, **config):
    build(folder, **config)
    tokenizer = load_tokenizer(folder)
    generation = folder / "generation_config.json"
    kept = generation.read_text() if generation.exists() else None
    save_model(tiny_model(tokenizer.vocab_size, context=200), folder)
    if kept is not None:
        generation.write_text(kept)
    else:
        generation.unlink()  # it names ids of a model of ours
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"eos_token_id"', '"unused"'))
    return folder


@pytest.mark.parametrize(
    ("build", "template"),
    [(foreign.llama2, templates.LLAMA2), (foreign.qwen, templates.QWEN3), (foreign.gemma, templates.GEMMA3)],
    ids=["llama2", "qwen3", "gemma3"],
)
def test_an_answer_is_what_transformers_generates(tmp_path, build, template):
    chat = LocalChat.load(model_home(tmp_path, build, chat_template=template), device=torch.device("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello there 顿悟"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    stops = list(chat.tokenizer.stop_ids)
    written = model.generate(**prompt, max_new_tokens=24, do_sample=False, eos_token_id=stops, pad_token_id=0)
    ids = written[0, prompt["input_ids"].shape[1] :].tolist()
    asked = [Message(role="user", content="Hello there 顿悟")]
    reply = chat.reply(asked, max_tokens=24)
    assert list(reply.ids) == [number for number in ids if number not in stops]
    before, after = (
        tokenizer.decode(ids, skip_special_tokens=True)
        for ids in (prompt["input_ids"][0].tolist(), [*prompt["input_ids"][0].tolist(), *reply.ids])
    )
    assert before + reply.text == after
    assert "".join(chat.stream(asked, max_tokens=24)) == reply.text
    start = tokenizer("a dog")["input_ids"]
    expected = chat.generator.complete_batch([start], max_new_tokens=10)[0].text
    assert "".join(chat.continue_text("a dog", max_tokens=10)) == expected


def test_a_model_without_a_template_continues_text_and_says_so(tmp_path, capsys):
    folder = model_home(tmp_path, foreign.gpt2)
    chat = LocalChat.load(folder)
    assert chat.instruction_tuned is False
    assert play(chat, "the dog", temperature=0.0, max_tokens=4).startswith(BASE_NOTE)
    talking.generate(str(folder), "the dog", system=None, raw=False, temperature=0.0, seed=0, max_tokens=4)
    shown = capsys.readouterr()
    assert shown.out.startswith("the dog")
    assert "was not trained to chat" in shown.err
    assert isinstance("".join(chat.continue_text("", max_tokens=3)), str)  # nothing stands before a text of this model


def test_a_system_prompt_that_the_template_refuses_is_an_error_not_a_silence(tmp_path):
    chat = LocalChat.load(model_home(tmp_path, foreign.gemma, chat_template=templates.GEMMA2))
    with pytest.raises(DataError, match="System role not supported"):
        chat.reply([Message(role="system", content="S"), Message(role="user", content="Q")])
