"""The file of the audit: a line per request, appended; callers without a key are counted together.

A request whose line cannot be written is not answered: what is served is on record.
"""

import logging
import os
import time
from pathlib import Path

from valign.serving.audit import Audit
from valign.serving.errors import RequestError

UNKNOWN_EVERY_S = 1.0  # callers without a key have one line in that time, with their number
_UNKNOWN = (401, 403)


class AuditFile:
    """An append-only file that only its owner reads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._unknown = 0
        self._told = -UNKNOWN_EVERY_S

    def add(self, audit: Audit) -> None:
        """Write a request's line.

        Raises:
            RequestError: 503, it cannot be written.
        """
        if audit.status in _UNKNOWN and not audit.key:
            self._unknown += 1
            now = time.monotonic()
            if now - self._told < UNKNOWN_EVERY_S:
                return
            audit.more = {"times": str(self._unknown)}
            self._unknown, self._told = 0, now
        line = audit.line().encode()
        try:
            if os.write(self._file, line) < len(line):
                raise OSError("only a part of the line was written")
        except OSError as error:  # a full disk, say
            logging.getLogger("ray.serve").error("no audit, so no answers: %s", error)
            raise RequestError(
                503, "the server cannot keep its audit", code="no_audit", retry_after_s=30
            ) from None
