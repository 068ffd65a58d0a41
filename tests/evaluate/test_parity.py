"""The parity gate: it passes what is the same and tells, with an example, whatever differs."""

import dataclasses
import json

import pytest
import torch

from dunwu.build.handover import hand_over, report
from dunwu.cli import run
from dunwu.core.errors import ModelError, TokenizerError
from dunwu.evaluate.parity import BOUNDS, CONVERSATIONS, EXACT, HARD_TEXTS, answers, ask, compare
from dunwu.evaluate.peers import REFUSED, OwnPeer, TransformersPeer
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import new_decoder
from dunwu.model.hub import load_model, save_model
from dunwu.tokenizer.bpe import train_tokenizer

TEXTS = [
    "The quick brown fox doesn't mind.\n\n    return x + 12\n" * 3,
    "顿悟，是忽然明白的意思。他说：“我明白了！”\n" * 3,
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home") / "model"
    tokenizer = train_tokenizer(TEXTS, vocab_size=400, out=folder)
    config = DecoderConfig(
        architecture="qwen3", qk_norm="head", vocab_size=tokenizer.vocab_size + 3, hidden_size=32, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=128,
        tie_word_embeddings=False, eos_token_id=0,
    )  # fmt: skip
    model = new_decoder(config, seed=1)
    for weight in (model.model.embed_tokens.weight, model.lm_head.weight):
        weight.data.mul_(50)  # no two tokens nearly equal
    save_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def own(home):
    return OwnPeer(home)


@pytest.fixture(scope="module")
def questions(own):
    return ask(own)


@pytest.fixture(scope="module")
def ours(own, questions):
    return answers(own, questions)


class Twisted:
    """Ourselves, with one answer changed."""

    def __init__(self, own, **changed):
        self.own, self.changed = own, changed
        self.name, self.version = "twisted", "1"

    def __getattr__(self, name):
        return self.changed.get(name) or getattr(self.own, name)


def problems(own, ours, questions, bounds=EXACT, **changed):
    return compare(own, ours, Twisted(own, **changed), questions, bounds).problems


def test_ourselves_against_ourselves_pass(own, ours, questions):
    assert problems(own, ours, questions) == []


def test_the_texts_are_as_hard_as_they_say():
    joined = "".join(HARD_TEXTS)
    assert "" in HARD_TEXTS
    for sample in (
        "🙂",
        "\u200d",
        "\u0301",
        "ש",
        "بالعالم",
        "\r\n",
        "１",
        "〇",
        "<|im_end|>",
        " " * 40,
        "=" * 80,
        "𠀀",
    ):
        assert sample in joined, sample
    assert max(map(len, HARD_TEXTS)) > 5000


def test_other_ids_are_told_with_the_first_text(own, ours, questions):
    def encode(text):
        ids = own.encode(text)
        return ids[::-1] if "camelCase" in text else ids

    (problem,) = problems(own, ours, questions, encode=encode)
    assert "ids of 1 of" in problem
    assert "HelloWorld camelCase" in problem


def test_a_peer_without_normalisation_is_noted_and_not_refused(own, ours, questions):
    """Our own tokenizer does not normalise; so here the peer does too much, which is the same seen from the other side."""
    import unicodedata

    normal = dataclasses.replace(ours, ids=[own.encode(unicodedata.normalize("NFC", text)) for text in HARD_TEXTS])
    result = compare(own, normal, Twisted(own), questions, EXACT)
    assert result.passed
    assert result.figures["token_ids"]["differ_for_want_of_nfc"] > 0
    assert "normal form NFC" in result.notes[0]


def test_another_template_is_told(own, ours, questions):
    def render(messages, *, add_generation_prompt):
        text = own.render(messages, add_generation_prompt=add_generation_prompt)
        return text.replace("user\n", "user:\n")

    (problem,) = problems(own, ours, questions, render=render)
    assert "chat template gives other text in 12 of 12 cases" in problem
    assert "user:" in problem


def test_a_refusal_is_an_answer(own, ours, questions):
    (problem,) = problems(own, ours, questions, render=lambda *args, **kwargs: REFUSED)
    assert "refuses this conversation" in problem


def test_other_ids_of_the_same_conversation_are_told(own, ours, questions):
    (problem,) = problems(own, ours, questions, encode_chat=lambda messages: [*own.encode_chat(messages), 7])
    assert f"ids of {len(CONVERSATIONS)} of {len(CONVERSATIONS)} conversations differ" in problem


def test_shifted_logits_are_told_in_an_exact_export(own, ours, questions):
    found = problems(own, ours, questions, logits=lambda ids: own.logits(ids) * 1.01)
    assert any("logits differ by up to" in problem for problem in found)
    assert problems(own, ours, questions, BOUNDS["q8_0"], logits=lambda ids: own.logits(ids) * 1.01) == []


def test_wild_logits_are_told_in_a_quantised_export(own, ours, questions):
    found = problems(own, ours, questions, BOUNDS["q8_0"], logits=lambda ids: -own.logits(ids))
    assert any("diverges by" in problem for problem in found)
    found = problems(own, ours, questions, BOUNDS["q8_0"], logits=lambda ids: own.logits(ids) * float("nan"))
    assert any("not finite" in problem for problem in found)


def test_another_greedy_token_is_told_in_an_exact_export_alone(own, ours, questions):
    def greedy(ids, count):
        written = own.greedy(ids, count)
        written[10] = (written[10] + 1) % own.vocab_size
        return written

    (problem,) = problems(own, ours, questions, greedy=greedy)
    assert "greedy token 11" in problem
    result = compare(own, ours, Twisted(own, greedy=greedy), questions, BOUNDS["q4_0"])
    assert result.passed
    n = len(questions.prompts)
    assert f"limit 1), but the greedy text changes in {n} of {n}" in (result.verdict or "")
    same = compare(own, ours, Twisted(own), questions, BOUNDS["q4_0"])
    assert "the greedy text is the same" in (same.verdict or "")
    assert compare(own, ours, Twisted(own), questions, EXACT).verdict is None


def test_a_near_tie_is_a_note(own, ours, questions, monkeypatch):
    def greedy(ids, count):
        written = own.greedy(ids, count)
        written[-1] = (written[-1] + 1) % own.vocab_size
        return written

    monkeypatch.setattr("dunwu.evaluate.parity._gap", lambda *args: 0.0)
    result = compare(own, ours, Twisted(own, greedy=greedy), questions, EXACT)
    assert result.passed
    assert result.figures["greedy"]["near_ties"] == len(questions.prompts)


def test_a_hugging_face_export_passes_and_says_so_in_its_facts(home, tmp_path):
    pytest.importorskip("transformers")
    done = hand_over(home, to="hf", dtype=None, out=tmp_path / "hf", check=True)
    assert done.passed, report(done)
    record = json.loads((tmp_path / "hf" / "dunwu.json").read_text())["parity"]["hf as stored"]["transformers"]
    assert record["passed"]
    assert record["logits"]["max_abs_difference"] < 1e-3
    assert record["greedy"]["equal"] == record["greedy"]["n"] == 5
    assert "checked against transformers" in report(done)
    before, after = load_model(home).state_dict(), load_model(tmp_path / "hf").state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not (home / "dunwu.json").exists()


def test_half_precision_is_judged_by_divergence(home, tmp_path):
    pytest.importorskip("transformers")
    done = hand_over(home, to="hf", dtype="bf16", out=tmp_path / "hf", check=True)
    assert done.passed, report(done)
    assert 1e-9 < done.comparisons[0].figures["logits"]["mean_kl_nats"] < 0.05
    assert load_model(tmp_path / "hf").lm_head.weight.dtype == torch.bfloat16


def test_an_export_that_differs_is_left_aside(home, tmp_path, monkeypatch):
    """A template that transformers renders otherwise: here because the exported file was changed under our hands."""
    pytest.importorskip("transformers")
    made = TransformersPeer.__init__

    def spoil(self, folder, vocab_size):
        file = folder / "tokenizer_config.json"
        file.write_text(file.read_text().replace("'<|im_start|>assistant", "'<|im_start|>robot"))
        made(self, folder, vocab_size)

    monkeypatch.setattr(TransformersPeer, "__init__", spoil)
    done = hand_over(home, to="hf", dtype=None, out=tmp_path / "hf", check=True)
    assert not done.passed
    assert done.path == tmp_path / "hf.failed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf.failed"]
    facts = json.loads((tmp_path / "hf.failed" / "dunwu.json").read_text())
    assert not facts["parity"]["hf as stored"]["transformers"]["passed"]


def test_what_is_not_installed_is_not_claimed(home, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = hand_over(home, to="gguf", dtype="f16", out=tmp_path / "x.gguf", check=True)
    assert done.passed
    assert done.comparisons == ()
    assert "llama-cpp-python" in done.unchecked[0]
    assert "pip install 'dunwu[llamacpp]'" in report(done)


def test_an_export_over_something_else_is_refused(home, tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "mine.txt").write_text("x")
    with pytest.raises(ModelError, match="exists already"):
        hand_over(home, to="hf", dtype=None, out=tmp_path / "hf", check=False)
    with pytest.raises(ModelError, match="is a folder"):
        hand_over(home, to="gguf", dtype=None, out=tmp_path, check=False)
    with pytest.raises(ModelError, match="f32, f16, bf16"):
        hand_over(home, to="hf", dtype="q8_0", out=tmp_path / "new", check=False)
    assert (tmp_path / "hf" / "mine.txt").read_text() == "x"


def test_a_model_without_a_tokenizer_is_not_exported(home, tmp_path):
    bare = tmp_path / "bare"
    save_model(load_model(home), bare)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        hand_over(bare, to="gguf", dtype=None, out=tmp_path / "x.gguf", check=False)
    assert not (tmp_path / "x.gguf").exists()


def test_llama_cpp_agrees_where_it_is_installed(home, tmp_path):
    pytest.importorskip("llama_cpp")
    done = hand_over(home, to="gguf", dtype="f32", out=tmp_path / "x.gguf", check=True)
    (result,) = done.comparisons
    assert result.figures["logits"]["max_abs_difference"] < 1e-3
    assert result.figures["greedy"]["equal"] == result.figures["greedy"]["n"]
    assert result.figures["chat_template"]["differ"] == result.figures["chat_ids"]["differ"] == 0


def test_the_command_says_how_it_went_and_ends_with_2_where_it_differs(home, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    assert run(["export", str(home), "--out", str(tmp_path / "good")]) == 0
    assert "checked against transformers" in capsys.readouterr().out
    said = TransformersPeer.encode
    monkeypatch.setattr(TransformersPeer, "encode", lambda self, text: said(self, text)[:3])
    assert run(["export", str(home), "--out", str(tmp_path / "bad")]) == 2
    complaint = capsys.readouterr().err
    assert f"{tmp_path / 'bad'}.failed" in complaint
    assert "ids of" in complaint
    assert "Traceback" not in complaint
    assert run(["export", str(home), "--to", "gguf", "--dtype", "q9"]) == 2
    assert "q8_0" in capsys.readouterr().err
    assert run(["export", str(home), "--no-check", "--out", str(tmp_path / "fast")]) == 0
    assert "not checked" in capsys.readouterr().out
