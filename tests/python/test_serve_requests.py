"""A little of what `fuzz_server.py` does by the thousand, and API keys."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import lil
import pytest
from fuzz_server import BODIES, Failure, Maker, Request, fuzz, serve
from serving import Server

BIN = Path(lil.__file__).parent / "bin"

pytestmark = pytest.mark.skipif(not BIN.is_dir(), reason="built without the programs (LIL_PROGRAMS=OFF)")

KEY = "a key of this test"
OPEN = ("/health", "/v1/health")
GET = ("/metrics", "/props", "/models", "/v1/models", "/slots", "/lora-adapters", "/v1/stream", "/tools", "/cors-proxy")
POST = ("/props", "/lora-adapters", "/v1/audio/transcriptions", "/slots/0?action=erase", "/tools", "/cors-proxy")


@pytest.fixture(scope="module")
def server(model_path: str) -> Iterator[Server]:
    with serve(model_path, "--api-key", KEY, "--sparse", "quest:budget=64") as server:
        server.key = KEY
        yield server


def test_malformed_requests(server: Server) -> None:
    counts = fuzz(server, seed=1, count=500)
    assert sum(counts.values()) == 500 and len({what.split()[0] for what in counts}) > 10


def test_it_would_notice(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is sound, and should have been refused."""
    sound = Request("/completion", json.dumps(BODIES["/completion"]).encode(), "shape")
    monkeypatch.setattr(Maker, "shape", lambda self: sound)
    with pytest.raises(Failure, match=r"shape: POST /completion .*: status 200"):
        fuzz(server, seed=1, count=100)


def status(server: Server, method: str, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        body = json.dumps(BODIES.get(path, {})) if method == "POST" else None
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [*(("GET", path) for path in GET), *(("POST", path) for path in (*BODIES, *POST)), ("DELETE", "/v1/stream")],
)
def test_api_keys_hold(server: Server, method: str, path: str) -> None:
    for headers in (
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"X-Api-Key": KEY.upper()},
    ):
        assert status(server, method, path, **headers) == 401, headers
    assert status(server, method, path, Authorization=f"Bearer {KEY}") != 401


def test_health_is_open(server: Server) -> None:
    assert [status(server, "GET", path) for path in OPEN] == [200, 200]
