"""The public module: what it exports is what the docs name, and every function of it can be called from there."""

import ast
import subprocess
import sys
from pathlib import Path

import saelab.stats as public

DOCS = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text()


def test_every_public_name_is_a_function_with_a_page() -> None:
    for name in public.__all__:
        assert callable(getattr(public, name)) and getattr(public, name).__doc__, name
        assert f"{name}" in DOCS, f"docs/statistics.md says nothing of {name}"


def test_the_module_needs_no_torch_and_gives_functions_whatever_was_imported_before() -> None:
    code = (
        "import sys, saelab.stats.reliability, saelab.stats.agreement; from saelab.stats import agreement, reliability;"
        "print(callable(agreement), callable(reliability), 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["True", "True", "False"]


def test_the_examples_of_the_page_run() -> None:
    """Every Python block of docs/statistics.md, one after the other in one process."""
    blocks = DOCS.split("```python\n")[1:]
    assert blocks, "the page has examples"
    scope: dict[str, object] = {}
    for block in blocks:
        code = block.split("```")[0]
        ast.parse(code)
        exec(code, scope)
