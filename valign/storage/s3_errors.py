"""What a bucket's service answers, as errors that say where, why, and what to do.

Missing things are LookupErrors, refusals PermissionErrors, silence ConnectionErrors, the rest
OSErrors. No message holds a credential.
"""

import contextlib
from collections.abc import Iterator

import boto3.exceptions
import botocore.exceptions
from botocore.exceptions import BotoCoreError, ClientError

_MISSING = {"NoSuchKey", "404"}
_DENIED = {
    *("AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
    *("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "AllAccessDisabled"),
}
_REMEDIES = {
    "RequestTimeTooSkewed": "set this machine's clock",
    **dict.fromkeys(
        ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "TemporaryRedirect", "307"),
        "the bucket is in another region: set AWS_DEFAULT_REGION to it",
    ),
    **dict.fromkeys(
        ("SlowDown", "503", "ServiceUnavailable", "Throttling", "TooManyRequests", "429"),
        "it stays overloaded: take fewer workers, or more patience (AWS_MAX_ATTEMPTS), and run "
        "again; what is finished is kept",
    ),
    **dict.fromkeys(
        ("InternalError", "500", "InsufficientStorage", "507", "QuotaExceeded", "NotEnoughSpace"),
        "it may have no room left, or be out of order: see its log, make room, and run again; "
        "what is finished is kept",
    ),
}
_NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.TokenRetrievalError,
    botocore.exceptions.SSOError,
)
BROKEN_OFF = (
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.ConnectionError,
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.ResponseStreamingError,
)


@contextlib.contextmanager
def explained(key: str, url: str, bucket: str) -> Iterator[None]:
    """Turn what boto3 raises about `key` under `url` into plain errors.

    Raises:
        LookupError: there is no such object, or no such bucket.
        EOFError: the object ends before the range that was asked for.
        PermissionError: the service refused, or there are no credentials.
        ConnectionError: the service did not answer, however often it was asked.
        OSError: it answered with another error.
    """
    where = f"{key} under {url}"
    try:
        yield
    except ClientError as error:
        raise _answered(error, where, url, bucket) from error
    except _NO_CREDENTIALS as error:
        raise PermissionError(
            f"{where}: no usable credentials ({type(error).__name__}); set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    except (*BROKEN_OFF, boto3.exceptions.RetriesExceededError) as error:
        raise ConnectionError(
            f"{where}: no answer from the service ({type(error).__name__}); check "
            "AWS_ENDPOINT_URL and the network"
        ) from error
    except BotoCoreError as error:
        raise OSError(f"{where}: {error}") from error


def no_bucket(url: str, bucket: str) -> LookupError:
    """Return the error of a bucket that does not exist."""
    return LookupError(f"{url}: there is no bucket {bucket!r}; create it, or correct the root")


def status(error: ClientError) -> int:
    """Return the HTTP status of an answer; 0 if there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _answered(error: ClientError, where: str, url: str, bucket: str) -> Exception:
    code = error.response.get("Error", {}).get("Code", "") or str(status(error))
    if code == "NoSuchBucket":
        return no_bucket(url, bucket)
    if code in _MISSING:
        return LookupError(f"there is no {where}")
    if code == "InvalidRange" or status(error) == 416:
        return EOFError(where)
    if code in _DENIED:
        return PermissionError(
            f"{where}: the service refused access ({code}). Check the credentials "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE) and that they may "
            "read and write this bucket"
        )
    remedy = _REMEDIES.get(code) or _REMEDIES.get(str(status(error)), "see the service's log")
    return OSError(f"{where}: the service answered {code}; {remedy}")
