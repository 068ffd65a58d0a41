r"""Answers in LaTeX as the authors of MATH compare them (Hendrycks et al. 2021, arXiv:2103.03874): as text, one way of writing aside.

It is stricter than a comparison of values (0.5 is \frac{1}{2}, but 0.25 is not \frac{1}{4}), and what published figures use.
"""

_LEFT_OUT = ("\n", "\\!")
_COMMANDS = ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$")
UNIT = "\\text{ "


def same_latex(one: str, other: str) -> bool:
    """Whether two answers are the same text in one way of writing; as they stand, where one cannot be brought to it."""
    try:
        return one_way(one) == one_way(other)
    except ValueError:
        return one == other


def one_way(text: str) -> str:
    """The one way of writing. Raises ValueError for what has none."""
    for mark in _LEFT_OUT:
        text = text.replace(mark, "")
    text = text.replace("\\\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac")
    for command in _COMMANDS:
        text = text.replace(command, "")
    text = _without_unit(text).replace("\\%", "")
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    text = f"0{text}" if text.startswith(".") else text
    name, sign, value = text.partition("=")
    if sign and "=" not in value and len(name) <= 2:
        text = value
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    text = "\\frac{1}{2}" if text == "0.5" else text
    return _as_fraction(text)


def _as_fraction(text: str) -> str:
    """1/2 as a fraction. Raises ValueError for a quotient of what is no whole number, which theirs cannot bring to one form."""
    parts = text.split("/")
    if len(parts) != 2:
        return text
    above, below = int(parts[0]), int(parts[1])
    return f"\\frac{{{above}}}{{{below}}}" if text == f"{above}/{below}" else text


def _without_unit(text: str) -> str:
    if text.count(UNIT) > 1:
        raise ValueError(f"{text!r} has two units")
    return text.partition(UNIT)[0]


def _braced_roots(text: str) -> str:
    before, *roots = text.split("\\sqrt")
    if not all(roots):
        raise ValueError(f"{text!r} has a root of nothing")
    return before + "".join("\\sqrt" + (root if root[0] == "{" else f"{{{root[0]}}}{root[1:]}") for root in roots)


def _braced_fractions(text: str) -> str:
    r"""\frac12 and \frac1{72} as \frac{1}{2} and \frac{1}{72}."""
    made, *parts = text.split("\\frac")
    for part in parts:
        if not part:
            raise ValueError(f"{text!r} has a fraction of nothing")
        if part[0] != "{" and len(part) < 2:
            return text
        braced = part[0] == "{"
        below = part[1:] if part[1:2] == "{" else f"{{{part[1:2]}}}{part[2:]}"
        made += "\\frac" + (part if braced else f"{{{part[0]}}}{below}")
    return made
