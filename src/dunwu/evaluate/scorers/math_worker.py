"""The process in which math-verify compares two expressions; see `math.py`. Argument: the file descriptor to answer on."""

import json
import os
import sys
from typing import Any


def same(gold: str, said: str) -> bool:
    """Whether math-verify holds two final answers equal; what it cannot read is not."""
    from math_verify import parse, verify  # pyright: ignore[reportMissingImports]  an extra

    sides: list[Any] = [parse(f"${text}$") for text in (gold, said)]
    return bool(all(sides) and verify(*sides))


def main() -> None:
    """Answer until there are no more questions."""
    with os.fdopen(int(sys.argv[1]), "w") as pipe:
        for line in sys.stdin:
            question = json.loads(line)
            try:
                found = same(question["gold"], question["said"])
            except Exception:
                found = False
            pipe.write(json.dumps({"same": found}) + "\n")
            pipe.flush()


if __name__ == "__main__":
    main()
