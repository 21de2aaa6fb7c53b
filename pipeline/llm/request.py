"""Requests to an endpoint as JSON: the messages are encoded once, for the key of the reply and for
what is sent.

With hundreds of requests in flight the client's processor time is what bounds their rate, and
encoding is a good part of it.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

Messages = Sequence[Mapping[str, Any]]
Schema = Mapping[str, Any] | None


class JsonAround:
    """The JSON of an object of which one value changes: everything around that value is encoded
    once.
    """

    def __init__(self, body: Mapping[str, Any], name: str, *, sort_keys: bool) -> None:
        mark = uuid.uuid4().hex
        self._before, self._after = json.dumps({**body, name: mark}, sort_keys=sort_keys).split(
            f'"{mark}"'
        )

    def __call__(self, value_json: str) -> bytes:
        """The whole object with a value that is JSON already."""
        return f"{self._before}{value_json}{self._after}".encode()


class RequestWriter:
    """Keys and bodies of the requests of one section.

    Args:
        content: `EndpointSection.content()`, what decides the content of replies.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content
        self._around: dict[tuple[str, bool], JsonAround] = {}

    @staticmethod
    def messages_json(messages: Messages) -> str:
        """A chat's messages as `key` and `body` take them."""
        return json.dumps(list(messages), sort_keys=True)

    def key(self, messages_json: str, schema: Schema) -> str:
        """What a reply is kept under. Whether the server enforced the schema is no part of the
        question.
        """
        return hashlib.sha256(self._for(schema, is_key=True)(messages_json)).hexdigest()

    def body(self, messages_json: str, schema: Schema) -> bytes:
        """What is sent."""
        return self._for(schema, is_key=False)(messages_json)

    def _for(self, schema: Schema, *, is_key: bool) -> JsonAround:
        name = (json.dumps(schema), is_key)
        if name not in self._around:
            rest = {**self._content, "schema": schema} if is_key else self._body(schema)
            # A schema's properties have an order that the model answers in; a key has none.
            self._around[name] = JsonAround(rest, "messages", sort_keys=is_key)
        return self._around[name]

    def _body(self, schema: Schema) -> dict[str, Any]:
        body = {"model": self._content["model"], **self._content["extra"]}
        body |= {
            name: self._content[name]
            for name in ("temperature", "max_tokens")
            if self._content[name] is not None
        }
        if schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "strict": True, "schema": schema},
            }
        return body
