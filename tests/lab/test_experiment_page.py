"""The page and the drawings of an experiment: nothing in a label becomes markup, nothing leaves the page, and it can be used."""

import base64
import builtins
import hashlib
import json
import math
import os
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dunwu.core.errors import MissingExtraError
from dunwu.lab import page as page_room
from dunwu.lab.experiment import Figure, Line, require_drawing, write_experiment
from dunwu.lab.page import drawing
from dunwu.lab.page.drawing import draw_svg, short
from dunwu.lab.page.render import _cell, experiment_page

from .test_experiment import NASTY, experiment

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))


class Elements(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def html() -> str:
    rules = [("y", 0.5, NASTY), ("x", 10.0, "ten")]
    figure = replace(experiment().figures[0], rules=rules)
    return experiment_page(experiment(figures=[figure], n=NASTY, findings=[(NASTY, NASTY)]))


def test_labels_of_a_stranger_stay_text(html):
    seen = Elements(html).seen
    assert [name for name, _ in seen].count("script") == 2  # its data, and its one script
    assert not any(name == "img" or any(key.startswith("on") for key in attributes) for name, attributes in seen)
    [data] = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)
    [figure] = json.loads(data)
    assert figure["lines"][0]["label"] == NASTY
    assert figure["lines"][0]["y"] == [3.0, None, 0.3]
    assert figure["rules"][0] == ["y", 0.5, NASTY]


def test_the_policy_allows_this_style_and_script_and_no_request(html):
    seen = Elements(html).seen
    [policy] = [a["content"] for name, a in seen if name == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    for name, text in (
        ("style", re.findall(r"<style>(.*?)</style>", html, re.DOTALL)[0]),
        ("script", re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[-1]),
    ):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not any("src" in attributes or "style" in attributes for _, attributes in seen)
    links = [attributes["href"] for name, attributes in seen if name == "a"]
    assert all(link.startswith("#") or re.fullmatch(r"[\w-]+\.(svg|csv|json)", link) for link in links)
    assert not re.search(r"fetch\(|XMLHttp|import\(|innerHTML|eval\(", html)


def test_every_text_of_its_own_is_there_in_both_languages(html):
    seen = Elements(html).seen
    english, chinese = (sum(a.get("lang") == lang for _, a in seen) for lang in ("en", "zh-Hans"))
    assert english - 1 == chinese > 15  # the page itself is marked English until the script decides
    for text in ("示例", "没有跳变。", "log x", "x 轴对数"):
        assert text in html


def test_an_axis_with_what_is_not_above_zero_offers_no_logarithm():
    lines = [Line(label="a", x=[-1, 1], y=[1, math.nan], low=[0.5, math.nan], high=[2, math.nan])]
    figure = replace(experiment().figures[0], lines=lines, x_log=False)
    axes = [a["data-axis"] for _, a in Elements(experiment_page(experiment(figures=[figure]))).seen if "data-axis" in a]
    assert axes == ["y"]


def test_the_same_data_give_the_same_bytes_of_svg(tmp_path):
    for folder in ("a", "b"):
        write_experiment(experiment(), tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["experiment.json", "index.html", "loss.csv", "loss.svg", "rows.csv"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_drawing_holds_labels_as_text_whatever_they_are():
    marks = ("line", "points", "both", "dashed")
    labels = ("_under", r"$\frac{", "中文 \x00 \x1b[31m", NASTY * 9)
    lines = [
        Line(label=label, x=[1, 2, 3], y=[1, math.nan, 2 + at], low=[0, 1, 1], high=[2, 3, 9], mark=mark)
        for at, (label, mark) in enumerate(zip(labels, marks, strict=True))
    ]
    figure = Figure(name="x", title=("$", "$"), x_label=("_x", "x"), y_label=("y", "y"), lines=lines, y_log=True)
    root = ET.fromstring(draw_svg(figure))  # it is well-formed
    texts = ["".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "\u200b_under" in texts
    assert r"$\frac{" in texts
    assert "中文 ⟨00⟩ ⟨1B⟩[31m" in texts
    assert any(text.startswith("</script><img src=x onerror") and text.endswith("…") for text in texts)
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))


def test_a_figure_without_a_point_is_drawn():
    empty = replace(experiment().figures[0], lines=[Line(label="none", x=[], y=[])], x_log=True, y_log=True)
    assert "</svg>" in draw_svg(empty)
    assert '"x":[]' in experiment_page(experiment(figures=[empty]))
    assert "</svg>" in draw_svg(replace(empty, lines=[]))


def test_numbers_as_a_page_and_a_drawing_show_them():
    assert [short(value) for value in (0, 1.5, 20_000, 2.5e6, 1e21, 3.14159e-5, -1234)] == [
        "0", "1.5", "20k", "2.5M", "1e21", "3.14e-5", "-1.23k",
    ]  # fmt: skip
    cells = [_cell(value) for value in (None, math.nan, "<b>", 12_345, -2, 2.34567, 0.0123456, 123.456, 1.5e-5, -2e7)]
    assert cells == ["—", "—", "<b>", "12,345", "−2", "2.346", "0.0123", "123.5", "1.500e−05", "−2.000e+07"]


def test_without_matplotlib_the_numbers_and_the_page_are_written_and_the_extra_is_named(tmp_path, monkeypatch):
    find = drawing.find_spec
    monkeypatch.setattr(drawing, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    with pytest.raises(MissingExtraError, match=r"dunwu\[lab\]"):
        write_experiment(experiment(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"experiment.json", "index.html", "loss.csv", "rows.csv"}
    with pytest.raises(MissingExtraError):
        require_drawing()


def test_matplotlib_is_loaded_only_where_a_figure_is_drawn(tmp_path, monkeypatch):
    real = builtins.__import__

    def guarded(name, *rest, **more):
        assert not name.startswith("matplotlib")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", guarded)
    assert write_experiment(experiment(figures=[]), tmp_path).exists()


def test_what_is_vendored_is_whole_and_named_with_its_licence():
    own = Path(page_room.__file__).parent / "uplot"
    script, licence = (own / "uPlot.iife.min.js").read_bytes(), (own / "LICENSE").read_text("utf-8")
    assert hashlib.sha256(script).hexdigest() == "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"
    assert b"(v1.6.32)" in script[:80]
    assert "uPlot 1.6.32" in (page_room.__doc__ or "")
    assert "MIT License" in licence


# ------------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    playwright = pytest.importorskip("playwright.sync_api", reason="the page's script needs playwright to be tried")
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; install it, or name it in CHROMIUM")
    folder = tmp_path_factory.mktemp("experiment")
    figure = replace(experiment().figures[0], rules=[("y", 0.5, "half")])
    index = write_experiment(experiment(figures=[figure]), folder)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])

        def visit(**settings):
            page = browser.new_context(**{"locale": "en-GB", **settings}).new_page()
            page.complaints = []
            page.on("pageerror", lambda error: page.complaints.append(str(error)))
            page.on("console", lambda message: page.complaints.append(message.text))
            page.on("request", lambda request: page.complaints.append(request.url) if "http" in request.url else None)
            page.goto(index.as_uri())
            page.locator(".live canvas").wait_for()
            return page

        yield visit
        browser.close()


def test_a_figure_can_be_asked_with_keys_and_its_lines_switched_off(pages):
    page = pages()
    first = page.locator(".series button").first
    assert first.locator("span").nth(1).evaluate("node => node.textContent") == NASTY
    page.locator(".live").focus()
    page.keyboard.press("End")
    assert page.locator(".where").text_content() == "step 100"
    assert first.locator(".value").text_content() == "0.3 (0.25 – 0.35)"
    page.keyboard.press("Home")
    assert page.locator(".where").text_content() == "step 1"
    assert "numpy: 0.5" in page.locator(".spoken").first.text_content()
    painted = "() => document.querySelector('canvas').toDataURL()"
    before = page.evaluate(painted)
    first.click()
    page.wait_for_function("before => document.querySelector('canvas').toDataURL() !== before", arg=before)
    assert first.get_attribute("aria-pressed") == "false"
    page.locator("[data-axis=x]").click()
    assert page.locator("[data-axis=x]").get_attribute("aria-pressed") == "false"
    page.locator(".live").focus()
    page.keyboard.press("End")
    assert page.locator(".where").text_content() == "step 1"  # all that the other line has
    assert page.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen_and_chinese_is_shown(pages, scheme):
    page = pages(viewport={"width": 360, "height": 700}, color_scheme=scheme, locale="zh-CN")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.locator("h1 :visible").all_text_contents() == ["示例"]
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 200) == (scheme == "dark")
    assert page.complaints == []


def test_a_stretch_can_be_seen_alone_and_the_whole_again(pages):
    page = pages()
    box = page.locator(".u-over").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.98, box["y"] + 60, steps=4)
    page.mouse.up()
    page.locator(".whole").wait_for()
    page.locator(".live").focus()
    page.keyboard.press("Home")
    assert page.locator(".where").text_content() == "step 100"
    page.keyboard.press("Escape")
    page.keyboard.press("Home")
    assert page.locator(".where").text_content() == "step 1"
    assert page.complaints == []
