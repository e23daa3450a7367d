"""What an attention with a window keeps: the first tokens of every sequence, and the last ones that are in sight.

Keys and values (batch, heads, sinks + recent, size): a place for each of the first tokens, then the last tokens, at
most `window - 1`. A first token takes its place when it leaves the window. Before, that place is empty, and its mask
says so. Rows that are padded on the left begin later, so their first tokens are others.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from search_spaces.kinds.attention_window import SINKS

_TOKENS = 2  # axis of keys and values that counts tokens


class SinkLayer(DynamicLayer):  # type: ignore[misc]
    """A layer of the library's cache. Its lengths may be symbols, as in a trace.

    Attributes:
        window: tokens that a token sees, itself included, beside the first ones.
        seen: all tokens that passed.
        starts: (batch or 1, 1) int64, where each row begins; told before every update.

    Example:
        >>> layer = SinkLayer(window=8)
        >>> keys, values = layer.update(torch.randn(1, 2, 50, 16), torch.randn(1, 2, 50, 16))
        >>> layer.keys.shape[2]
        11
    """

    is_croppable = False

    def __init__(self, window: int, seen: Any = 0, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        """Empty without `keys`; else as one that has seen so many tokens."""
        super().__init__()
        self.window, self.seen, self.starts = window, seen, torch.zeros(1, 1, dtype=torch.int64)
        self.keys, self.values, self.is_initialized = keys, values, keys is not None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The keys and values that these tokens are compared with: the places, the last tokens, and the new ones."""
        if self.keys is None or self.values is None:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self.keys, self.values = (_make_places(states) for states in (key_states, value_states))
        recent, new = self.count_recent(), key_states.shape[_TOKENS]
        keys = torch.cat([self.keys, key_states], dim=_TOKENS)
        values = torch.cat([self.values, value_states], dim=_TOKENS)
        self.keys, self.values = (self._let_go(states, recent, new) for states in (keys, values))
        self.seen = self.seen + new
        return keys, values

    def count_recent(self) -> Any:
        """How many of the last tokens are held."""
        return 0 if self.keys is None else self.keys.shape[_TOKENS] - SINKS

    def get_seq_length(self) -> Any:
        """Tokens seen."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[Any, int]:
        """(all tokens, 0): masks are made for everything, and cut to what is held where the attention is called."""
        return self.seen + query_length, 0

    def reset(self) -> None:
        """Forget every token."""
        self.keys = self.values = None
        self.seen, self.is_initialized = 0, False

    def crop(self, tokens_to_remove: int) -> None:
        """Forget nothing: what left the window is gone.

        Raises:
            ValueError: to forget tokens.
        """
        if tokens_to_remove:
            raise ValueError(f"crop({tokens_to_remove}): a cache with windows and sinks cannot take tokens back")

    def _let_go(self, states: Tensor, recent: Any, new: int) -> Tensor:
        """Of the places, the last tokens and new ones, what the next call may look at."""
        left: Any = torch.sym_min(recent + new, self.window - 1)  # type: ignore[no-untyped-call]
        begin, end = self.seen - recent, self.seen + new - left  # the oldest of the last tokens, before and after
        places = torch.arange(SINKS, device=states.device)
        wanted = self.starts.to(states.device) + places
        leaving = SINKS + (wanted - begin).clamp(min=0, max=recent + new - 1)
        source = torch.where((wanted >= begin) & (wanted < end), leaving, places)
        index = source[:, None, :, None].expand(states.shape[0], states.shape[1], SINKS, states.shape[3])
        last = states.narrow(_TOKENS, SINKS + recent + new - left, left)
        return torch.cat([states.gather(_TOKENS, index), last], dim=_TOKENS)


def _make_places(states: Tensor) -> Tensor:
    """Empty places for the first tokens."""
    return states.new_zeros(states.shape[0], states.shape[1], SINKS, states.shape[3])
