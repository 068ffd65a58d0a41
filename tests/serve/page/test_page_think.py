"""See it think: probabilities, alternatives, going on from another token."""

from math import exp

from playwright.sync_api import expect

from .fake_openai import Reply, cut, logprob

TEXT = "The cat sat on the mat and looked at the moon."


def level(token: str, place: int) -> int:
    p = exp(logprob(token, place))
    return next(i for i, least in enumerate((0.9, 0.6, 0.3, 0.1, 0.0)) if p >= least)


def thinking(visit, fake, text=TEXT):
    fake.replies["Go"] = Reply(text=text)
    one = visit()
    one.ask("Go")
    one.page.locator(".think-toggle").click()
    return one


def test_each_token_is_tinted_by_its_probability(visit, fake):
    one = thinking(visit, fake)
    tokens = one.page.locator(".tok")
    expect(tokens).to_have_text([token.strip() for token in cut(TEXT)])
    steps = one.page.locator(".tok .tint").evaluate_all("all => all.map(e => Number(/p(\\d)/.exec(e.className)[1]))")
    assert steps == [level(token, place) for place, token in enumerate(cut(TEXT))]
    assert len(set(steps)) > 2
    lines = one.page.locator(".legend .tint").evaluate_all("all => all.map(e => getComputedStyle(e).textDecoration)")
    assert len(set(lines)) == 5  # told apart without colour
    mean = sum(logprob(token, place) for place, token in enumerate(cut(TEXT))) / len(cut(TEXT))
    expect(one.page.locator(".measures")).to_contain_text(f"perplexity{exp(-mean):.2f}")
    expect(one.page.locator(".measures")).to_contain_text(f"typical probability{100 * exp(mean):.0f} %")
    assert fake.bodies("chat")[0]["top_logprobs"] == 8


def test_hover_shows_what_else_could_have_come_and_one_goes_on_from_it(visit, fake):
    fake.replies["continue"] = Reply(text=" instead.")
    one = thinking(visit, fake)
    one.page.locator("[data-i='2']").hover()
    rows = one.page.locator(".alternatives .alternative:not(.rest)")
    expect(rows).to_have_count(8)
    expect(one.page.locator(".alternatives .chosen")).to_contain_text("sat")
    expect(one.page.locator(".alternatives .chosen")).to_be_disabled()
    rows.filter(has_text="other1").click()
    one.whole()
    last = fake.bodies("chat")[-1]
    assert last["messages"][-1] == {"role": "assistant", "content": "The cat other1"}
    expect(one.page.locator(".branches")).to_have_text("2/2")
    expect(one.page.locator(".tok")).to_have_text(["The", "cat", "other1", "instead", "."])
    expect(one.page.locator(".tint.picked")).to_have_text("other1")
    one.page.get_by_role("button", name="Previous version").click()
    expect(one.page.locator(".tok")).to_have_count(len(cut(TEXT)))


def test_the_keyboard_reaches_every_token_and_its_alternatives(visit, fake):
    one = thinking(visit, fake)
    page = one.page
    page.locator("[data-i='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-i='2']")).to_be_focused()
    expect(page.locator(".alternatives-head")).to_contain_text("sat")
    page.keyboard.press("End")
    expect(page.locator(f"[data-i='{len(cut(TEXT)) - 1}']")).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.locator(".alternatives button:not(:disabled)").first).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".alternatives")).to_have_count(0)
    expect(page.locator("[data-i='0']")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".alternatives button:not(:disabled)").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".branches")).to_have_text("2/2")
    one.whole()
    assert fake.bodies("chat")[-1]["messages"][-1]["content"] == " other1"


def test_what_cannot_be_seen_is_shown(visit, fake):
    one = thinking(visit, fake, "a\u200bb\u202ec\n\td\U000e0041")
    expect(one.page.locator(".token-text .hidden")).to_have_text(["U+200B", "U+202E", "U+E0041"])
    assert "↵" in one.page.locator(".token-text").inner_text()
    assert one.page.locator(".tok").evaluate_all(
        "all => all.every(e => e.tagName === 'BDI')"
    )  # no token turns its neighbours round


def test_a_server_without_probabilities_is_heard_all_the_same(visit, fake):
    one = visit()
    one.page.get_by_role("button", name="Settings").click()
    one.page.locator("input[name=alternatives]").fill("0")
    one.ask("Go")
    one.page.locator(".think-toggle").click()
    expect(one.page.locator(".answer")).to_contain_text("No probabilities were kept")
    assert "logprobs" not in fake.bodies("chat")[0]


def test_halves_of_characters_are_bytes_and_the_whole_stands_at_the_last(visit, fake):
    fake.replies["Go"] = Reply(text="顿悟 now", halves=True)
    one = visit()
    one.ask("Go")
    one.page.locator(".think-toggle").click()
    expect(one.page.locator(".tok")).to_have_text(["E9", "A1 BF顿", "E6", "82 9F悟", "now"])
    one.page.locator("[data-i='1']").click()  # another second half would be no character
    expect(one.page.locator(".alternatives")).to_be_visible()
    expect(one.page.locator(".alternatives button:not(:disabled)")).to_have_count(0)
    one.page.locator("[data-i='2']").click()
    one.page.locator(".alternatives button", has_text="other2").click()
    one.whole()
    assert fake.bodies("chat")[-1]["messages"][-1]["content"] == "顿 other2"
