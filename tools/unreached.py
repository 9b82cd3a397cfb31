"""Lines of src/saelab behind no door: what neither a verb, nor the public face, nor an import reaches.

    python tools/unreached.py [FOLDER]

Doors are the verbs' functions (saelab/cli), the names of saelab/__init__.py, and what runs when a module is imported. A
name that reached code mentions (short strings count: catalogues and child processes name functions in them) reaches
every function and class so called, so the count errs on the low side.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).parents[1] / "src" / "saelab"
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
LONGEST = 200  # characters of a string that may name something


def unreached(src: Path = SRC) -> dict[str, int]:
    """Functions, classes and methods that no door reaches, as `file:line name`, with their lines."""
    own: dict[str, tuple[str, int, set[str]]] = {}
    called = defaultdict(list)
    todo: set[str] = set()
    for path in sorted(src.rglob("*.py")):
        tree, name = ast.parse(path.read_text(encoding="utf-8")), str(path.relative_to(src))
        for node in ast.walk(tree):
            if isinstance(node, (*FUNCTION, ast.ClassDef)) and not _of_its_class(node):
                key = f"{name}:{node.lineno} {node.name}"
                own[key] = (node.name, (node.end_lineno or 0) - node.lineno + 1, set(_words_in(node)))
                called[node.name].append(key)
        door = name == "__init__.py" or name.startswith("cli/")
        todo |= {w for node in ast.walk(tree) for w in _words(node)} if door else set(_words_in(tree))
    seen: set[str] = set()
    while todo:
        seen |= todo
        todo = {word for name in todo for key in called[name] for word in own[key][2]} - seen
    return {key: lines for key, (name, lines, _) in own.items() if name not in seen}


def _words_in(node: ast.AST) -> Iterator[str]:
    """All that a function mentions; of a module or class, what stands in no function or class inside it."""
    if isinstance(node, FUNCTION):
        yield from (word for part in ast.walk(node) for word in _words(part))
        return
    for child in ast.iter_child_nodes(node):
        yield from _words(child)
        if not isinstance(child, (*FUNCTION, ast.ClassDef)) or _of_its_class(child):
            yield from _words_in(child)


def _words(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < LONGEST:
        yield from re.findall(r"\w+", node.value)


def _of_its_class(node: ast.AST) -> bool:
    """Whether Python or pydantic calls a method, so that it is reached with its class."""
    return isinstance(node, FUNCTION) and (
        node.name.startswith("__") or any("validator" in ast.unparse(d) for d in node.decorator_list)
    )


if __name__ == "__main__":
    lines = unreached(Path(sys.argv[1]) if len(sys.argv) > 1 else SRC)
    for name, count in lines.items():
        print(f"{count:5} {name}")
    print(
        f"{sum(lines.values()):5} lines, {sum(n for k, n in lines.items() if k.startswith('stats/'))} of them in stats"
    )
