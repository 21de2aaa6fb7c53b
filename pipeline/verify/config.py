"""The recipe's `verify`: what is measured of written answers, and what a pair must fulfil."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.core.recipe import RecipeError, Section
from pipeline.llm.config import EndpointSection, check_budget

Choice = Literal["keep", "drop"]


class JudgeSection(Section):
    """A model that sees, behind an OpenAI-compatible server.

    It is asked four times per pair (each answer, each image). `endpoint` is as in `rewrite`, but
    with temperature 0 and 60 tokens per reply unless it says otherwise. `max_usd` is the most that
    all judging for one `out` may cost; it is counted apart from rewriting.
    """

    endpoint: EndpointSection
    max_usd: float | None = Field(default=None, gt=0)

    @field_validator("endpoint", mode="before")
    @classmethod
    def _sober(cls, value: Any) -> Any:
        return {"temperature": 0.0, "max_tokens": 60, **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_budget(self.max_usd, self.endpoint)
        return self


class VerifySection(Section):
    """What becomes of pairs whose answers do not fit their images.

    Without a threshold, all is measured and nothing dropped. `min_answer_margin`: the least
    cos(answer, own image) - cos(answer, other image), by the CLIP of `encoders`, for both sides. A
    test that right answers must pass and wrong ones can: CLIP-type models are nearly blind to fine
    detail. The others need a `judge`: `on_contradiction` is for an answer that is judged false of
    its own image, `on_affirmation` for one that is judged true of the other image,
    `on_missing_judgement` for a pair about which the judge did not say either (unsure, prose, a
    refusal, no reply in time).
    """

    min_answer_margin: float | None = Field(default=None, ge=-2, le=2)
    judge: JudgeSection | None = None
    on_contradiction: Choice = "keep"
    on_affirmation: Choice = "keep"
    on_missing_judgement: Choice = "keep"

    def thresholds(self) -> dict[str, Any]:
        """What decides on a pair, once everything is measured."""
        return self.model_dump(mode="json", exclude={"judge"})


def check_verify(section: VerifySection, *, has_clip: bool) -> None:
    """Refuses what could not be asked.

    Args:
        has_clip: Whether the recipe has the encoder that makes margins.

    Raises:
        RecipeError: A threshold on an encoder or a judge that does not run, or nothing to verify
            with.
    """
    if section.min_answer_margin is not None and not has_clip:
        raise RecipeError(
            "verify.min_answer_margin: a bound is set, but no encoder computes answer margins; give"
            " encoders.clip"
        )
    for name in ("on_contradiction", "on_affirmation", "on_missing_judgement"):
        if getattr(section, name) == "drop" and section.judge is None:
            raise RecipeError(
                f"verify.{name}=drop: there is no judge; give verify.judge.endpoint.model, or leave"
                " it at keep"
            )
    if section.judge is None and not has_clip:
        raise RecipeError(
            "verify: nothing would be measured; give encoders.clip, or verify.judge, or leave"
            " verify out"
        )
