"""What a chat endpoint is asked with, as data: the model, the names that may answer, and every parameter sent along.

Endpoints differ in what they take: a budget under another name, no temperature, fields of their own (`extra_body`).
Nothing here is sent; whatever changes an answer is in `parameters`, `system`, `base_url` or the model's name, and so in
the key of a question.
"""

import re
from typing import Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from saelab.core.config import Config
from saelab.judges.transport import check_url

OPENAI = "https://api.openai.com/v1"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS = ("model", "messages", "stream", "n", "temperature", "max_tokens", "max_completion_tokens", "reasoning_effort")
_SECRET = re.compile(r"api[-_]?key|authorization|password|secret|^token$", re.IGNORECASE)


class EndpointConfig(Config):
    """How a model behind an OpenAI-compatible endpoint is asked."""

    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: str | None = Field(default=None, description="Endpoint of an openai: judge; None is OpenAI's own.")
    key_variable: str = Field(default="OPENAI_API_KEY", description="Environment variable that holds the API key.")
    accept: tuple[str, ...] = Field(
        default=(), description="Other model ids that may answer (patterns with * and ?): deployments, proxies' names."
    )
    system: str | None = Field(default=None, description="System prompt before every question of a language model.")
    temperature: float | None = Field(
        default=0.0, ge=0, description="Sampling temperature of the replies; 0 is greedy, null sends none."
    )
    max_tokens: int = Field(default=300, ge=1, description="Longest reply, sent as `max_tokens`.")
    max_completion_tokens: int | None = Field(
        default=None, ge=1, description="Longest reply with thinking, sent instead of `max_tokens`."
    )
    reasoning_effort: str | None = Field(default=None, description="Sent where given, such as minimal, low or none.")
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields sent as they are, such as {chat_template_kwargs: {enable_thinking: false}}.",
    )
    concurrency: int = Field(default=16, ge=1, description="Calls in flight at most.")
    per_minute: float | None = Field(default=None, gt=0, description="Calls started in a minute at most.")
    deadline: float = Field(default=60.0, gt=0, description="Seconds for one call, from connecting to the last byte.")
    price: tuple[float, float] | None = Field(
        default=None, description="Dollars per million prompt and completion tokens."
    )

    @field_validator("base_url")
    @classmethod
    def _an_address(cls, url: str | None) -> str | None:
        return None if url is None else check_url(url)

    @field_validator("key_variable")
    @classmethod
    def _a_variable(cls, name: str) -> str:
        if not _NAME.fullmatch(name):  # the message must not show it: it may be the key itself
            raise ValueError("it is not the name of an environment variable; put the key into one and name that")
        return name

    @model_validator(mode="after")
    def _nothing_said_twice_and_no_secret(self) -> "EndpointConfig":
        for name in self.extra_body:
            if name in _OURS:
                raise ValueError(f"extra_body sets {name!r}, which is not an extra field; set it beside extra_body")
            if _SECRET.search(name):
                raise ValueError(f"extra_body holds {name!r}; keys are read from the environment (key_variable) alone")
        return self

    @property
    def address(self) -> str:
        """Where calls go, whatever the environment says."""
        return self.base_url or OPENAI

    @property
    def limit(self) -> int:
        """Tokens of the longest reply."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def parameters(self) -> dict[str, Any]:
        """All that is sent beside the model and the messages."""
        named = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        own = {"temperature": self.temperature, named: self.limit, "reasoning_effort": self.reasoning_effort}
        return {k: v for k, v in own.items() if v is not None} | self.extra_body


class ChatConfig(EndpointConfig):
    """A model behind an endpoint, and how hard to try."""

    model: str = Field(description="The model's id, compared with the id in every reply.")
    attempts: int = Field(default=8, ge=1, description="Calls for one reply while none comes.")
    backoff: float = Field(default=0.5, ge=0, description="First wait after a failure in seconds; doubles each time.")
