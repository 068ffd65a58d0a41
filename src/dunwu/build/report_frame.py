"""What the pages on measurements have in common: their header with the two languages, their sections, their footer."""

from collections.abc import Sequence
from importlib.resources import files

from dunwu.build.report_html import Html, el, embed_json, join, page

Section = tuple[str, Html, Html | None]
"""Its key, its title and what stands in it; one with nothing in it is left out."""


def framed(*, name: str, kind: Html, lead: Html, sections: Sequence[Section], footer: str) -> str:
    """A page of its own on `name`, in the style of the build report, asking nothing of any network."""
    own = files("dunwu.build")
    style, script = own.joinpath("report.css").read_text("utf-8"), own.joinpath("report.js").read_text("utf-8")
    shown = [(key, title, content) for key, title, content in sections if content is not None]
    body = join(
        [
            _header(name, kind, [(key, title) for key, title, _ in shown]),
            el(
                "main",
                el("section", el("p", lead, class_="lead"), class_="summary", id="summary"),
                *(
                    el("section", el("h2", title), el("div", content, class_="content"), id=key)
                    for key, title, content in shown
                ),
            ),
            el("footer", el("p", footer)),
            embed_json({}, "curves"),
        ]
    )
    return page(title=f"{name} · dunwu", style=style, script=script, body=body)


def _header(name: str, kind: Html, links: Sequence[tuple[str, Html]]) -> Html:
    toggle = el(
        "div",
        el("button", "EN", type="button", data_lang="en", aria_pressed="true"),
        el("button", "中文", type="button", data_lang="zh-Hans", aria_pressed="false"),
        class_="languages",
        role="group",
        aria_label="Language",
    )
    brand = el("p", el("span", "顿悟", class_="seal"), el("span", kind), class_="brand")
    jumps = el("nav", *(el("a", title, href=f"#{key}") for key, title in links))
    return el("header", el("div", brand, toggle, class_="bar"), el("h1", name), jumps)
