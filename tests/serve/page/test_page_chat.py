"""Talking: streams, stops, branches, and nothing is lost."""

import json
from pathlib import Path

from playwright.sync_api import expect

from .fake_openai import CONTINUATION, Reply


def test_an_answer_streams_as_markdown_with_mathematics_and_code(visit, fake):
    text = "# Title\n\nSome **bold** and $x^2$.\n\n```python\nprint(1)\n```\n\nThe end."
    fake.replies["Go"] = Reply(text=text, hold_after=6)
    one = visit()
    one.write("Go")
    answer = one.page.locator(".answer")
    expect(answer.locator("h1")).to_have_text("Title")  # shown before the answer is whole
    expect(answer).to_have_attribute("aria-busy", "true")
    fake.released.set()
    one.whole()
    expect(answer.locator("strong")).to_have_text("bold")
    expect(answer.locator(".math-inline .katex")).to_have_count(1)
    assert answer.locator("math").evaluate("math => math.textContent").startswith("x2")
    expect(answer.locator("pre code")).to_have_text("print(1)")
    one.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=one.url)
    answer.locator(".code-bar button").click()
    expect(answer.locator(".code-bar button")).to_have_text("Copied")
    assert one.page.evaluate("navigator.clipboard.readText()") == "print(1)"
    body = fake.bodies("chat")[0]
    assert body["messages"] == [{"role": "user", "content": "Go"}]
    assert body["stream"] is True


def test_money_is_not_mathematics_and_bad_tex_stays_text(visit, fake):
    fake.replies["Go"] = Reply(text=r"It costs $5 or $6. But \(\frac{1}{2}\) is half, and $\nosuchmacro{$ is not TeX.")
    one = visit()
    one.ask("Go")
    expect(one.page.locator(".answer .katex")).to_have_count(1)
    expect(one.page.locator(".answer")).to_contain_text("It costs $5 or $6.")
    expect(one.page.locator(".answer")).to_contain_text(r"\nosuchmacro{")


def test_stop_keeps_what_was_said_and_frees_the_server(visit, fake):
    fake.replies["Go"] = Reply(text="one two three four five", hold_after=3)
    one = visit()
    one.write("Go")
    expect(one.page.locator(".answer .markdown")).to_have_text("one two three")
    one.page.get_by_role("button", name="Stop").click()
    one.whole()
    expect(one.page.locator(".answer .markdown")).to_have_text("one two three")
    expect(one.page.locator(".answer .facts")).to_contain_text("stopped")
    one.page.wait_for_timeout(100)
    assert fake.left == 1
    one.page.get_by_role("button", name="Go on").click()
    one.whole()
    expect(one.page.locator(".answer .markdown")).to_have_text(f"one two three{CONTINUATION}")
    assert fake.bodies("chat")[1]["messages"][-1] == {"role": "assistant", "content": "one two three"}
    assert fake.bodies("chat")[1]["continue_final_message"] is True


def test_a_second_answer_is_a_branch(visit, fake):
    fake.replies["Go"] = Reply(text="first")
    one = visit()
    one.ask("Go")
    fake.replies["Go"] = Reply(text="second")
    one.page.get_by_role("button", name="Answer again").click()
    answer = one.page.locator(".answer")
    expect(answer.locator(".markdown")).to_have_text("second")
    expect(answer.locator(".branches")).to_have_text("2/2")
    answer.get_by_role("button", name="Previous version").click()
    expect(answer.locator(".markdown")).to_have_text("first")
    expect(answer.locator(".branches")).to_have_text("1/2")


def test_an_edited_question_is_a_branch_and_what_follows_stays_with_it(visit, fake):
    one = visit()
    one.ask("Alpha")
    one.ask("Beta", n_answers=2)
    one.page.locator(".question").first.hover()
    one.page.get_by_role("button", name="Edit the question").first.click()
    box = one.page.locator(".edit textarea")
    expect(box).to_be_focused()
    box.fill("Gamma")
    one.page.keyboard.press("Enter")
    one.whole(1)
    expect(one.page.locator(".answer .markdown")).to_have_text("You said: Gamma")
    assert [m["content"] for m in fake.bodies("chat")[-1]["messages"]] == ["Gamma"]
    one.page.locator(".question").get_by_role("button", name="Previous version").click()
    expect(one.page.locator(".answer .markdown")).to_have_text(["You said: Alpha", "You said: Beta"])


def test_history_persists_and_is_deleted_with_a_way_back(visit, fake):
    one = visit()
    one.ask("Remember this")
    one.page.keyboard.press("Alt+n")
    one.ask("And that")
    one.page.reload()
    expect(one.page.locator(".answer .markdown")).to_have_text("You said: And that")
    one.page.locator(".past-open", has_text="Remember this").click()
    expect(one.page.locator(".answer .markdown")).to_have_text("You said: Remember this")
    past = one.page.locator(".past")
    past.filter(has_text="Remember this").hover()
    one.page.get_by_role("button", name="Delete “Remember this”").click()
    expect(past).to_have_count(1)
    one.page.get_by_role("button", name="Undo").click()
    expect(past).to_have_count(2)
    one.page.get_by_role("button", name="Delete all conversations").click()
    one.page.get_by_role("button", name="Delete all", exact=True).click()
    expect(past).to_have_count(0)
    one.page.reload()
    one.page.locator(".composer").wait_for()
    expect(past).to_have_count(0)


def test_export_and_import_round_trip_and_foreign_files_are_refused(visit, fake, tmp_path: Path):
    one = visit()
    one.ask("Keep me")
    with one.page.expect_download() as download:
        one.page.get_by_role("button", name="Export all as JSON").click()
    saved = tmp_path / "saved.json"
    download.value.save_as(saved)
    other = visit()
    chooser = other.page.locator("input[type=file]")
    chooser.set_input_files(saved)
    other.page.locator(".past-open").click()
    expect(other.page.locator(".answer .markdown")).to_have_text("You said: Keep me")
    evil = {
        "format": "dunwu-conversations",
        "conversations": [{"roots": ["a"], "nodes": {"a": {"id": "a", "children": ["a"]}}}],
    }
    for content in ("not json", json.dumps({"format": "other"}), json.dumps([1])):
        (tmp_path / "bad.json").write_text(content)
        chooser.set_input_files(tmp_path / "bad.json")
        expect(other.page.locator(".toast")).to_contain_text("not an export")
    (tmp_path / "loop.json").write_text(json.dumps(evil))
    chooser.set_input_files(tmp_path / "loop.json")
    expect(other.page.locator(".past")).to_have_count(2)


def test_a_draft_survives_a_reload(visit, fake):
    one = visit()
    one.page.locator(".dock textarea").fill("half a thou")
    one.page.reload()
    expect(one.page.locator(".dock textarea")).to_have_value("half a thou")


def test_a_lost_connection_keeps_what_was_said_even_over_a_reload(visit, fake):
    fake.replies["Go"] = Reply(text="one two three four", break_after=2)
    one = visit()
    one.write("Go")
    expect(one.page.locator(".failure")).to_contain_text("The connection broke.")
    one.page.reload()
    expect(one.page.locator(".answer .markdown")).to_have_text("one two")
    one.page.get_by_role("button", name="Go on").click()
    expect(one.page.locator(".answer .markdown")).to_have_text(f"one two{CONTINUATION}")
    expect(one.page.locator(".failure")).to_have_count(0)


def test_errors_say_what_to_do(visit, fake):
    fake.replies["busy"] = Reply(status=429, error={"message": "the queue is full"}, retry_after_s=3)
    fake.replies["long"] = Reply(status=400, error={"message": "5,000 tokens", "code": "context_length_exceeded"})
    fake.replies["html"] = Reply(status=400, error={"message": "<img src=x onerror=alert(1)>"})
    one = visit()
    failures = one.page.locator(".failure")
    one.write("busy")
    expect(failures.last).to_contain_text("Answer again in 3 s.")
    fake.replies["busy"] = Reply(text="free")
    failures.last.get_by_role("button", name="Answer again").click()
    expect(one.page.locator(".answer .markdown")).to_have_text("free")
    one.write("long")
    expect(failures.last).to_contain_text("longer than the model can read")
    one.page.keyboard.press("Alt+n")
    one.write("html")
    expect(failures.last).to_contain_text("The server said: <img src=x")


def test_a_key_is_asked_for_and_forgotten_with_the_tab(visit, fake):
    fake.key = "sesame"
    one = visit()
    one.page.locator("input[name=key]").fill("sesame")
    one.page.keyboard.press("Enter")
    expect(one.page.locator(".picker select").first).to_have_value("tiny-chat")
    one.ask("Hello")
    stored = one.page.evaluate("[sessionStorage.getItem('dunwu.key'), localStorage.getItem('dunwu.key')]")
    assert stored == ["sesame", None]


def test_a_key_is_remembered_when_asked_to(visit, fake):
    fake.key = "sesame"
    one = visit()
    one.page.locator("input[name=key]").fill("open")
    one.page.keyboard.press("Enter")
    expect(one.page.locator("dialog")).to_contain_text("did not take that key")
    one.page.locator("input[name=key]").fill("sesame")
    one.page.locator("input[name=remember]").check()
    one.page.get_by_role("button", name="Use this key").click()
    one.ask("Hello")
    assert one.page.evaluate("[sessionStorage.getItem('dunwu.key'), localStorage.getItem('dunwu.key')]") == [
        None,
        '"sesame"',
    ]


def test_a_model_without_a_template_continues_text(visit, fake):
    one = visit()
    one.page.locator(".picker select").select_option("tiny-base")
    one.ask("Once upon a time")
    expect(one.page.locator(".answer .continued")).to_have_text("and on it goes.")
    assert fake.bodies("text")[0]["prompt"] == "Once upon a time"
    one.ask(" in the sea", n_answers=2)
    assert len(fake.bodies("chat")) == 1  # asked once; then it is known
    assert fake.bodies("text")[1]["prompt"] == f"Once upon a time{CONTINUATION} in the sea"
    expect(one.page.locator(".answer .whole-text").first).to_have_text(f"Once upon a time{CONTINUATION}")
    one.page.get_by_role("button", name="Settings").click()
    expect(one.page.locator("input[name=max_tokens]")).to_have_attribute("placeholder", "256")
    expect(one.page.locator("textarea[name=system]")).to_have_count(0)
    one.page.locator(".picker select").select_option("tiny-chat")
    expect(one.page.locator("textarea[name=system]")).to_be_visible()


def test_settings_reach_the_server_and_outlive_the_page(visit, fake):
    one = visit()
    one.page.get_by_role("button", name="Settings").click()
    for name, value in {
        "temperature": "0.3",
        "top_p": "0.9",
        "top_k": "40",
        "min_p": "0.05",
        "max_tokens": "64",
        "seed": "7",
    }.items():
        one.page.locator(f"input[name={name}]").fill(value)
    one.page.locator("textarea[name=system]").fill("Be brief.")
    one.page.locator("textarea[name=stop]").fill("END\n\\n\\n")
    one.ask("Hello")
    body = fake.bodies("chat")[0]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert {name: body[name] for name in ("temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "stop")} == {
        "temperature": 0.3,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "max_tokens": 64,
        "seed": 7,
        "stop": ["END", "\n\n"],
    }
    one.page.reload()
    one.page.get_by_role("button", name="Settings").click()
    expect(one.page.locator("input[name=seed]")).to_have_value("7")
    one.page.get_by_role("button", name="Back to defaults").click()
    one.ask("Again", n_answers=2)
    assert "temperature" not in fake.bodies("chat")[-1]
