"""What became of one family, and how it is told."""

from dataclasses import dataclass, field

EXACT, NOTHING = "exact", ""
TRIALS = ("dropped", "decoded", "saved", "shape", "analysed", "onnx")


@dataclass
class Outcome:
    """What became of one class. Empty words: not tried, as what comes before it did not work.

    Example:
        >>> try_family("causal language model", "llama", "LlamaForCausalLM", causal=True).is_exact
        True
    """

    task: str
    family: str
    model: str
    not_built: str = ""
    refused: str = ""
    crashed: str = ""
    layout: str = ""
    units: dict[str, int] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    dropped: str = ""
    decoded: str = ""
    saved: str = ""
    shape: str = ""
    analysed: str = ""
    onnx: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether whatever was tried agreed."""
        return {self.dropped, self.decoded, self.saved} <= {EXACT, NOTHING} and not self.crashed

    @property
    def words(self) -> str:
        """One line for a person."""
        if self.not_built or self.refused:
            return f"not built: {self.not_built}" if self.not_built else f"refused: {self.refused}"
        if self.crashed and not self.layout:
            return f"fails: {self.crashed.strip().splitlines()[-1][:160]}"
        found = ", ".join(f"{count} {kind}" for kind, count in self.units.items())
        tried = {key: getattr(self, key) for key in TRIALS if getattr(self, key) != NOTHING}
        return f"{self.layout}; {found}; {'; '.join(f'{key} {value}' for key, value in tried.items())}"
