"""A llama-server of the wheel, over one model, for tests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from lil._programs import program


class Server:
    """Starts at once; `wait()` until it answers."""

    def __init__(self, *options: str, environment: dict[str, str] | None = None, log: Path, path: str = "") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = log
        self.key = ""  # where it has been started with one
        env = {k: v for k, v in os.environ.items() if k not in ("LIL_SPARSE", "LIL_GUARDIAN")} | (environment or {})
        command = [path or program("llama-server"), "-c", "2048", *options, "--port", str(self.port), "--no-warmup"]
        with log.open("w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=env)

    def wait(self) -> Server:
        for _ in range(1200):
            if self.process.poll() is not None:
                raise AssertionError(self.log.read_text(errors="replace")[-3000:])
            try:
                self.get("/health")
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
            else:
                return self
        raise AssertionError("the server was not ready within 120 s")

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}

    def get(self, path: str) -> str:
        request = urllib.request.Request(self.address + path, headers=self.headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            text: str = answer.read().decode()
            return text

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, self.headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode("utf-8", "replace")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)
