"""Why Quest loses a passkey: where its bound ranks the page that full attention copies the next digit from.

    python benchmarks/quest_bound.py MODEL [--text FILE] [--context 16384] [--depth 0.166667] [--threads N]

Full attention answers the question of `lil passkey`. At each step that predicts a digit, the KV heads of all layers but
the first two are looked at in which some query head of the group gives the key's next digit more than 5 % of its
attention. Their page is ranked by Quest's bound, the maximum over the group; by that query head's own bound; and by the
group's largest true logit in the page, which no method that shares pages in a group can beat. The bounds are computed
here with NumPy, from the keys and queries that attention reads, by arXiv 2406.10774 and not by the library's ops.
"""

from __future__ import annotations

import argparse
import ctypes
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from lil.eval._session import Session
from lil.eval.passkey import FILLER, make_prompt
from rich.console import Console
from rich.table import Table

PAGE = 16
BUDGETS = (64, 128, 256, 512, 1024)
SHARE = 0.05  # of a head's attention, on the digit: less is not looked at

Floats = npt.NDArray[np.float32]


class Tensor(ctypes.Structure):
    """The part of ggml_tensor that stays where it is: up to and including the name."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    ]


class Recorder:
    """Keeps what the graph names Kcur-L and Qcur-L: the last of a step is the one that attention reads.

    Each ubatch adds [n_tokens, n_head_kv, n_embd] to keys[l], and its last query [n_head, n_embd] to queries[l].
    """

    def __init__(self, n_embd: int) -> None:
        self.n_embd = n_embd
        self.keys: list[list[Floats]] = []
        self.queries: list[list[Floats]] = []
        self._now: dict[str, Floats] = {}
        self._n_batch = 0
        self.callback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)(self._see)

    def _see(self, address: int, ask: bool, _: Any) -> bool:
        tensor = Tensor.from_address(address)
        name = tensor.name.decode()
        kind, _, layer = name.partition("-")
        if kind not in ("Kcur", "Qcur") or not layer.isdigit() or tensor.ne[0] != self.n_embd:
            return not ask
        if not ask:
            shape = (tensor.ne[2], tensor.ne[1], tensor.ne[0])
            data = np.ctypeslib.as_array(ctypes.cast(tensor.data, ctypes.POINTER(ctypes.c_float)), shape)
            if layer == "0" and "Kcur-1" in self._now:
                self.take()  # the next ubatch has begun
            self._now[name] = data.copy()
        return True

    def take(self) -> None:
        """Ends a ubatch."""
        n_layer = sum(name.startswith("K") for name in self._now)
        while len(self.keys) < n_layer:
            self.keys.append([])
            self.queries.append([])
        for layer in range(n_layer):
            self.keys[layer].append(self._now[f"Kcur-{layer}"].astype(np.float16).astype(np.float32))
            self.queries[layer].append(self._now[f"Qcur-{layer}"][-1])
        self._now.clear()


class Sight(NamedTuple):
    """A group that looks at the next digit: the digit's page among all, best first, from 0."""

    share: float
    bound: int
    own: int
    true: int


def rank(scores: Floats, pages: set[int]) -> int:
    """Of the best of `pages` among all but the last, which is always attended to."""
    order = np.argsort(np.argsort(-scores[:-1], kind="stable"))
    return min(int(order[page]) for page in pages)


def look(keys: Floats, queries: Floats, digits: list[int]) -> tuple[Sight | None, Floats]:
    """One KV head at one step.

    Args:
        keys: [n_tokens, n_embd].
        queries: [n_group, n_embd].
        digits: Where the next digit stands.

    Returns:
        What it sees of the digit, and the softmax mass that the pages chosen hold, [2, len(BUDGETS)]: by the bound and
        by the largest true logit.
    """
    n_tokens, n_embd = keys.shape
    n_pages = math.ceil(n_tokens / PAGE)
    scale = 1 / math.sqrt(n_embd)
    logits = queries @ keys.T * scale
    mass = np.exp(logits - logits.max(axis=1, keepdims=True))
    mass /= mass.sum(axis=1, keepdims=True)

    padded = np.full((n_pages * PAGE, n_embd), np.nan, np.float32)
    padded[:n_tokens] = keys
    paged = padded.reshape(n_pages, PAGE, n_embd)
    high, low = np.nanmax(paged, axis=1), np.nanmin(paged, axis=1)
    bound = np.maximum(queries[:, None] * high, queries[:, None] * low).sum(axis=2) * scale  # [n_group, n_pages]

    def by_page(values: Floats, fill: float) -> Floats:
        wide = np.full((len(values), n_pages * PAGE), fill, np.float32)
        wide[:, :n_tokens] = values
        return wide.reshape(len(values), n_pages, PAGE)

    true = by_page(logits, -1e30).max(axis=2)
    held = by_page(mass, 0).sum(axis=2)
    kept = np.zeros((2, len(BUDGETS)), np.float32)
    for row, scores in enumerate((bound.max(axis=0), true.max(axis=0))):
        order = np.argsort(-scores[:-1], kind="stable")
        for column, budget in enumerate(BUDGETS):
            chosen = [*order[: budget // PAGE - 1], n_pages - 1]
            kept[row, column] = held[:, chosen].sum(axis=1).mean()

    share = mass[:, digits].sum(axis=1)
    best = int(share.argmax())
    if share[best] <= SHARE:
        return None, kept
    pages = {digit // PAGE for digit in digits}
    sight = Sight(
        float(share[best]), rank(bound.max(axis=0), pages), rank(bound[best], pages), rank(true.max(axis=0), pages)
    )
    return sight, kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--context", type=int, default=16384)
    parser.add_argument("--depth", type=float, default=0.166667)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()

    session = Session(args.model, n_threads=args.threads)
    llama = session.llama
    meta, arch = llama.metadata, llama.metadata["general.architecture"]
    n_head, n_head_kv = int(meta[f"{arch}.attention.head_count"]), int(meta[f"{arch}.attention.head_count_kv"])
    n_embd = int(meta.get(f"{arch}.attention.key_length", int(meta[f"{arch}.embedding_length"]) // n_head))
    n_group = n_head // n_head_kv

    recorder = Recorder(n_embd)
    llama.context_params.cb_eval = ctypes.cast(recorder.callback, type(llama.context_params.cb_eval))
    filler = args.text.read_text(encoding="utf-8") if args.text else FILLER
    prompt = make_prompt(session, n_tokens=args.context, depth=args.depth, filler=filler)

    answer: list[str] = []
    with session.context(None, n_ctx=len(prompt.tokens) + 16) as context:
        logits = context.eval(prompt.tokens)
        recorder.take()
        n_steps = len(recorder.queries[0])  # of the prompt
        while prompt.key not in "".join(answer) and len(answer) < 12:
            token = int(np.argmax(logits))
            answer.append(llama.detokenize([token]).decode("utf-8", "replace"))
            logits = context.eval([token])
            recorder.take()
    keys = [np.concatenate(parts) for parts in recorder.keys]  # [n_tokens, n_head_kv, n_embd]

    pieces = [llama.detokenize([token]).decode("utf-8", "replace") for token in prompt.tokens]
    n_key = len(prompt.key)
    places = [i for i in range(len(pieces)) if "".join(pieces[i : i + n_key]) == prompt.key and len(pieces[i]) == 1]
    if not places or prompt.key not in "".join(answer):
        Console().print(f"full attention answers {''.join(answer)!r} to {prompt.key}: nothing to look at")
        return 1

    sights: list[Sight] = []
    kept: list[Floats] = []
    for step in range(len(answer)):
        given = len("".join(answer[: step + 1]).strip())
        if not 1 <= given < n_key:
            continue
        n_tokens = len(prompt.tokens) + step + 1
        for layer in range(2, len(keys)):
            for head in range(n_head_kv):
                queries = recorder.queries[layer][n_steps + step][head * n_group : (head + 1) * n_group]
                sight, mass = look(keys[layer][:n_tokens, head], queries, [place + given for place in places])
                kept.append(mass)
                if sight:
                    sights.append(sight)

    table = Table(
        "budget", "bound", "own head's bound", "true maximum", "bound, > 50 %", "softmax mass: bound", "true maximum",
        title=f"pages chosen of the {len(sights)} that hold the next digit, {len(prompt.tokens)} tokens, "
        f"key {prompt.key}",
    )  # fmt: skip
    strong = [s for s in sights if s.share > 0.5]
    mean = np.mean(kept, axis=0)
    for column, budget in enumerate(BUDGETS):
        n = budget // PAGE - 1
        table.add_row(
            str(budget),
            str(sum(s.bound < n for s in sights)),
            str(sum(s.own < n for s in sights)),
            str(sum(s.true < n for s in sights)),
            f"{sum(s.bound < n for s in strong)} of {len(strong)}",
            f"{mean[0, column]:.1%}",
            f"{mean[1, column]:.1%}",
        )
    Console(width=140).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
