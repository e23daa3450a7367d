"""A workload: what a latency is a latency of."""

import re
from dataclasses import dataclass
from enum import StrEnum

from search_spaces.errors import BadWorkload


class Phase(StrEnum):
    """`forward`: all outputs of all tokens. `prefill`: a prompt, logits of its last token. `decode`: one more token.

    Example:
        >>> str(Workload(Phase.DECODE, sequence=1, past=1024))
        'decode:batch=1,past=1024'
    """

    FORWARD = "forward"
    PREFILL = "prefill"
    DECODE = "decode"


_KEYS = {"batch": "batch", "seq": "sequence", "past": "past"}
_RULE = "write for example forward:batch=8,seq=128, prefill:batch=1,seq=512 or decode:batch=1,past=1024"


@dataclass(frozen=True)
class Workload:
    """`batch` sequences of `sequence` new tokens each, after `past` tokens that are cached.

    For images `sequence` is the number of tokens the model makes of one image.

    Example:
        >>> Workload.parse("prefill:batch=2,seq=512").tokens
        1024
    """

    phase: Phase
    batch: int = 1
    sequence: int = 128
    past: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.sequence < 1 or self.past < 0:
            raise BadWorkload(f"workload {self}: batch and seq are at least 1 and past at least 0; {_RULE}")
        if self.phase is Phase.DECODE and self.sequence != 1:
            raise BadWorkload(f"workload {self}: decode makes one token, so leave seq out; {_RULE}")
        if self.phase is not Phase.DECODE and self.past:
            raise BadWorkload(f"workload {self}: only decode has a past; {_RULE}")

    @property
    def tokens(self) -> int:
        """New tokens of all sequences together."""
        return self.batch * self.sequence

    def __str__(self) -> str:
        rest = f"past={self.past}" if self.phase is Phase.DECODE else f"seq={self.sequence}"
        return f"{self.phase}:batch={self.batch},{rest}"

    @classmethod
    def parse(cls, text: str) -> "Workload":
        """Read `forward:batch=8,seq=128`. Left out: batch 1, seq 128 (decode: past 128).

        Raises:
            BadWorkload: on an unknown phase or key, a key given twice, or a value that is no number.
        """
        phase, _, rest = text.strip().partition(":")
        if phase not in set(Phase):
            raise BadWorkload(f"workload {text!r}: the phase {phase!r} is none of {', '.join(Phase)}; {_RULE}")
        values: dict[str, int] = {"sequence": 1, "past": 128} if phase == Phase.DECODE else {}
        given: set[str] = set()
        for part in filter(None, rest.split(",")):
            match = re.fullmatch(r"\s*(\w+)\s*=\s*([0-9]{1,9})\s*", part)
            if not match or match[1] not in _KEYS:
                raise BadWorkload(f"workload {text!r}: {part!r} is none of batch=N, seq=N, past=N; {_RULE}")
            if match[1] in given:
                raise BadWorkload(f"workload {text!r}: {match[1]} is given twice; {_RULE}")
            given.add(match[1])
            values[_KEYS[match[1]]] = int(match[2])
        return cls(Phase(phase), **values)
