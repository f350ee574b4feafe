"""Any model behind OpenAI's chat completions: vLLM, Ollama, or a vendor's own endpoint.

A page goes as a picture beside the prompt; the answer is the timetable's JSON, asked for by its schema and checked by
it.
"""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import openai
from openai import OpenAI
from pydantic import ValidationError

from tdtrain.data.timetable import Timetable
from tdtrain.teachers.services.service import Answer, Busy, Question, Refused, Unusable, Usage

KEY = "OPENAI_API_KEY"
PROMPT = (
    "This picture shows a timetable. Write down all that it says, as JSON: a block for each lesson, shift or "
    "departure, with its day and its name as they are printed, and when it starts and ends as HH:MM. Leave out what is "
    "not printed."
)
COMPLAINT = "Your last answer could not be used: {}. Answer again, with the whole timetable."
FORM = "timetable-1"
"""Changes whenever the schema of `Timetable` does."""


class OpenAiCompatible:
    """One model at one endpoint. The key, where one is needed, is OPENAI_API_KEY.

    Args:
        model: as the endpoint calls it.
        url: such as http://localhost:8000/v1; None: OpenAI's own.
        timeout_s: an attempt fails after so long.
        max_tokens: of an answer.
    """

    def __init__(
        self, model: str, url: str | None = None, prompt: str = PROMPT, timeout_s: float = 120.0, max_tokens: int = 4096
    ) -> None:
        self.question = Question(service=f"openai/{model}", prompt=prompt, form=FORM)
        self._model, self._max_tokens = model, max_tokens
        key = os.environ.get(KEY) or ("none" if url else None)  # servers of one's own need none
        if key is None:
            raise ValueError(f"OpenAI's own endpoint needs {KEY} in the environment; or give a url")
        self._client = OpenAI(api_key=key, base_url=url, timeout=timeout_s, max_retries=0)

    def ask(self, image: bytes, complaint: str | None = None) -> Answer:
        """See `Service`."""
        text = self.question.prompt + (f"\n\n{COMPLAINT.format(complaint)}" if complaint else "")
        try:
            said = self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": [{"type": "text", "text": text}, _picture(image)]}],
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "timetable", "schema": Timetable.model_json_schema()},
                },
                max_tokens=self._max_tokens,
                temperature=0.0,
            )
        except openai.APIStatusError as error:
            raise _of_status(error) from error
        except openai.APIConnectionError as error:  # time-outs too
            raise Busy(f"{type(error).__name__}: {error}") from error
        except (openai.APIResponseValidationError, json.JSONDecodeError) as error:
            raise Busy(f"its answer is no JSON ({error})") from error
        return _answer(said)


def _picture(image: bytes) -> Any:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _of_status(error: openai.APIStatusError) -> Busy | Refused:
    reason = f"{error.status_code}: {error.message}"
    if error.status_code in (408, 409, 429) or error.status_code >= 500:
        after = error.response.headers.get("retry-after", "")
        return Busy(reason, float(after) if after.replace(".", "", 1).isdigit() else None)
    return Refused(reason)


def _answer(said: Any) -> Answer:
    """The document of a completion. Raises Unusable where there is none, Busy where it is no completion."""
    if not getattr(said, "choices", None):
        raise Busy("its answer is no completion")
    used = Usage(
        input_tokens=said.usage.prompt_tokens if said.usage else 0,
        output_tokens=said.usage.completion_tokens if said.usage else 0,
    )
    choice = said.choices[0]
    content = choice.message.content or ""
    if choice.finish_reason == "length":
        raise Unusable("it is cut; it was too long", used)
    try:
        document = Timetable.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Unusable(f"{where}: {first['msg']}" if where else first["msg"], used) from error
    return Answer(document=document, usage=used, raw=said.model_dump_json())
