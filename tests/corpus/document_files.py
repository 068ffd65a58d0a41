"""Small real documents of every kind, made on the spot, and a corpus of invented prose to put in them."""

import io
import random
import zipfile
from pathlib import Path

from dunwu.core.progress import SilentProgress
from dunwu.core.recipe import CorpusSection, FolderSource
from dunwu.corpus.card import CorpusFacts
from dunwu.corpus.pipeline import build_corpus
from dunwu.corpus.store import read_documents

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
_WORDS = [
    "river",
    "stone",
    "garden",
    "winter",
    "letter",
    "captain",
    "silver",
    "window",
    "forest",
    "morning",
    "evening",
    "harbour",
    "lantern",
    "village",
    "teacher",
    "bridge",
    "market",
    "father",
    "mother",
    "sister",
    "brother",
    "journey",
    "mountain",
    "shadow",
    "candle",
    "paper",
    "story",
    "kitchen",
    "music",
    "thunder",
]
_GLUE = ("the", "of", "and", "to", "in", "that", "was", "with", "had", "for", "his", "her", "a", "by")
_HAN = "山水风雨春秋天地人家门前路上月光海边树下花开城中老师学生朋友今天明天早晨晚上走过看见听说想起回来出去"


def english(seed: int, sentences: int = 30) -> str:
    """Invented English prose in paragraphs of five sentences, the same for the same seed."""
    rng = random.Random(seed)
    made = []
    for number in range(sentences):
        words = [rng.choice(_GLUE if place % 2 else _WORDS) for place in range(rng.randint(7, 15))]
        made.append(" ".join(words).capitalize() + "." + ("\n\n" if number % 5 == 4 else " "))
    return "".join(made).strip()


def chinese(seed: int, sentences: int = 30) -> str:
    """Invented Chinese prose, the same for the same seed."""
    rng = random.Random(seed)
    made = []
    for number in range(sentences):
        made.append(
            "".join(rng.choice(_HAN) for _ in range(rng.randint(8, 20))) + "。" + ("\n\n" if number % 5 == 4 else "")
        )
    return "".join(made).strip()


def pdf(pages: list[list[str]]) -> bytes:
    """A PDF of these lines (ASCII), one list a page, written by hand."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for lines in pages:
        shown = "".join(f"({line}) Tj T* " for line in lines)
        stream = f"BT /F1 11 Tf 14 TL 60 760 Td {shown}ET".encode()
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    out = io.BytesIO(b"%PDF-1.4\n")
    out.seek(0, 2)
    places = []
    for number, body in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    out.write(b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, start))
    return out.getvalue()


def epub(chapters: list[str]) -> bytes:
    """An EPUB of these chapters, listed in the archive in the wrong order, so that only the spine gives the right one."""
    out = io.BytesIO()
    items = "".join(
        f'<item id="c{n}" href="c{n}.xhtml" media-type="application/xhtml+xml"/>' for n in range(len(chapters))
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
        )
        archive.writestr(
            "OEBPS/book.opf",
            f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{spine}</spine></package>',
        )
        for number in reversed(range(len(chapters))):
            paragraphs = "".join(f"<p>{part}</p>" for part in chapters[number].split("\n\n"))
            page = f'<html xmlns="http://www.w3.org/1999/xhtml"><body><h1>Chapter {number + 1}</h1>{paragraphs}</body></html>'
            archive.writestr(f"OEBPS/c{number}.xhtml", page)
    return out.getvalue()


def web_page(body: str) -> str:
    """A page with a menu, a cookie notice and a footer around its article."""
    paragraphs = "".join(f"<p>{part}</p>" for part in body.split("\n\n"))
    return (
        "<html><head><title>A page</title><style>p{color:red}</style><script>var hidden = 1;</script></head><body>"
        "<nav><ul><li><a href='/'>Home</a></li><li><a href='/shop'>Shop</a></li></ul></nav>"
        f"<article><h1>The heading</h1>{paragraphs}</article>"
        "<div class='cookie-banner'>We use cookies to improve your experience.</div>"
        "<footer>Copyright 2020 Example. All rights reserved.</footer></body></html>"
    )


def build(folder: Path, out: Path, **settings: object) -> CorpusFacts:
    """Build a corpus from a folder; `settings` are those of the section, or `bad_rows` and `text_key` of the source."""
    source = {key: settings.pop(key) for key in ("bad_rows", "text_key", "include", "exclude") if key in settings}
    exam = settings.pop("exam_texts", ())
    seed = settings.pop("seed", 0)
    section = CorpusSection(sources=(FolderSource(path=str(folder), **source),), **settings)  # type: ignore[arg-type]
    return build_corpus(section, out, seed=seed, exam_texts=exam, progress=SilentProgress())  # type: ignore[arg-type]


def texts(out: Path) -> dict[str, str]:
    """All rows of a corpus, both splits, by source."""
    return {d.source: d.text for split in ("train", "heldout") for d in read_documents(out, split)}  # type: ignore[arg-type]


def write_notes(folder: Path, count: int = 30, sentences: int = 20) -> None:
    """A folder of different notes, half of them Chinese."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        make = chinese if number % 2 else english
        (folder / f"note{number:03}.txt").write_text(make(number, sentences), "utf-8")
