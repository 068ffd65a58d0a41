"""Traces: what they say, that they can be read again, and pages that hold whatever was written."""

import html.parser
import json

import pytest

from dunwu.chat.scripted import ScriptedChat
from dunwu.core.errors import DataError, PartnerError, PromptError
from dunwu.prompt.chains import Ask, Call, Fill, Json, Map
from dunwu.prompt.chains.page import page, seconds
from dunwu.prompt.chains.trace import jsonable, read_trace


class Ticking:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 0.25
        return self.now


def traced():
    chat = ScriptedChat([PartnerError("busy", transient=True), "<script>alert(1)</script>", "two"], name="kitten")
    chain = (
        Call(lambda x: ["p"], gives="parts")
        | Ask("A {{ x }}", gives="a").retrying(2, first_wait_s=0)
        | Map(Ask("{{ part }}", gives="b"), over="parts", item="part", gives="bs")
    )
    return chain.run({"x": "</pre><b>"}, chat, clock=Ticking()).trace


def test_a_trace_says_what_each_step_took_and_gave():
    trace = traced()
    called, asked, mapped = trace.spans
    assert [span.path for one in trace.spans for span in one.all()] == ["1", "2", "3", "3.each"]
    assert called.output == {"parts": ["p"]}
    assert asked.failures == ["busy"]
    assert asked.asked == [{"role": "user", "content": "A </pre><b>"}]
    assert (asked.prompt_tokens, asked.completion_tokens) == (len("A </pre><b>"), len("<script>alert(1)</script>"))
    assert (asked.model, asked.finish_reason) == ("kitten", "stop")
    assert mapped.children[0].output == {"b": "two"}
    assert mapped.completion_tokens == 3
    assert trace.completion_tokens == asked.completion_tokens + 3
    assert trace.retries == 1
    starts = [span.began_s for span in trace.spans]
    assert starts == sorted(starts)
    assert all(span.seconds > 0 for span in trace.spans)
    assert all(span.began_s + span.seconds <= trace.seconds for span in trace.spans)


def test_a_trace_can_be_read_again(tmp_path):
    trace = traced()
    trace.write(tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["spans"][1]["retries"] == 1
    assert read_trace(tmp_path / "t.json").to_json() == trace.to_json()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"dunwu_trace": 1}', '{"dunwu_trace": 2}', "\udcff"])
def test_what_is_no_trace_is_said(text, tmp_path):
    file = tmp_path / "t.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match="is no trace of a chain"):
        read_trace(file)
    with pytest.raises(DataError, match="cannot read the trace"):
        read_trace(tmp_path / "none.json")


def test_values_that_json_has_not_are_shown():
    assert jsonable({"a": (1, 2.5, float("nan")), 3: {4}, "o": b"x", "n": None}) == {
        "a": [1, 2.5, "nan"],
        "3": [4],
        "o": "b'x'",
        "n": None,
    }


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_shows_what_was_written_as_text():
    reader = Reader()
    written = page(traced())
    reader.feed(written)
    assert reader.open == []
    assert not [tag for tag, _ in reader.tags if tag in ("script", "b", "img", "link", "iframe")]
    assert not [name for _, attrs in reader.tags for name in attrs if name.startswith(("on", "src", "href"))]
    text = "".join(reader.text)
    assert "<script>alert(1)</script>" in text
    assert "A </pre><b>" in text
    assert "another attempt after: busy" in text
    assert "http" not in written.replace("http-equiv", "")


def test_the_page_of_a_run_that_failed_opens_where_it_failed():
    (result,) = (Fill("{{ x }}", gives="answer") | Json()).batch([{"x": "<none>"}])
    assert isinstance(result.error, PromptError)
    written = page(result.trace)
    assert 'class="step failed"' in written
    assert " open>" in written
    assert "holds no JSON; it is &#x27;&lt;none&gt;&#x27;" in written


def test_long_values_are_cut_in_the_page_and_not_in_the_trace():
    result = Fill("{{ x }}").run({"x": "a" * 50_000})
    assert "and 30,000 characters more" in page(result.trace)
    assert "a" * 50_000 in result.trace.to_json()


def test_lists_of_texts_are_shown_as_texts():
    result = Call(lambda: ["a\n<b>"] * 60, gives="texts").run({})
    written = page(result.trace)
    assert written.count("<pre>a\n&lt;b&gt;</pre>") == 2 * 50
    assert "and 10 more" in written


def test_seconds_for_people():
    assert [seconds(one) for one in (0.0000123, 0.0456, 1.234)] == ["12 µs", "46 ms", "1.23 s"]
