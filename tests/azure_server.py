"""As much of Azure Blob Storage as `adlfs` asks for: containers, blobs, blocks, lists."""

from __future__ import annotations

import hashlib
import threading
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

ACCOUNT = "devstoreaccount1"


def connection_string(address: str) -> str:
    """What AZURE_STORAGE_CONNECTION_STRING is to say."""
    return (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey=a2V5;"
        f"BlobEndpoint={address}/{ACCOUNT}"
    )


class AzureStore:
    """The containers of one server: names → blobs → contents."""

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, bytes]] = {}
        self.blocks: dict[tuple[str, str, str], bytes] = {}
        self.lock = threading.RLock()

    def handler(self) -> Any:
        return partial(_Handler, self)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, store: AzureStore, *words: Any) -> None:
        self.store = store
        super().__init__(*words)

    def log_message(self, format: str, *words: Any) -> None:
        pass

    def respond(self) -> None:
        parts = urlsplit(self.path)
        _, _, name, *rest = unquote(parts.path).split("/", 3)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.store.lock:
            blobs = self.store.containers.get(name)
            if blobs is None and not (self.command == "PUT" and not rest):
                self.send(404, code="ContainerNotFound")
            elif not rest:
                self.container(name, query)
            elif self.command == "PUT":
                self.put(name, rest[0], query, body)
            else:
                self.blob(self.store.containers[name], rest[0])

    do_GET = do_HEAD = do_PUT = do_DELETE = respond  # noqa: N815

    def container(self, name: str, query: dict[str, str]) -> None:
        if self.command == "PUT":
            self.store.containers[name] = {}
            self.send(201)
        elif query.get("comp") == "list":
            self.send(200, self.listing(name, query), {"Content-Type": "application/xml"})
        else:
            self.send(200, headers=self.properties(b""))

    def put(self, name: str, blob: str, query: dict[str, str], body: bytes) -> None:
        if query.get("comp") == "block":
            self.store.blocks[name, blob, query["blockid"]] = body
        elif query.get("comp") == "blocklist":
            ids = [element.text or "" for element in ElementTree.fromstring(body)]
            parts = [self.store.blocks[name, blob, number] for number in ids]
            self.store.containers[name][blob] = b"".join(parts)
        else:
            self.store.containers[name][blob] = body
        self.send(201, headers=self.properties(body))

    def blob(self, blobs: dict[str, bytes], name: str) -> None:
        content = blobs.get(name)
        if content is None:
            self.send(404, code="BlobNotFound")
        elif self.command == "DELETE":
            del blobs[name]
            self.send(202)
        else:
            self.send_content(content)

    def send_content(self, content: bytes) -> None:
        headers, status, size = self.properties(content), 200, len(content)
        span = self.headers.get("x-ms-range") or self.headers.get("Range")
        if span and self.command == "GET":
            first, _, last = span.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or size) + 1, size)
            if start >= size:
                return self.send(416, code="InvalidRange")
            content, status = content[start:stop], 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return self.send(status, content, headers)

    def properties(self, content: bytes) -> dict[str, str]:
        return {
            "ETag": f'"0x{hashlib.sha1(content).hexdigest()[:16].upper()}"',
            "Last-Modified": formatdate(usegmt=True),
            "Content-Type": "application/octet-stream",
            "x-ms-blob-type": "BlockBlob",
        }

    def listing(self, name: str, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items: dict[str, str] = {}
        for blob, content in sorted(self.store.containers[name].items()):
            if not blob.startswith(prefix):
                continue
            head, cut, _ = blob[len(prefix) :].partition(delimiter) if delimiter else (blob, "", "")
            if cut:
                folder = escape(prefix + head + cut)
                items[folder] = f"<BlobPrefix><Name>{folder}</Name></BlobPrefix>"
                continue
            found = self.properties(content)
            items[blob] = (
                f"<Blob><Name>{escape(blob)}</Name><Properties><Etag>{found['ETag'][1:-1]}</Etag>"
                f"<Last-Modified>{found['Last-Modified']}</Last-Modified>"
                f"<Content-Length>{len(content)}</Content-Length><BlobType>BlockBlob</BlobType>"
                "</Properties></Blob>"
            )
        blobs = "".join(items.values())
        head = f'<EnumerationResults ContainerName="{name}">'
        return f"{head}<Blobs>{blobs}</Blobs></EnumerationResults>".encode()

    def send(
        self,
        status: int,
        content: bytes = b"",
        headers: dict[str, str] | None = None,
        code: str = "",
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("x-ms-version", "2021-12-02")
        if code:
            self.send_header("x-ms-error-code", code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
