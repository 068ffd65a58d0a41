"""Answers of a given form, by a model that knows nothing."""

import contextlib
import json
import re

import jsonschema
import openai
import pytest

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def ask(client, **more):
    return client.chat.completions.create(
        **{"model": "kitten", "messages": [{"role": "user", "content": "?"}], "temperature": 1.0, "seed": 2, **more}
    ).choices[0]


@pytest.mark.parametrize("seed", range(3))
def test_json_of_a_schema(client, seed):
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    choice = ask(client, response_format=form, seed=seed)
    jsonschema.validate(json.loads(choice.message.content), SCHEMA)
    assert choice.finish_reason == "stop"


def test_any_object(client):
    text = ask(client, response_format={"type": "json_object"}, max_tokens=60).message.content
    assert text.lstrip().startswith("{")


def test_a_catastrophic_expression_holds_up_nobody(client):
    for expression in ("((a{1,900}){1,900}){1,900}", "(a|a)*b", "(a*)*c", "(.*a.*){50}"):
        with contextlib.suppress(openai.BadRequestError):
            ask(client, max_tokens=3, extra_body={"guided_regex": expression})
        assert ask(client, max_tokens=1).message.content is not None


@pytest.mark.parametrize(
    ("more", "pattern"),
    [
        ({"guided_regex": "(ab|cd){3}x"}, "(ab|cd){3}x"),
        ({"guided_choice": ["oui", "non"]}, "oui|non"),
        ({"guided_grammar": 'start: "a" b+\nb: "b" | "c"', "max_tokens": 20}, "a[bc]+"),
        ({"structured_outputs": {"regex": "[0-9]{4}"}}, "[0-9]{4}"),
        ({"guided_json": SCHEMA}, r"\s*\{.*\}\s*"),
    ],
)
def test_the_forms_of_vllm(client, more, pattern):
    assert re.fullmatch(pattern, ask(client, extra_body=more).message.content, re.DOTALL)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"response_format": {"type": "json_schema"}}, "needs json_schema.schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type='xml'"),
        ({"extra_body": {"guided_regex": "("}}, "regex"),
        ({"extra_body": {"guided_regex": "a", "guided_choice": ["b"]}}, "cannot follow 2 forms"),
        ({"extra_body": {"guided_json": {"type": "nothing"}}}, "json_schema"),
        ({"extra_body": {"guided_choice": []}}, "choice"),
    ],
)
def test_forms_that_cannot_be_are_refused_with_a_reason(client, more, complaint):
    with pytest.raises(openai.BadRequestError, match=complaint):
        ask(client, max_tokens=5, **more)
