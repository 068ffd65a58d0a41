"""Web pages: the main text, without menus, cookie notices and footers."""

from collections.abc import Iterator

from dunwu.core.errors import MissingExtraError
from dunwu.core.records import Document
from dunwu.corpus.encoding import SAMPLE_BYTES, decode_blocks, detect_encoding
from dunwu.corpus.readers.files import BadFileError, SourceFile
from dunwu.corpus.readers.text import pieces

_DROPPED_TAGS = ("script", "style", "noscript", "template", "svg", "nav", "header", "footer", "aside", "form", "iframe")
_BLOCK_TAGS = frozenset(
    [
        "p",
        "div",
        "section",
        "article",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "li",
        "ul",
        "ol",
        "tr",
        "table",
        "blockquote",
        "pre",
        "br",
        "hr",
        "dt",
        "dd",
        "title",
        "figcaption",
    ]
)


def read_html(file: SourceFile) -> Iterator[Document]:
    """`.html .htm`: what trafilatura takes for the main text, or all visible text where that is almost nothing."""
    data = file.whole()
    yield from pieces([main_text(decode_html(data))], file.source, kind="web")


def decode_html(data: bytes) -> str:
    """The page as text: by its bytes first, as what a page says of itself is often wrong."""
    encoding = detect_encoding(data[:SAMPLE_BYTES], complete=len(data) <= SAMPLE_BYTES)
    if encoding is None:
        raise BadFileError("holds binary data, not a web page")
    if encoding == "utf-8" and not data.isascii():
        encoding = detect_encoding(data, complete=True) or "utf-8"
    return "".join(decode_blocks([data], encoding))


def main_text(page: str) -> str:
    """The main text of a page. Raises BadFileError when there is no markup that can be read."""
    try:
        import trafilatura
    except ImportError as error:
        raise MissingExtraError("trafilatura", "data", "reading web pages") from error
    found = trafilatura.extract(page, include_comments=False, include_tables=True, favor_precision=False) or ""
    if len(found) >= 200:
        return found
    visible = visible_text(page)
    # A short note saved as a page has no "main" part to be found.
    return visible if len(visible) > 2 * len(found) and len(visible) < 4000 else found or visible


def visible_text(page: str | bytes) -> str:
    """All text of a page but scripts, menus and forms, a line for each block. Also for the chapters of an EPUB."""
    try:
        import lxml.etree as etree
        from lxml import html
    except ImportError as error:
        raise MissingExtraError("lxml", "data", "reading web pages") from error
    data = page if isinstance(page, bytes) else page.encode("utf-8", "replace")
    parser = html.HTMLParser(encoding="utf-8", huge_tree=False, no_network=True)
    try:
        root = html.document_fromstring(data, parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError) as error:
        raise BadFileError(f"holds no readable markup: {error}") from error
    for element in list(root.iter(*_DROPPED_TAGS)):
        element.drop_tree()
    parts: list[str] = []
    for event, element in etree.iterwalk(root, events=("start", "end")):
        if not isinstance(element.tag, str):
            if event == "end" and element.tail:
                parts.append(element.tail)
            continue
        if element.tag in _BLOCK_TAGS:
            parts.append("\n\n" if element.tag != "br" else "\n" if event == "start" else "")
        if event == "start":
            parts.append(_inline(element.text, element))
        else:
            parts.append(_inline(element.tail, element.getparent()))
    lines = (line.strip() for line in "".join(parts).split("\n"))
    return _squeezed(lines)


def _inline(text: str | None, parent: object) -> str:
    """Text as a browser shows it: line ends are spaces, but inside <pre>."""
    if not text:
        return ""
    return text if getattr(parent, "tag", None) == "pre" else " ".join(text.replace("\n", " ").split(" "))


def _squeezed(lines: Iterator[str]) -> str:
    """Lines joined, with one empty line at most between two."""
    kept: list[str] = []
    for line in lines:
        if line or (kept and kept[-1]):
            kept.append(line)
    return "\n".join(kept).strip()
