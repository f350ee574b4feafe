"""A call that is waited for up to a deadline, however its answer drips: clients only limit each read."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from tdtrain.teachers.services.service import Busy

Said = TypeVar("Said")


class UnderWay(Busy):
    """Nobody waits for the call any more, but it goes on, and what was set aside for it stays so."""


def in_time(what: Callable[[], Said], late: Callable[[Said | BaseException], None], deadline_s: float) -> Said:
    """What a call returns, or raises. It has a thread of its own, which is left behind where it takes too long.

    Args:
        late: is called, in that thread, with what comes when nobody waits any more.

    Raises: UnderWay.
    """
    ended: Future[Said] = Future()

    def call() -> None:
        try:
            said: Said | BaseException = what()
        except BaseException as error:  # raised below, in the caller's thread
            said = error
        if not ended.set_running_or_notify_cancel():
            late(said)
        elif isinstance(said, BaseException):
            ended.set_exception(said)
        else:
            ended.set_result(said)

    threading.Thread(target=call, daemon=True).start()
    try:
        return ended.result(timeout=None if deadline_s == math.inf else deadline_s)
    except TimeoutError:
        if ended.cancel():
            raise UnderWay(f"no answer in {deadline_s:g} s") from None
        return ended.result()
