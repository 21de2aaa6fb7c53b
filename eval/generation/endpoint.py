"""Answers of a model behind an OpenAI-compatible server, as many at once as the recipe allows."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from eval.config import AnswerEndpoint
from eval.generation.cache import Answer
from eval.generation.generator import Request
from pipeline.core.images import ImageError, data_uri
from pipeline.core.recipe import UserError
from pipeline.llm.batch import ask_each
from pipeline.llm.client import Endpoint
from pipeline.llm.protocol import EveryRequestRefusedError

Keep = Callable[[Sequence[tuple[str, Answer]]], None]
PURPOSE = "answers"


def ask_server(endpoint: AnswerEndpoint, requests: Sequence[Request], keep: Keep) -> None:
    """Gives every answer to `keep` as it comes; a request without an answer is left out.

    Raises:
        UserError: No request can succeed (key, model, address), or an image cannot be used.
    """

    async def ask(request: Request, server: Endpoint) -> None:
        reply = await server.ask(messages_of(request))
        # otherwise the server gave none: not an answer of the model, and asked again next time
        if reply.model:
            ended = reply.fault != "reply_cut_off"
            fault = reply.fault if ended else ""
            answer = Answer(reply.text.strip(), reply.completion_tokens, ended, fault)
            keep([(request.key, answer)])

    refusal: EveryRequestRefusedError | None = None
    by_length = sorted(requests, key=lambda request: request.max_new_tokens)
    for max_new_tokens, group in groupby(by_length, key=lambda request: request.max_new_tokens):
        section = endpoint.model_copy(update={"max_tokens": max_new_tokens})
        try:
            ask_each(list(group), section, PURPOSE, None, ask)
        except EveryRequestRefusedError as error:
            refusal = error  # of this length; another may be taken
    if refusal is not None:
        raise refusal


def messages_of(request: Request) -> list[dict[str, Any]]:
    """A request as a chat: the image first, as our own prompts have it, then the question.

    Raises:
        UserError: The image cannot be used.
    """
    encoded = request.image_input.encoded()
    if encoded is None:
        return [{"role": "user", "content": request.prompt}]
    try:
        url = data_uri(encoded)
    except ImageError as error:
        raise UserError(
            f"{request.label}: its image cannot be used ({error}); fetch the benchmark's files"
            " again"
        ) from error
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": request.prompt},
    ]
    return [{"role": "user", "content": content}]
