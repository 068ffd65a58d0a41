import json
import random
import re
import sys
import time
from collections.abc import Callable

import jsonschema
import pytest
import torch

from dunwu.core.errors import MissingExtraError, RecipeError
from dunwu.infer.constrain import Constraint, Grammars, Matcher
from dunwu.infer.sampling import History, SamplingParams, choose
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.load import load_tokenizer

from ..tokenizer.foreign import byte_fallback, byte_level, save
from .schemas import random_schema

PADDING = 7
MOST_TOKENS = 4000


@pytest.fixture(scope="session", params=["ours", "byte_level", "byte_fallback"])
def tokenizers(request, tokenizer, tmp_path_factory) -> TokenizerLike:
    """Ours, one as GPT-2's with a chat's control tokens, one as Llama 2's with byte fallback."""
    if request.param == "ours":
        return tokenizer
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "byte_level":
        names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        save(
            byte_level(None), folder, specials=names, markup=["<tool_call>", "</tool_call>"], eos_token="<|endoftext|>"
        )
    else:
        names = ["<unk>", "<s>", "</s>"]
        save(byte_fallback(metaspace=None, prepend=True, specials=names), folder, bos="<s>", eos_token="</s>")
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def grammars(tokenizers) -> Grammars:
    return Grammars(tokenizers, tokenizers.vocab_size + PADDING)


@pytest.fixture(scope="session")
def our_grammars(tokenizer) -> Grammars:
    return Grammars(tokenizer, tokenizer.vocab_size + PADDING)


def written(matcher: Matcher, stop_ids, rows: int, seed: int) -> list[int]:
    """What a model of random logits writes, its end included."""
    source = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    while len(ids) < MOST_TOKENS:
        logits = torch.randn(1, rows, generator=source)
        number = choose(logits, [SamplingParams()], [History((), ids)], [0.0], masks={0: matcher.mask()}).ids[0]
        matcher.accept(number)
        ids.append(number)
        if number in stop_ids:
            return ids
    raise AssertionError(f"no end after {MOST_TOKENS} tokens")


def text_of(tokenizer: TokenizerLike, ids) -> str:
    return b"".join(tokenizer.id_bytes(number) for number in ids).decode("utf-8")


def check_schemas(grammars: Grammars, tokenizer: TokenizerLike, seeds: range) -> None:
    for seed in seeds:
        schema = random_schema(random.Random(seed))
        matcher = grammars.matcher(Constraint.json_schema(schema))
        *ids, end = written(matcher, tokenizer.stop_ids, grammars.rows, seed)
        assert end in tokenizer.stop_ids
        assert matcher.finished
        assert not set(ids) & {*tokenizer.special_ids.values()}
        jsonschema.validate(json.loads(text_of(tokenizer, ids)), schema)


def test_random_schemas_from_a_random_model(grammars, tokenizers):
    check_schemas(grammars, tokenizers, range(60))


@pytest.mark.slow
def test_a_thousand_random_schemas_from_a_random_model(grammars, tokenizers):
    check_schemas(grammars, tokenizers, range(1000))


KINDS: dict[str, tuple[Constraint, Callable[[str], object]]] = {
    "regex": (Constraint.regex(r"\d{1,3}(,\d{3}){2}"), re.compile(r"[0-9]{1,3}(,[0-9]{3}){2}").fullmatch),
    "choice": (Constraint.choice(["yes", "no", 'a "quoted" 选择\n']), ["yes", "no", 'a "quoted" 选择\n'].__contains__),
    "grammar": (
        Constraint.grammar('start: "(" start ")" | WORD\nWORD: /[a-c]+/'),
        lambda text: re.fullmatch(r"\(*[a-c]+\)*", text) and text.count("(") == text.count(")"),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_fits_each_kind(grammars, tokenizers, kind):
    constraint, fits = KINDS[kind]
    seen = set()
    for seed in range(15):
        ids = written(grammars.matcher(constraint), tokenizers.stop_ids, grammars.rows, seed)
        seen.add(text_of(tokenizers, ids[:-1]))
        assert fits(text_of(tokenizers, ids[:-1]))
    assert len(seen) > 1


def test_the_end_is_allowed_exactly_where_the_grammar_accepts(grammars, tokenizers):
    matcher = grammars.matcher(Constraint.regex("ab?"))
    stops = list(tokenizers.stop_ids)
    one, two = single_bytes(tokenizers, "ab")
    for number, accepting in ((one, False), (two, True)):
        mask = matcher.mask()
        assert matcher.accepting == accepting
        assert mask[stops].all() == accepting
        assert mask[stops].any() == accepting
        assert mask[number]
        matcher.accept(number)
    assert matcher.finished
    assert set(matcher.mask().nonzero()[:, 0].tolist()) == set(stops)


def single_bytes(tokenizer: TokenizerLike, text: str) -> list[int]:
    special = {*tokenizer.special_ids.values(), *tokenizer.unused_ids}
    spelled = {tokenizer.id_bytes(number): number for number in range(tokenizer.vocab_size) if number not in special}
    return [spelled[bytes([byte])] for byte in text.encode()]


def test_masks_are_those_of_spelling_each_id_out(grammars, tokenizers):
    """Against brute force over the vocabulary: any text of two letters or fewer, and pieces that begin such a text."""
    matcher = grammars.matcher(Constraint.regex("[a-z ]{1,3}"))
    special = {*tokenizers.special_ids.values(), *tokenizers.unused_ids}
    expected = {
        number
        for number in set(range(tokenizers.vocab_size)) - special
        if re.fullmatch(rb"[a-z ]{1,3}", tokenizers.id_bytes(number))
    }
    assert len(expected) > 26
    assert set(matcher.mask().nonzero()[:, 0].tolist()) == expected


def test_nothing_beyond_the_vocabulary_and_no_control_token_in_any_text(grammars, tokenizers):
    mask = grammars.matcher(Constraint.regex("(?s:.*)")).mask()
    assert mask.shape == (grammars.rows,)
    assert not mask[tokenizers.vocab_size :].any()
    stops = set(tokenizers.stop_ids)
    assert mask[list(stops)].all()  # the empty text is whole
    assert not any(mask[number] for name, number in tokenizers.special_ids.items() if number not in stops)


def test_a_grammar_may_ask_for_a_control_token(our_grammars, tokenizer):
    matcher = our_grammars.matcher(Constraint.grammar('start: "a" <|im_start|> "b"'))
    ids = written(matcher, tokenizer.stop_ids, our_grammars.rows, 1)
    assert ids[:-1] == [*tokenizer.encode("a"), tokenizer.im_start_id, *tokenizer.encode("b")]


def test_a_character_may_be_made_of_byte_tokens(grammars, tokenizers):
    matcher = grammars.matcher(Constraint.choice(["🧬"]))
    for number in single_bytes(tokenizers, "🧬"):
        assert not matcher.accepting
        matcher.accept(number)
    assert matcher.accepting


@pytest.mark.parametrize("seed", range(6))
def test_rollback_gives_back_the_same_masks(grammars, tokenizers, seed):
    chance = random.Random(seed)
    matcher = grammars.matcher(Constraint.json_schema(random_schema(chance)))
    twin = matcher.copy()
    masks: list[torch.Tensor] = []
    for number in written(matcher, tokenizers.stop_ids, grammars.rows, seed):
        masks.append(twin.mask())
        twin.accept(number)
    while masks:
        back = chance.randint(1, min(4, len(masks)))
        matcher.rollback(back)
        assert torch.equal(matcher.mask(), masks[-back])
        del masks[-back:]


def test_a_draft_is_checked_without_moving(our_grammars, tokenizer):
    matcher = our_grammars.matcher(Constraint.regex("abc"))
    a, b, c, d = single_bytes(tokenizer, "abcd")
    end = tokenizer.eos_id
    before = matcher.mask()
    assert [matcher.accepted(draft) for draft in ([a, b, d], [d], [a, b, c, end, a], [a, end])] == [2, 0, 4, 1]
    assert torch.equal(matcher.mask(), before)
    with pytest.raises(RecipeError, match="does not fit regex"):
        matcher.accept(d)
    assert torch.equal(matcher.mask(), before), "a refused token leaves the state as it was"


def test_a_requests_own_stop_ids_end_it(our_grammars, tokenizer):
    [own] = single_bytes(tokenizer, "!")
    matcher = our_grammars.matcher(Constraint.regex("ab*"), stop_ids=[own])
    assert not matcher.mask()[own]
    matcher.accept(single_bytes(tokenizer, "a")[0])
    assert matcher.mask()[own]
    matcher.accept(own)
    assert matcher.finished


TOOLS = [
    {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city"],
            "additionalProperties": False,
            "$defs": {"city": {"enum": ["北京", "Paris"]}},
        },
    },
    {"name": 'odd "name"', "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
]
SCHEMAS = {tool["name"]: tool["parameters"] for tool in TOOLS}
CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)


def test_tool_calls_are_valid_and_each_tool_can_be_called(grammars, tokenizers):
    names = set()
    for seed in range(12):
        ids = written(grammars.matcher(Constraint.tools(TOOLS, most=2)), tokenizers.stop_ids, grammars.rows, seed)
        text = text_of(tokenizers, ids[:-1])
        calls = [json.loads(call) for call in CALL.findall(text)]
        assert 1 <= len(calls) <= 2
        assert CALL.sub("", text) == ""
        for call in calls:
            assert set(call) == {"name", "arguments"}
            jsonschema.validate(call["arguments"], SCHEMAS[call["name"]])
            names.add(call["name"])
    assert names == set(SCHEMAS)
    markup = getattr(tokenizers, "control_ids", {}).get("<tool_call>")
    assert markup is None or ids[0] == markup


def test_exclusive_bounds_within_one_unit(our_grammars, tokenizer):
    """llguidance itself lets 40 pass as a number above 40."""
    schema = {
        "anyOf": [
            {"type": "number", "exclusiveMinimum": 40, "maximum": 40.5},
            {"const": {"exclusiveMinimum": 40, "maximum": 40.5}},
        ]
    }
    for text, whole in {"40": False, "40.0": False, "40.1": True, "40.5": True, "40.6": False}.items():
        matcher = our_grammars.matcher(Constraint.json_schema(schema))
        ids = single_bytes(tokenizer, text)
        taken = matcher.accepted(ids)
        for number in ids[:taken]:
            matcher.accept(number)
        assert (taken == len(ids) and matcher.accepting) == whole, text
    anything = our_grammars.matcher(Constraint.json_schema(True))
    assert anything.accepted(tokenizer.encode('[{"a": 1}, "b"]')) == len(tokenizer.encode('[{"a": 1}, "b"]'))


def test_one_forced_tool_and_free_text_before_a_call(our_grammars, tokenizer):
    forced = our_grammars.matcher(Constraint.tools(TOOLS[:1]))
    beginning = tokenizer.encode('<tool_call>\n{"name": "weather", "arguments": {')
    assert forced.accepted(beginning) == len(beginning)
    assert forced.accepted(tokenizer.encode("hello")) == 0
    free = our_grammars.matcher(Constraint.tools(TOOLS, required=False))
    for text, whole in (("hello <tool_call>", True), ("\n", False)):
        for number in tokenizer.encode(text):
            free.accept(number)
        assert free.accepting == whole
    assert free.accepted(single_bytes(tokenizer, '{"nO')) == 3


HOSTILE = {
    "deep text": lambda: Constraint.json_schema('{"type":"array","items":' * 10_000 + "{}" + "}" * 10_000),
    "deep": lambda: Constraint.json_schema('{"items":' * 1000 + "{}" + "}" * 1000),
    "deep object": lambda: Constraint.json_schema(_nested(10_000)),
    "no JSON": lambda: Constraint.json_schema("{"),
    "not a schema": lambda: Constraint.json_schema("[1]"),
    "NaN": lambda: Constraint.json_schema({"minimum": float("nan")}),
    "unsatisfiable": lambda: Constraint.json_schema({"type": "integer", "minimum": 3, "maximum": 2}),
    "false": lambda: Constraint.json_schema(False),
    "refers to itself": lambda: Constraint.json_schema({"$ref": "#"}),
    "refers elsewhere": lambda: Constraint.json_schema({"$ref": "http://example.com/schema"}),
    "beyond llguidance": lambda: Constraint.json_schema({"not": {"type": "string"}}),
    "enormous enum": lambda: Constraint.json_schema({"enum": [f"value {place}" for place in range(100_000)]}),
    "explosive": lambda: Constraint.json_schema({"allOf": [_either_of(level) for level in range(8)]}),
    "long regex": lambda: Constraint.regex("a" * 200_000),
    "unclosed": lambda: Constraint.regex("(a"),
    "look-around": lambda: Constraint.regex("(?=a)b"),
    "no choice": lambda: Constraint.choice([]),
    "a text as choices": lambda: Constraint.choice("abc"),
    "unknown rule": lambda: Constraint.grammar("start: nothing"),
    "no grammar": lambda: Constraint.grammar("hello"),
    "no tools": lambda: Constraint.tools([]),
    "nameless tool": lambda: Constraint.tools([{"parameters": {}}]),
    "unsatisfiable tool": lambda: Constraint.tools([{"name": "f", "parameters": False}]),
}


def _nested(depth: int) -> dict:
    schema: dict = {}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def _either_of(level: int) -> dict:
    return {"anyOf": [{"properties": {f"p{level}{place}": {"type": "integer"}}} for place in range(8)]}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_constraints_are_refused_in_time(our_grammars, name):
    began = time.perf_counter()
    with pytest.raises(RecipeError) as raised:
        our_grammars.matcher(HOSTILE[name]())
    assert time.perf_counter() - began < 3
    assert len(str(raised.value)) < 1000
    assert "<state>" not in str(raised.value)


@pytest.mark.parametrize(
    "expression", ["(a+)+$", "(a|a)*b{1000}{1000}", "(x+x+)+y", "(a|b)*a(a|b){40}", "a{1000000000}", "(.*a){50}.{500}"]
)
def test_catastrophic_expressions_work_or_fail_in_time(our_grammars, expression):
    began = time.perf_counter()
    try:
        matcher = our_grammars.matcher(Constraint.regex(expression))
        walk(matcher, 100)
        fault = "too many"
    except RecipeError as error:
        fault = str(error)
    assert "too many" in fault
    assert time.perf_counter() - began < 3


def walk(matcher: Matcher, steps: int) -> None:
    chance = random.Random(0)
    for _ in range(steps):
        if matcher.finished:
            return
        matcher.accept(chance.choice(matcher.mask().nonzero()[:, 0].tolist()))


def test_one_broken_completion_leaves_the_others_alone(our_grammars):
    matcher = our_grammars.matcher(Constraint.regex("a{1000000000}"))
    with pytest.raises(RecipeError, match="too many expressions"):
        walk(matcher, 3)
    walk(our_grammars.matcher(Constraint.regex("a{3}")), 3)


def test_without_llguidance_the_extra_is_named(monkeypatch, tokenizer):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r"dunwu\[constrained\]"):
        Grammars(tokenizer, tokenizer.vocab_size)
