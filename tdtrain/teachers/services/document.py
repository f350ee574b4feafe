"""What models that see pictures are asked about a page, and what they have to answer."""

from __future__ import annotations

import base64
import math

from pydantic import ValidationError

from tdtrain.data.crop import encode_png
from tdtrain.data.decode import BadImageError, decode_rgb
from tdtrain.data.pack_options import PackOptions
from tdtrain.data.timetable import Timetable
from tdtrain.teachers.services.fitted import fitted
from tdtrain.teachers.services.service import Answer, Refused, Unusable, Usage

PROMPT = (
    "This picture shows a timetable. Write down all that it says, as JSON: a block for each lesson, shift or "
    "departure, with its day and its name as they are printed, and when it starts and ends as HH:MM. Leave out what is "
    "not printed."
)
ANSWER_TOKENS = {"openai": 4_096, "claude": 8_192}
"""Of a document, at most, where nobody says otherwise."""
COMPLAINT = "Your last answer could not be used: {}. Answer again, with the whole timetable."
FORM = "timetable-1"
"""Changes whenever the schema of `Timetable` does."""
_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg"}


def asked(prompt: str, complaint: str | None) -> str:
    """The prompt, and what was wrong with the answer before."""
    return prompt + (f"\n\n{COMPLAINT.format(complaint)}" if complaint else "")


def picture(image: bytes, most_bytes: float = math.inf, most_side: float = math.inf) -> tuple[str, str]:
    """The media type of a picture's file, and its bytes in base64; as PNG where it is none of a kind that all take, and
    smaller where it is larger than that, in bytes or pixels a side.

    Raises: Refused where it is no picture.
    """
    kind = next((name for magic, name in _KINDS.items() if image.startswith(magic)), None)
    if kind is None:
        options = PackOptions()
        try:
            image = encode_png(decode_rgb(image, options.max_pixels, min_side=1))
        except BadImageError as error:
            raise Refused(f"the picture cannot be decoded ({error})") from error
        kind = "png"
    sent = fitted(image, most_bytes, most_side).content
    return f"image/{kind if sent is image else 'jpeg'}", base64.b64encode(sent).decode()


def answer_of(content: str, cut: bool, used: Usage, raw: str) -> Answer:
    """The timetable that a model wrote. Raises Unusable where it is no JSON, does not fit the schema, or says what
    cannot be (see `Timetable.faults`); Refused where it is cut, as another one would be."""
    if cut:
        why = "raise max_answer_tokens, or use a model with a longer context"
        raise Refused(f"its answer is cut after {used.output_tokens} tokens; {why}", used, raw)
    try:
        document = Timetable.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Unusable(f"{where}: {first['msg']}" if where else first["msg"], used, raw) from error
    if faults := document.faults():
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise Unusable(f"{'; '.join(faults[:3])}{more}", used, raw)
    return Answer(document=document, usage=used, raw=raw)
