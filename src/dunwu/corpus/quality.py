"""Quality rules, each with a name, a source and a threshold; a document is dropped by the first that it breaks.

The published rules were made for the web, where most of what is met is worthless. A user's own folder is the reverse:
short notes, verse, lists, minutes and code are what it is for. So rules about shape need a text long enough for shares
to mean something, and the strict ones on line shape apply to web pages only. Each docstring says where we differ.

Sources: Gopher, arXiv:2112.11446, appendix A.1.1 and table A1; C4, arXiv:1910.10683, 2.2; FineWeb, arXiv:2406.17557;
Codex, arXiv:2107.03374, 3.1; ChineseWebText, arXiv:2311.01149; WuDaoCorpora, doi:10.1016/j.aiopen.2021.06.001.
"""

from collections.abc import Callable
from dataclasses import dataclass

from dunwu.corpus.shape import Shape

_STOP_WORDS_WANTED = 2
LONG_WORDS = 100  # from here on shares of words and lines mean something


@dataclass(frozen=True, slots=True)
class Rule:
    """A named reason to drop a document. `applies`: kinds of text ("prose", "web", "code") and languages (empty: all)."""

    name: str
    source: str
    threshold: str
    kinds: frozenset[str]
    languages: frozenset[str]
    breaks: Callable[[Shape], bool]

    def applies(self, kind: str, language: str) -> bool:
        """Whether this rule judges such a text."""
        return kind in self.kinds and (not self.languages or language in self.languages)


RULES: list[Rule] = []


def _rule(
    source: str, threshold: str, *, kinds: str = "prose web", languages: str = ""
) -> Callable[[Callable[[Shape], bool]], Callable[[Shape], bool]]:
    def register(breaks: Callable[[Shape], bool]) -> Callable[[Shape], bool]:
        RULES.append(
            Rule(breaks.__name__, source, threshold, frozenset(kinds.split()), frozenset(languages.split()), breaks)
        )
        return breaks

    return register


def broken_rule(shape: Shape, kind: str, language: str) -> str | None:
    """The name of the first rule that a text breaks, or None."""
    for rule in RULES:
        if rule.applies(kind, language) and rule.breaks(shape):
            return rule.name
    return None


# Every kind of text


@_rule("own", "fewer than 20 letters (a Han character counts as 3)", kinds="prose web code")
def almost_empty(shape: Shape) -> bool:
    """Nothing to learn from. Gopher asks for 50 words and WuDaoCorpora for 10 Chinese characters; an own note of one
    sentence is kept here."""
    return shape.letters + 2 * shape.han < 20


@_rule("own, after C4", "more than 1% U+FFFD or private-use characters", kinds="prose web code")
def garbled(shape: Shape) -> bool:
    """A wrong encoding, or a PDF font without a character map."""
    return shape.broken > 0.01 * shape.visible


@_rule("own, after Codex", "more than 30% of the text in words of over 100 characters", kinds="prose web code")
def encoded_data(shape: Shape) -> bool:
    """Base64, keys, minified data."""
    return shape.long_word_chars > 0.3 * shape.visible


# Prose in any language


@_rule("own, after Gopher's share of words with a letter (80%)", "fewer than 40% letters among visible characters")
def few_letters(shape: Shape) -> bool:
    """Tables of numbers, dumps, rules of dashes. Gopher counts words; characters judge Chinese and English alike, and
    the lower bound leaves notes with many figures alone."""
    return shape.visible >= 200 and shape.letters < 0.4 * shape.visible


@_rule("Gopher", "more than 0.1 '#' or ellipses a word")
def symbols(shape: Shape) -> bool:
    """Hashtag lists and teasers; headings of Markdown are not counted."""
    return shape.words >= LONG_WORDS and shape.symbols > 0.1 * shape.words


@_rule("Gopher", "more than 30% of lines end with an ellipsis")
def ellipsis_lines(shape: Shape) -> bool:
    """Teasers of articles that are elsewhere. Needs 10 lines."""
    return shape.lines >= 10 and shape.ellipsis_lines > 0.3 * shape.lines


@_rule("Gopher", "more than 90% of lines start with a bullet, and these have fewer than 4 words on average")
def bullet_lines(shape: Shape) -> bool:
    """Menus. Gopher drops every text of bullets; own notes are often lists, so here the points must be stubs as well."""
    return shape.lines >= 30 and shape.bullet_lines > 0.9 * shape.lines and shape.words < 4 * shape.lines


@_rule("Gopher", "repeated lines hold more than 20% of the characters, or paragraphs more than 20%")
def repeated_lines(shape: Shape) -> bool:
    """Gopher's shares by characters, of lines with at least 20 characters (10 Han): speakers' names in a play and
    refrains in verse are short."""
    return shape.visible >= 500 and max(shape.repeated_line_share, shape.repeated_paragraph_share) > 0.2


@_rule("Gopher", "one 2-, 3- or 4-gram covers more than 20, 18 or 16% of the characters")
def top_ngram(shape: Shape) -> bool:
    """The same phrase over and over. Lexemes (words, or single Han characters) in place of words."""
    return shape.words >= LONG_WORDS and any(
        share > limit for share, limit in zip(shape.top_ngram_shares, (0.20, 0.18, 0.16), strict=True)
    )


@_rule("Gopher; ChineseWebText for 13-grams", "repeated 10-grams cover more than 30% of the characters")
def repeated_ngrams(shape: Shape) -> bool:
    """Text made from a template. Gopher's 10% (and ChineseWebText's 50% of 13-grams) were set on web pages; contracts,
    manuals and laws repeat their phrases by nature, so the bound lies between."""
    return shape.words >= LONG_WORDS and shape.repeated_10gram_share > 0.3


# English


@_rule("Gopher", "mean word length outside 3 to 10 characters", languages="en")
def word_length(shape: Shape) -> bool:
    """Broken spacing, or lists of identifiers."""
    return shape.words >= LONG_WORDS and not 3 <= shape.mean_word_length <= 10


@_rule("Gopher", "fewer than 2 of: the be to of and that have with", languages="en")
def stop_words(shape: Shape) -> bool:
    """Words, but no sentences. Gopher asks it of every text; here it needs 100 words, so short notes pass."""
    return shape.words >= LONG_WORDS and shape.stop_words < _STOP_WORDS_WANTED


@_rule("FineWeb", "at most 12% of lines end with punctuation and 67% are shorter than 30 characters", kinds="web")
def page_of_links(shape: Shape) -> bool:
    """Menus and tables of a web page. FineWeb drops by either share; both are asked for here, of 10 lines or more."""
    return shape.lines >= 10 and shape.ended_lines <= 0.12 * shape.lines and shape.short_lines >= 0.67 * shape.lines


# Chinese


@_rule("ChineseWebText", "fewer than 30% Han among visible characters", kinds="web", languages="zh")
def few_han(shape: Shape) -> bool:
    """Pages of links and codes. Asked of web pages only: own technical notes mix languages."""
    return shape.visible >= 200 and shape.han < 0.3 * shape.visible


@_rule("own, after C4's end punctuation", "fewer than 1 mark in 100 characters, and lines of over 100", languages="zh")
def no_punctuation(shape: Shape) -> bool:
    """Strings of keywords. Verse without punctuation has short lines, and is kept."""
    return shape.han >= 500 and shape.marks < 0.01 * shape.visible and shape.visible > 100 * max(1, shape.lines)


# Code


@_rule("Codex", "mean line over 100 characters, or a line over 1,000 that holds a third of the text", kinds="code")
def generated_code(shape: Shape) -> bool:
    """Minified or generated code. Codex drops for any line over 1,000; one long table in a file is kept here."""
    return shape.mean_line_length > 100 or (shape.longest_line > 1000 and shape.longest_line > shape.visible / 3)


@_rule("Codex", "fewer than 25% letters and digits", kinds="code")
def few_alphanumerics(shape: Shape) -> bool:
    """Data, not code."""
    return shape.letters + shape.digits < 0.25 * shape.visible
