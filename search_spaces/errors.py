"""Every error the tool raises on purpose, in one tree.

NasError                          exit code 1
├── UsageError                    exit code 2   a value given by the user is wrong
│   ├── BadBudget
│   ├── BadWorkload
│   ├── UnknownTarget
│   ├── BadData
│   └── MissingExtra
├── ModelError                    exit code 2   the given model cannot be used
│   ├── UnreadableModel
│   └── UnsafeCheckpoint
├── ArchitectureError             exit code 2   an architecture that does not fit the model
├── MeasurementError              exit code 1
│   ├── ProfileMismatch
│   └── MachineTooBusy
├── ExportError                   exit code 1
├── WriteFailed                   exit code 1   a disk is full, or a folder cannot be written any more
├── StorageUnavailable            exit code 1   the place where studies are kept does not answer
├── TrackingError                 exit code 1
├── NoFeasibleCandidate           exit code 3   nothing met the budget; the closest is reported
└── Interrupted                   exit code 130 stopped from outside; what was found is kept

Every message names the value, the rule it breaks and the repair, in one line.
"""


class NasError(Exception):
    """Base of everything raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(NasError):
    """A value given by the user is wrong."""

    exit_code = 2


class BadBudget(UsageError):
    """A budget that is not `20ms` or `0.6x`."""


class BadWorkload(UsageError):
    """A workload that is not `forward:batch=8,seq=128` or its like."""


class UnknownTarget(UsageError):
    """A target name that no data sheet and no profile defines."""


class BadData(UsageError):
    """Data that is missing, empty or not in a described form."""


class MissingExtra(UsageError):
    """An optional package is needed and not installed; the message names the extra."""


class ModelError(NasError):
    """The given model cannot be used."""

    exit_code = 2


class UnreadableModel(ModelError):
    """No transformer structure was found; the message says what was looked for."""


class UnsafeCheckpoint(ModelError):
    """The folder has pickled weights only, or needs remote code that was not allowed."""


class ArchitectureError(NasError):
    """An architecture that does not fit the model (index out of range, everything dropped)."""

    exit_code = 2


class MeasurementError(NasError):
    """A measurement that could not be made or cannot be trusted."""


class ProfileMismatch(MeasurementError):
    """Records of different devices, runtimes, precisions or models were mixed."""


class MachineTooBusy(MeasurementError):
    """A machine does so much else that what is measured on it says nothing of a budget; `reason` is what proves it."""

    def __init__(self, reason: str, kept: str = "") -> None:
        super().__init__(f"this machine is too busy to certify: {reason}{kept}; let it do nothing else, then run again")
        self.reason = reason


class ExportError(NasError):
    """The exported file could not be made or does not compute what the model computes."""


class TrackingError(NasError):
    """A tracking server did not take what a person asked it to keep."""


class ExecutionError(NasError):
    """A cluster cannot be reached, has no room, or its workers die again and again."""


class StorageUnavailable(NasError):
    """The place where a study is kept cannot be reached, refuses, or stayed away for longer than a search waits."""


class WriteFailed(NasError):
    """A disk became full, or a folder cannot be written any more; what was written before is kept."""


class NoFeasibleCandidate(NasError):
    """No candidate meets the budget; the message reports the closest, and the attributes do in ms where known."""

    exit_code = 3

    def __init__(self, message: str, budget_ms: float | None = None, closest_ms: float | None = None) -> None:
        super().__init__(message)
        self.budget_ms, self.closest_ms = budget_ms, closest_ms


class Interrupted(NasError):
    """Stopped by Ctrl-C or SIGTERM; `resume_command` goes on with what was saved, None where there is nothing."""

    exit_code = 130

    def __init__(self, resume_command: str | None = None) -> None:
        super().__init__("interrupted" if resume_command is None else f"interrupted; continue with: {resume_command}")
        self.resume_command = resume_command


class CacheMismatch(NasError):
    """An evaluation that resumed from the prefix cache differs from a full one."""


class UnusedWeights(UserWarning):
    """A checkpoint holds weights beside those of its model: a head of another task, another tower. It is said once."""
