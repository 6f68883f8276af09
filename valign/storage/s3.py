"""Objects in a bucket of any S3-compatible service.

Endpoint, region and credentials come from the standard AWS environment variables and profiles, are
looked up in each process, and are never part of a store, a URL or a message. The service must
honour `If-None-Match` on PUT, as AWS and SeaweedFS do: claims rely on it.

boto3 does all of it: one place for credentials, endpoints of profiles, retries and timeouts.
"""

import contextlib
import fcntl
import functools
import hashlib
import io
import os
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import boto3
import botocore.config
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from valign.storage import s3_errors, traffic
from valign.storage.files import explained
from valign.storage.layout import check_key

_TRANSFER = TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=16 << 20)
_REQUEST_TRIES, _READ_TRIES, _CONFLICT_TRIES, _BACKOFF_S = 8, 5, 8, 0.2
# What a client depends on: another value makes another client.
_CLIENT_SETTINGS = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_MAX_ATTEMPTS"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)


@dataclass(frozen=True, slots=True)
class S3Store:
    """A store whose objects lie in a bucket, below a prefix.

    Attributes:
        bucket: its name; it must exist.
        prefix: what every key of the store starts with in the bucket; "" or ends with "/".
    """

    bucket: str
    prefix: str

    @classmethod
    def open(cls, url: str) -> "S3Store":
        """Open `s3://bucket/prefix`."""
        parts = urlsplit(url)
        if not parts.netloc or parts.query or "@" in parts.netloc:
            raise ValueError(
                f"s3://{parts.netloc.rpartition('@')[2]}...: write s3://bucket/prefix; endpoint "
                "and credentials come from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY or AWS_PROFILE"
            )
        prefix = unquote(parts.path).strip("/")
        return cls(parts.netloc, check_key(prefix) + "/" if prefix else "")

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{quote(self.prefix.rstrip('/'))}"

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        last = "" if length is None else str(start + max(length, 1) - 1)
        ranged = {"Range": f"bytes={start}-{last}"} if start or length is not None else {}
        # boto3 repeats requests, but not the reading of a body that breaks off.
        for attempt in range(_READ_TRIES):
            try:
                with self._explained(key):
                    found = _client().get_object(**self._named(key), **ranged)
            except EOFError:
                return b""
            try:
                data: bytes = traffic.read(found["Body"].read())
                return data if length is None else data[:length]
            except s3_errors.BROKEN_OFF:
                if attempt == _READ_TRIES - 1:
                    with self._explained(key):
                        raise
            _wait(attempt)
        raise AssertionError("unreachable")

    def write(self, key: str, data: bytes | Path) -> None:
        # Large ones go up in parts, and appear when the last part is there.
        source = data.open("rb") if isinstance(data, Path) else io.BytesIO(data)
        with source, self._explained(key):
            _client().upload_fileobj(source, **self._named(key), Config=_TRANSFER)
        traffic.wrote(data)

    def create(self, key: str, data: bytes | Path) -> bool:
        body = data.read_bytes() if isinstance(data, Path) else data
        # An answer can get lost after the object was made; then the repeated request is refused,
        # and only this mark tells that it was us.
        mark = secrets.token_hex(16)
        for attempt in range(_CONFLICT_TRIES):
            try:
                _client().put_object(
                    **self._named(key), Body=body, IfNoneMatch="*", Metadata={"creator": mark}
                )
                return True
            except ClientError as error:
                status = s3_errors.status(error)
                if status == 412:
                    return self._creator(key) == mark
                if status != 409 or attempt == _CONFLICT_TRIES - 1:
                    with self._explained(key):
                        raise
                _wait(attempt)
            except BotoCoreError:
                with self._explained(key):
                    raise
        raise AssertionError("unreachable")

    def list(self, prefix: str = "") -> Iterator[str]:
        folder = prefix.rpartition("/")[0]
        if folder:
            check_key(folder)
        with self._explained(prefix):
            pages = _client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for entry in page.get("Contents", ()):
                    key = entry["Key"].removeprefix(self.prefix)
                    # Other programs leave "folder/" objects, and hidden names are not keys.
                    if not key.endswith("/") and "/." not in f"/{key}":
                        yield key

    def exists(self, key: str) -> bool:
        return self._head(key) is not None

    def modified_s(self, key: str) -> float:
        head = self._head(key)
        if head is None:
            raise LookupError(f"there is no {key} under {self.url}")
        return float(head["LastModified"].timestamp())

    def delete(self, key: str) -> None:
        with self._explained(key):
            _client().delete_object(**self._named(key))

    def local(self, key: str, wanted: Callable[[str], bool] | None = None) -> Path:
        """Return a copy on this node, made once per content whoever asks.

        Copies lie under VALIGN_CACHE, or a folder of this user in the temporary folder.
        """
        key = key.rstrip("/")
        head = self._head(key)
        if head is not None:
            tags = {key: head["ETag"]}
        else:
            names = [name for name in self.list(f"{key}/") if wanted is None or wanted(name)]
            tags = {name: self._require(name)["ETag"] for name in names}
        if not tags:
            raise LookupError(f"there is no {key} under {self.url}")
        content = repr((self.url, sorted(tags.items()))).encode()
        folder = _cache() / hashlib.sha256(content).hexdigest()[:32]
        if not folder.exists():
            with _locked(folder.with_suffix(".lock")):
                if not folder.exists():
                    self._download(tags, folder)
        return folder / key

    def _download(self, keys: dict[str, str], folder: Path) -> None:
        aside = folder.with_suffix(".part")
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
        aside.mkdir()
        try:
            for key in keys:
                target = aside / key
                target.parent.mkdir(parents=True, exist_ok=True)
                with self._explained(key), explained(str(target)):
                    _client().download_file(
                        self.bucket, self._full(key), str(target), Config=_TRANSFER
                    )
            os.rename(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def uploads(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield uploads in parts that were never completed: key, and what aborts it."""
        pages = _client().get_paginator("list_multipart_uploads")
        with self._explained(""):
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
                for upload in page.get("Uploads", ()):
                    place = {"Bucket": self.bucket, "Key": upload["Key"]}
                    abort = functools.partial(
                        _client().abort_multipart_upload, **place, UploadId=upload["UploadId"]
                    )
                    yield upload["Key"].removeprefix(self.prefix), abort

    def _full(self, key: str) -> str:
        return self.prefix + check_key(key)

    def _named(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._full(key)}

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            with self._explained(key):
                head: dict[str, Any] = _client().head_object(**self._named(key))
                return head
        except LookupError:
            if _bucket_is_missing(self.bucket):
                raise s3_errors.no_bucket(self.url, self.bucket) from None
            return None

    def _require(self, key: str) -> dict[str, Any]:
        head = self._head(key)
        if head is None:
            raise LookupError(f"there is no {key} under {self.url}")
        return head

    def _creator(self, key: str) -> str | None:
        head = self._head(key)
        return None if head is None else head["Metadata"].get("creator")

    def _explained(self, key: str) -> contextlib.AbstractContextManager[None]:
        return s3_errors.explained(key, self.url, self.bucket)


def _bucket_is_missing(bucket: str) -> bool:
    try:
        _client().head_bucket(Bucket=bucket)
    except ClientError as error:
        return s3_errors.status(error) == 404
    return False


def _wait(attempt: int) -> None:
    time.sleep(random.uniform(0, _BACKOFF_S * 2**attempt))


def _cache() -> Path:
    default = Path(tempfile.gettempdir()) / f"valign-cache-{os.getuid()}"
    folder = Path(os.environ.get("VALIGN_CACHE", default))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that one process or thread of this node has at a time; ends with the process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _client() -> Any:
    # A client belongs to a process, and to the environment it was made in.
    return _client_for(os.getpid(), *(os.environ.get(name) for name in _CLIENT_SETTINGS))


@functools.lru_cache(maxsize=8)
def _client_for(*_environment: object) -> Any:
    tries = int(os.environ.get("AWS_MAX_ATTEMPTS", _REQUEST_TRIES))
    config = botocore.config.Config(
        # "standard" waits a random part of 1, 2, 4 ... 20 s, and stops when too much is repeated.
        retries={"mode": "standard", "total_max_attempts": tries},
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=32,
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except ValueError as error:
        raise ValueError(
            f"{error}; write AWS_ENDPOINT_URL as http://host:port or https://host"
        ) from error
