"""An HTTP proxy before an S3 service that spoils the answers it is told to."""

import collections
import http.client
import random
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"


class FaultyProxy:
    """Forwards to `target`; `faults[method]` holds what to do to the next answers, in order.

    "lose" forwards the request and closes without an answer, "cut" closes in the middle of the
    answer's body, "busy" answers 503 without forwarding, "reset" breaks the connection off without
    forwarding. `injected` counts what was done.

    Args:
        target: URL of the service.
        share: of the requests that no queue names a fault for, how many meet one, drawn by seed 0.
        deaf_to: a header that does not reach the service.
    """

    def __init__(self, target: str, *, share: float = 0.0, deaf_to: str = "") -> None:
        self._share, self._random, self._deaf_to = share, random.Random(0), deaf_to.lower()
        self.faults: dict[str, collections.deque[str]] = collections.defaultdict(collections.deque)
        self.injected: collections.Counter[str] = collections.Counter()
        self._host = urlsplit(target).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_any(self) -> None:
                proxy.answer(self)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do_any

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, asked: BaseHTTPRequestHandler) -> None:
        queue = self.faults[asked.command]
        fault = queue.popleft() if queue else self._drawn(asked.command)
        self.injected[fault] += 1
        body = asked.rfile.read(int(asked.headers.get("Content-Length", 0)))
        if fault == "reset":
            linger = struct.pack("ii", 1, 0)  # close by RST, not by FIN
            asked.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            asked.close_connection = True
            return
        if fault == "busy":
            status, headers, data = 503, {"Content-Length": str(len(SLOW_DOWN))}, SLOW_DOWN
        else:
            status, headers, data = self._forward(asked, body)
        asked.close_connection = bool(fault)
        if fault == "lose":
            return
        asked.send_response(status)
        for name, value in headers.items():
            asked.send_header(name, value)
        asked.end_headers()
        asked.wfile.write(data[: len(data) // 2] if fault == "cut" else data)

    def _drawn(self, method: str) -> str:
        if self._random.random() >= self._share:
            return ""
        return self._random.choice(["busy", "reset", "lose", "cut" if method == "GET" else "busy"])

    def _forward(
        self, asked: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self._host, timeout=20)
        sent = {k: v for k, v in asked.headers.items() if k.lower() != self._deaf_to}
        connection.request(asked.command, asked.path, body, sent)
        answer = connection.getresponse()
        data = answer.read()
        dropped = {"transfer-encoding", "connection", "server", "date"}
        headers = {k: v for k, v in answer.getheaders() if k.lower() not in dropped}
        if asked.command != "HEAD":
            headers["Content-Length"] = str(len(data))
        connection.close()
        return answer.status, headers, data
