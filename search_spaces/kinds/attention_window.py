"""Windows of attention: a token sees so many of the last tokens, itself included, and the first few of its sequence.

As in `attention.3:window=128`. The first tokens, which trained attentions send what they have no use for to, stay in
sight (attention sinks; Xiao et al., Efficient Streaming Language Models with Attention Sinks, 2024).
"""

from dataclasses import dataclass

from search_spaces.kinds.kind import Kind, UnitKind

SINKS = 4  # first tokens of a sequence that stay in sight
_SMALLEST = 2  # with itself a token sees another one


def count_held(value: int) -> int:
    """How many tokens of the past a cache holds at a level: the first ones, and what the next token's window shows."""
    return SINKS + value - 1


@dataclass(frozen=True)
class WindowKind(UnitKind):
    """Its levels are numbers of tokens.

    Example:
        >>> KINDS["attention-window"].describe(KINDS["attention-window"].parse("128"))
        '128'
    """

    axis: str = "window"
    default: bool = False
    by_length: bool = True

    def describe(self, value: int) -> str:
        """A number of tokens: `128`."""
        return str(value)

    def parse(self, text: str) -> int:
        """Read a number of tokens.

        Raises:
            ValueError: it is none, or less than two.
        """
        value = int(text)
        if value < _SMALLEST or str(value) != text:
            raise ValueError(text)
        return value


KIND = WindowKind("attention-window", Kind.ATTENTION)
