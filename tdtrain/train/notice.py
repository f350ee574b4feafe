"""Notice that the node of a worker will be taken away, as spot instances are: all workers save before it goes."""

from __future__ import annotations

from typing import Protocol


class Notice(Protocol):
    """How a worker learns of it. To ask is a collective, so workers agree at a step's end whether they do."""

    def due(self) -> bool:
        """Whether this worker wants all to ask after this step."""
        ...

    def given(self) -> bool:
        """Asks: whether a node will be taken away of which nobody has heard yet. Every worker must call."""
        ...


class Never:
    """Of who trains alone, where nobody gives notice."""

    def due(self) -> bool:
        """No."""
        return False

    def given(self) -> bool:
        """No."""
        return False


NEVER = Never()
