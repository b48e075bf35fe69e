"""What a client is told when it gets nothing: a status, the field that is wrong, and how."""

from __future__ import annotations

from ..errors import ImageError

# Ours: a reason may quote what a client sent, and goes into a log.
MAX_REASON = 600


class RefusedError(ImageError):
    """A request that is turned down.

    Attributes:
        status: HTTP status; ``protocol.PROTOCOL`` says what each means.
        field: of the request or of the evidence: ``nonce``, ``PCR11``.
        reason: in words, without the field.
    """

    def __init__(self, status: int, field: str, reason: str) -> None:
        self.status, self.field = status, field
        self.reason = reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]} ..."
        super().__init__(f"{field}: {self.reason}")
