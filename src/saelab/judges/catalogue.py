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
from saelab.judges.chat import ChatConfig
from saelab.judges.client import Judge
from saelab.judges.lexical import LexicalJudge
from saelab.judges.local import LocalJudge
from saelab.judges.openai_compatible import OpenAIJudge
from saelab.judges.steering_lexical import Calibration, LexicalSteeringJudge, calibrate
from saelab.lm.model import LanguageModel


class JudgeConfig(Config):
    """The judge of a study. In a study file a plain name (`judge: lexical`) stands for all defaults."""

    name: str = Field(default="lexical", description="lexical, local:LM or openai:MODEL.")
    base_url: str | None = Field(default=None, description="Endpoint of an openai: judge; None is OpenAI's own.")
    key_variable: str = Field(default="OPENAI_API_KEY", description="Environment variable that holds the API key.")
    temperature: float = Field(default=0.0, ge=0, description="Sampling temperature of the replies; 0 is greedy.")
    max_tokens: int = Field(default=300, ge=1, description="Longest reply.")
    together: int = Field(default=14, ge=1, description="Detection windows per question.")
    concurrency: int = Field(default=16, ge=1, description="Calls in flight at most.")
    deadline: float = Field(default=60.0, gt=0, description="Seconds for one call.")
    max_missing: float = Field(default=0.02, ge=0, le=1, description="Share of unusable judgements that stops the run.")
    price: tuple[float, float] | None = Field(
        default=None, description="Dollars per million prompt and completion tokens."
    )

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
    own = {name: getattr(config, name) for name in ChatConfig.model_fields if name in JudgeConfig.model_fields}
    chat = ChatConfig.parse(own | {"model": config.model})
    return OpenAIJudge(chat, cache=ReplyCache(replies), together=config.together, max_missing=config.max_missing)


_CHAT = ("name", "base_url", "temperature", "max_tokens", "together")
_PROXY = "The lexical judge matches words. Its scores are a named proxy, not those of a language model or a person."

JUDGES: dict[str, JudgeKind] = {
    kind.name: kind
    for kind in (
        JudgeKind("lexical", lambda config, replies: LexicalJudge(), identity=(), note=_PROXY,
                  per_model=PerModel(calibrate, Calibration.parse, LexicalSteeringJudge)),
        JudgeKind("local", lambda config, replies: LocalJudge(LanguageModel.load(config.model)), "LM"),
        JudgeKind("openai", _openai, "MODEL", identity=_CHAT, paid=True),
    )
}  # fmt: skip
