"""What an exception of either SDK means, and when the server wants to be asked again.

In: an exception. Out: a `CallError` of the right kind, without keys. The decision a reader would question: a spent
quota is read from the words of the message, because it comes as 429 (OpenAI) or 400 (Anthropic) as other things do.
"""

from __future__ import annotations

import contextlib
import email.utils
import time
from collections.abc import Mapping
from typing import Any

from autocaft.llm.outcomes import CallError, FatalError, RejectedError, TransientError
from autocaft.rundir.progress import redact

FATAL_STATUS = frozenset({401, 402, 403})
TRANSIENT_STATUS = frozenset({408, 409, 425, 429})
SPENT_WORDS = ("insufficient_quota", "exceeded your current quota", "credit balance is too low", "billing_hard_limit")


def failure_of(error: Exception) -> CallError:
    """The kind of failure behind an exception of either SDK (both have the same shape)."""
    status = getattr(error, "status_code", None)
    if status is not None and status >= 400:
        return failure_of_status(status, str(error), retry_after_s(getattr(error, "response", None)))
    reason = "timeout" if "timeout" in type(error).__name__.lower() else "connection"
    return TransientError("bad_body" if isinstance(error, ValueError) or status else reason, one_line(str(error)))


def failure_of_status(status: int, message: str, wait_s: float | None = None) -> CallError:
    """The kind of failure behind an HTTP status, from a call or from a line of a batch."""
    reason, detail = f"http_{status}", one_line(message)
    # before the transient ones: waiting does not fill a spent quota
    if status in FATAL_STATUS or any(word in detail.lower() for word in SPENT_WORDS):
        return FatalError(reason, detail)
    if status in TRANSIENT_STATUS or status >= 500:
        return TransientError(reason, detail, wait_s)
    return RejectedError(reason, detail)


def retry_after_s(response: Any) -> float | None:
    """Seconds that the server asks to wait, from `retry-after-ms` or `retry-after` (seconds or a date)."""
    headers: Mapping[str, str] = getattr(response, "headers", {})
    asked = headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(headers["retry-after-ms"]) / 1000 if "retry-after-ms" in headers else float(asked))
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    return None


def one_line(text: str) -> str:
    """At most 300 characters without keys, which some servers echo."""
    return " ".join(redact(text).split())[:300]
