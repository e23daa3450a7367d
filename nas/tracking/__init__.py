"""Every search in MLflow: a parent run for the search, a child run per candidate, flat keys that compare.

A tracker that cannot be reached never stops a search: the record is kept in the result folder and sent later. The
best winner of the same model, target and budget is a registered model's `champion`.
"""

from nas.storage.redact import remove_password
from nas.tracking.address import get_tracking_uri
from nas.tracking.log import log_page, log_search, send_pending
from nas.tracking.pull import PulledWinner, pull_winner
from nas.tracking.record import CandidateRun, Layout, SearchRun, Winner

__all__ = [
    "CandidateRun",
    "Layout",
    "PulledWinner",
    "SearchRun",
    "Winner",
    "get_tracking_uri",
    "log_page",
    "log_search",
    "pull_winner",
    "remove_password",
    "send_pending",
]
