"""Who may ask, and how often: API keys, kept as hashes, each with its own limits.

In: the text of a key file and the token of a request. Out: the key's name, or a `RequestError`.
A key is 256 random bits, made by `new_key`, so its plain SHA-256 can be kept: nothing shorter is
guessed from it. The file has one JSON object per line: {"id", "sha256", "requests_per_minute",
"concurrent"}. Limits are counted in this process: with several ingress replicas each counts for
itself.
"""

import hashlib
import hmac
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from valign.serving.errors import RequestError

PREFIX = "valign-"
_FIELDS = ("id", "sha256", "requests_per_minute", "concurrent")
_HASH_CHARS = 64
_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as it is kept."""

    id: str
    sha256: str
    requests_per_minute: int = 60
    concurrent: int = 4


NOBODY = ApiKey(id="", sha256="", requests_per_minute=1 << 30, concurrent=1 << 30)
"""Whoever asks a server without keys."""


def new_key(name: str, *, requests_per_minute: int = 60, concurrent: int = 4) -> tuple[str, str]:
    """Return a new key and the line of the key file that admits it; the key itself is kept nowhere.

    Raises:
        ValueError: the name is empty or not printable.
    """
    if not name.strip() or not name.isprintable():
        raise ValueError("a key needs a name, which appears in the audit file")
    token = PREFIX + secrets.token_urlsafe(32)
    line = {
        "id": name,
        "sha256": hashed(token),
        "requests_per_minute": requests_per_minute,
        "concurrent": concurrent,
    }
    return token, json.dumps(line)


def hashed(token: str) -> str:
    """Return the SHA-256 (hex) of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(text: str) -> tuple[ApiKey, ...]:
    """Return the keys of a key file; empty lines and lines that begin with # are skipped.

    Raises:
        ValueError: a line is not what it should be; the message names the line, not its content.
    """
    keys: list[ApiKey] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            stated = json.loads(line)
            key = ApiKey(**stated)
        except (ValueError, TypeError):
            raise ValueError(
                f"line {number} of the key file is no JSON object of {', '.join(_FIELDS)}"
            ) from None
        limits = (key.requests_per_minute, key.concurrent)
        if not all(isinstance(limit, int) and limit > 0 for limit in limits):
            raise ValueError(f"line {number} of the key file: limits must be whole and above 0")
        hexadecimal = isinstance(key.sha256, str) and set(key.sha256) <= set("0123456789abcdef")
        if not hexadecimal or len(key.sha256) != _HASH_CHARS:
            raise ValueError(f"line {number} of the key file: sha256 must be 64 hex digits")
        if not isinstance(key.id, str) or not key.id or key.id in {known.id for known in keys}:
            raise ValueError(f"line {number} of the key file: id must be a name of its own")
        keys.append(key)
    return tuple(keys)


def bearer(authorization: str) -> str:
    """Return the token of an Authorization header, "" if it has none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def identify(token: str, keys: tuple[ApiKey, ...]) -> ApiKey:
    """Return the key of a token, comparing with all of them in constant time.

    Raises:
        RequestError: 401, there is none.
    """
    given, found = hashed(token), None
    for key in keys:
        if hmac.compare_digest(given, key.sha256):
            found = key
    if found is None or not token:
        raise RequestError(
            401,
            "send an API key of this server as `Authorization: Bearer KEY`",
            code="invalid_api_key",
        )
    return found


class Meter:
    """Counts each key's requests of the last minute (a bucket that refills) and those under way.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}  # tokens, and when they were counted
        self._running: dict[str, int] = {}

    @contextmanager
    def admitted(self, key: ApiKey) -> Iterator[None]:
        """Hold a place for one request.

        Raises:
            RequestError: 429 with the seconds to wait.
        """
        self._take(key)
        try:
            yield
        finally:
            with self._lock:
                self._running[key.id] -= 1
                if not self._running[key.id]:
                    del self._running[key.id]

    def _take(self, key: ApiKey) -> None:
        with self._lock:
            now = self._clock()
            left, since = self._left.get(key.id, (float(key.requests_per_minute), now))
            per_s = key.requests_per_minute / _MINUTE_S
            left = min(float(key.requests_per_minute), left + (now - since) * per_s)
            if self._running.get(key.id, 0) >= key.concurrent:
                raise RequestError(
                    429,
                    f"this key has {key.concurrent} requests under way, which is its limit",
                    code="concurrency_limit",
                    retry_after_s=1,
                )
            if left < 1:
                self._left[key.id] = (left, now)
                wait_s = max(1, int((1 - left) / per_s + 0.999))
                raise RequestError(
                    429,
                    f"this key may ask {key.requests_per_minute} times a minute",
                    code="rate_limit_exceeded",
                    retry_after_s=wait_s,
                )
            self._left[key.id] = (left - 1, now)
            self._running[key.id] = self._running.get(key.id, 0) + 1


_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")


def is_loopback(host: str) -> bool:
    """Say whether a host that a server binds to, or is asked as, is this machine alone."""
    return host.lower() in _LOOPBACK_NAMES


FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers that proxies add."""


def check_keyless(
    server_host: str, host_header: str, origin: str | None, *, forwarded: bool = False
) -> None:
    """Make sure that a server without keys is asked by programs of its own machine only.

    The Host header must be a name of this machine, or a page of another site could reach the server
    under a name of its own (DNS rebinding); a page of another origin may not post to it either. A
    proxy on this machine would let in everyone whom it serves.

    Raises:
        RequestError: 401 or 403.
    """
    if not is_loopback(server_host) and not server_host.startswith("127."):
        raise RequestError(
            401, "this server has no API keys and answers only on loopback", code="no_api_keys"
        )
    name = host_header.rpartition(":")[0] if _has_port(host_header) else host_header
    if not is_loopback(name):
        raise RequestError(403, "without API keys the server is asked as localhost only")
    if forwarded:
        raise RequestError(403, "behind a proxy the server needs API keys: set serve.keys")
    if origin is not None and origin.partition("://")[2] != host_header:
        raise RequestError(403, "pages of other origins may not ask this server")


def _has_port(host: str) -> bool:
    return host.rpartition(":")[2].isdigit() and not host.endswith("]") and host != "::1"
