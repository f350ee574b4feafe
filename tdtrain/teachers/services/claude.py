"""Claude through Anthropic's SDK, its answers held to the timetable's schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic

from tdtrain.data.timetable import Timetable
from tdtrain.teachers.services.attempt import Said, attempt, reading
from tdtrain.teachers.services.document import ANSWER_TOKENS, FORM, PROMPT, answer_of, asked, picture
from tdtrain.teachers.services.service import ANSWER_S, Answer, Question, Refused, Usage, secret

KEY = "ANTHROPIC_API_KEY"
MOST_BYTES, MOST_SIDE = 5 * 2**20 * 3 // 4, 8_000
"""Of a picture: 5 MiB in base64, and 8,000 pixels a side. It sees none larger anyway."""

CUT = ("max_tokens", "model_context_window_exceeded")
"""Why a message ends before its end."""


class Claude:
    """One model. Its key is ANTHROPIC_API_KEY.

    Args:
        model: as Anthropic calls it.
        url: None: Anthropic's own.
        timeout_s: of each read. No byte comes before the answer is whole.
        max_tokens: of an answer.
        key: None: ANTHROPIC_API_KEY. Of somebody who asks nothing any will do.
    """

    def __init__(
        self, model: str, url: str | None = None, prompt: str = PROMPT, timeout_s: float = ANSWER_S,
        max_tokens: int = ANSWER_TOKENS["claude"], key: str | None = None,
    ) -> None:  # fmt: skip
        self.question = Question(service=f"claude/{model}", prompt=prompt, form=FORM)
        self._model, self._max_tokens = model, max_tokens
        key = key or secret(KEY)
        if not key:
            raise ValueError(f"service=claude needs {KEY} in the environment")
        self._key = key
        self._schema: Any = anthropic.transform_schema(Timetable)
        self.client = anthropic.Anthropic(api_key=key, base_url=url, timeout=timeout_s, max_retries=0)

    def ask(self, image: bytes, complaint: str | None = None) -> Answer:
        """See `Service`."""
        told = self.request(image, complaint)
        return self.read(self.call(lambda: self.client.messages.create(**told)))

    def call(self, what: Callable[[], Said]) -> Said:
        """A call of the client. Raises Busy, Refused or Denied."""
        return attempt(anthropic, self._key, what)

    def read(self, said: Any) -> Answer:
        """The answer in a message. Raises Busy, Unusable or Refused."""
        with reading("message"):
            used = Usage(input_tokens=said.usage.input_tokens, output_tokens=said.usage.output_tokens)
            content = "".join(part.text for part in said.content if part.type == "text")
            raw = said.model_dump_json()
        if said.stop_reason == "refusal":
            raise Refused("the model refused to answer", used, raw)
        return answer_of(content, said.stop_reason in CUT, used, raw)

    def request(self, image: bytes, complaint: str | None = None) -> dict[str, Any]:
        """What is sent: one message's parameters. Raises Refused where it is no picture."""
        kind, content = picture(image, MOST_BYTES, MOST_SIDE)
        parts = [
            {"type": "image", "source": {"type": "base64", "media_type": kind, "data": content}},
            {"type": "text", "text": asked(self.question.prompt, complaint)},
        ]
        return {
            "model": self._model,
            "max_tokens": self._max_tokens,
            "messages": [{"role": "user", "content": parts}],
            "output_config": {"format": {"type": "json_schema", "schema": self._schema}},
        }
