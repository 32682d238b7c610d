"""API errors in the form of OpenAI's error objects."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

RETRY_AFTER = 1  # seconds


class ApiError(Exception):
    """A request that is not served. The message says why, and what would be valid."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        # What a request has may be half a surrogate, which no response can have.
        message, param = (
            text and text.encode(errors="backslashreplace").decode() for text in (message, param)
        )
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def invalid_param(param: str, message: str, code: str = "invalid_value") -> ApiError:
    """The error of a parameter whose value is not valid or not supported."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def over_capacity(capacity: int) -> ApiError:
    """The error of a request for which the scheduler has no room."""
    return ApiError(
        429,
        f"at most {capacity} completions can be running or waiting at once; retry in {RETRY_AFTER} s",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(RETRY_AFTER)},
    )


def server_down(reason: str) -> ApiError:
    """The error of a server that shuts down or has failed."""
    return ApiError(503, reason, code="unavailable", headers={"Retry-After": str(RETRY_AFTER)})
