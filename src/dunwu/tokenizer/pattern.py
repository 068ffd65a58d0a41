"""Where text is cut before merges are learned: one regular expression that three engines read alike.

Oniguruma (Hugging Face `tokenizers`), Rust's fancy-regex (tiktoken) and Python's `regex` give the same cuts for it; a test
compares the first two over every code point. It follows the family of GPT-4's and Qwen's patterns and differs in two ways:
runs of Chinese characters and kana stand apart from Latin words, and digits stand alone. llama.cpp gives the same ids by one
of its own rules: see GGUF_RULE.

A line of a gigabyte costs linear time and no stack. What fancy-regex hands to its automaton (the group) may be of any length;
a count above some 40 there makes the automaton too large to be fast, but for Chinese, whose ranges are few. What backtracks
(the look-ahead), or reads blanks that another alternative reads again, is bounded. The group is one call for most words, where
separate alternatives would be five.
"""

import re
from collections.abc import Iterator

# The longest runs, in characters, that one pre-token may hold.
RUN_CJK = RUN_SPACES = 512

# Letters alone: Han with its extensions, iteration marks, kana. Written as ranges: the property \p{Han} changes with Unicode's
# version; in escapes where an editor would normalise the character.
CJK = (
    "一-鿿㐀-䶿\uf900-\ufa6d\ufa70-\ufad9\U00020000-\U0003fffd々〆"
    "\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ffㇰ-ㇿ"
)

_AUTOMATON = (
    r"'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])",
    rf"[{CJK}]{{1,{RUN_CJK}}}",
    rf"[^\r\n\p{{L}}\p{{M}}\p{{N}}]?[\p{{L}}\p{{M}}&&[^{CJK}]]+",
    r"\p{N}",
    rf" ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]{{0,{RUN_SPACES}}}",
    rf"\s{{0,{RUN_SPACES}}}[\r\n]{{1,{RUN_SPACES}}}",
)
_BACKTRACKING = (
    rf"\s{{1,{RUN_SPACES}}}(?!\S)",  # leaves the last space to the word that follows
    rf"\s{{1,{RUN_SPACES}}}",
)
PATTERN = "|".join((f"(?:{'|'.join(_AUTOMATON)})", *_BACKTRACKING))
GGUF_RULE = "qwen35"
"""llama.cpp's rule that gives the same ids. It knows a closed list of rules; PATTERN makes every cut that this one makes, and
no token of a vocabulary learned under PATTERN spans the cuts that PATTERN makes besides (Chinese from Latin). Only where a run
of blanks or of Chinese is longer than 512 may an id differ, as it cuts no run."""

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
