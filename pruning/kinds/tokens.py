"""Tokens that are dropped: hooks between the blocks do it (`pruning.reduction.install`), all modules stay."""

from pruning.kinds.surgery import Surgery

SURGERY = Surgery()
