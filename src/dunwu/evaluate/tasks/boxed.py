r"""What LaTeX puts into a box, \boxed{…}, which is how solutions of competition mathematics mark their answer."""

import re

_BOX = re.compile(r"\\(?:boxed|fbox)\s*")


def boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{…}; of one without braces, up to the next $."""
    *_, last = [None, *_BOX.finditer(text)]
    if last is None:
        return None
    if not text.startswith("{", last.end()):
        return re.split(r"\$|\n", text[last.end() :])[0].strip()
    depth = 0
    for at in range(last.end(), len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[last.end() + 1 : at]
    return None
