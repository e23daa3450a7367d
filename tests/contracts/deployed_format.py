"""What every format does: subclass it with a `format` and a family that it takes, and its tests run."""

from pathlib import Path

import pytest
from families import build

from nas.formats import FORMATS, Source, check, read_source
from nas.formats.deliver import write_checked
from nas.formats.format import Format
from nas.progress import Silent
from pruning.checkpoint import save
from pruning.surgery.prune import prune
from search_spaces import Architecture
from search_spaces.errors import NasError

PARTS = Architecture.from_words("attn+mlp mlp attn+mlp attn+mlp")


def write_source(folder: Path, family: str = "llama", architecture: Architecture = PARTS) -> Source:
    """A pruned model of a family, saved and read again."""
    save(prune(build(family), architecture), folder)
    return read_source(folder)


class FormatContract:
    format: Format

    def make_source(self, folder: Path) -> Source:
        """A model that the format takes."""
        return write_source(folder)

    def refused(self, folder: Path) -> Source | None:
        """A model that it does not take; None where it takes all."""
        return None

    def test_it_is_registered_under_its_name(self) -> None:
        assert FORMATS[self.format.name] == self.format

    def test_what_it_needs_is_said_with_how_it_is_installed(self) -> None:
        assert all(command.startswith("pip install") for command in self.format.needs.values())

    def test_what_it_cannot_hold_is_refused_in_one_line(self, tmp_path: Path) -> None:
        source = self.refused(tmp_path)
        if source is None:
            pytest.skip("it takes every model of the tests")
        refusal = self.format.find_refusal(source)
        assert refusal is not None
        assert refusal.reason
        assert "\n" not in refusal.words

    @pytest.mark.slow
    def test_its_program_gives_what_the_model_gives(self, tmp_path: Path) -> None:
        self._skip_without_packages()
        source = self.make_source(tmp_path / "model")
        assert self.format.find_refusal(source) is None
        parity = write_checked(self.format, source, tmp_path / "out", Silent())
        assert parity.bytes > 0
        assert parity.note or parity.program
        assert bool(parity.program) == bool(parity.differences)
        assert parity.worst <= 1e-3

    @pytest.mark.slow
    def test_another_model_s_folder_is_found_out(self, tmp_path: Path) -> None:
        """A folder whose program answers is compared with a model of other weights."""
        self._skip_without_packages()
        source = self.make_source(tmp_path / "model")
        parity = write_checked(self.format, source, tmp_path / "out", Silent())
        if not parity.program:
            pytest.skip("no program runs it here")
        for parameter in source.model.parameters():
            parameter.data = parameter.data * 1.5
        with pytest.raises(NasError, match="do not deploy it"):
            check(self.format, source, tmp_path / "out")

    def _skip_without_packages(self) -> None:
        for package in self.format.needs:
            pytest.importorskip(package)
