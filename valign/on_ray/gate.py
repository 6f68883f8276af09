"""Who may come in: the key file, read again when it changes, and each key's limits.

In: what a request's connection and headers say. Out: its key, or a `RequestError`. Limits count in
this process; with several ingress replicas each of them admits as much.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from valign.serving.access import (
    FORWARDED,
    NOBODY,
    ApiKey,
    Meter,
    bearer,
    check_keyless,
    identify,
)
from valign.stages import serve as stage

LOOKED_AT_EVERY_S = 1.0


class Gate:
    """Admits requests.

    Args:
        key_file: path of the key file; "" for a server that answers its own machine only.
        origins: origins whose pages may ask.

    Raises:
        LookupError: there is no key file.
        ValueError: it is wrong.
    """

    def __init__(self, key_file: str, origins: tuple[str, ...] = ()) -> None:
        self.meter = Meter(time.monotonic)
        self._origins = origins
        self._file = key_file
        self._keys: tuple[ApiKey, ...] = stage.keys(key_file) if key_file else ()
        self._mark = self._state() if key_file else None
        self._looked = time.monotonic()

    def identify(self, server: str, headers: Mapping[str, str]) -> ApiKey:
        """Return whose request this is.

        Args:
            server: the address that the request came in at.
            headers: of the request, names in lower case.

        Raises:
            RequestError: 401 or 403.
        """
        if self._file:
            self._look_again()
            return identify(bearer(headers.get("authorization", "")), self._keys)
        origin = headers.get("origin")
        allowed = None if origin in self._origins else origin
        proxied = any(name in headers for name in FORWARDED)
        check_keyless(server, headers.get("host", ""), allowed, forwarded=proxied)
        return NOBODY

    def _look_again(self) -> None:
        """Read the key file again if it has changed; a wrong one leaves the keys as they were."""
        now = time.monotonic()
        if now - self._looked < LOOKED_AT_EVERY_S:
            return
        self._looked = now
        mark = self._state()
        if mark == self._mark:
            return
        self._mark = mark
        try:
            self._keys = stage.keys(self._file)
        except (ValueError, LookupError, OSError) as error:
            logging.getLogger("ray.serve").error("the keys stay as they were: %s", error)

    def _state(self) -> tuple[int, int, int] | None:
        try:
            found = Path(self._file).expanduser().stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
