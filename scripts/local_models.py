"""A plugin for upstream's server tests: the models LIL_SMALL and LIL_INFILL in the place of those from Hugging Face."""

from __future__ import annotations

import os
from typing import Any

import pytest
import utils  # upstream's

# repository, or repository and file -> what stands for it; anything else is skipped
STAND_INS = {
    "ggml-org/test-model-stories260K": "LIL_SMALL",
    "ggml-org/test-model-stories260K-infill": "LIL_INFILL",
    "ggml-org/stories15M_MOE": "LIL_SMALL",
    "ggml-org/models bert-bge-small/ggml-model-f16.gguf": "LIL_SMALL",
}


def start(server: Any, *args: Any, **kwargs: Any) -> None:
    if server.model_hf_repo is not None and server.model_file is None:
        repo, file = server.model_hf_repo, server.model_hf_file
        name = STAND_INS.get(f"{repo} {file}") or STAND_INS.get(repo if file is None or "15M_MOE" in repo else "")
        if name is None or not os.environ.get(name):
            pytest.skip(f"no local model stands for {repo}{' ' + file if file else ''}")
        server.model_hf_repo = server.model_hf_file = None
        server.model_file = os.environ[name]
        if server.server_embeddings and server.pooling is None:
            server.pooling = "mean"
    _start(server, *args, **kwargs)


def download_file(url: str, *args: Any) -> str:
    pytest.skip(f"downloads {url}")


_start = utils.ServerProcess.start
utils.ServerProcess.start = start
utils.ServerPreset.load_all = staticmethod(lambda: None)
utils.download_file = download_file
