"""Documents in containers: `.pdf .docx .epub .ipynb`."""

import io
import json
import posixpath
import zipfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from dunwu.core.errors import MissingExtraError
from dunwu.core.records import Document
from dunwu.corpus.readers.files import MAX_RATIO, MAX_WHOLE_BYTES, RATIO_FROM_BYTES, BadFileError, SourceFile
from dunwu.corpus.readers.html import visible_text
from dunwu.corpus.readers.problems import Problem
from dunwu.corpus.readers.text import pieces

_MAX_PARTS = 20_000


def read_pdf(file: SourceFile) -> Iterator[Document | Problem]:
    """The text layer, a form feed between pages so that repeated headers can be told from text; pages that cannot be read
    are named."""
    try:
        import pypdfium2
    except ImportError as error:
        raise MissingExtraError("pypdfium2", "data", f"reading {file.source}") from error
    data = file.whole()
    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise BadFileError(f"is not a readable PDF (broken, or locked with a password): {error}") from error
    unread: list[Problem] = []
    try:
        pages = list(_bounded(_pdf_pages(pdf, file.source, unread)))
    finally:
        pdf.close()
    yield from unread
    if len(unread) == len(pages) and unread:
        raise BadFileError("has no page that can be read")
    if not any(page.strip() for page in pages):
        raise BadFileError(
            f"has no text layer on its {len(pages)} pages (a scan?); run character recognition on it first"
        )
    yield from pieces(["\f".join(pages)], file.source)


def _pdf_pages(pdf: Any, source: str, unread: list[Problem]) -> Iterator[str]:
    for index in range(len(pdf)):
        try:
            yield _page_text(pdf, index)
        except RuntimeError as error:  # what PDFium's errors are
            unread.append(Problem(f"{source}:page {index + 1}", f"cannot be read: {error}"))
            yield ""


def _page_text(pdf: Any, index: int) -> str:
    page = pdf[index]
    text_page = page.get_textpage()
    text = text_page.get_text_range()
    text_page.close()
    page.close()
    # PDFium marks a hyphen at the end of a line with U+FFFE.
    return text.replace("\r\n", "\n").replace("\ufffe\n", "").replace("\ufffe", "")


def _bounded(pages: Iterator[str]) -> Iterator[str]:
    """The pages, while there are not too many and their text stays in bounds."""
    size = 0
    for number, page in enumerate(pages, 1):
        size += len(page)
        if number > _MAX_PARTS or size > MAX_WHOLE_BYTES:
            raise BadFileError(f"holds more than {_MAX_PARTS:,} pages or {MAX_WHOLE_BYTES >> 20} MiB of text; split it")
        yield page


def _open_zip(data: bytes) -> zipfile.ZipFile:
    """A ZIP container whose unpacked size is in bounds, by its own index; `_part` holds it to that."""
    try:
        container = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise BadFileError(f"is not a readable ZIP container: {error}") from error
    parts = container.infolist()
    total = sum(part.file_size for part in parts)
    if (
        len(parts) > _MAX_PARTS
        or total > MAX_WHOLE_BYTES
        or (total > RATIO_FROM_BYTES and total > MAX_RATIO * len(data))
    ):
        raise BadFileError(
            f"unpacks from {len(data):,} to {total:,} bytes in {len(parts):,} parts, which looks like a bomb"
        )
    return container


def _part(container: zipfile.ZipFile, name: str) -> bytes:
    """One part of a container. Raises BadFileError when it is missing, damaged, or larger than the index says."""
    try:
        size = container.getinfo(name).file_size
        with container.open(name) as stream:
            data = stream.read(size + 1)
    except (KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise BadFileError(f"has a damaged part {name!r}: {error}") from error
    except Exception as error:  # zlib.error and lzma.LZMAError have no common base but this
        raise BadFileError(f"has a damaged part {name!r}: {error}") from error
    if len(data) > size:
        raise BadFileError(f"has a part {name!r} larger than its index says, which looks like a bomb")
    return data


def read_docx(file: SourceFile) -> Iterator[Document]:
    """Paragraphs and tables in their order; headings as Markdown ones; cells of a row between tabs. Tracked changes are
    read as accepted; what stands in content controls (forms, templates) is read too, text boxes are not."""
    try:
        import docx
    except ImportError as error:
        raise MissingExtraError("python-docx", "data", f"reading {file.source}") from error
    data = file.whole()
    container = _open_zip(data)
    for part in container.infolist():
        if part.filename.endswith((".xml", ".rels")):
            _part(container, part.filename)  # python-docx trusts the index
    try:
        document = docx.Document(io.BytesIO(data))
        blocks = list(_blocks(document.element.body, document))
    except Exception as error:  # python-docx lets KeyError, ValueError and lxml's errors through
        raise BadFileError(f"is not a readable Word document: {error}") from error
    yield from pieces(["\n\n".join(block for block in blocks if block.strip())], file.source)


def _blocks(element: Any, parent: Any) -> Iterator[str]:
    """The text of paragraphs and tables below `element`; python-docx itself stops at content controls."""
    from docx.table import Table
    from docx.text.paragraph import Paragraph

    for child in element.iterchildren("{*}p", "{*}tbl", "{*}sdt", "{*}sdtContent", "{*}ins", "{*}customXml"):
        kind = child.tag.rpartition("}")[2]
        if kind == "p":
            yield _paragraph(Paragraph(child, parent))
        elif kind == "tbl":
            yield _table(Table(child, parent))
        elif not _is_contents(child):
            yield from _blocks(child, parent)


def _is_contents(element: Any) -> bool:
    """Whether this is the control that Word makes around a table of contents."""
    gallery = element.find("{*}sdtPr/{*}docPartObj/{*}docPartGallery")
    return gallery is not None and "Table of Contents" in gallery.values()


def _paragraph(paragraph: Any) -> str:
    style = (paragraph.style.name or "") if paragraph.style is not None else ""
    level = style.removeprefix("Heading ")
    text = _runs(paragraph._p)
    if style.startswith("Heading ") and level.isdigit() and text.strip():
        return "#" * int(level) + " " + text
    if style.startswith("List") and text.strip():
        return "- " + text
    return text


def _runs(element: Any) -> str:
    """The text of a paragraph's runs, those in links, insertions and controls too; not of deletions and text boxes."""
    depth = len(element.xpath("ancestor-or-self::w:p"))
    runs = element.xpath(f".//w:r[not(ancestor::w:del or ancestor::w:moveFrom) and count(ancestor::w:p) = {depth}]")
    return "".join(run.text for run in runs)


def _table(table: Any) -> str:
    rows = []
    for row in table.rows:
        cells: list[str] = []
        seen: set[int] = set()
        for cell in row.cells:  # a merged cell is listed once for each place that it covers
            if id(cell._tc) not in seen:
                seen.add(id(cell._tc))
                cells.append(" ".join(_blocks(cell._tc, cell)).replace("\n", " "))
        rows.append("\t".join(cells))
    return "\n".join(rows)


def read_epub(file: SourceFile) -> Iterator[Document | Problem]:
    """The chapters in reading order, as the package's spine gives it; one that cannot be read is a Problem, the others stay."""
    container = _open_zip(file.whole())
    texts: list[str] = []
    bad: list[Problem] = []
    for name in _spine(container):
        try:
            text = visible_text(_part(container, name))
        except BadFileError as error:
            bad.append(Problem(f"{file.source}:{name}", str(error)))
            continue
        if text:
            texts.append(text)
    if not texts and bad:
        raise BadFileError(bad[0].reason)
    yield from bad
    if not texts:
        raise BadFileError("has no readable chapter (locked, or only pictures)")
    yield from pieces(["\n\n".join(texts)], file.source)


def _spine(container: zipfile.ZipFile) -> list[str]:
    rootfile = _xml(container, "META-INF/container.xml").find(".//{*}rootfile")
    package_name = rootfile.get("full-path") if rootfile is not None else None
    if not package_name:
        raise BadFileError("is not an EPUB: META-INF/container.xml names no package")
    package = _xml(container, package_name)
    base = posixpath.dirname(package_name)
    items = {item.get("id"): item for item in package.iterfind(".//{*}manifest/{*}item")}
    names = []
    for reference in package.iterfind(".//{*}spine/{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is not None and "html" in item.get("media-type", "html") and "nav" not in item.get("properties", ""):
            names.append(posixpath.normpath(posixpath.join(base, unquote(item.get("href", "")))))
    return names


def _xml(container: zipfile.ZipFile, name: str) -> Any:
    try:
        import lxml.etree as etree
    except ImportError as error:
        raise MissingExtraError("lxml", "data", "reading .epub files") from error
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    try:
        return etree.fromstring(_part(container, name), parser)
    except etree.XMLSyntaxError as error:
        raise BadFileError(f"has a part {name!r} that is not XML: {error}") from error


def read_notebook(file: SourceFile) -> Iterator[Document]:
    """A notebook as a script with prose: Markdown cells as they are, code cells fenced, outputs left out."""
    try:
        notebook = json.loads(file.whole().decode("utf-8-sig"))
        cells = notebook["cells"] if "cells" in notebook else notebook["worksheets"][0]["cells"]
        texts = [_cell(cell) for cell in cells]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise BadFileError(f"is not a readable notebook: {type(error).__name__}: {error}") from error
    yield from pieces(["\n\n".join(text for text in texts if text.strip())], file.source, kind="code")


def _cell(cell: dict[str, Any]) -> str:
    source = cell.get("source", cell.get("input", ""))
    text = "".join(source) if isinstance(source, list) else str(source)
    if cell.get("cell_type") != "code":
        return text
    return f"```python\n{text.rstrip()}\n```" if text.strip() else ""
