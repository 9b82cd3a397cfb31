"""The house rules that a machine can check: import direction, no cycles, sizes, a law at the head of every file."""

import ast
import re
import runpy
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import pytest

from saelab.interp.suite.catalogue import CATALOGUE
from saelab.judges.catalogue import JUDGES
from saelab.lm.families import FAMILIES
from saelab.matching.baselines import BASELINES
from saelab.saes.catalogue import ARCHITECTURES
from saelab.selection.criteria.catalogue import CRITERIA, that_read
from saelab.steering.arms import FORMER
from saelab.steering.concepts.directions.catalogue import METHODS

SRC = Path(__file__).parents[1] / "src" / "saelab"

# A module imports only from lower rows; packages of one row do not import each other.
LAYERS = [
    {"core"},
    {"store"},
    {"saes", "lm", "text"},
    {"activations", "judges", "adapters", "stats"},
    {"training"},
    {"selection"},
    {"steering", "interp", "matching"},
    {"instrument"},
    {"study", "report"},
    {"explore"},
    {"publish", "human", "workflow.py"},
    {"cli"},
    {"__main__.py"},
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


def upward(path: Path, src: Path) -> list[str]:
    """Imports of a file in a package's folder that point up, sideways, or at the façade."""
    own = path.relative_to(src).parts[0].removesuffix(".py")
    found = []
    for module in sorted(imports_of(path)):
        other = package_of(module)
        if module == "saelab" and own != "cli":
            found.append(f"{path.name} imports the façade")
        elif other is not None and other != own and RANK[other] >= RANK[own]:
            found.append(f"{own} must not import {other} ({path.name})")
    return found


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_imports_point_down(path: Path) -> None:
    """A module imports only lower layers; a package façade is imported by nobody inside."""
    if path != SRC / "__init__.py":
        assert not upward(path, SRC)


@pytest.mark.parametrize(
    ("room", "line", "broken"),
    [
        ("training", "from saelab.steering.plan import Row", True),
        ("saes", "import saelab.lm.model", True),
        ("stats", "def later():\n    from saelab.interp import run", True),
        ("core", "import saelab", True),
        ("steering", "from saelab.training.run import run", False),
    ],
)
def test_the_layer_rule_can_fail(tmp_path: Path, room: str, line: str, broken: bool) -> None:
    """Control: a file that looks up, sideways, late or at the façade is refused, and one that looks down is not."""
    (tmp_path / room).mkdir()
    path = tmp_path / room / "new.py"
    path.write_text(line)
    assert bool(upward(path, tmp_path)) == broken


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


def at_import(path: Path) -> set[str]:
    """Full names of what a file imports when it is itself imported: not in functions, not for the type checker."""
    found, todo = set[str](), list[ast.stmt](ast.parse(path.read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.If | ast.Try | ast.With) and "TYPE_CHECKING" not in ast.unparse(node):
            todo += [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
    return found


def way_to(banned: str, start: Path, src: Path) -> list[str]:
    """How importing a file leads to a banned package, file by file; empty if it does not. src: the package's folder."""
    files = {".".join(p.relative_to(src.parent).with_suffix("").parts): p for p in src.rglob("*.py")}
    files = {name.removesuffix(".__init__"): p for name, p in files.items()}
    todo, seen = [(start, [start.name])], {start}
    while todo:
        path, way = todo.pop()
        for name in sorted(at_import(path)):
            parts = name.split(".")
            if parts[0] == banned:
                return [*way, name]
            for file in (files.get(".".join(parts[:n])) for n in range(1, len(parts) + 1)):  # importing a.b runs a
                if file is not None and file not in seen:
                    seen.add(file)
                    todo.append((file, [*way, file.name]))
    return []


@pytest.mark.parametrize("package", ["core", "stats", "report"])
def test_base_layers_need_no_torch(package: str) -> None:
    """They, and all that importing them imports, import without torch."""
    for path in (SRC / package).rglob("*.py"):
        assert not way_to("torch", path, SRC)


def test_the_rule_of_torch_can_fail(tmp_path: Path) -> None:
    """Control: two files away it is found; inside a function or for the type checker it does not count."""
    src = tmp_path / "saelab"
    src.mkdir()
    files = {
        "a": "from saelab.b import x",
        "b": "import saelab.c",
        "c": "try:\n    import torch\nexcept ImportError: ...",
    }
    for name, text in files.items():
        (src / f"{name}.py").write_text(text)
    assert way_to("torch", src / "a.py", src) == ["a.py", "b.py", "c.py", "torch"]
    (src / "c.py").write_text("if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch")
    assert not way_to("torch", src / "a.py", src)


IGNORE = re.compile(r"#\s*(?:pyright|type):\s*ignore|#\s*noqa")
REASONED = re.compile(r"# (?:pyright: ignore\[\w+\]|noqa: [A-Z]+\d+)\s+\(.+\)$")


def test_few_ignores_each_with_its_code_and_its_reason() -> None:
    found = [line.strip() for p in MODULES for line in p.read_text().splitlines() if IGNORE.search(line)]
    assert len(found) <= 20 and not [line for line in found if not REASONED.search(line)]
    for bad in ("x = 1  # noqa", "x = 1  # type: ignore[arg-type]", "x = 1  # pyright: ignore[reportCallIssue]"):
        assert IGNORE.search(bad) and not REASONED.search(bad), "control"


# --- catalogues are the only source ---

# Where a catalogue's names stand: the catalogue, and the files of its entries.
HOMES: dict[str, tuple[set[str], str]] = {
    "criterion": (set(CRITERIA) - {*that_read("nothing")}, r"selection/criteria/.*"),
    # What other libraries call an architecture is translated by the formats; transcoders name activation functions.
    "architecture": (set(ARCHITECTURES), r"saes/(architectures/.*|formats/.*|transcoder\.py|crosscoder\.py)"),
    "judge": (set(JUDGES), r"judges/.*"),
    "direction": (set(METHODS), r"steering/concepts/directions/.*"),
    "matching baseline": (
        {b.name for b in BASELINES.values() if b.predict or b.pairs} - {"random", "identity"},
        r"matching/.*",
    ),
    "LM family": (set(FAMILIES), r"lm/(families|facts|tiny)\.py"),
}
# Files that mean something else by a catalogue's name, each with what they mean.
OTHER_MEANINGS = {
    "saes/across.py": dict.fromkeys(("relu", "jumprelu", "topk"), "an activation function of transcoders"),
    "steering/arms.py": dict.fromkeys(FORMER.values(), "what former keys of study files chose by"),
    "steering/methods.py": {"sae_feature": "the method of a whole stage, not of a fit"},
    "interp/suite/probes.py": {"probe": "the name of a random stream"},
    "interp/features/describe.py": {"previous": "the token before"},
    "cli/steer.py": {"kl": "a unit of strength"},
    "study/on_ray.py": {"local": "Ray's own address"},
    "saes/formats/pickled_files.py": {"openai": "a format of files"},
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


def catalogue_names_in(source: str, name: str, kind: str) -> set[str]:
    """Names of a catalogue that a file holds although it is not at home there."""
    names, home = HOMES[kind]
    return set() if re.fullmatch(home, name) else (strings_of(source) & names) - set(OTHER_MEANINGS.get(name, ()))


@pytest.mark.parametrize("kind", HOMES)
def test_names_stand_in_their_catalogue_alone(kind: str) -> None:
    found = {str(p.relative_to(SRC)): catalogue_names_in(p.read_text(), str(p.relative_to(SRC)), kind) for p in MODULES}
    assert not {name: names for name, names in found.items() if names}


@pytest.mark.parametrize("kind", HOMES)
def test_the_rule_of_names_can_fail(kind: str) -> None:
    """Control: every name is found in a foreign file, and neither in a docstring nor at home."""
    for name in HOMES[kind][0]:
        assert catalogue_names_in(f"if kind == {name!r}:\n    pass\n", "report/new.py", kind) == {name}
        assert not catalogue_names_in(f'"""{name}"""\n', "report/new.py", kind)


# Files of other libraries and data sets have the names that those gave them.
FOREIGN_NAMES = r"saes/formats/.*|lm/sources\.py|steering/concepts/axbench\.py"
LAYOUT_FILES = ("store/layout.py", "store/folders.py")
LAYOUT = "".join((SRC / name).read_text() for name in LAYOUT_FILES)
ARTEFACTS = set(re.findall(r'"([a-z_]+\.(?:parquet|json|sqlite|safetensors|yaml|html))"', LAYOUT))


def artefact_names_in(source: str, name: str) -> set[str]:
    """Names of saelab's own files that a file holds: those of the layout, and any table's or tensors'."""
    if name in LAYOUT_FILES or re.fullmatch(FOREIGN_NAMES, name):
        return set()
    made = re.findall(r'f"[^"\n]*\}\.(?:parquet|safetensors)"', source)
    return {s for s in strings_of(source) if s in ARTEFACTS or re.fullmatch(r".+\.(parquet|safetensors)", s)} | set(
        made
    )


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_artefacts_are_named_in_the_layout_alone(path: Path) -> None:
    assert not artefact_names_in(path.read_text(), str(path.relative_to(SRC)))


def test_the_rule_of_artefact_names_can_fail() -> None:
    source = (
        '"""Reads fidelity.json."""\nread(folder / "fidelity.json")\nread(f"{site}.safetensors")\nread("new.parquet")\n'
    )
    found = artefact_names_in(source, "report/new.py")
    assert found == {"fidelity.json", 'f"{site}.safetensors"', "new.parquet"}
    assert not artefact_names_in(source, "saes/formats/new.py") and len(ARTEFACTS) > 15


# --- doors ---

unreached = runpy.run_path(str(SRC.parents[1] / "tools" / "unreached.py"))["unreached"]
# What no verb and no name of the public face reaches, each with who does.
REACHED_OTHERWISE = {
    "explore/server.py handle_exit": "uvicorn",
    "explore/server.py startup": "uvicorn",
    "lm/edit.py Ablate": "docs/lm.md: users of LanguageModel",
    "lm/edit.py Splice": "docs/lm.md: users of LanguageModel",
    "lm/blocks.py get_seq_length": "attentions of transformers",
    "lm/tiny.py tiny_tokenizer": "tiny_lm",
    "lm/past.py get_mask_sizes": "masks of transformers",
    "lm/past.py get_query_offset": "masks of transformers",
    "lm/past.py get_seq_length": "masks of transformers",
    "lm/past.py has_previous_state": "masks of transformers",
    "lm/tiny.py tiny_lm": "tests, examples and benchmarks: a model without files",
    "lm/tiny.py _shapes": "tiny_lm",
    "text/unpack.py readinto": "io.BufferedReader",
    "text/unpack.py _unpack": "readinto",
}


def test_no_code_is_behind_no_door() -> None:
    """What no verb, study or public name leads to is deleted."""
    found = {re.sub(r":\d+", "", name) for name in unreached()}
    assert found == set(REACHED_OTHERWISE)


def test_the_rule_of_doors_can_fail(tmp_path: Path) -> None:
    """Control: what only unreached code calls is found; what a verb's function or a table leads to is not."""
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "__init__.py").write_text("VERBS = {'verb': 'verb:verb'}\n")
    (tmp_path / "cli" / "verb.py").write_text("def verb() -> None:\n    Shown().show()\n")
    (tmp_path / "a.py").write_text(
        "class Shown:\n    def __init__(self): helped()\n    def show(self): ...\n    def hidden(self): deep()\n"
        "def helped(): ...\ndef deep(): ...\nTABLE = {'x': told}\ndef told(): ...\n"
    )
    assert unreached(tmp_path) == {"a.py:4 hidden": 1, "a.py:6 deep": 1}


def class_names(sources: Iterable[str]) -> Counter[str]:
    """How often each public name is given to a class."""
    trees = [ast.parse(source) for source in sources]
    return Counter(n.name for t in trees for n in ast.walk(t) if isinstance(n, ast.ClassDef) and n.name[0] != "_")


def test_no_name_is_given_to_two_classes() -> None:
    twice = [name for name, n in class_names(f.read_text() for f in SRC.rglob("*.py")).items() if n > 1]
    assert not twice, "one noun, one meaning: docs/glossary.md"


def test_the_rule_of_class_names_can_fail() -> None:
    assert class_names(["class Card: ...", "class Card: ...\nclass _Config: ..."]) == {"Card": 2}
