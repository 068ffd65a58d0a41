"""A trace as one page that needs nothing else: no script, no network; light and dark as the reader's machine is."""

import html
import importlib.resources
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from dunwu.core.files import write_text
from dunwu.prompt.chains.trace import Span, Trace

LONGEST = 20_000  # characters of a value; a trace in JSON has all
MOST_TEXTS = 50  # of a list


def write_page(trace: Trace, file: Path) -> None:
    """Write the page."""
    write_text(file, page(trace))


def page(trace: Trace) -> str:
    """The page as text. All that models and users wrote is escaped."""
    style = (importlib.resources.files("dunwu.prompt.chains") / "page.css").read_text("utf-8")
    title = html.escape(f"{trace.chain}: a run of a chain")
    total = max(trace.seconds, 1e-9)
    spans = "\n".join(part for span in trace.spans for part in _span(span, total, 0))
    ending = f'<p class="error">{_escaped(trace.error)}</p>' if trace.error else _values(trace.output)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{html.escape(trace.chain)}</h1>
<dl class="facts">{_facts(trace)}</dl>
<h2>Given</h2>
{_values(trace.input)}
<h2>Steps</h2>
<div class="steps">
{spans}
</div>
<h2>{"Error" if trace.error else "Answer"}</h2>
{ending}
</main>
</body>
</html>
"""


def _facts(trace: Trace) -> str:
    spans = [span for one in trace.spans for span in one.all()]
    costs = [span.cost for span in trace.spans if span.cost is not None]
    facts = {
        "began": trace.began,
        "took": seconds(trace.seconds),
        "steps": str(len(spans)),
        "tokens read": f"{trace.prompt_tokens:,}",
        "tokens written": f"{trace.completion_tokens:,}",
        "retries": str(trace.retries),
        **({"cost": f"{sum(costs):.6g}"} if costs else {}),
    }
    return "".join(f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts.items())


def _span(span: Span, total: float, depth: int) -> Iterator[str]:
    left, width = 100 * span.began_s / total, max(0.4, 100 * span.seconds / total)
    width = min(width, 100 - min(left, 99.6))
    marks = [f"{span.prompt_tokens:,} → {span.completion_tokens:,} tokens"] if span.prompt_tokens else []
    marks += [f"{span.retries} retr{'y' if span.retries == 1 else 'ies'}"] if span.retries else []
    marks += [f"batch of {span.batch}"] if span.batch > 1 else []
    marks += ["cut short"] if span.finish_reason in ("length", "context") else []
    marks += [span.model] if span.model else []
    yield f'<details class="step{" failed" if span.error else ""}" style="--depth:{min(depth, 8)}"{" open" if span.error else ""}>'
    yield (
        f'<summary><span class="name">{html.escape(span.step)}</span><span class="marks">{html.escape(" · ".join(marks))}</span>'
        f'<span class="time">{seconds(span.seconds)}</span>'
        f'<span class="bar" aria-hidden="true"><span style="margin-left:{min(left, 99.6):.2f}%;width:{width:.2f}%"></span></span>'
        "</summary>"
    )
    yield '<div class="inside">'
    for failure in span.failures:
        yield f'<p class="again">another attempt after: {_escaped(failure)}</p>'
    if span.error:
        yield f'<p class="error">{_escaped(span.error)}</p>'
    yield "<h3>in</h3>" + _values(span.input)
    for message in span.asked:
        yield f"<h3>asked, as {html.escape(message.get('role', ''))}</h3><pre>{_escaped(message.get('content', ''))}</pre>"
    if span.output is not None:
        yield "<h3>out</h3>" + _values(span.output)
    yield "</div>"
    for child in span.children:
        yield from _span(child, total, depth + 1)
    yield "</details>"


def _values(values: dict[str, Any]) -> str:
    if not values:
        return '<p class="none">nothing</p>'
    return "".join(f"<h4>{html.escape(name)}</h4>{_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    """A list of texts is shown as such, the first of them."""
    if isinstance(value, list) and value and all(isinstance(one, str) for one in cast("list[Any]", value)):
        texts = cast("list[str]", value)
        more = f'<p class="none">and {len(texts) - MOST_TEXTS:,} more</p>' if len(texts) > MOST_TEXTS else ""
        return "".join(f"<pre>{_escaped(one)}</pre>" for one in texts[:MOST_TEXTS]) + more
    return (
        f"<pre>{_escaped(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1))}</pre>"
    )


def _escaped(text: str) -> str:
    more = f" … and {len(text) - LONGEST:,} characters more" if len(text) > LONGEST else ""
    return html.escape(text[:LONGEST].replace("\0", "\ufffd")) + more


def seconds(value: float) -> str:
    """For people."""
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"
