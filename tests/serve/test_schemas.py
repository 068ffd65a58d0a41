import pytest
from pydantic import BaseModel, ValidationError

from dunwu.serve.response_schemas import ResponseRequest
from dunwu.serve.schemas import ChatRequest, CompletionRequest, DetokenizeRequest, EmbeddingRequest, TokenizeRequest

MANY = 20_000
WRONG = [None] * MANY
TALK = {"messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("form", "fields"),
    [
        (CompletionRequest, {"prompt": WRONG}),
        (CompletionRequest, {"prompt": [1, "a"] * MANY}),
        (CompletionRequest, {"prompt": [[-1] * MANY]}),
        (CompletionRequest, {"prompt": "x", "stop_token_ids": WRONG}),
        (CompletionRequest, {"prompt": "x", "guided_choice": WRONG}),
        (CompletionRequest, {"prompt": "x", "structured_outputs": {"choice": WRONG}}),
        (CompletionRequest, {"prompt": "x", "logit_bias": {str(number): "x" for number in range(MANY)}}),
        (ChatRequest, {"messages": [{"role": "nobody"}] * 4000}),
        (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}] * MANY}]}),
        (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * MANY}]}),
        (ChatRequest, {"messages": [{"role": "assistant", "tool_calls": WRONG}]}),
        (ChatRequest, TALK | {"tools": WRONG}),
        (ChatRequest, TALK | {"modalities": WRONG}),
        (ResponseRequest, {"input": WRONG}),
        (ResponseRequest, {"input": [{"role": "user", "content": WRONG}]}),
        (ResponseRequest, {"input": "x", "include": WRONG}),
        (EmbeddingRequest, {"input": WRONG}),
        (TokenizeRequest, {"messages": WRONG}),
        (DetokenizeRequest, {"tokens": WRONG}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value)[:50],
)
def test_a_list_of_a_thousand_faults_is_refused_at_its_first(form: type[BaseModel], fields):
    with pytest.raises(ValidationError) as refused:
        form.model_validate({"model": "m", **fields})
    assert refused.value.error_count() <= 8


def test_a_field_with_a_long_unknown_name_is_refused_at_once():
    with pytest.raises(ValidationError, match="leave it out"):
        ChatRequest.model_validate({"model": "m", **TALK, "m" * 1_000_000: 1})
