"""The page on the real server: a tiny model of random weights, whatever it says."""

import pytest
from playwright.sync_api import expect

from dunwu.serve.source import ModelSource
from tests.serve.live import make_folder, running


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("models") / "kitten")
    sources = [
        ModelSource(id="kitten", folder=folder, instruction_tuned=True, system_prompt="Be kind."),
        ModelSource(id="kitten:pretrain", folder=folder, stage="pretrain", instruction_tuned=False, lazy=True),
    ]
    with running(*sources) as server:
        yield server.url


def limit(one, tokens: int) -> None:
    one.page.get_by_role("button", name="Settings").click()
    one.page.locator("input[name=max_tokens]").fill(str(tokens))
    expect(one.page.locator("textarea[name=system]")).to_have_attribute("placeholder", "Be kind.")
    one.page.get_by_role("button", name="Settings").click()


def test_chat_with_alternatives_and_a_branch_from_one(visit, real):
    one = visit(url=real)
    limit(one, 8)
    one.ask("Hello")
    one.page.locator(".think-toggle").click()
    expect(one.page.locator(".tok")).to_have_count(8)
    # The first alternative that can be gone on from: a random model also offers halves of characters and ends.
    for place in range(8):
        one.page.locator(f"[data-i='{place}']").click()
        choices = one.page.locator(".alternatives button:not(:disabled)")
        if choices.count():
            break
    choices.first.click()
    expect(one.page.locator(".branches")).to_have_text("2/2")
    one.whole()
    expect(one.page.locator(".failure")).to_have_count(0)
    expect(one.page.locator(".tint.given")).to_have_count(place + 1)
    assert one.page.locator(".tok").count() > place + 1


def test_stages_side_by_side_one_of_which_continues_text(visit, real):
    one = visit(url=real)
    limit(one, 6)
    one.page.get_by_role("link", name="Compare").click()
    panes = one.page.locator(".pane")
    expect(panes.nth(1).locator("select")).to_have_value("kitten:pretrain")
    one.write("Once upon a time")
    expect(panes.nth(0).locator(".facts")).to_contain_text("6 tokens")
    expect(panes.nth(1).locator(".facts")).to_contain_text("6 tokens")
    expect(panes.nth(0).locator(".markdown")).to_have_count(1)
    expect(panes.nth(1).locator(".continued")).to_have_count(1)


def test_tokens_of_a_text_and_of_a_question_as_the_template_writes_it(visit, real):
    one = visit(url=real)
    one.page.get_by_role("link", name="Tokens").click()
    one.page.locator(".tokenizer textarea").fill("the 顿悟")
    chips = one.page.locator(".chip bdi")
    expect(chips.first).to_have_text("t")
    as_text = chips.all_inner_texts()
    assert "".join(as_text).endswith("悟")
    one.page.get_by_role("button", name="as a question").click()
    expect(one.page.locator(".chip.special").first).to_be_visible()
    assert len(chips.all_inner_texts()) > len(as_text)
