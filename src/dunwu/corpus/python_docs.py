"""The documentation of the Python that dunwu runs on: language topics and the docstrings of the standard library.

Real, well-edited English that every machine has. Modules are parsed, never imported.
"""

import ast
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

from dunwu.core.records import Document

_MIN_DOCSTRING_CHARS = 80
_SKIPPED = (
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "pydoc_data",
    "turtledemo",
    "ensurepip",
    "__pycache__",
)


def python_documents(max_bytes: int) -> Iterator[Document]:
    """One document a topic and a module, the modules in turn of their names, until `max_bytes` of text are given."""
    left = max_bytes
    for name, text in _texts():
        size = len(text.encode())
        if size > left:
            continue
        left -= size
        yield Document(text=text, source=f"python{sys.version_info[0]}.{sys.version_info[1]}/{name}", language="en")
        if left < 2 * _MIN_DOCSTRING_CHARS:
            return


def _texts() -> Iterator[tuple[str, str]]:
    for name in sorted(topics):
        yield f"topics/{name}", topics[name].strip()
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if not any(part in _SKIPPED or part.startswith("_") for part in relative.with_suffix("").parts):
            text = _module_text(path, ".".join(relative.with_suffix("").parts))
            if text:
                yield f"library/{relative.as_posix()}", text


def _module_text(path: Path, module: str) -> str:
    """The docstrings of a module, its classes and functions, each under its name."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return ""
    parts = [f"# {module}\n\n{ast.get_docstring(tree) or ''}".rstrip()]
    for node in tree.body:
        parts.extend(_docstrings(node, ""))
    return "\n\n".join(parts) if len(parts) > 1 or len(parts[0]) > _MIN_DOCSTRING_CHARS else ""


def _docstrings(node: ast.stmt, owner: str) -> Iterator[str]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
        return
    text = ast.get_docstring(node) or ""
    signature = "" if isinstance(node, ast.ClassDef) else f"({ast.unparse(node.args)})"
    if len(text) >= _MIN_DOCSTRING_CHARS:
        yield f"{owner}{node.name}{signature}\n\n{text}"
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            yield from _docstrings(inner, f"{node.name}.")
