"""Real object stores for the tests: Google's emulator, moto's S3, and a proxy that breaks things.

`gcs_bucket` and `s3_bucket` are fresh buckets ("gs://…", "s3://…"), `bucket` is each of them and
one in memory. `faulty_bucket` is a bucket of either server behind a `FaultProxy`, which counts
requests, drops connections in the middle of a body, answers with errors and stalls.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

_HOPS = {"connection", "keep-alive", "transfer-encoding", "server", "date"}


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # with the default of 5, a burst of connections waits whole seconds
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are what the tests are about

    def __enter__(self) -> _Server:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def gcs_server() -> _Server:
    """Google Cloud Storage in memory; a context manager."""
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    lock = threading.RLock()

    class Handler(RequestHandler):
        """The emulator's own, one request at a time over connections that stay open."""

        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer waits for the client's delayed ack
        wbufsize = -1

    for name in ("do_GET", "do_POST", "do_PUT", "do_DELETE", "do_PATCH"):
        setattr(Handler, name, _locked(getattr(RequestHandler, name), lock))
    return _Server(("127.0.0.1", 0), partial(Handler, Storage(use_memory_fs=True)))


def _locked(method: Callable[[Any], None], lock: threading.RLock) -> Callable[[Any], None]:
    def locked(self: Any) -> None:
        with lock:
            method(self)

    return locked


@dataclass
class _Fault:
    kind: str
    value: float
    match: str
    times: int
    spare: int = 0


class Request(NamedTuple):
    """A request that a `FaultProxy` saw."""

    method: str
    path: str


@dataclass
class FaultProxy:
    """An HTTP proxy before one server; a context manager.

    Faults hit the next `times` requests whose "METHOD /path?query" contains `match`.
    """

    upstream: str
    requests: list[Request] = field(default_factory=list)
    _faults: list[_Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> FaultProxy:
        self._server = _Server(("127.0.0.1", 0), partial(_ProxyHandler, self)).__enter__()
        self.url = self._server.url
        return self

    def __exit__(self, *error: object) -> None:
        self._released.set()
        self._server.__exit__()

    def drop(self, times: int = 1, match: str = "", after_bytes: int = 10) -> None:
        """Close the connection in the middle of the answer's body."""
        self._faults.append(_Fault("drop", after_bytes, match, times))

    def cut_uploads(self, times: int = 1, match: str = "", after_bytes: int = 10) -> None:
        """Close the connection in the middle of the request's body; the server sees nothing."""
        self._faults.append(_Fault("cut", after_bytes, match, times))

    def answer(self, status: int, times: int = 1, match: str = "") -> None:
        """Answer with a status instead of asking the server."""
        self._faults.append(_Fault("answer", status, match, times))

    def stall(self, times: int = 1, match: str = "", after_bytes: int = 10, spare: int = 0) -> None:
        """Stop in the middle of the answer's body and keep the connection open.

        The first `spare` requests that match are answered.
        """
        self._faults.append(_Fault("stall", after_bytes, match, times, spare))

    def reset(self) -> None:
        """Forget all faults and requests."""
        self._released.set()
        self._released = threading.Event()
        self._faults, self.requests = [], []

    def count(self, match: str = "") -> int:
        """How many requests contained `match` in "METHOD /path?query"."""
        return sum(match in f"{request.method} {request.path}" for request in self.requests)

    def next_fault(self, method: str, path: str) -> _Fault | None:
        """Note a request and return what is to go wrong with it."""
        with self._lock:
            self.requests.append(Request(method, path))
            for fault in self._faults:
                if fault.times <= 0 or fault.match not in f"{method} {path}":
                    continue
                if fault.spare > 0:
                    fault.spare -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def wait(self) -> None:
        """Stall until the proxy is reset or closed."""
        self._released.wait(60)


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, proxy: FaultProxy, *args: Any) -> None:
        self.proxy = proxy
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def relay(self) -> None:
        fault = self.proxy.next_fault(self.command, self.path)
        kind, value = (fault.kind, int(fault.value)) if fault else ("", 0)
        if kind == "cut":
            length = self.headers.get("Content-Length")
            self.rfile.read(value if length is None else min(value, int(length)))
            return self.hang_up()
        body = self.request_body()
        if kind == "answer":
            return self.reply(value, {}, b'{"error": {"message": "made up by the test"}}')
        upstream = HTTPConnection(self.proxy.upstream.removeprefix("http://"), timeout=60)
        try:
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            answer = upstream.getresponse()
            content, headers = answer.read(), dict(answer.getheaders())
        except (OSError, HTTPException):
            return self.hang_up()
        finally:
            upstream.close()
        if kind in ("drop", "stall"):
            self.reply(answer.status, headers, content, cut=value)
            if kind == "stall":
                self.proxy.wait()
            return self.hang_up()
        return self.reply(answer.status, headers, content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = relay  # noqa: N815

    def request_body(self) -> bytes | None:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            length = int(self.headers.get("Content-Length") or 0)
            return self.rfile.read(length) if length else None
        del self.headers["Transfer-Encoding"]
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        self.headers["Content-Length"] = str(len(body))
        return body

    def reply(
        self, status: int, headers: dict[str, str], content: bytes, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOPS and name.lower() != "content-length":
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        if status != 204:
            self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if cut is None else content[:cut])
        self.wfile.flush()

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="session")
def gcs_address() -> Iterator[str]:
    """The emulator's address."""
    with gcs_server() as server:
        yield server.url


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """The address of moto's S3."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="session")
def azure_address() -> Iterator[str]:
    """The address of a small Azure Blob Storage."""
    from azure_server import AzureStore

    with _Server(("127.0.0.1", 0), AzureStore().handler()) as server:
        yield server.url


def make_bucket(kind: str, address: str) -> str:
    """Make a bucket on a server and return its URL."""
    name = f"bucket-{secrets.token_hex(4)}"
    if kind == "abfs":
        words, path = {"method": "PUT"}, f"devstoreaccount1/{name}?restype=container"
    elif kind == "gs":
        words = {"data": f'{{"name": "{name}"}}'.encode(), "method": "POST"}
        path = "storage/v1/b?project=test"
    else:
        words, path = {"method": "PUT"}, name
    headers = {"Content-Type": "application/json"} if kind == "gs" else {}
    ask = urllib.request.Request(f"{address}/{path}", headers=headers, **words)
    with urllib.request.urlopen(ask, timeout=30):
        return f"{kind}://{name}"


def point_at(monkeypatch: pytest.MonkeyPatch, kind: str, address: str) -> None:
    """Let this process, and those that it starts, find the store `kind` at an address."""
    for name in ("AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    if kind == "gs":
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        return
    if kind == "abfs":
        from azure_server import connection_string

        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string(address))
        return
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in (
        ("ACCESS_KEY_ID", "testing"),
        ("SECRET_ACCESS_KEY", "testing"),
        ("DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.fixture
def gcs_bucket(gcs_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket on Google's emulator: "gs://…"."""
    point_at(monkeypatch, "gs", gcs_address)
    return make_bucket("gs", gcs_address)


@pytest.fixture
def s3_bucket(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket on moto's S3: "s3://…"."""
    point_at(monkeypatch, "s3", s3_address)
    return make_bucket("s3", s3_address)


@pytest.fixture
def azure_bucket(azure_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh container on a small Azure: "abfs://…"."""
    point_at(monkeypatch, "abfs", azure_address)
    return make_bucket("abfs", azure_address)


@pytest.fixture(params=["gcs", "s3", "azure", "memory"])
def bucket(request: pytest.FixtureRequest) -> str:
    """A fresh bucket of every kind in turn."""
    if request.param == "memory":
        return f"memory://bucket-{secrets.token_hex(4)}"
    url: str = request.getfixturevalue(f"{request.param}_bucket")
    return url


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the number of attempts, and shorten the pauses between them."""
    monkeypatch.setattr("harken.storage.retries.FIRST_PAUSE", 0.01)


class FaultyBucket(NamedTuple):
    """A bucket behind a proxy."""

    url: str
    proxy: FaultProxy


@pytest.fixture(params=["gcs", "s3"])
def faulty_bucket(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultyBucket]:
    """A fresh bucket of either server behind a `FaultProxy` that has nothing to do yet."""
    kind = {"gcs": "gs", "s3": "s3", "azure": "abfs"}[request.param]
    address = request.getfixturevalue(f"{request.param}_address")
    url = make_bucket(kind, address)
    with FaultProxy(address) as proxy:
        point_at(monkeypatch, kind, proxy.url)
        yield FaultyBucket(url, proxy)
