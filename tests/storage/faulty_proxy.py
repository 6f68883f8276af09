"""An HTTP proxy before an S3 service that spoils the answers it is told to."""

import collections
import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"


class FaultyProxy:
    """Forwards to `target`; `faults[method]` holds what to do to the next answers, in order.

    "lose" forwards the request and closes without an answer, "cut" closes in the middle of the
    answer's body, "busy" answers 503 without forwarding. `injected` counts what was done.
    """

    def __init__(self, target: str) -> None:
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
        fault = queue.popleft() if queue else ""
        self.injected[fault] += 1
        body = asked.rfile.read(int(asked.headers.get("Content-Length", 0)))
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

    def _forward(
        self, asked: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self._host, timeout=20)
        connection.request(asked.command, asked.path, body, dict(asked.headers))
        answer = connection.getresponse()
        data = answer.read()
        dropped = {"transfer-encoding", "connection", "server", "date"}
        headers = {k: v for k, v in answer.getheaders() if k.lower() not in dropped}
        if asked.command != "HEAD":
            headers["Content-Length"] = str(len(data))
        connection.close()
        return answer.status, headers, data
