"""The one error of the measuring side; on the machine that searches it becomes a MeasurementError."""


class MeasuringFailed(Exception):
    """A measurement that could not be made or cannot be trusted; the message names value, rule and repair."""


def get_first_line(error: BaseException) -> str:
    """What a runtime said, cut to one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
