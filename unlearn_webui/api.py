"""The API: POST /unlearn/v1/forget, GET /unlearn/v1/progress, POST /unlearn/v1/cancel."""

from __future__ import annotations

import base64
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from starlette.concurrency import run_in_threadpool

from unlearn_core.errors import Cancelled, TrainingFailed, UnlearnError, WrongModel
from unlearn_core.files.output_files import png_bytes

from .api_body import MOST_BODY, BadBody, forget_body, parse
from .host.checkpoint import api_logins
from .host.run import queued
from .host.settings import default_preset
from .job import JOBS
from .request import ForgetRequest
from .run import Outcome, run

PREFIX = "/unlearn/v1"
_MOST_RUNS = 8
"""At work or waiting: each holds its pictures, and a thread that the host's own routes need too."""
_PLACES = threading.BoundedSemaphore(_MOST_RUNS)
_READING = threading.Lock()
"""One request is read at a time."""
_STATUS: tuple[tuple[type[UnlearnError], int], ...] = (
    (Cancelled, 409),
    (WrongModel, 409),
    (TrainingFailed, 500),
    (BadBody, 400),
    (UnlearnError, 422),
)
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body is not JSON."},
    401: {"description": "Not one of the logins of --api-auth."},
    409: {"description": "The loaded checkpoint can't be used, or the run was stopped."},
    413: {"description": "The body is too large."},
    422: {"description": "Something in the request is wrong; `detail` says what."},
    500: {"description": "The training failed; `detail` says why."},
    503: {"description": "Too many runs wait already."},
}
_LOGIN = HTTPBasic(auto_error=False)


def add_routes(app: FastAPI) -> None:
    """Add the three routes; behind --api-auth's logins where the host has some."""
    for path, answer, method, more in (
        ("forget", forget, "POST", {"openapi_extra": forget_body(), "responses": _REFUSALS}),
        ("progress", progress, "GET", {}),
        ("cancel", cancel, "POST", {}),
    ):
        app.add_api_route(
            f"{PREFIX}/{path}",
            answer,
            methods=[method],
            dependencies=[Depends(check_login)],
            tags=["SD Unlearn"],
            **more,
        )


def check_login(given: HTTPBasicCredentials | None = Depends(_LOGIN)) -> None:  # noqa: B008
    """Raise 401 unless the request names one of the logins; takes the same time for each guess."""
    logins = api_logins()
    if not logins:
        return
    user, password = (given.username, given.password) if given else ("", "")
    right = False
    for known_user, known_password in logins:
        same_user = secrets.compare_digest(user.encode(), known_user.encode())
        same_password = secrets.compare_digest(password.encode(), known_password.encode())
        right = right | (same_user & same_password)
    if not right:
        challenge = {"WWW-Authenticate": "Basic"}
        raise HTTPException(401, "Incorrect username or password", headers=challenge)


async def forget(request: Request) -> dict[str, Any]:
    """Run what the JSON body asks for and answer when it is done; see ForgetRequest."""
    with _place(), _errors_told():
        asked = await run_in_threadpool(_read, await _read_body(request))
        answer: dict[str, Any] = await run_in_threadpool(_forget, asked)
        return answer


async def progress() -> dict[str, Any]:
    """How far the working run is; names and pictures of it are not told."""
    jobs = JOBS.all()
    waiting = sum(not job.works for job in jobs)
    report = jobs[0].progress if jobs and jobs[0].works else None
    known: dict[str, Any] = {"active": len(jobs) > waiting, "waiting": waiting}
    if report is not None:
        known |= {
            "stage": report.stage,
            "step": report.step,
            "total": report.total,
            "loss": report.loss,
            "seconds_left": report.seconds_left,
            "text": report.in_words(),
        }
    return known


async def cancel() -> dict[str, int]:
    """Stop every run of this extension, working or waiting; pictures of the host go on."""
    return {"cancelled": JOBS.stop_all()}


@contextmanager
def _place() -> Iterator[None]:
    if not _PLACES.acquire(blocking=False):
        raise HTTPException(503, f"{_MOST_RUNS} runs work or wait already: try again later.")
    try:
        yield
    finally:
        _PLACES.release()


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except UnlearnError as error:
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        detail = str(error).encode("utf-8", "backslashreplace").decode()
        raise HTTPException(status, detail) from error


def _read(body: bytearray) -> ForgetRequest:
    with _READING:
        return ForgetRequest.from_json(parse(body), default_preset())


def _forget(request: ForgetRequest) -> dict[str, Any]:
    with JOBS.enter() as job, queued(f"task(unlearn-{job.name})"):
        return _as_json(run(request, job))


def _as_json(outcome: Outcome) -> dict[str, Any]:
    sheet = outcome.sheet
    return {
        "name": outcome.name,
        "tag": outcome.tag,
        "recommended_strength": outcome.recommended_strength,
        "lines": outcome.lines,
        "numbers": outcome.numbers,
        "contact_sheet": None if sheet is None else base64.b64encode(png_bytes(sheet)).decode(),
        "embedding": outcome.embedding,
        "seconds": round(outcome.seconds, 1),
    }


async def _read_body(request: Request) -> bytearray:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY:
            raise HTTPException(413, f"At most {MOST_BODY // 2**20} MB are read.")
    return body
