"""The `endpoint` of a recipe: which model on which server, how it is asked, limits and prices."""

from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from pipeline.core.recipe import Section


class EndpointSection(Section):
    """A model behind an OpenAI-compatible server: OpenAI, vLLM, SGLang, `transformers serve`.

    The key is read from the environment variable that `api_key_env` names (null for a server that
    asks for none) in the process that starts the job; it is never stored, logged or sent to
    workers.

    `identity` is what cached replies and fingerprints know the server by (default: base_url); give
    one where the same model moves between addresses. `extra` is added to every request's body, for
    example {seed: 1}. `cache` is the file of paid replies (default $SVCO_CACHE/responses.sqlite),
    on a local disk. Prices are in US dollars.
    """

    model: str = Field(min_length=1)
    base_url: str = "https://api.openai.com/v1"
    identity: str | None = None
    api_key_env: str | None = "OPENAI_API_KEY"
    temperature: float | None = Field(default=0.7, ge=0)
    max_tokens: int | None = Field(default=400, gt=0)
    extra: dict[str, Any] = Field(default_factory=dict)
    timeout_s: float = Field(default=60.0, gt=0)
    max_in_flight: int = Field(default=64, gt=0)
    max_retries: int = Field(default=8, ge=0)
    first_wait_s: float = Field(default=1.0, ge=0)
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    usd_per_million_input_tokens: float | None = Field(default=None, ge=0)
    usd_per_million_output_tokens: float | None = Field(default=None, ge=0)
    cache: str | None = None

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected an address such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "must hold no key; put it into the environment variable that api_key_env names"
            )
        return value.rstrip("/")

    @property
    def has_prices(self) -> bool:
        """Whether money can be counted."""
        return (
            self.usd_per_million_input_tokens is not None
            and self.usd_per_million_output_tokens is not None
        )

    def usd(self, prompt_tokens: float, completion_tokens: float) -> float:
        """What so many tokens cost, in US dollars; 0 without prices."""
        return (
            prompt_tokens * (self.usd_per_million_input_tokens or 0.0)
            + completion_tokens * (self.usd_per_million_output_tokens or 0.0)
        ) / 1e6

    def content(self) -> dict[str, Any]:
        """What decides the content of replies: part of the cache's keys and of fingerprints."""
        return {
            "endpoint": self.identity or self.base_url,
            "model": self.model,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "extra": self.extra,
        }


def check_budget(max_usd: float | None, endpoint: EndpointSection | None) -> None:
    """Refuses a budget where money cannot be counted: it would never stop anything.

    Raises:
        ValueError: `max_usd` is given, and a price is not.
    """
    if max_usd is not None and not (endpoint and endpoint.has_prices):
        raise ValueError(
            "max_usd needs prices: give endpoint.usd_per_million_input_tokens and"
            " endpoint.usd_per_million_output_tokens"
        )
