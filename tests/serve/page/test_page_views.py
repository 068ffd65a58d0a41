"""Comparing, tokens, languages, looks, small screens, and use without a mouse."""

import re

import pytest
from playwright.sync_api import expect

from .conftest import PAGE
from .fake_openai import Reply, cut


def test_two_models_answer_one_question_at_once(visit, fake):
    fake.replies["tiny-chat|Who?"] = Reply(text="The left one.", hold_after=2)
    fake.replies["tiny-chat:sft|Who?"] = Reply(text="The right one.", hold_after=2)
    one = visit()
    one.page.get_by_role("link", name="Compare").click()
    panes = one.page.locator(".pane")
    one.write("Who?")
    expect(panes.nth(0).locator(".markdown")).to_have_text("The left")  # neither waits for the other
    expect(panes.nth(1).locator(".markdown")).to_have_text("The right")
    fake.released.set()
    expect(panes.nth(0).locator(".markdown")).to_have_text("The left one.")
    expect(panes.nth(1).locator(".markdown")).to_have_text("The right one.")
    one.page.reload()
    expect(panes.nth(1).locator(".markdown")).to_have_text("The right one.")
    panes.nth(1).locator("select").select_option("tiny-base")
    one.write("Once")
    expect(panes.nth(1).locator(".continued")).to_have_text("and on it goes.")
    assert fake.bodies("text")[-1]["prompt"] == "Once"


def test_compared_answers_stop_together_and_show_their_thinking(visit, fake):
    for model in ("tiny-chat", "tiny-chat:sft"):
        fake.replies[f"{model}|Who?"] = Reply(text="one two three", hold_after=2)
    one = visit()
    one.page.keyboard.press("Alt+2")
    one.page.locator(".think-toggle").click()
    one.write("Who?")
    expect(one.page.locator(".tok")).to_have_text(["one", "two", "one", "two"])
    one.page.keyboard.press("Escape")
    expect(one.page.locator(".pane .facts").first).to_contain_text("stopped")
    expect(one.page.locator(".pane .measures")).to_have_count(2)


def test_the_tokenizer_view_shows_every_token_with_its_id(visit, fake):
    one = visit()
    one.page.get_by_role("link", name="Tokens").click()
    text = "Hello 顿悟\n x\u200b"
    one.page.locator(".tokenizer textarea").fill(text)
    chips = one.page.locator(".chip")
    expect(chips).to_have_count(len(cut(text)))
    shown = chips.locator("bdi").all_inner_texts()
    assert shown == ["Hello", "·", "顿", "悟", "↵", "·x", "U+200B"]
    ids = [int(one_id) for one_id in chips.locator(".id").all_inner_texts()]
    assert len(ids) == len(set(ids)) == 7
    expect(one.page.locator(".measures")).to_contain_text(str(len(text.encode())))


def test_chinese_comes_with_the_browser_and_can_be_chosen(visit, fake):
    one = visit(locale="zh-CN")
    expect(one.page.locator("html")).to_have_attribute("lang", "zh-Hans")
    expect(one.page.locator("h1")).to_have_text("想了解什么？")
    one.ask("为什么？")
    expect(one.page.locator(".answer .facts")).to_contain_text("个词元")
    one.page.get_by_role("button", name="English").click()
    expect(one.page.locator(".new")).to_have_text("New conversation")
    expect(one.page.locator(".answer .facts")).to_contain_text("tokens")
    one.page.reload()
    expect(one.page.locator(".new")).to_have_text("New conversation")


def test_both_languages_have_the_same_lines():
    source = (PAGE / "src/words.js").read_text(encoding="utf-8")
    english, chinese = (re.findall(r'^  (?:"([\w.]+)"|(\w+)):', part, re.M) for part in source.split("const ZH = "))
    assert english == chinese


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(visit, fake, scheme):
    fake.replies["Go"] = Reply(
        text="Some **text** with `code`, a [link](https://a.example/) and the moon above the sea at night."
    )
    one = visit(color_scheme=scheme)
    one.ask("Go")
    one.page.get_by_role("button", name="Settings").click()
    one.page.wait_for_timeout(250)
    assert one.page.evaluate(CONTRAST) == []
    one.page.locator(".think-toggle").click()
    one.page.wait_for_timeout(250)
    assert one.page.evaluate(CONTRAST) == []


CONTRAST = """() => {
  const rgb = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const light = ([r, g, b]) => [r, g, b].map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4)).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const over = (top, under) => top.slice(0, 3).map((c, i) => c * top[3] + under[i] * (1 - top[3]));
  const ground = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3]) layers.push(c); if (c[3] === 1) break; }
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const poor = [];
  for (const element of document.querySelectorAll('#app *')) {
    const text = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!text || element.closest('[disabled], .visually-hidden, .katex-mathml, .skip') || !element.getClientRects().length) continue;
    const under = ground(element);
    const [a, b] = [light(over(rgb(getComputedStyle(element).color), under)), light(under)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push([element.className || element.tagName, element.textContent.slice(0, 20), ratio.toFixed(2)]);
  }
  return poor;
}"""


def test_a_phone_shows_everything_within_its_width(visit, fake):
    fake.replies["Go"] = Reply(
        text=f"```\n{'x' * 300}\n```\n\n{'y' * 200}\n\n$$a = {' + '.join('abcdefghijklmnop' * 4)}$$\n\n|a|b|\n|-|-|\n|{'z' * 90}|1|"
    )
    one = visit(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    one.ask("Go")
    for view in ("Chat", "Compare", "Tokens"):
        one.page.get_by_role("link", name=view).click()
        assert one.page.evaluate("document.scrollingElement.scrollWidth") <= 390
        assert one.page.evaluate(
            "document.querySelector('.scroll').scrollWidth <= document.querySelector('.scroll').clientWidth"
        )
    one.page.get_by_role("button", name="Conversations").click()
    expect(one.page.locator(".new")).to_be_focused()
    one.page.locator(".past-open").click()
    expect(one.page.locator(".sidebar")).not_to_have_class("sidebar open")
    one.page.locator(".think-toggle").click()
    one.page.locator("[data-i='3']").tap()
    card = one.page.locator(".alternatives").bounding_box()
    assert card["x"] >= 0
    assert card["x"] + card["width"] <= 390


def test_without_a_mouse(visit, fake):
    """From opening the page to a second branch, by keys alone."""
    one = visit()
    page = one.page
    expect(page.locator(".dock textarea")).to_be_focused()
    page.keyboard.type("line one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("line two")
    page.keyboard.press("Enter")
    one.whole()
    assert fake.bodies("chat")[0]["messages"][0]["content"] == "line one\nline two"
    page.keyboard.press("ArrowUp")
    expect(page.locator(".edit textarea")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".edit")).to_have_count(0)
    fake.replies["hold"] = Reply(text="one two three", hold_after=1)
    page.locator(".dock textarea").focus()
    page.keyboard.type("hold")
    page.keyboard.press("Enter")
    expect(page.locator(".answer.live .markdown")).to_have_text("one")
    page.keyboard.press("Escape")
    one.whole(2)
    page.keyboard.press("Alt+t")
    expect(page.locator(".think-toggle")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Alt+s")
    expect(page.locator(".panel")).to_be_visible()
    page.keyboard.press("Alt+s")
    page.locator(".think-toggle").focus()
    page.keyboard.press("?")
    expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_an_input_method_keeps_its_enter(visit, fake):
    one = visit()
    one.page.locator(".dock textarea").fill("ni hao")
    one.page.evaluate(
        "document.querySelector('.dock textarea').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))"
    )
    one.page.wait_for_timeout(100)
    assert fake.bodies("chat") == []


UNNAMED = """() => [...document.querySelectorAll('button, a, input, select, textarea, [role=button], dialog, nav, aside, [role=group]')]
  .filter((e) => e.getClientRects().length && getComputedStyle(e).visibility !== 'hidden')
  .filter((e) => {
    const labels = (e.getAttribute('aria-labelledby') ?? '').split(' ').map((id) => document.getElementById(id)?.textContent ?? '').join('');
    const name = e.getAttribute('aria-label') || labels || [...(e.labels ?? [])].map((l) => l.textContent).join('') || (/^(BUTTON|A)$/.test(e.tagName) ? e.textContent : '');
    return !name.trim();
  })
  .map((e) => e.outerHTML.slice(0, 120))"""


def test_every_control_has_a_name(visit, fake):
    one = visit()
    page = one.page
    assert page.evaluate(UNNAMED) == []
    one.ask("Go")
    page.get_by_role("button", name="Answer again").click()
    expect(page.locator(".branches")).to_be_visible()
    page.locator(".think-toggle").click()
    page.get_by_role("button", name="Settings").click()
    page.locator("[data-i='1']").click()
    expect(page.locator(".alternatives")).to_be_visible()
    assert page.evaluate(UNNAMED) == []
    for view in ("Compare", "Tokens"):
        page.get_by_role("link", name=view).click()
        assert page.evaluate(UNNAMED) == []
    page.get_by_role("button", name="Keyboard").click()
    assert page.evaluate(UNNAMED) == []
    page.keyboard.press("Escape")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_a_screen_reader_hears_each_sentence_once(visit, fake):
    said = "This is the first sentence, which is long enough to be said. And this is the second one, which ends it."
    fake.replies["Go"] = Reply(text=said)
    one = visit()
    one.page.evaluate(
        """() => {
          window.heard = [];
          const region = document.querySelector('[aria-live=polite]');
          new MutationObserver((all) => all.forEach((m) => m.addedNodes.forEach((n) => heard.push(n.textContent)))).observe(region, {childList: true, subtree: true});
        }"""
    )
    one.ask("Go")
    one.page.wait_for_function("heard.includes('The answer is complete.')")
    heard = one.page.evaluate("heard")
    assert heard[0] == "Answering"
    assert "".join(heard[1:-1]) == said
    expect(one.page.locator("[role=log]")).to_have_attribute("aria-live", "off")


def test_motion_stops_where_it_is_not_wanted(visit, fake):
    fake.replies["Go"] = Reply(text="one", hold_after=0)
    one = visit(reduced_motion="reduce")
    one.write("Go")
    expect(one.page.locator(".waiting")).to_be_visible()
    assert one.page.evaluate("document.getAnimations().length") == 0


def test_compared_answers_are_said_one_after_the_other(visit, fake):
    fake.replies["tiny-chat|Who?"] = Reply(text="The left one.", hold_after=2)
    fake.replies["tiny-chat:sft|Who?"] = Reply(text="The right one.")
    one = visit()
    one.page.get_by_role("link", name="Compare").click()
    one.write("Who?")
    spoken = one.page.locator("[aria-live=polite][aria-relevant] p")
    expect(spoken).to_have_text(["tiny-chat:sft: The right one."])
    fake.released.set()
    expect(spoken).to_have_text(["tiny-chat:sft: The right one.", "tiny-chat: The left one."])


def test_the_end_of_a_comparison_stands_above_the_text_box(visit, fake):
    fake.replies["Tell me"] = Reply(text="\n\n".join(f"Line {number} of an answer." for number in range(40)))
    one = visit()
    one.page.get_by_role("link", name="Compare").click()
    one.ask("Tell me", n_answers=2)
    for pane in one.page.locator(".pane .answer").all():
        expect(pane.get_by_text("Line 39")).to_be_in_viewport()
        bottom = one.page.locator(".composer").bounding_box()["y"]
        last = pane.get_by_text("Line 39").bounding_box()
        assert last["y"] + last["height"] <= bottom
