"""How many bytes this process wrote to stores and read from them."""

from pathlib import Path

totals = {"written": 0, "read": 0}


def wrote(data: bytes | Path) -> None:
    """Count what was written."""
    totals["written"] += data.stat().st_size if isinstance(data, Path) else len(data)


def read(data: bytes) -> bytes:
    """Count what was read, and return it."""
    totals["read"] += len(data)
    return data
