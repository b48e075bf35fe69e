"""What a recipe says of its golden measurements: events that verifiers are not to compare."""

from __future__ import annotations

from typing import Annotated

from ..reader import Text
from ..record import dataclass

RegisterName = Annotated[str, Text(r"PCR(1?[0-9]|2[0-3])", "PCR5")]
EventName = Annotated[str, Text(r"EV_[A-Z0-9_]+", "EV_EFI_GPT_EVENT")]
Reason = Annotated[
    str, Text(r"[^\x00-\x20\x7f][^\x00-\x1f\x7f]{3,299}", "the guest grows its last partition")
]


@dataclass(frozen=True, kw_only=True)
class WildcardSpec:
    """An event that a verifier takes as it is observed.

    Attributes:
        event: type of the only predicted event of the register that has it.
        reason: why it cannot be predicted; verifiers show it.
    """

    register: RegisterName
    event: EventName
    reason: Reason


@dataclass(frozen=True, kw_only=True)
class GoldenSpec:
    """What verifiers do with the predictions."""

    wildcards: tuple[WildcardSpec, ...] = ()
