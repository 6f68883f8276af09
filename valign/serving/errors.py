"""Why a request is not answered, in the form in which OpenAI's API says it.

In: a reason. Out: an HTTP status and a body of `{"error": {message, type, param, code}}`. A message
names the field and the remedy, and quotes no prompt.
"""

from dataclasses import dataclass

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@dataclass(slots=True)
class RequestError(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        message: what is wrong and what to do.
        param: the field that is at fault, if one is.
        code: a word that programs can go by.
        retry_after_s: when to try again, for 429 and 503.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_s: int | None = None

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        """Let the error travel between processes with all that it says."""
        return type(self), (self.status, self.message, self.param, self.code, self.retry_after_s)

    def body(self) -> dict[str, dict[str, str | None]]:
        """Return the answer's JSON."""
        return {
            "error": {
                "message": self.message,
                "type": TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }


def bad(message: str, param: str | None = None, code: str | None = None) -> RequestError:
    """Return the error of a request that must be written otherwise."""
    return RequestError(400, message, param, code)
