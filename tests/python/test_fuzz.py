"""A little of what `fuzz_cache.py` does by the thousand."""

from __future__ import annotations

import pytest
from fuzz_cache import Failure, Sequence, fuzz, methods
from reference import write_tiny

pytest.importorskip("lil")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(tmp_path_factory.mktemp("fuzz") / "llama.gguf", "llama", n_layer=6))


@pytest.mark.parametrize("name", methods())
def test_operations_at_random(model: str, name: str) -> None:
    fuzz(model, [name], seed=1, count=40)


def test_it_would_notice(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of the cache that is wrong in one thing, what a removal leaves of the record of decode steps."""
    cut = Sequence.cut

    def wrong(self: Sequence, p0: int) -> None:
        cut(self, p0)
        self.asked.add(self.end - 1)

    monkeypatch.setattr(Sequence, "cut", wrong)
    with pytest.raises(Failure, match="decode steps"):
        fuzz(model, ["quest"], seed=1, count=40)
