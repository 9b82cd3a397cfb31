"""The house rules that a machine can check: import direction, no cycles, sizes, a law at the head of every file."""

import ast
from pathlib import Path
from statistics import median

import pytest

from saelab.interp.suite.catalogue import CATALOGUE

SRC = Path(__file__).parents[1] / "src" / "saelab"

# A module imports only from lower rows; packages of one row do not import each other.
LAYERS = [
    {"core"},
    {"store"},
    {"saes", "lm", "text"},
    {"activations", "judges", "adapters"},
    {"training"},
    {"selection"},
    {"steering", "interp", "matching", "stats"},
    {"study", "report"},
    {"publish", "workflow.py"},
    {"cli"},
]
RANK = {name.removesuffix(".py"): i for i, row in enumerate(LAYERS) for name in row}

# Files or functions over the house figures, each with its reason.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}

MODULES = sorted(p for p in SRC.rglob("*.py") if p.stat().st_size)
IDS = [str(p.relative_to(SRC)) for p in MODULES]


def imports_of(path: Path) -> set[str]:
    """Full names of the saelab modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "saelab"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} uses a relative import"
            if node.module and node.module.split(".")[0] == "saelab":
                found |= {f"{node.module}.{a.name}" for a in node.names} | {node.module}
    return found


def package_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in RANK else None


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_imports_point_down(path: Path) -> None:
    """A module imports only lower layers; a package façade is imported by nobody inside."""
    own = path.relative_to(SRC).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for module in imports_of(path):
        assert module != "saelab" or own == "cli", f"{path} imports the façade"
        other = package_of(module)
        if other is not None and other != own:
            assert RANK[other] < RANK[own], f"{own} must not import {other} ({path.name})"


def test_the_layer_rule_can_fail() -> None:
    """Control: the rule would refuse training importing steering, and siblings importing each other."""
    assert RANK["steering"] > RANK["training"]
    assert RANK["saes"] == RANK["lm"] == RANK["text"]


def test_no_import_cycles() -> None:
    names = {"saelab." + ".".join(p.relative_to(SRC).with_suffix("").parts): p for p in MODULES}
    names = {n.removesuffix(".__init__"): p for n, p in names.items()}
    graph = {n: {m for m in imports_of(p) if m in names and m != n} for n, p in names.items()}
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, " -> ".join((*trail, node))
        if node in done:
            return
        for target in graph[node]:
            visit(target, (*trail, node))
        done.add(node)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_house_figures(path: Path) -> None:
    """Files under 400 lines, functions under 60 of body, at most six positional arguments, a law at the head."""
    name = str(path.relative_to(SRC))
    tree = ast.parse(path.read_text())
    assert len(ast.get_docstring(tree) or "") > 40, f"{name} does not say what it is"
    lines = len(path.read_text().splitlines())
    assert lines <= 400 or name in LONG_FILES, f"{name} has {lines} lines"
    for function in functions(path):
        opening = function.body[0]
        documented = ast.get_docstring(function) is not None
        first = opening.end_lineno if documented else function.lineno
        length = (function.end_lineno or 0) - (first or 0) + 1
        assert length <= 60 or f"{name}:{function.name}" in LONG_FUNCTIONS, f"{name}:{function.name} has {length} lines"
        positional = [a for a in function.args.posonlyargs + function.args.args if a.arg not in ("self", "cls")]
        assert len(positional) <= 6, f"{name}:{function.name} takes {len(positional)} positional arguments"
        public = not function.name.startswith("_")
        assert not public or function.returns is not None, f"{name}:{function.name} has no return type"
    assert "from __future__ import annotations" not in path.read_text(), "defeats the shape checks"


def test_median_module_is_short() -> None:
    assert median(len(p.read_text().splitlines()) for p in MODULES) <= 150


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_no_global_randomness(path: Path) -> None:
    """Randomness comes from named generators: no global seeds, no draws from the global state."""
    text = path.read_text()
    for banned in ("torch.manual_seed(", "np.random.seed(", "random.seed(", "import random"):
        assert banned not in text, f"{path.name} uses {banned}"


def test_base_layers_need_no_torch() -> None:
    """`stats` and `report` (and what they stand on) import without torch."""
    for package in ("core", "stats", "report"):
        for path in (SRC / package).rglob("*.py"):
            at_import = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not any("torch" in ast.unparse(n) for n in at_import), path


# --- catalogues are the only source ---

# Files that mean something else by an evaluation's name, each with what they mean.
OTHER_MEANINGS = {
    "judges/marks.py": {"fuzzing": "a task of judges"},
    "interp/features/fuzzing.py": {"fuzzing": "the name of a random stream"},
}


def strings_of(source: str) -> set[str]:
    """The string literals of a file, without docstrings."""
    nodes = list(ast.walk(ast.parse(source)))
    prose = {id(n.value) for n in nodes if isinstance(n, ast.Expr)}
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in prose}


def evaluations_named_in(source: str, name: str) -> set[str]:
    """Evaluations that a file names although it is neither the catalogue nor their own file."""
    if name == "interp/suite/catalogue.py":
        return set()
    module = "saelab." + name.removesuffix(".py").replace("/", ".")
    others = {e.kind for e in CATALOGUE.values() if e.module != module and e.kind != e.needs}
    return (strings_of(source) & others) - set(OTHER_MEANINGS.get(name, ()))


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_evaluations_are_named_in_their_catalogue_alone(path: Path) -> None:
    assert not evaluations_named_in(path.read_text(), str(path.relative_to(SRC)))


def test_the_rule_of_evaluation_names_can_fail() -> None:
    source = '"""Of tpp."""\nif kind == "tpp":\n    pass\n'
    assert evaluations_named_in(source, "report/tables.py") == {"tpp"}
    assert not evaluations_named_in(source, "interp/suite/tpp.py")
