"""What a request is refused with, in the form of OpenAI's errors."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

RETRY_AFTER = 1  # seconds


class ApiError(Exception):
    """A request that is not served. The message says why, and what would be."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
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
    """A parameter whose value cannot be."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def over_capacity(room: int) -> ApiError:
    """More completions than may be under way and wait."""
    return ApiError(
        429,
        f"{room} completions are under way or wait already; ask again in {RETRY_AFTER} s",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(RETRY_AFTER)},
    )


def server_down(why: str) -> ApiError:
    """The server cannot go on."""
    return ApiError(503, why, code="unavailable", headers={"Retry-After": str(RETRY_AFTER)})
