"""Where text is cut before merges are learned: one regular expression that three engines read alike.

Oniguruma (Hugging Face `tokenizers`), Rust's fancy-regex (tiktoken) and Python's `regex` give the same cuts for it; a test
compares the first two over every code point. It follows the family of GPT-4's and Qwen's patterns and differs in three ways:
runs of Chinese characters and kana stand apart from Latin words, digits stand alone, and every run is bounded, so that a
line of a gigabyte costs linear time and no stack.
"""

import re
from collections.abc import Iterator

RUN = 32  # the longest run, in characters, that one pre-token may hold

# Han with its extensions, iteration marks, and kana. Written as ranges: the property \p{Han} changes with Unicode's version.
CJK = "一-鿿㐀-䶿豈-﫿\U00020000-\U0003fffd々〆〇\u3040-\u30ffㇰ-ㇿ"

PATTERN = "|".join(
    (
        r"'(?:[sdmtSDMT]|ll|LL|ve|VE|re|RE)",
        rf"[{CJK}]{{1,{RUN}}}",
        rf"[^\r\n\p{{L}}\p{{M}}\p{{N}}]?[\p{{L}}\p{{M}}&&[^{CJK}]]{{1,{RUN}}}",
        r"\p{N}",
        rf" ?[^\s\p{{L}}\p{{M}}\p{{N}}]{{1,{RUN}}}[\r\n]{{0,{RUN}}}",
        rf"\s{{0,{RUN}}}[\r\n]{{1,{RUN}}}",
        rf"\s{{1,{RUN}}}(?!\S)",  # leaves the last space to the word that follows
        rf"\s{{1,{RUN}}}",
    )
)

# No alternative of PATTERN crosses these places, and nothing in it looks behind: cutting there changes no pre-token.
_SAFE_CUT = re.compile(rf"(?<=\S)(?= )|(?<=[{CJK}])(?=[^{CJK}])")


def safe_pieces(text: str, size: int) -> Iterator[str]:
    """Cut `text` into pieces of about `size` characters such that PATTERN cuts the pieces as it cuts the whole.

    A text without a safe place (a run of one million letters) comes whole. Valid for PATTERN only.
    """
    start = 0
    while len(text) - start > size:
        place = _SAFE_CUT.search(text, start + size)
        if place is None:
            break
        yield text[start : place.start()]
        start = place.start()
    yield text[start:]
