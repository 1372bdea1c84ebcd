"""The stores behind URLs: one connection to each, and every request to them through `ask`.

A connection belongs to one process (clients do not survive a fork) and to the settings that the
environment had when it was made; all threads share it. It keeps no listings, so that what another
process wrote a moment ago is seen.
"""

from __future__ import annotations

import difflib
import functools
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import fsspec

from harken.errors import ConfigError, HarkenError, MissingExtraError, import_extra
from harken.storage.refusals import explain, family, no_bucket, no_credentials
from harken.storage.retries import Changed, retried
from harken.storage.url import Location, protocol_of

T = TypeVar("T")

IN_FLIGHT = 32
"""Requests that are under way at once when many files are fetched."""

_EXTRAS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3"), "abfs": ("adlfs", "azure")}
_KNOWN = ("gs", "gcs", "s3", "abfs", "abfss", "az", "memory", "file", "https", "http")
_CONNECT_SECONDS, _READ_SECONDS = 10, 30  # the second without a single byte
_ENVIRONMENT = ("AWS_", "GOOGLE_", "AZURE_", "STORAGE_EMULATOR_HOST", "GCE_METADATA", "NO_GCE")
_PASSED_ON = (FileNotFoundError, NotADirectoryError, IsADirectoryError, HarkenError, Changed)
_OUR_MISTAKES = (AssertionError, AttributeError, KeyError, NameError, TypeError)

_stores: dict[tuple[Any, ...], Any] = {}
_lock = threading.RLock()


def ask(url: Location, call: Callable[[Any, str], T], *, writing: bool = False) -> T:
    """Return `call(store, path)`, trying again after errors that pass.

    Args:
        url: What it is about.
        call: Asks the store; may be called several times.
        writing: Whether it changes something there.

    Raises:
        FileNotFoundError: there is no such file, or no such bucket; `missing_bucket` tells.
        StoreError: the store does not answer or does not permit it.
        ConfigError: the store is unknown, or there are no credentials for it.
        MissingExtraError: the store needs a package that is not installed.
    """
    store, path = connect(url)
    try:
        return retried(lambda: call(store, path))
    except (*_PASSED_ON, *_OUR_MISTAKES):
        raise
    except Exception as error:
        raise explain(error, url, writing) from error


def check_bucket(url: Location) -> None:
    """Raise if not only a file is missing but the bucket that it would be in.

    Raises:
        StoreError: there is no such bucket.
    """
    if family(url) not in _EXTRAS:
        return
    try:
        ask(url, lambda store, path: store.info(path.partition("/")[0]))
    except FileNotFoundError as error:
        raise no_bucket(url) from error
    except HarkenError:
        return  # whether it is there may be known only to those who may list it


def connect(url: Location) -> tuple[Any, str]:
    """Return the store (an fsspec file system) and the path in it.

    Raises:
        ConfigError: the store is unknown, or there are no credentials for it.
        MissingExtraError: the store needs a package that is not installed.
    """
    account = _azure_account(url) if family(url) == "abfs" else None
    with _lock:  # while it connects, another thread may change the environment for a moment
        settings = sorted(item for item in os.environ.items() if item[0].startswith(_ENVIRONMENT))
        key = (os.getpid(), protocol_of(url), account, *settings)
        store = _stores.get(key)
        if store is None:
            store = _stores[key] = _connect(url)
    return store, store._strip_protocol(str(url))


def _connect(url: Location) -> Any:
    protocol, store = protocol_of(url), family(url)
    if store in _EXTRAS:
        with _explain_extra(url):
            import_extra(*_EXTRAS[store])
        return {"gs": _gcs, "s3": _s3, "abfs": _azure}[store](url)
    try:
        return fsspec.get_filesystem_class(protocol)(skip_instance_cache=True)
    except ImportError as error:
        text = f"files at {protocol}:// need another package"
        raise MissingExtraError(text, where=str(url), fix=str(error)) from error
    except ValueError as error:
        near = difflib.get_close_matches(protocol, _KNOWN, 1, 0.4)
        did_you = f"did you mean {near[0]}://? " if near else ""
        raise ConfigError(
            f"harken cannot read from {protocol}://",
            where=str(url),
            fix=f"{did_you}Known are gs://, s3://, abfs://, memory:// and local paths",
        ) from error


@contextmanager
def _explain_extra(url: Location) -> Iterator[None]:
    try:
        yield
    except MissingExtraError as error:
        text = f"files at {protocol_of(url)}:// need another package: {error.message}"
        raise MissingExtraError(text, where=str(url), fix=error.fix) from error


def _configured(*protocols: str) -> dict[str, Any]:
    """Return what the user's fsspec configuration (FSSPEC_GS_TOKEN=anon …) says of a store."""
    return {name: value for p in protocols for name, value in fsspec.config.conf.get(p, {}).items()}


def _gcs(url: Location) -> Any:
    # Its extension asks over gRPC what kind of bucket this is; emulators answer after a minute.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    core, aiohttp = import_extra("gcsfs.core", "gcs"), import_extra("aiohttp", "gcs")
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "") not in ("", "default")
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if "token" not in _configured("gs", "gcs"):
        options["token"] = "anon" if emulator else _google_credentials(url)
    timeout = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
    store = core.GCSFileSystem(requests_timeout=timeout, **options)
    # Its own retries would multiply ours, and log a traceback for each.
    once = getattr(core.GCSFileSystem._request, "__wrapped__", None)
    if once is not None:
        store._request = functools.partial(once, store)
    return store


def _google_credentials(url: Location) -> Any:
    """Return the application default credentials; gcsfs would silently go on without any."""
    auth = import_extra("google.auth", "gcs")
    from_environment = os.environ.get("NO_GCE_CHECK")
    log = logging.getLogger("google.auth._default")
    level = log.level
    try:
        log.setLevel(logging.ERROR)  # our own error says it
        if from_environment is None and not _answers(_metadata_host()):
            os.environ["NO_GCE_CHECK"] = "true"  # google.auth would try for nine seconds and more
        scope = "https://www.googleapis.com/auth/devstorage.full_control"
        return auth.default(scopes=[scope])[0]
    except auth.exceptions.GoogleAuthError as error:
        raise no_credentials(url, error) from error
    finally:
        log.setLevel(level)
        if from_environment is None:
            os.environ.pop("NO_GCE_CHECK", None)


def _metadata_host() -> str:
    return os.environ.get("GCE_METADATA_HOST") or "169.254.169.254"


def _answers(host: str) -> bool:
    name, _, port = host.partition(":")
    try:
        with socket.create_connection((name, int(port or 80)), timeout=1.0):
            return True
    except OSError:
        return False


def _s3(url: Location) -> Any:
    core = import_extra("s3fs.core", "s3")
    config = {
        **_configured("s3", "s3a").get("config_kwargs", {}),
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "max_pool_connections": IN_FLIGHT,
    }
    try:
        store = core.S3FileSystem(
            config_kwargs=config, use_listings_cache=False, skip_instance_cache=True
        )
    except Exception as error:
        raise explain(error, url) from error
    store.retries = 1  # ours are the only ones
    return store


def _azure_account(url: Location) -> str | None:
    host = str(url).partition("://")[2].partition("/")[0].partition("@")[2]
    return host.partition(".")[0] or None


def _azure(url: Location) -> Any:
    core = import_extra("adlfs.spec", "azure")
    account = _azure_account(url)
    configured = _configured("abfs", "az", "abfss")
    named = (account, configured.get("account_name"), configured.get("connection_string"))
    names = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CONNECTION_STRING")
    if not any(named) and not any(os.environ.get(name) for name in names):
        raise ConfigError(
            "this URL does not say which storage account the container is in",
            where=str(url),
            fix="AZURE_STORAGE_ACCOUNT_NAME=…, or abfs://container@account.dfs.core.windows.net/…",
        )
    options = {"account_name": account} if account else {}
    try:
        store = core.AzureBlobFileSystem(
            connection_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            use_listings_cache=False,
            skip_instance_cache=True,
            **options,
        )
    except Exception as error:
        raise explain(error, url) from error
    policy = getattr(getattr(store.service_client, "_config", None), "retry_policy", None)
    if policy is not None:
        policy.total_retries = 0  # ours are the only ones, and its first pause is 15 s
    return store


def _forget_after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # another thread may have held it when the process was copied
    _stores.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
