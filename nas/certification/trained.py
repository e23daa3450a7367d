"""Certifying candidates that were trained since they were measured: same graphs, other weights, so other files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nas.certification.quiet_machine import find_noise
from nas.certification.selection import WIDE
from nas.results.certificate import Certificate, Verdict
from nas.search import Candidate
from search_spaces.architecture import Architecture
from search_spaces.errors import MachineTooBusy

FINALISTS = 4  # candidates of a search that are trained, or shown side by side


@dataclass(frozen=True)
class TrainedCandidate:
    """A candidate with weights of its own.

    Attributes:
        candidate: its quality is that of the trained model.
        build: the model.
    """

    candidate: Candidate
    build: Callable[[], Any]


@dataclass(frozen=True)
class TrainedCallbacks:
    """What certifying asks of the world.

    Attributes:
        certify: measures one in fresh processes and judges it; told how often winners were judged before.
        predict: the certificate of one that stays a prediction, for the reason that is given.
        wait: for a quiet machine, told what proves that it is none; raises MachineTooBusy in the end.
        say: tells the person.
        tail: the percentile whose tail has to be calm; None where ratios are judged.
    """

    certify: Callable[[Architecture, int], Certificate]
    predict: Callable[[Architecture, str], Certificate]
    wait: Callable[[str], None]
    say: Callable[[str], None]
    tail: int | None


def certify_first(
    callbacks: TrainedCallbacks, trained: Sequence[TrainedCandidate], looks: int
) -> tuple[Candidate, Certificate]:
    """The first that is certified, with its certificate.

    Where none is, the first with what its certificate says; where the machine is too busy to tell, it is a prediction.

    Args:
        trained: best first; there is one at least.
        looks: how often the search has judged winners before.
    """
    refused: list[tuple[Candidate, Certificate]] = []
    for candidate in (each.candidate for each in trained):
        try:
            certificate = _certify_quietly(callbacks, candidate, looks)
        except MachineTooBusy as busy:
            return candidate, callbacks.predict(candidate.architecture, busy.reason)
        if certificate.certified:
            return candidate, certificate
        callbacks.say(f"{certificate.reason}: trying the next best")
        refused.append((candidate, certificate))
        looks += certificate.looks
    return refused[0]


def _certify_quietly(callbacks: TrainedCallbacks, candidate: Candidate, looks: int) -> Certificate:
    """The certificate by samples of a quiet machine.

    Raises:
        MachineTooBusy: there was none to be had.
    """
    while True:
        certificate = callbacks.certify(candidate.architecture, looks)
        assert certificate.parent is not None
        noisy = find_noise(certificate.parent, callbacks.tail)
        if noisy is None and certificate.verdict is Verdict.UNDECIDED and certificate.spread > WIDE:
            noisy = certificate.reason
        if noisy is None:
            return certificate
        callbacks.wait(noisy)
        looks += certificate.looks
