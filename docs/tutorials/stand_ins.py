"""Stand-ins for Google Cloud on this machine: buckets, and the job service of Vertex AI.

They let the notebooks run anywhere, without an account. The job service reads each request into the
service's own types, so that what it would not understand is an error here too; it starts no job.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KINDS = {"customJobs": "CustomJob", "hyperparameterTuningJobs": "HyperparameterTuningJob"}


class Server(ThreadingHTTPServer):
    """An HTTP server in a thread, at an address that the system picks; a context manager."""

    daemon_threads = True

    def __init__(self, handler: Callable[..., BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        """The address."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that hung up."""

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class JobService(Server):
    """The job service.

    Attributes:
        jobs: What was submitted: the parent and the message of each job.
        refusal: A status and a text with which everything is refused; None takes jobs.
    """

    def __init__(self) -> None:
        self.jobs: list[tuple[str, Any]] = []
        self.refusal: tuple[int, str] | None = None
        super().__init__(partial(_Jobs, self))

    def receive(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Take a request; return the answer's status and JSON."""
        import google.cloud.aiplatform_v1 as vertex

        if self.refusal is not None:
            code, message = self.refusal
            return code, {"error": {"code": code, "message": message}}
        parent, _, kind = path.removeprefix("/v1/").partition("?")[0].rpartition("/")
        message = getattr(vertex, KINDS[kind]).from_json(body, ignore_unknown_fields=False)
        self.jobs.append((parent, message))
        name = f"{parent}/{kind}/{1000 + len(self.jobs)}"
        return 200, {**json.loads(body), "name": name, "state": "JOB_STATE_PENDING"}


class _Jobs(BaseHTTPRequestHandler):
    def __init__(self, service: JobService, *args: Any) -> None:
        self.service = service
        super().__init__(*args)

    def do_POST(self) -> None:
        """Answer one request."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, reply = self.service.receive(self.path, body)
        content = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def buckets(*names: str) -> Server:
    """Serve Cloud Storage from memory, with some buckets, and let this process find it."""
    from gcp_storage_emulator.handlers.buckets import create_bucket
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    held, lock = Storage(use_memory_fs=True), threading.Lock()
    for name in names:
        create_bucket(name, held)

    class Handler(RequestHandler):  # type: ignore[misc]
        """The emulator's own, one request at a time, which it needs."""

    for verb in ("do_GET", "do_POST", "do_PUT", "do_DELETE", "do_PATCH"):
        setattr(Handler, verb, _locked(getattr(RequestHandler, verb), lock))
    server = Server(partial(Handler, held))
    os.environ["STORAGE_EMULATOR_HOST"] = server.url
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # else a minute is lost at first
    return server


def _locked(answer: Callable[[Any], None], lock: threading.Lock) -> Callable[[Any], None]:
    def alone(handler: Any) -> None:
        with lock:
            answer(handler)

    return alone
