"""`dunwu chat` and `dunwu generate` with a partner behind a URL."""

import builtins

import pytest

from dunwu import cli

from .fake_openai import fake_openai


@pytest.fixture(scope="module")
def server():
    with fake_openai() as server:
        yield server


def test_generate_prints_what_an_endpoint_answers(server, capsys, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sesame")
    words = [
        "generate",
        "good",
        "hello",
        "--url",
        server.url,
        "--key-env",
        "MY_KEY",
        "--system",
        "S",
        "--max-tokens",
        "9",
    ]
    assert cli.run(words) == 0
    assert capsys.readouterr().out == "Hello 你好\n"
    assert server.keys[-1] == "Bearer sesame"
    assert [turn["content"] for turn in server.bodies[-1]["messages"]] == ["S", "hello"]
    assert server.bodies[-1]["max_tokens"] == 9


def test_what_cannot_be_had_is_said_and_the_exit_code_is_2(server, capsys):
    assert cli.run(["generate", "unknown", "hello", "--url", server.url]) == 2
    assert "no model 'unknown'" in capsys.readouterr().err
    assert cli.run(["generate", "good", "hello", "--url", "localhost"]) == 2
    assert "must begin with http" in capsys.readouterr().err
    assert cli.run(["generate", "good", "hello", "--url", server.url, "--raw"]) == 2
    assert "leave out --raw or --url" in capsys.readouterr().err
    assert cli.run(["generate", "good", "hello", "--url", server.url, "--regex", "a+"]) == 2
    assert "leave out --regex or --url" in capsys.readouterr().err


def test_a_schema_goes_with_the_question(server, tmp_path):
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object"}')
    assert cli.run(["generate", "good", "hello", "--url", server.url, "--schema", str(file)]) == 0
    assert server.bodies[-1]["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_a_conversation_outlives_an_answer_that_failed(server, capsys, monkeypatch):
    lines = iter(["hello", "again"])

    def typed(_prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(builtins, "input", typed)
    assert cli.run(["chat", "picky", "--url", server.url]) == 0
    assert capsys.readouterr().out.count("temperature must be 1") == 2
    lines = iter(["hello", "again"])
    assert cli.run(["chat", "good", "--url", server.url]) == 0
    assert capsys.readouterr().out.count("Hello 你好") == 2
    assert [turn["content"] for turn in server.bodies[-1]["messages"]] == ["hello", "Hello 你好", "again"]


def test_a_question_is_put_as_a_strategy_says(server, capsys, monkeypatch):
    assert cli.run(["generate", "good", "hello", "--url", server.url, "--strategy", "cot"]) == 0
    assert capsys.readouterr().out == "Hello 你好\n"
    assert server.bodies[-1]["messages"][-1]["content"] == "hello\nLet's think step by step."
    lines = iter(["hello", "/exit"])
    monkeypatch.setattr(builtins, "input", lambda prompt: next(lines))
    assert cli.run(["chat", "good", "--url", server.url, "--strategy", "think-first:calls=2"]) == 0
    assert "Hello 你好" in capsys.readouterr().out
    assert server.bodies[-1]["messages"][-1]["content"] == "Now give the answer alone."
    assert cli.run(["generate", "good", "hello", "--url", server.url, "--strategy", "cott"]) == 2
    assert "did you mean cot?" in capsys.readouterr().err
