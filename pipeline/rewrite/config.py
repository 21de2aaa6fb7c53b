"""The recipe's `rewrite`: who writes question and answers, and what is asked of them."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.core.recipe import Section
from pipeline.llm.config import EndpointSection, check_budget
from pipeline.rewrite.checks import ChecksSection


class RewriteSection(Section):
    """Who writes question and answers.

    `backend`: `template` makes them from the captions, offline; `openai` asks a model at
    `endpoint`. `on_failure` says what becomes of a pair whose rewrite failed its checks twice: the
    template's words, or `rejects`. `max_usd` is the most that all runs for one `out` may cost
    together.
    """

    backend: Literal["template", "openai"] = "template"
    endpoint: EndpointSection | None = None
    checks: ChecksSection = ChecksSection()
    on_failure: Literal["template", "reject"] = "template"
    max_usd: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.backend == "openai" and self.endpoint is None:
            raise ValueError(
                "backend openai needs endpoint, for example rewrite.endpoint.model=gpt-4o"
            )
        check_budget(self.max_usd, self.endpoint)
        return self

    def content(self) -> dict[str, Any]:
        """What decides the texts: limits, prices and paths do not."""
        if self.backend == "template" or self.endpoint is None:
            return {"backend": self.backend}
        return {
            "backend": self.backend,
            "endpoint": self.endpoint.content(),
            "checks": self.checks.model_dump(mode="json"),
            "on_failure": self.on_failure,
        }
