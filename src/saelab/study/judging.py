"""Who judges a study: `lexical` (the default, no model and no network), `local:LM`, or `openai:MODEL`.

A paid judge answers through a cache in the run folder, so that no question is paid for twice, whatever is killed. What
makes its answers (model, endpoint, temperature, prompts) is part of the keys of the cells that it judges; what it costs
and how hard it is asked is not.
"""

from typing import Any

from pydantic import Field, model_validator

from saelab.core.config import Config
from saelab.judges.cache import ReplyCache
from saelab.judges.chat import ChatConfig
from saelab.judges.client import Judge
from saelab.judges.local import LocalJudge
from saelab.judges.openai_compatible import OpenAIJudge
from saelab.lm.model import LanguageModel
from saelab.store.layout import RunFolder

KINDS = ("lexical", "local:", "openai:")


class JudgeConfig(Config):
    """The judge of a study. In a study file a plain name (`judge: lexical`) stands for all defaults."""

    name: str = Field(default="lexical", description="lexical, local:LM or openai:MODEL.")
    base_url: str | None = Field(default=None, description="Endpoint of an openai: judge; None is OpenAI's own.")
    key_variable: str = Field(default="OPENAI_API_KEY", description="Environment variable that holds the API key.")
    temperature: float = Field(default=0.0, ge=0)
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
        if not (self.lexical or any(self.name.startswith(k) and self.name != k for k in KINDS[1:])):
            raise ValueError(f"there is no judge {self.name!r}; it is lexical, local:LM or openai:MODEL")
        return self

    @property
    def lexical(self) -> bool:
        """Whether the embedded judge is meant, which is calibrated for each language model."""
        return self.name == "lexical"

    @property
    def paid(self) -> bool:
        """Whether questions go to an endpoint."""
        return self.name.startswith("openai:")

    @property
    def identity(self) -> dict[str, Any]:
        """What its answers depend on; empty for the lexical judge, whose cuts are cells of their own."""
        if self.lexical:
            return {}
        chat = ("name", "base_url", "temperature", "max_tokens", "together")
        return {"judge": {k: getattr(self, k) for k in (chat if self.paid else chat[:1])}}


def open_judge(config: JudgeConfig, run: RunFolder) -> Judge:
    """A judge that is not the lexical one."""
    model = config.name.partition(":")[2]
    if not config.paid:
        return LocalJudge(LanguageModel.load(model))
    chat = ChatConfig(
        model=model,
        base_url=config.base_url,
        key_variable=config.key_variable,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        concurrency=config.concurrency,
        deadline=config.deadline,
        price=config.price,
    )
    cache = ReplyCache(run.replies)
    return OpenAIJudge(chat, cache=cache, together=config.together, max_missing=config.max_missing)
