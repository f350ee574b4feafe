"""Any model behind OpenAI's chat completions: vLLM, Ollama, or a vendor's own endpoint."""

from __future__ import annotations

from typing import Any

import openai

from tdtrain.data.timetable import Timetable
from tdtrain.teachers.services.attempt import attempt, reading
from tdtrain.teachers.services.document import ANSWER_TOKENS, FORM, PROMPT, answer_of, asked, picture
from tdtrain.teachers.services.service import ANSWER_S, Answer, Busy, Question, Refused, Usage, secret

KEY = "OPENAI_API_KEY"
RENAMED = "max_completion_tokens"
"""What models that think call max_tokens; nor do they take a temperature."""


class OpenAiCompatible:
    """One model at one endpoint. The key, where one is needed, is OPENAI_API_KEY.

    Args:
        model: as the endpoint calls it.
        url: such as http://localhost:8000/v1; None: OpenAI's own.
        timeout_s: of each read. No byte comes before the answer is whole.
        max_tokens: of an answer.
        key: None: OPENAI_API_KEY. Of somebody who asks nothing any will do.
    """

    def __init__(
        self, model: str, url: str | None = None, prompt: str = PROMPT, timeout_s: float = ANSWER_S,
        max_tokens: int = ANSWER_TOKENS["openai"], key: str | None = None,
    ) -> None:  # fmt: skip
        self.question = Question(service=f"openai/{model}", prompt=prompt, form=FORM)
        self._model, self._max_tokens = model, max_tokens
        self._told: dict[str, float] = {"max_tokens": max_tokens, "temperature": 0.0}
        key = key or secret(KEY) or ("none" if url else "")  # servers of one's own need none
        if not key:
            raise ValueError(f"OpenAI's own endpoint needs {KEY} in the environment; or give a service_url")
        self._key = key
        self._client = openai.OpenAI(api_key=key, base_url=url, timeout=timeout_s, max_retries=0)

    def ask(self, image: bytes, complaint: str | None = None) -> Answer:
        """See `Service`."""
        said = attempt(openai, self._key, lambda: self._create(image, asked(self.question.prompt, complaint)))
        with reading("completion"):
            used = Usage(
                input_tokens=getattr(said.usage, "prompt_tokens", None) or 0,
                output_tokens=getattr(said.usage, "completion_tokens", None) or 0,
            )
            choice = said.choices[0]
            content, raw = choice.message.content or "", said.model_dump_json()
        if choice.finish_reason == "content_filter" or (choice.message.refusal and not content):
            raise Refused(f"the model refused to answer ({choice.message.refusal or 'filtered'})", used, raw)
        return answer_of(content, choice.finish_reason == "length", used, raw)

    def _create(self, image: bytes, text: str) -> Any:
        kind, content = picture(image)
        parts: Any = [
            {"type": "text", "text": text},
            {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{content}"}},
        ]
        told: Any = dict(self._told)
        try:
            return self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": parts}],
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "timetable", "schema": Timetable.model_json_schema()},
                },
                **told,
            )
        except openai.BadRequestError as error:
            if error.param not in told or error.param == RENAMED:
                raise
            kept = {name: value for name, value in told.items() if name != error.param}
            self._told = kept | ({RENAMED: self._max_tokens} if error.param == "max_tokens" else {})
            raise Busy(f"the model takes no {error.param}; it is asked without") from error
