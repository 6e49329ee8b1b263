"""A local HTTP server whose misbehaviour a test decides, request by request."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: What is served where any bytes will do.
CONTENT = bytes(index * index % 251 for index in range(200_000))


@dataclass
class Answer:
    """How one request is answered."""

    status: int = 200
    #: Close the connection after this many bytes of the content (-1: send it all).
    cut: int = -1
    #: Seconds before the first byte of content.
    wait: float = 0.0
    #: Seconds between blocks of content, and their size.
    pause: float = 0.0
    block: int = 1 << 16
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None


@dataclass
class Served:
    """A path, its content, and the answers to its first requests; later ones are answered properly."""

    content: bytes
    answers: list[Answer] = field(default_factory=list)
    tag: str = '"1"'


class FileServer:
    """What is served, and what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str]] = []
        self.url = ""

    def serve(self, path: str, content: bytes, *answers: Answer, tag: str = '"1"') -> str:
        """Serve a path; its URL."""
        self.files[path] = Served(content, list(answers), tag)
        return f"{self.url}{path}"

    def ranges(self, path: str) -> Sequence[str]:
        """The Range header of each request for a path, "" where there was none."""
        return [asked for requested, asked in self.requests if requested == path]


@contextmanager
def file_server() -> Iterator[FileServer]:
    files = FileServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            files.requests.append((path, self.headers.get("Range", "")))
            served = files.files.get(path)
            if served is None:
                self.refuse(404, {})
                return
            answer = served.answers.pop(0) if served.answers else Answer()
            if answer.status != 200:
                self.refuse(answer.status, answer.headers)
                return
            content = served.content if answer.content is None else answer.content
            self.content(content, served.tag, answer)

        def content(self, content: bytes, tag: str, answer: Answer) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start, status = 0, 200
            if asked and answer.ranges and self.headers.get("If-Range", tag) == tag:
                start, status = int(asked[1]), 206
                if start >= len(content):
                    self.refuse(416, {"Content-Range": f"bytes */{len(content)}"})
                    return
            self.send_response(status)
            if tag:
                self.send_header("ETag", tag)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            time.sleep(answer.wait)
            end = len(content) if answer.cut < 0 else min(start + answer.cut, len(content))
            try:
                for place in range(start, end, answer.block):
                    self.wfile.write(content[place : min(place + answer.block, end)])
                    self.wfile.flush()
                    time.sleep(answer.pause)
            except ConnectionError:
                pass
            self.close_connection = answer.cut >= 0

        def refuse(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    files.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
