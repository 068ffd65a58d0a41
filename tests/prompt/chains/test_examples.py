"""The everyday examples, as files that run: with a scripted partner that shows what is asked, and with a real model."""

import importlib.util
import json
from pathlib import Path

import pytest

from dunwu.chat.local import LocalChat
from dunwu.chat.scripted import ScriptedChat
from dunwu.infer.generate import Generator
from dunwu.prompt.chains import Span
from dunwu.prompt.chains.files import load_chain
from tests.infer.tiny import tiny_model, tiny_tokenizer

EXAMPLES = Path(__file__).parents[3] / "examples" / "chains"
DOCUMENT = "First the cat sat.\n\nThen it slept.\n\nThen it ate.\n\nAt last it left."
GIVEN = {
    "company": {"product": "socks"},
    "two_outputs": {"topic": "tides"},
    "beginning": {"document": DOCUMENT},
    "map_reduce": {"document": "The cat sat on the mat. It slept.\n\n" * 60},
}


def test_all_examples_are_tried():
    assert sorted(file.stem for file in EXAMPLES.glob("*.yaml")) == sorted(GIVEN)


def test_product_to_company_name():
    chat = ScriptedChat(["Happy Feet\nIt is short.", "Walk happy."])
    result = load_chain(EXAMPLES / "company.yaml").run(GIVEN["company"], chat)
    assert "a company that makes socks?" in chat.asked[0][0].content
    assert chat.asked[1][0].content == "Write a slogan for Happy Feet, a company that makes socks."
    assert result.answer == "Walk happy."
    assert chat.options[0].temperature == 0.7


def test_two_outputs_are_put_together():
    chat = ScriptedChat(
        lambda messages: "The moon pulls. " if "child" in messages[0].content else " Gravity gradients."
    )
    result = load_chain(EXAMPLES / "two_outputs.yaml").run(GIVEN["two_outputs"], chat)
    assert result.answer == "For a child: The moon pulls.\n\nFor an engineer: Gravity gradients.\n"


def test_the_first_three_paragraphs_are_summarised():
    chat = ScriptedChat(["A cat's day."])
    result = load_chain(EXAMPLES / "beginning.yaml").run(GIVEN["beginning"], chat)
    assert chat.asked[0][0].content == (
        "Summarise this in one sentence.\n\nFirst the cat sat.\n\nThen it slept.\n\nThen it ate."
    )
    assert result.answer == "A cat's day."


def test_a_long_document_is_mapped_and_reduced():
    chain = load_chain(EXAMPLES / "map_reduce.yaml")
    chat = ScriptedChat(lambda messages: f"({messages[0].content.count('- ') or 's'})")
    result = chain.run(GIVEN["map_reduce"], chat, count=lambda text: len(text.split()))
    parts = result.values["parts"]
    assert "".join(parts) == GIVEN["map_reduce"]["document"]
    assert len(parts) == 2
    assert result.answer == "(2)"
    assert chat.asked[-1][0].content == "Make one summary of these, in two sentences.\n\n- (s)\n- (s)"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer(folder)
    return LocalChat(Generator(tiny_model(tokenizer.vocab_size, context=2048), tokenizer), name="tiny")


@pytest.mark.parametrize("name", GIVEN)
def test_examples_run_on_a_real_model(name, model):
    chain = load_chain(EXAMPLES / f"{name}.yaml")
    result = chain.run(GIVEN[name], model)
    assert isinstance(result.answer, str)
    spans = [span for one in result.trace.spans for span in one.all()]
    asked = [span for span in spans if span.kind == "ask"]
    assert asked
    assert all(span.completion_tokens > 0 and span.prompt_tokens > 0 and span.model == "tiny" for span in asked)
    assert json.loads(result.trace.to_json())["spans"]
    batch = chain.batch([GIVEN[name], GIVEN[name]], model)
    if name != "company":  # which draws
        assert [one.answer for one in batch] == [result.answer] * 2


def test_parts_are_measured_by_the_models_own_tokens(model):
    chain = load_chain(EXAMPLES / "map_reduce.yaml")
    result = chain.run(GIVEN["map_reduce"], model)
    parts = result.values["parts"]
    assert len(parts) > 2
    assert all(len(model.tokenizer.encode(part)) <= 300 for part in parts)
    mapped = next(span for span in result.trace.spans if span.kind == "map")
    assert all(span.batch == len(parts) for span in mapped.children)


def test_the_example_in_python(capsys):
    spec = importlib.util.spec_from_file_location("products", EXAMPLES / "products.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = module.main(ScriptedChat(["Let me think.", '{"name": "Gale", "price": 12.5}']), "a kite")
    assert result.answer == "Gale: 12.50"
    (tried,) = [span for span in result.trace.spans if isinstance(span, Span) and span.retries]
    assert tried.retries == 1
    assert "1 retries" in capsys.readouterr().out
