"""Trying again: what is worth it, how often, and how long to wait in between.

The clients of the stores have retries of their own, each with other rules; `stores.py` switches
them off, so that these here are the only ones and do not multiply.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

ATTEMPTS = 6
FIRST_PAUSE = 0.5  # seconds; doubles from one attempt to the next
LAST_START = 60.0  # seconds after which no further attempt is begun

_PASSING = {408, 425, 429, 500, 502, 503, 504}
_CODES = {"SlowDown", "RequestTimeout", "ServiceUnavailable", "InternalError", "Throttling"}
_PASSING_ERRORS = {
    # By name, as each of them belongs to a package that need not be installed.
    *("aiohttp.ClientConnectionError", "aiohttp.ClientPayloadError"),
    *(
        "botocore.HTTPClientError",
        "botocore.IncompleteReadError",
        "botocore.ResponseStreamingError",
    ),
    *("requests.ConnectionError", "requests.Timeout", "requests.ChunkedEncodingError"),
    *("google.TransportError", "urllib3.HTTPError", "http.IncompleteRead", "http.HTTPException"),
    *("azure.ServiceRequestError", "azure.ServiceResponseError", "fsspec.FSTimeoutError"),
}
_FOR_GOOD = {
    # Relatives of the above that no waiting mends.
    *("aiohttp.ClientConnectorCertificateError", "aiohttp.InvalidURL", "botocore.SSLError"),
    *("requests.SSLError", "requests.InvalidURL"),
}


class Damaged(Exception):  # noqa: N818
    """What arrived is not what the store said that it holds."""


class Changed(Exception):  # noqa: N818
    """A remote file is another one than it was a moment ago."""


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status behind an error of whichever client, if there is one."""
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):  # gcsfs
        return 403
    for name in ("code", "status_code", "status"):
        value = getattr(error, name, None)
        if isinstance(value, int | str) and str(value).isdigit():
            return int(value)
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    if status:
        return int(status)
    return 403 if isinstance(error, PermissionError) else None


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    status = status_of(error)
    if status is not None and status >= 400:
        return status in _PASSING or code_of(error) in _CODES
    names = {_short_name(kind) for kind in type(error).__mro__}
    if names & _FOR_GOOD:
        return False
    return isinstance(error, Damaged | ConnectionError | TimeoutError) or bool(
        names & _PASSING_ERRORS
    )


def retried(call: Callable[[], T]) -> T:
    """Return what `call` returns, trying again after errors that pass, with growing pauses.

    Raises:
        Exception: the last error.
    """
    begin = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except Exception as error:
            late = time.monotonic() - begin > LAST_START
            if attempt == ATTEMPTS or late or not is_transient(error):
                raise
        # Without chance in it, all clients that an outage hit would come back at the same moment.
        time.sleep(FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
    raise AssertionError("unreachable")


def code_of(error: BaseException) -> str:
    """Return the word by which S3 names an error, or nothing."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def _response(error: BaseException) -> dict[str, Any]:
    for source in (error, error.__cause__, error.__context__):
        response = getattr(source, "response", None)
        if isinstance(response, dict):  # botocore's; s3fs raises an OSError in its place
            return response
    return {}


def _short_name(kind: type) -> str:
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
