"""Text that goes on, and prompts that are judged."""

import openai
import pytest
import torch

from dunwu.infer.engine import Engine
from dunwu.infer.sampling import SamplingParams, token_logprobs
from dunwu.infer.sequence import Request
from dunwu.model.hub import load_model
from dunwu.tokenizer.load import load_tokenizer

from .live import send


def ask(client, **more):
    return client.completions.create(
        **{"model": "kitten", "prompt": "a cat", "max_tokens": 6, "temperature": 0, **more}
    )


def test_prompts_in_every_form_say_the_same(client, folder):
    ids = [*load_tokenizer(folder).start_ids, *load_tokenizer(folder).encode("a cat")]
    text = ask(client).choices[0].text
    for prompt in (ids, ["a cat", "坐"], [ids, [1, 2]]):
        assert ask(client, prompt=prompt).choices[0].text == text
    many = ask(client, prompt=["a cat", "坐"], n=2, temperature=1.0, seed=1)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in many.choices}) == 4
    assert many.usage.completion_tokens == 24


def test_a_judged_prompt_has_the_plain_forwards_logprobs(client, folder):
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    ids = tokenizer.encode("a cat sat. 猫坐着。")
    with torch.inference_mode():
        logits_TV = model.logits(model(torch.tensor([ids]))[0])[:, : tokenizer.vocab_size]
    expected = [own for own, _ in token_logprobs(logits_TV[:-1], ids[1:], 1)]
    choice = ask(client, prompt=ids, echo=True, max_tokens=1, logprobs=1).choices[0]
    first, *judged, _ = choice.logprobs.token_logprobs
    assert first is None
    assert judged == pytest.approx(expected, abs=1e-4)
    for token, own, top in zip(choice.logprobs.tokens[1:-1], judged, choice.logprobs.top_logprobs[1:-1], strict=True):
        assert top[token] == own <= max(top.values())


def test_what_a_harness_reads_of_a_judged_prompt(client, folder):
    """lm-evaluation-harness drops the prompt's context and the last token: there must be exactly one token after it, even
    where the model would end there, and none where none was asked for."""
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("a cat sat.")
    ends = {str(number): 100 for number in tokenizer.stop_ids}
    one = ask(client, prompt=ids, echo=True, max_tokens=1, logprobs=1, logit_bias=ends).choices[0]
    assert len(one.logprobs.tokens) == len(ids) + 1
    assert (one.text, one.finish_reason) == ("a cat sat.", "stop")
    none = ask(client, prompt=[ids, ids[:2]], echo=True, max_tokens=0, logprobs=1)
    assert [len(choice.logprobs.tokens) for choice in none.choices] == [len(ids), 2]
    assert none.choices[0].logprobs.token_logprobs[1:] == one.logprobs.token_logprobs[1:-1]
    assert none.usage.completion_tokens == 0


def test_offsets_say_where_tokens_begin(client):
    choice = ask(client, prompt="a cat sat", echo=True, logprobs=2).choices[0]
    starts = choice.logprobs.text_offset
    assert starts == sorted(starts)
    for token, start in list(zip(choice.logprobs.tokens, starts, strict=True))[1:4]:  # the first stands for no text
        assert choice.text[start : start + len(token)] == token


def test_a_stream_says_what_the_whole_says(client):
    more = {"prompt": ["a cat", "b"], "n": 2, "temperature": 1.0, "seed": 4, "echo": True, "logprobs": 2}
    whole = ask(client, **more)
    texts, logprobs = [""] * 4, [[] for _ in range(4)]
    *chunks, last = ask(client, **more, stream=True, stream_options={"include_usage": True})
    for chunk in chunks:
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        logprobs[choice.index] += choice.logprobs.token_logprobs if choice.logprobs else []
    assert texts == [choice.text for choice in whole.choices]
    for streamed, choice in zip(logprobs, whole.choices, strict=True):
        assert streamed[0] is None
        assert streamed[1:] == pytest.approx(choice.logprobs.token_logprobs[1:], abs=1e-4)
    assert last.usage.total_tokens == whole.usage.total_tokens


def test_beams_find_what_the_engine_finds(client, folder):
    model, tokenizer = load_model(folder).requires_grad_(False), load_tokenizer(folder)
    ids = (*tokenizer.start_ids, *tokenizer.encode("a cat"))
    params = SamplingParams(max_tokens=8, beams=3, n=3, ignore_eos=True)
    (answer,) = Engine(model, tokenizer).run([Request(id="search", prompt_ids=ids, params=params)])
    expected = [output.text for output in answer.outputs]
    more = {
        "prompt": list(ids),
        "max_tokens": 8,
        "temperature": None,
        "extra_body": {"use_beam_search": True, "ignore_eos": True},
    }
    assert [choice.text for choice in ask(client, **more, n=3).choices] == expected
    assert [choice.text for choice in ask(client, **more, n=1, best_of=3).choices] == expected[:1]
    streamed = ["", "", ""]
    for chunk in ask(client, **more, n=3, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == expected
    assert len(set(expected)) == 3


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"prompt": []}, "prompt=.. holds nothing"),
        ({"prompt": [99999]}, "has the id 99999"),
        ({"prompt": ["a"] * 100, "n": 100}, "100 prompts are more than"),
        ({"best_of": 3}, "best_of=3 must equal n=1"),
        ({"extra_body": {"use_beam_search": True}, "n": 2, "temperature": 1.0}, "beams=2 finds the likeliest texts"),
        ({"max_tokens": 0}, "max_tokens=0 writes nothing"),
        ({"suffix": "x"}, "suffix='x' is not supported"),
        ({"logprobs": 21}, "logprobs=21: must be at most 20"),
        ({"prompt": "ab" * 3000}, "reads 2048 tokens at most"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(client, more, complaint):
    with pytest.raises(openai.BadRequestError, match=complaint):
        ask(client, **more)


def test_tokens_and_back(live, folder):
    tokenizer = load_tokenizer(folder)
    text = "a cat 猫 <|im_end|>"
    asked = {"model": "kitten", "prompt": text, "add_special_tokens": False, "return_token_strs": True}
    answer = send(f"{live.url}/tokenize", asked).json
    assert answer["tokens"] == tokenizer.encode(text)
    assert b"".join(map(bytes, answer["token_bytes"])).decode() == text
    back = send(f"{live.url}/detokenize", {"model": "kitten", "tokens": answer["tokens"]}).json
    assert back == {"prompt": text}
    chat = {"model": "kitten", "messages": [{"role": "user", "content": "a cat"}]}
    shown = send(f"{live.url}/tokenize", chat).json["tokens"]
    assert tokenizer.decode(shown, skip_special=False).endswith("a cat<|im_end|>\n<|im_start|>assistant\n")
