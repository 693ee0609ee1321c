"""What a decode step is, through the doors that users take: prompts are dense however they come, answers are sparse."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import lil
import numpy as np
import numpy.typing as npt
import pytest
from lil.methods import Evict

METHODS = [
    lil.Sink(budget=48),
    lil.H2O(budget=48),
    lil.Quest(budget=48),
    lil.InfLLM(budget=48),
    lil.RaaS(budget=48),
    lil.LessIsMore(budget=48, reselect=17),
]
WORDS = ["spoon", "key", "coin", "map", "pen"]
QUESTION = "".join(f"The drawer number {i} holds a {word}. " for i, word in enumerate(WORDS * 8))


def first_logits(llama: lil.Llama, tokens: Sequence[int], n: int = 3) -> npt.NDArray[np.float32]:
    """The logits that the first token of an answer is chosen from; `n` tokens of it are written."""
    answer = llama.generate(tokens, temp=0.0)
    next(answer)
    row = np.ctypeslib.as_array(llama._ctx.get_logits_ith(-1), shape=(llama.n_vocab(),)).copy()
    for _ in range(n - 1):
        next(answer)
    answer.close()
    return row


def steps(llama: lil.Llama) -> int:
    info = llama.sparse_info()
    return info.dense_steps + info.sparse_steps


@pytest.mark.parametrize("sparse", METHODS, ids=str)
def test_prompts_are_dense(make_llama: Callable[..., lil.Llama], sparse: Any) -> None:
    """The first logits are full attention's bit for bit: at once, the same request again, and where a batch of the
    prompt ends before its last token. Repeated, an evicting method goes on from what it kept, and is not compared."""
    llama = make_llama(sparse=sparse, fused_dense=False, n_batch=64)
    full = make_llama(fused_dense=False, flash_attn=True, n_batch=64)
    tokens = llama.tokenize(QUESTION.encode())
    assert len(tokens) > 4 * 64 + 1
    for n in (200, 200, 4 * 64 + 1, 4 * 64 + 1, 64 + 1):
        fresh = n == 64 + 1 or steps(llama) == 0
        if fresh:
            llama.reset()
            full.reset()
        before = steps(llama)
        ours, theirs = first_logits(llama, tokens[:n]), first_logits(full, tokens[:n])
        assert np.array_equal(ours, theirs) or (isinstance(sparse, Evict) and not fresh), n
        assert steps(llama) - before == 2
        assert llama.sparse_info().dense_steps == 0


def test_repeated_requests_have_one_answer(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama(sparse=lil.Quest(budget=48))
    ask = [{"role": "user", "content": QUESTION + "Which drawer holds the first map?"}]
    texts = {
        llama.create_chat_completion(ask, max_tokens=12, temperature=0.0)["choices"][0]["message"]["content"]
        for _ in range(3)
    }
    assert len(texts) == 1


@pytest.mark.parametrize("sparse", ["quest", "h2o"])
def test_prompts_whose_logits_are_kept(make_llama: Callable[..., lil.Llama], sparse: str) -> None:
    """logits_all asks for every token's logits; what a prompt is stays the same."""
    llama = make_llama(sparse=sparse, logits_all=True, n_batch=64)
    tokens = llama.tokenize(QUESTION.encode())
    for n in (200, 200, 129):
        before = steps(llama)
        first_logits(llama, tokens[:n])
        assert steps(llama) - before == 2
    before = steps(llama)
    llama.reset()
    llama.eval(tokens[:150])
    llama.eval(tokens[150:160])
    assert steps(llama) == before
    llama.eval([llama.sample(temp=0.0)])
    assert steps(llama) == before + 1


def test_full_attention_counts_alike(make_llama: Callable[..., lil.Llama]) -> None:
    """Where llama.cpp's attention runs there is no native record; the number of decode steps is the same."""
    ours = make_llama(sparse=lil.Quest(budget=512))
    plain = make_llama(fused_dense=False)
    tokens = plain.tokenize(QUESTION.encode())
    for model in (ours, plain):
        first_logits(model, tokens[:100], n=5)
        first_logits(model, tokens[:100], n=5)
        state = model.save_state()
        model.eval([5])
        model.load_state(state)
        model.eval([5])
        model.eval([6])
        model.n_tokens -= 1
        model.eval([7])
        model.eval([])
    assert steps(ours) == steps(plain) > 8


def test_what_a_method_cannot_serve(make_llama: Callable[..., lil.Llama]) -> None:
    """A warning at the first such step, and only there."""
    short = {"kv_overrides": {"llama.context_length": 128}}
    cases: list[tuple[Any, dict[str, Any], int, str | None]] = [
        (lil.RaaS(budget=64), {}, 64, r"the prompt has 64 tokens and the budget is 64.*Quest"),
        (lil.RaaS(budget=64), {}, 63, None),
        (lil.InfLLM(budget=64), short, 128, r"129 tokens, and the model was trained on 128.*clipped"),
        (lil.InfLLM(budget=64, positions="clipped"), short, 128, None),
        (lil.Quest(budget=64), short, 128, None),
    ]
    for sparse, keywords, n_prompt, text in cases:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            llama = make_llama(sparse=sparse, **keywords)
            llama.eval(llama.tokenize(QUESTION.encode())[:n_prompt])
            assert not [w for w in caught if w.category is lil.MethodWarning]
            for _ in range(4):
                llama.eval([llama.sample(temp=0.0)])
            found = [str(w.message) for w in caught if w.category is lil.MethodWarning]
        assert len(found) == (text is not None)
        assert text is None or re.search(text, found[0])


@pytest.mark.parametrize(
    "sparse", [lil.Quest(budget=48), lil.TidalDecode(budget=48), lil.LessIsMore(budget=48, reselect=17), None], ids=str
)
def test_drafts(make_llama: Callable[..., lil.Llama], sparse: Any) -> None:
    """Greedy text with drafts is greedy text without, up to a near tie, and every token of it is a step."""
    from lil.llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    drafted = 0

    class Drafts(LlamaPromptLookupDecoding):  # type: ignore[misc]
        def __call__(self, input_ids: Any, /, **kwargs: Any) -> Any:
            nonlocal drafted
            found = super().__call__(input_ids, **kwargs)
            drafted += len(found)
            return found

    texts = []
    # full attention takes longer batches as llama.cpp does, and counts no step
    for draft in (None, Drafts(max_ngram_size=3, num_pred_tokens=10 if sparse else 7)):
        llama = make_llama(sparse=sparse, fused_dense=True, draft_model=draft)
        tokens = llama.tokenize(QUESTION.encode())
        answer = llama.generate(tokens, temp=0.0)
        texts.append([next(answer) for _ in range(64)])
        answer.close()
        info = llama.sparse_info()
        assert steps(llama) >= 63  # the first token comes from the prompt
        assert sparse is None or info.dense_steps == 0
    same = next((i for i, (a, b) in enumerate(zip(*texts, strict=True)) if a != b), 64)
    assert drafted > 64
    assert same >= 48
