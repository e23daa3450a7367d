"""What devices hand in: profiles, which searches then predict with, and certificates of a search's winner."""

import json
import math
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from nas.api.errors import Refusal, make_damaged
from nas.api.profile_import import ProfileImports
from nas.api.schemas import CertificateReceipt, ProfileReceipt
from nas.api.searches import Searches
from nas.request.quantities import Budget
from nas.results.certificate import Certificate, Verdict, compute_sha256
from search_spaces.architecture import Architecture
from search_spaces.errors import MeasurementError, NasError

_FOLDER = "certificates"  # in the result folder
_LONGEST = 1000  # characters of a reason
_ROUNDING = 1e-3  # ms; results are written with four decimals
_T = TypeVar("_T")


class Devices:
    """Takes documents that came over the network: nothing in them is believed before it was checked."""

    def __init__(self, searches: Searches) -> None:
        self._searches, self._imports = searches, ProfileImports()
        self._digests: dict[tuple[str, int, int], str] = {}

    def keep_profile(self, document: bytes) -> ProfileReceipt:
        """Keep a device's profile where searches for that device find it.

        Raises:
            NasError: it is none, of a model or device that is not known here, or takes too long to fit.
        """
        kept = self._imports.run(document)
        return ProfileReceipt(**{name: kept[name] for name in ProfileReceipt.model_fields})

    def keep_certificate(self, id: str, document: bytes, sender: str) -> CertificateReceipt:
        """Keep a certificate of a search's winner beside its result.

        Args:
            sender: the name of the token that it came with.

        Raises:
            Refusal: the search is not known or has no result, or the certificate is not of its winner.
            MeasurementError: it is none.
        """
        certificate = _check(document, "certificate.json", _read_certificate)
        out = self._searches.get_folder(id)
        result = self._searches.read_result(id)
        try:
            self._is_of_winner(certificate, result, out)
        except Refusal:
            raise
        except (OSError, LookupError, TypeError, ValueError, AttributeError, NasError):
            raise make_damaged(id) from None
        now = datetime.now(UTC)
        path = out / _FOLDER / f"{now:%Y%m%d-%H%M%S%f}-{sender}.json"
        path.parent.mkdir(exist_ok=True)
        draft = path.with_suffix(".draft")
        certificate.save(draft)
        draft.replace(path)
        return CertificateReceipt(
            artifact=path.relative_to(out).as_posix(), verdict=str(certificate.verdict), reason=certificate.reason,
            certified=certificate.certified,
        )  # fmt: skip

    def _is_of_winner(self, certificate: Certificate, result: dict[str, Any], out: Path) -> None:
        """Whether a certificate says something of this search's winner, under what the search was asked.

        Raises:
            Refusal: it does not.
        """
        winner = Architecture.from_json(result["winner"]["architecture"])
        wrong = [
            name
            for name, same in (
                ("target", certificate.target == result["target"]["name"]),
                ("workload", str(certificate.workload) == result["workload"]),
                ("percentile", certificate.percentile == result["percentile"]),
                ("architecture", certificate.architecture == winner),
                ("budget", _holds_budget(certificate, out, result)),
                ("place of measurement", certificate.on_target or certificate.verdict is not Verdict.CERTIFIED),
                ("file (sha256)", certificate.file_sha256 in self._list_exported(out)),
            )
            if not same
        ]
        if wrong:
            raise Refusal(
                422, "not_of_the_winner",
                f"not of this search's winner: {', '.join(wrong)} differ; certify the file of its artifacts",
            )  # fmt: skip

    def _list_exported(self, out: Path) -> set[str]:
        """Digests of the winner's files, taken once each."""
        exported = set()
        for path in (out / "winner").glob("*.onnx"):
            stat = path.stat()
            key = (str(path), stat.st_mtime_ns, stat.st_size)
            if key not in self._digests:
                self._digests[key] = compute_sha256(path)
            exported.add(self._digests[key])
        return exported


def _read_certificate(path: Path) -> Certificate:
    """A certificate whose values are of the kinds that they are compared as; a drift below 1 would flatter it.

    Raises:
        MeasurementError: it is none.
    """
    certificate = Certificate.load(path)
    words = (certificate.target, certificate.reason, certificate.file_sha256)
    numbers = (certificate.budget_ms, certificate.predicted_ms, certificate.drift)
    kinds = all(isinstance(word, str) for word in words) and all(isinstance(number, float) for number in numbers)
    if not kinds or not all(map(math.isfinite, numbers)) or certificate.drift < 1 or len(certificate.reason) > _LONGEST:
        raise MeasurementError("certificate.json holds what nas does not write; take it as nas certify made it")
    return certificate


def _holds_budget(certificate: Certificate, out: Path, result: dict[str, Any]) -> bool:
    """Whether it was judged against the budget that was asked for.

    A fraction is of the parent that was measured beside the winner; where the target was not, of the predicted one.
    """
    asked = Budget.parse(json.loads((out / "request.json").read_text())["budget"])
    if certificate.fraction is not None and certificate.fraction != asked.fraction:
        return False
    if asked.fraction is None:
        wanted = asked.milliseconds or 0.0
    elif certificate.on_target and certificate.parent is not None:
        wanted = asked.resolve(certificate.parent.compute_percentile(certificate.percentile))
    else:
        wanted = float(result["budget_ms"])
    return abs(certificate.budget_ms - wanted) <= _ROUNDING


def _check(document: bytes, name: str, read: Callable[[Path], _T]) -> _T:
    """What a reader of files makes of a document; its messages name the document, not the file.

    Raises:
        NasError: the reader's own, or a MeasurementError for a document that it trips over.
    """
    with tempfile.TemporaryDirectory(prefix="nas-") as folder:
        path = Path(folder) / name
        path.write_bytes(document)
        try:
            return read(path)
        except NasError as error:
            raise type(error)(str(error).replace(f"{folder}/", "")) from None
        except Exception as error:  # made to be read by us or to trip us up: both are refused
            raise MeasurementError(f"{name} cannot be read ({type(error).__name__}); make it again") from None
