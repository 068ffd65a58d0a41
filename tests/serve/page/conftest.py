import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import dunwu.serve.page

from .fake_openai import Fake, make_app, serving

pytest.importorskip("playwright", reason="the page's tests need playwright; pip install playwright")
from playwright.sync_api import Browser, Page, expect, sync_playwright

PAGE = Path(dunwu.serve.page.__file__).parent
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
WAIT_MS = 15_000


class Chromium:
    """One browser for all tests of a process.

    Playwright's loop counts as running in this thread for as long as it lives, and while one runs `asyncio.run` refuses to: so
    it is taken away between the page's tests, for the others that come between them.
    """

    def __init__(self, browser: Browser) -> None:
        self.browser, self.loop = browser, asyncio.get_running_loop()

    @contextmanager
    def at_work(self) -> Iterator[Browser]:
        asyncio._set_running_loop(self.loop)
        try:
            yield self.browser
        finally:
            asyncio._set_running_loop(None)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; install it, or name it in CHROMIUM")
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        one = Chromium(playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGS))
        asyncio._set_running_loop(None)
        yield one
        asyncio._set_running_loop(one.loop)
        one.browser.close()


@pytest.fixture(scope="session")
def served() -> Iterator[tuple[str, Fake]]:
    fake = Fake()
    with serving(make_app(fake)) as url:
        yield url, fake


@pytest.fixture
def fake(served: tuple[str, Fake]) -> Iterator[Fake]:
    served[1].reset()
    yield served[1]
    served[1].released.set()


@dataclass(kw_only=True)
class Visit:
    """One browser window on the page, and what it did that it should not."""

    page: Page
    url: str
    elsewhere: list[str] = field(default_factory=list)  # requests to any other host
    complaints: list[str] = field(default_factory=list)  # policy violations, dialogs, exceptions

    def write(self, text: str) -> None:
        self.page.locator(".dock textarea").fill(text)
        self.page.keyboard.press("Enter")

    def ask(self, text: str, n_answers: int = 1) -> None:
        """Ask and wait until the answer is whole."""
        self.write(text)
        self.whole(n_answers)

    def whole(self, n_answers: int = 1) -> None:
        expect(self.page.locator(".answer:not(.live)")).to_have_count(n_answers)
        expect(self.page.locator(".answer.live")).to_have_count(0)


@pytest.fixture
def visit(chromium: Chromium, served: tuple[str, Fake], fake: Fake) -> Iterator[object]:
    """Opens windows; at the end each must have kept to this host and to its policy."""
    visits: list[Visit] = []

    def open_page(url: str = served[0], **options: object) -> Visit:
        settings = {"viewport": {"width": 1200, "height": 800}, "locale": "en-GB"} | options
        context = browser.new_context(**settings)  # type: ignore[arg-type]
        context.set_default_timeout(WAIT_MS)
        one = Visit(page=context.new_page(), url=url)
        page = one.page
        context.on(
            "request", lambda r: None if r.url.startswith((url, "blob:", "data:")) else one.elsewhere.append(r.url)
        )
        page.on("dialog", lambda d: (one.complaints.append(f"dialog: {d.message}"), d.dismiss()))
        page.on("pageerror", lambda e: one.complaints.append(f"exception: {e}"))
        page.on("console", lambda m: one.complaints.append(m.text) if "Content Security" in m.text else None)
        page.add_init_script(
            "window.violations = []; document.addEventListener('securitypolicyviolation',"
            " (event) => violations.push(`${event.effectiveDirective} ${event.blockedURI}`))"
        )
        page.goto(url)
        page.locator(".composer").wait_for()
        visits.append(one)
        return one

    with chromium.at_work() as browser:
        yield open_page
        for one in visits:
            violations = [] if one.page.is_closed() else one.page.evaluate("window.violations")
            one.page.context.close()
            assert (one.elsewhere, one.complaints, violations) == ([], [], [])
