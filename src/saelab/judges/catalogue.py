"""Every kind of judge that a study may name, `NAME` or `NAME:MODEL`. A new one is a file beside this and one line here.

A paid judge answers through a cache in the run folder, so that no question is paid for twice, whatever is killed. What
makes its answers is part of the keys of the cells that it judges (`identity`); what it costs and how hard it is asked
is not. A judge whose ratings are cut for each language model says how (`per_model`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from saelab.core.config import Config
from saelab.core.errors import nearest
from saelab.judges.cache import ReplyCache
from saelab.judges.client import Judge
from saelab.judges.endpoint import ChatConfig, EndpointConfig
from saelab.judges.lexical import LexicalJudge
from saelab.judges.local import LocalJudge
from saelab.judges.openai_compatible import OpenAIJudge
from saelab.judges.rubric import Parser
from saelab.judges.steering_lexical import Calibration, LexicalSteeringJudge, calibrate
from saelab.lm.model import LanguageModel


class JudgeConfig(EndpointConfig):
    """The judge of a study. In a study file a plain name (`judge: lexical`) stands for all defaults."""

    name: str = Field(default="lexical", description="lexical, local:LM or openai:MODEL.")
    together: int = Field(default=14, ge=1, description="Detection windows per question.")
    parser: Parser = Field(
        default="strict", description="How an openai: judge's ratings are read; axbench makes every failure 0.0."
    )
    max_missing: float = Field(default=0.02, ge=0, le=1, description="Share of unusable judgements that stops the run.")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _known(self) -> "JudgeConfig":
        kind, mark, model = self.name.partition(":")
        if kind not in JUDGES or bool(JUDGES[kind].takes) != bool(model) or bool(mark) != bool(model):
            shown = ", ".join(f"{k.name}:{k.takes}".rstrip(":") for k in JUDGES.values())
            raise ValueError(f"there is no judge {self.name!r}; it is one of {shown}. {nearest(kind, JUDGES)}")
        return self

    @property
    def kind(self) -> "JudgeKind":
        """The catalogue's entry."""
        return JUDGES[self.name.partition(":")[0]]

    @property
    def model(self) -> str:
        """What follows the colon."""
        return self.name.partition(":")[2]

    @property
    def identity(self) -> dict[str, Any]:
        """What its answers depend on; empty where that is a calibration, which is a cell of its own."""
        return {"judge": {k: getattr(self, k) for k in self.kind.identity}} if self.kind.identity else {}

    def open(self, replies: Path) -> Judge:
        """The judge. replies: the file that a paid one keeps its replies in."""
        return self.kind.open(self, replies)


@dataclass(frozen=True)
class PerModel:
    """Cuts of the ratings of steered texts, made once per language model.

    calibrate: answers a model's instructions and sets the cuts; parse: reads them back; judge: of texts, with them.
    """

    calibrate: Callable[..., Config]
    parse: Callable[..., Any]
    judge: Callable[[LanguageModel, Any], Judge]


@dataclass(frozen=True)
class JudgeKind:
    """One kind of judge. takes: what follows the colon of its name, if anything. identity: settings that its answers
    depend on. paid: questions go to an endpoint. note: what a reader of its scores must be told.
    """

    name: str
    open: Callable[[JudgeConfig, Path], Judge]
    takes: str = ""
    identity: tuple[str, ...] = ("name",)
    paid: bool = False
    per_model: PerModel | None = None
    note: str = ""


def _openai(config: JudgeConfig, replies: Path) -> Judge:
    own = {name: getattr(config, name) for name in EndpointConfig.model_fields}
    chat = ChatConfig.parse(own | {"model": config.model})
    asked = {name: getattr(config, name) for name in ("together", "max_missing", "parser")}
    return OpenAIJudge(chat, cache=ReplyCache(replies), **asked)


def _local(config: JudgeConfig, replies: Path) -> Judge:
    del replies
    return LocalJudge(LanguageModel.load(config.model, system=config.system))


_CHAT = (
    "name", "base_url", "accept", "system", "temperature", "max_tokens", "max_completion_tokens", "reasoning_effort",
    "extra_body", "together", "parser",
)  # fmt: skip
_PROXY = "The lexical judge matches words. Its scores are a named proxy, not those of a language model or a person."

JUDGES: dict[str, JudgeKind] = {
    kind.name: kind
    for kind in (
        JudgeKind("lexical", lambda config, replies: LexicalJudge(), identity=(), note=_PROXY,
                  per_model=PerModel(calibrate, Calibration.parse, LexicalSteeringJudge)),
        JudgeKind("local", _local, "LM", identity=("name", "system")),
        JudgeKind("openai", _openai, "MODEL", identity=_CHAT, paid=True),
    )
}  # fmt: skip
