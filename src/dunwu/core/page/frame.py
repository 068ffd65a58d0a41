"""What all pages have in common: their header with the two languages, their sections, their footer."""

from collections.abc import Sequence
from importlib.resources import files

from dunwu.core.page.html import Child, Html, el, join, page

Section = tuple[str, Html, Html | None]
"""Its key, its title and what stands in it; one with nothing in it is left out."""


def framed(
    *,
    name: str,
    heading: Html | None = None,
    kind: Html,
    lead: Html,
    sections: Sequence[Section],
    footer: str,
    below: Sequence[Child] = (),
    data: Html | None = None,
    style: str = "",
    script: str = "",
) -> str:
    """A page of its own on `name`, asking nothing of any network.

    `heading`: what stands for its name on it; `lead`: what it says first; `below`: what stands between that and the sections. `data`, `style`, `script`: what it has beside the shared ones, such as the curves that its script draws.
    """
    own = files("dunwu.core.page")
    shown = [(key, title, content) for key, title, content in sections if content is not None]
    body = join(
        [
            _header(heading or name, kind, [(key, title) for key, title, _ in shown]),
            el(
                "main",
                el("section", el("p", lead, class_="lead"), *below, class_="summary", id="summary"),
                *(
                    el("section", el("h2", title), el("div", content, class_="content"), id=key)
                    for key, title, content in shown
                ),
            ),
            el("footer", el("p", footer)),
            data,
        ]
    )
    return page(
        title=f"{name} · dunwu",
        style=own.joinpath("page.css").read_text("utf-8") + style,
        script=own.joinpath("page.js").read_text("utf-8") + script,
        body=body,
    )


def _header(heading: str, kind: Html, links: Sequence[tuple[str, Html]]) -> Html:
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
    return el("header", el("div", brand, toggle, class_="bar"), el("h1", heading), jumps)
