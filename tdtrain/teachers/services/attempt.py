"""One call of a vendor's SDK, its errors told apart: what may be tried again, and what never helps.

The SDKs of OpenAI and Anthropic are generated alike, and name their errors alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import TypeVar

from pydantic import ValidationError

from tdtrain.teachers.services.service import Busy, Denied, Refused

Said = TypeVar("Said")
LATER = (408, 409, 425, 429)
"""And all from 500 on."""
TOO_MANY = 429
DENIED = (401, 402, 403, 404, 405)
"""Whatever the picture."""
DENYING = (
    "api key",
    "api_key",
    "credit balance",
    "usage limits",
    "billing",
    "insufficient_quota",
    "unsupported parameter",
    "unsupported_",
    "response_format",
    "json_schema",
    "structured output",
    "max_tokens",
    "image(s) may be provided",
    "multimodal",
)
"""What a reason says where it is not the picture, whatever its status: keys, accounts and what the model cannot do are
refused with 400 too."""


def attempt(sdk: ModuleType, key: str, call: Callable[[], Said]) -> Said:
    """What the call returns.

    Args:
        key: a secret that no reason may hold: some servers say which one they refuse.

    Raises: Busy, Refused or Denied.
    """
    try:
        return call()
    except sdk.APIStatusError as error:
        reason = f"{error.status_code}: {error.message}".replace(key, "***")
        told, code = error.response.headers.get("retry-after"), getattr(error, "code", None)
        raise failure(error.status_code, f"{reason} ({code})" if code else reason, told) from None  # it holds the key
    except sdk.APIConnectionError as error:  # time-outs too
        raise Busy(f"{type(error).__name__}: {error}") from error
    except (sdk.APIResponseValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Busy(f"its answer is no JSON ({error})") from error


def failure(status: int, reason: str, retry_after: str | None) -> Busy | Refused | Denied:
    """What an HTTP status means for the one who asked."""
    denying = ("insufficient_quota",) if status == TOO_MANY else DENYING  # limits of a minute speak of billing, too
    if status in DENIED or (status < 500 and any(words in reason.lower() for words in denying)):
        return Denied(reason)
    if status in LATER or status >= 500:
        return Busy(reason, seconds_of(retry_after))
    return Refused(reason)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """While an answer is taken apart. Raises Busy where it is nothing of the kind: proxies answer with anything."""
    try:
        yield
    except (AttributeError, TypeError, LookupError, ValidationError) as error:
        raise Busy(f"its answer is no {what}") from error


def seconds_of(told: str | None) -> float | None:
    """How long Retry-After says to wait: a number of seconds, or a date."""
    if not told:
        return None
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except ValueError:
        return None
