"""Quality rules: rubbish is dropped by the rule made for it, and what a person would keep is kept."""

import gzip
import json
import random
import string
from collections import Counter

import pytest
from document_files import SHARED, chinese, english

from dunwu.core.records import Document
from dunwu.corpus.language import identify
from dunwu.corpus.quality import RULES, broken_rule
from dunwu.corpus.readers import SourceFile, read_file
from dunwu.corpus.shape import shape_of


def judged(text: str, kind: str = "prose") -> str | None:
    return broken_rule(shape_of(text), kind, "code" if kind == "code" else identify(text))


_RANDOM = random.Random(0)
_BASE64 = "".join(_RANDOM.choices(string.ascii_letters + string.digits, k=3000))
_NUMBERS = "\n".join(" ".join(str(_RANDOM.randint(0, 9999)) for _ in range(10)) for _ in range(60))
_KEYWORDS = "".join(_RANDOM.choices("网站优化推广价格手机电脑软件下载免费最新排名公司服务产品", k=900))

RUBBISH = [
    ("almost_empty", "x", "prose"),
    ("almost_empty", "12 / 24", "prose"),
    ("garbled", "锟斤拷" + "\ufffd" * 30 + english(1), "prose"),
    ("encoded_data", _BASE64, "prose"),
    ("few_letters", _NUMBERS, "prose"),
    ("symbols", "#love #life and so on... " * 100, "prose"),
    ("ellipsis_lines", "\n".join(f"{line[:50]}..." for line in english(2, 60).split("\n") if line), "prose"),
    ("bullet_lines", "\n".join(f"- {word} {number}" for number, word in enumerate(english(3, 5).split())), "prose"),
    ("repeated_lines", english(4, 5) + "\n" + ("This sentence comes again and again in the page.\n" * 30), "prose"),
    ("top_ngram", "buy now " * 40 + english(5, 6), "prose"),
    (
        "repeated_ngrams",
        "\n".join(
            f"The item {n} {w} is made of good wood and will last for a very long time"
            for n, w in enumerate(english(6, 20).split())
        ),
        "prose",
    ),
    ("word_length", " ".join(word for word in english(7, 40)) + " the and of", "prose"),
    (
        "stop_words",
        " ".join(
            _RANDOM.choices(
                ["quickly", "running", "for", "his", "was", "he", "as", "this", "by", "all", "one", "more"], k=400
            )
        ),
        "prose",
    ),
    (
        "page_of_links",
        "\n".join(f"{line[:25]}" for line in english(8, 60).replace(".", "\n").split("\n") if line),
        "web",
    ),
    ("few_han", "第一页 " * 4 + "http://example.com/a/b?c=d&e=f " * 20, "web"),
    ("no_punctuation", _KEYWORDS, "prose"),
    ("generated_code", "var a=[" + ",".join(f"f{n}(x{n})" for n in range(400)) + "];", "code"),
    ("few_alphanumerics", ("(){}[];;,,..<<>>==++--&&||!!~~^^\n" * 20) + "def name_of_function", "code"),
]


@pytest.mark.parametrize(
    ("rule", "text", "kind"), RUBBISH, ids=[f"{rule}-{n}" for n, (rule, _, _) in enumerate(RUBBISH)]
)
def test_rubbish_breaks_its_rule(rule: str, text: str, kind: str) -> None:
    (found,) = [one for one in RULES if one.name == rule]
    assert found.breaks(shape_of(text))
    assert judged(text, kind) is not None or not found.applies(kind, identify(text))


def test_every_rule_has_an_example_a_source_and_a_threshold() -> None:
    assert {rule.name for rule in RULES} == {name for name, _, _ in RUBBISH}
    assert all(rule.source and rule.threshold and rule.breaks.__doc__ for rule in RULES)


KEPT = [
    ("Call the plumber on Monday about the kitchen tap.", "prose"),
    ("周五前把报告发给王老师，别忘了附上图表。", "prose"),
    (english(10, 100), "prose"),
    (chinese(11, 100), "prose"),
    ("床前明月光，\n疑是地上霜。\n举头望明月，\n低头思故乡。", "prose"),
    ("\n".join(f"- [ ] {line}" for line in english(12, 60).split(". ")), "prose"),
    ("\n".join(f"ROMEO:\n{english(n, 1)}\n\nJULIET:\n{english(n + 100, 1)}\n" for n in range(40)), "prose"),
    ("Roses are red,\nViolets are blue,\nSugar is sweet,\nAnd so are you.\n", "prose"),
    ("| name | price |\n|---|---|\n| apples in a bag | 3 |\n| pears from the garden | 4 |", "prose"),
    ("def add(a, b):\n    return a + b\n\n\nclass Point:\n    x: int = 0\n", "code"),
    (
        "import numpy as np\n\nTABLE = [" + ", ".join(map(str, range(300))) + "]\n" + "x = np.array(TABLE)\n" * 300,
        "code",
    ),
    ("# 计算平均值\ndef 平均(数):\n    return sum(数) / len(数)\n", "code"),
]


@pytest.mark.parametrize(("text", "kind"), KEPT, ids=range(len(KEPT)))
def test_what_people_write_is_kept(text: str, kind: str) -> None:
    assert judged(text, kind) is None


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not beside this checkout")
@pytest.mark.parametrize(
    "name", ["zh_poetry_classics", "en_tinyshakespeare", "zh_classical_modern", "en_wikitext2", "en_tinystories"]
)
def test_real_verse_plays_and_stories_are_kept(name: str) -> None:
    dropped, read = Counter[str](), 0
    for path in sorted((SHARED / name).glob("*.gz")):
        key = "classical" if name == "zh_classical_modern" else "auto"
        documents = [part.text for part in read_file(SourceFile(path, path.name), key) if isinstance(part, Document)]
        if name == "zh_classical_modern":  # single sentences: a chapter is some dozens
            documents = ["".join(documents[start : start + 50]) for start in range(0, 20_000, 50)]
        for text in documents:
            for part in [text[start : start + 5000] for start in range(0, min(len(text), 400_000), 5000)]:
                read += 1
                dropped.update([rule] if (rule := judged(part)) else [])
    assert read
    assert dropped.total() <= 0.02 * read, dropped


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not beside this checkout")
def test_most_real_web_pages_are_kept() -> None:
    rows = gzip.decompress((SHARED / "en_web_demo" / "c4_demo.jsonl.gz").read_bytes()).decode("utf-8").splitlines()
    texts = [json.loads(row)["text"] for row in rows]
    assert sum(judged(text) is None for text in texts) >= 0.85 * len(texts)
