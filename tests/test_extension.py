"""The contract of docs/architecture.md: a new thing of each kind is one file and one line, and the page shows it.

Here the file is this test. Every toy is registered by one line (`toys`), and one tiny study on a toy language model,
which needs none, runs with all of them from its text to its page. The control is that without its line each is refused
by name.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from saelab.core.config import Config
from saelab.core.errors import UserError
from saelab.core.names import Look
from saelab.core.seeds import numpy_generator
from saelab.interp.suite.catalogue import CATALOGUE, Entry, Headline
from saelab.interp.suite.evaluation import Evaluation, Subject
from saelab.interp.suite.result import Result
from saelab.judges.catalogue import JUDGES, JudgeKind
from saelab.judges.scripted import ScriptedJudge
from saelab.lm.tiny import tiny_lm
from saelab.saes import catalogue
from saelab.saes.architectures.topk import TopKRule, TopKSae
from saelab.saes.base import RuleGradient, SaeConfig, StepContext, TrainConfig
from saelab.saes.formats import FORMATS, load_sae, save_sae
from saelab.saes.formats.source import Format, Source
from saelab.selection.criteria.catalogue import CRITERIA, Criterion
from saelab.selection.criteria.observation import Observation
from saelab.steering.concepts.directions.catalogue import METHODS, method_of
from saelab.steering.concepts.directions.method import Method
from saelab.store.files import read_json, write_json
from saelab.store.layout import RunFolder
from saelab.store.tables import read_table
from saelab.store.tensors import read_tensors, write_tensors
from saelab.study.spec import StudyConfig
from saelab.workflow import run_study

SITE = "resid_post.1"
SEEN: list[float] = []  # shares of the run that the toy's loss was told of


def toy_score(seen: Observation) -> Tensor:
    """Criterion: the change of the probability of token 0."""
    return seen.steered.probs[:, 0] - seen.base.probs[:, 0]


class ToyRule(TopKRule):
    """Architecture: a TopK whose penalty on the codes grows from nothing over the run."""

    def gradient(self, entries: Any, weights: Any, d_codes: Any, step: StepContext) -> RuleGradient:
        SEEN.append(step.progress)
        active, weight = entries.pre > 0, 0.01 * step.progress
        return RuleGradient((d_codes + weight / step.n) * active, penalty=weight * float(entries.pre[active].sum()))


class ToyConfig(TrainConfig):
    """Its training config."""

    architecture: Literal["toy"] = "toy"
    k: int
    look: ClassVar[Look] = Look("Toy architecture", "#010203", "#040506")

    @property
    def level(self) -> int:
        return self.k

    kept = level

    def rule(self, dtype: torch.dtype) -> ToyRule:
        return ToyRule(self.k)


def toy_evaluation(subject: Subject, shared: None) -> Result:
    """Evaluation: the mean of the decoder's entries."""
    return Result("toy", {"toys": {"toy_figure": float(subject.sae.W_dec.mean())}}, {})


EVALUATION = Evaluation("toy", {"tiny": Config()}, toy_evaluation)


def toy_judge(config: Any, replies: Path) -> ScriptedJudge:
    """Judge: counts letters."""
    return ScriptedJudge(lambda request: (1 + len(request.judged_text()) % 3) / 3, name="toy")


def toy_write(sae: Any, folder: Path) -> None:
    """Format: the tensors in one file, the settings in another."""
    write_tensors(folder / "toy.safetensors", sae.weights())
    write_json(folder / "toy.json", sae.cfg.model_dump(mode="json"))


def toy_recognises(source: Source) -> bool:
    return source.has("toy.safetensors")


def toy_read(source: Source) -> TopKSae:
    cfg = SaeConfig.parse(read_json(source.folder / "toy.json"))
    return TopKSae(cfg, read_tensors(source.folder / "toy.safetensors"))


def toy_direction(examples: Any, using: Any) -> Any:
    """Direction: what difference in means finds, under another name."""
    return replace(METHODS["diff_means"](examples, using), method="toy")


class ToyLmConfig(LlamaConfig):
    """A language model that transformers knows and saelab has no line for: none is needed."""

    model_type = "toylm"


class ToyLm(LlamaForCausalLM):
    config_class = ToyLmConfig


AutoConfig.register("toylm", ToyLmConfig)
AutoModelForCausalLM.register(ToyLmConfig, ToyLm)

LINES: dict[str, tuple[dict[str, Any], str, Any]] = {  # kind -> its catalogue, and the line
    "criterion": (CRITERIA, "toy", Criterion("toy", "toy criterion", "probability", True, score=toy_score)),
    "architecture": (catalogue.ARCHITECTURES, "toy", ToyConfig),
    "evaluation": (CATALOGUE, "toy", Entry("toy", __name__, (Headline("Toy title", "toy_figure", "higher", "toys"),))),
    "direction": (METHODS, "toy", Method("toy", "toy direction", toy_direction)),
    "judge": (JUDGES, "toy", JudgeKind("toy", toy_judge, note="The toy judge counts letters.")),
    "format": (FORMATS, "toy", Format("toy", "toy.safetensors", toy_recognises, toy_read, toy_write)),
}


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for where, name, line in LINES.values():
        monkeypatch.setitem(where, name, line)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy language model on disk."""
    folder, plain = tmp_path_factory.mktemp("toy") / "lm", tiny_lm(n_layers=3)
    settings = {k: v for k, v in plain.model.config.to_dict().items() if k not in ("model_type", "architectures")}
    model = ToyLm(ToyLmConfig(**settings))
    model.load_state_dict(plain.model.state_dict())
    model.save_pretrained(folder)
    plain.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The plain data of a study that names every toy but the format and the direction, which studies do not."""
    text, rng = tmp_path_factory.mktemp("text"), numpy_generator("extension")
    for i in range(8):
        (text / f"{i}.txt").write_text(" ".join(rng.choice(["sun", "moon", "sea", "over", "runs", "and"], 200)))
    grid = {"sites": [SITE], "architectures": ["toy"], "levels": [3, 4, 5], "d_sae": 32}
    return {
        "name": "toys",
        "models": [{"lm": f"path:{weights}", "name": "toy-lm", "dtype": "float32", "grids": [grid]}],
        "text": {
            "corpus": {"source": f"path:{text}"}, "context": 32, "train_contexts": 40, "held_out_contexts": 8,
        },
        "harvest": {"sink_ratio": 1000.0},
        "training": {"steps": 10, "batch": 128},
        "interp": {"fidelity_contexts": 4, "window_rows": 1200, "n_scored": 32},
        "suite": {"preset": "tiny", "only": ["toy"]},
        "selection": {"criteria": ["toy", "kl"], "positions": "last"},
        "steering": {
            "arms": [
                {"criterion": "toy", "n": 2}, {"criterion": "kl", "n": 1}, {"criterion": "kl", "tail": "down", "n": 1},
                {"random": 3},
            ],
            "n_control": 1, "factors": [1.0], "n_dev": 1, "n_test": 1, "max_new_tokens": 3,
        },
        "judge": "toy",
        "resamples": 100,
    }  # fmt: skip


@pytest.fixture(scope="module")
def finished(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The whole study, once."""
    with pytest.MonkeyPatch.context() as patch:
        for where, name, line in LINES.values():
            patch.setitem(where, name, line)
        SEEN.clear()
        folder = tmp_path_factory.mktemp("run")
        run_study(StudyConfig.parse(data), folder)
    return RunFolder(folder)


@pytest.mark.parametrize(
    "shown",
    ["Toy architecture", "#010203", "#040506", "Toy criterion", "Steering (described) after toy criterion", "Toy title",
     "The toy judge counts letters.", "toy-lm", "KL divergence of the effect, down, 1",
     "KL divergence of the effect, up, 1"],
)  # fmt: skip
def test_the_page_shows_every_toy(finished: RunFolder, shown: str) -> None:
    assert shown in finished.report.read_text()


def test_tables_have_every_toy(finished: RunFolder) -> None:
    """Its figures reach the tables that the page is made of."""
    features = read_table(finished.stats.root / "features.parquet")
    assert {"toy", "kl"} <= set(features["predictor"])
    arms = {"none", "toy", "kl.up.1", "kl.down.1", "random_direction", "unsteered"}
    assert set(read_table(finished.stats.root / "selection.parquet")["arm"]) == arms
    outcomes = set(read_table(finished.stats.root / "agreement.parquet")["y"])
    assert {f"utility after {a}" for a in ("toy", "kl.up.1", "kl.down.1")} <= outcomes
    figures = read_table(finished.interp(f"toy.l0_4.{SITE}").evaluations.path)
    assert figures["metric"].to_list() == ["toy_figure"] and figures["value"].null_count() == 0
    assert set(finished.interp(f"toy.l0_4.{SITE}").features.read()["judge"].drop_nulls()) == {"toy"}


def test_the_loss_knows_the_progress_of_the_run(finished: RunFolder) -> None:
    assert sorted(SEEN) == sorted([i / 10 for i in range(10)] * 3), "three SAEs of ten steps"


def test_an_sae_goes_through_the_toy_format(finished: RunFolder, tmp_path: Path, toys: None) -> None:
    sae = load_sae(finished.sae(f"toy.l0_4.{SITE}"))
    save_sae(sae, tmp_path, "toy")
    again, x = load_sae(tmp_path), torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.encode(x), sae.encode(x)) and again.cfg.architecture == "toy"


def test_a_toy_direction_is_found_by_name(toys: None) -> None:
    assert method_of("toy").label == "toy direction"


@pytest.mark.parametrize("kind", [k for k in LINES if k not in ("format", "direction")])
def test_without_its_line_a_toy_is_refused_by_name(data: dict[str, Any], toys: None, kind: str) -> None:
    """Control."""
    StudyConfig.parse(data)
    where, name, _ = LINES[kind]
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(where, name)
        with pytest.raises(UserError, match="'toy'"):
            StudyConfig.parse(data)


def test_without_their_lines_a_format_and_a_direction_are_refused(tmp_path: Path) -> None:
    """Control."""
    write_tensors(tmp_path / "toy.safetensors", {"toy": torch.zeros(1)})
    with pytest.raises(UserError, match="no known SAE format"):
        load_sae(tmp_path)
    with pytest.raises(UserError, match="no direction method 'toy'"):
        method_of("toy")
