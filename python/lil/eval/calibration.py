"""Which layer TidalDecode and LessIsMore select again in.

1. A *probe*, full attention that looks at itself, is fed two texts token by token: one that goes on, and one that
   repeats its prompt, which needs recall. For each layer c it sums the share of the later layers' softmax mass that the
   tokens chosen at c hold. That is shown, and decides nothing: the best c may be one whose share is small.
2. Every candidate is *screened*: the method with each c runs over the first tokens of the recall text.
3. Those with the smallest loss there are tried: the method runs over both texts. The one with the smallest *combined
   excess* is chosen: the mean loss of the method less that of full attention, per token in nats, on the plain text
   and on the recall text, added up:

       excess(c) = [loss_plain(c) - loss_plain(full)] + [loss_recall(c) - loss_recall(full)]

   that is the logarithm of the two perplexity ratios' product. Recall matters as much as plain text: on the
   latter hardly any c is bad, and a wrong one shows in the former.

The runs of 2 and 3 start from one saved state: what full attention leaves behind after the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .._errors import ConfigError, NativeError
from ..methods import Reselect
from ..methods._base import default_dense_layers
from ..methods.dense import Probe
from ._decoder import Logits
from ._session import Session
from .losses import Step, Texts, token_losses

Pair = tuple[float, float]  # plain, recall

DIFFUSE = 0.5  # a layer whose own best tokens hold less of its mass than this is better left dense


@dataclass
class Candidate:
    """A re-selection layer.

    Attributes:
        layer: c, counted among the full-attention layers.
        after: Mean share of the softmax mass of layers c+1 to L-1 that c's set holds, on both texts. NaN for the last.
        before: The same of the layers between the first that selects and c, and the first one's set. NaN where there
            are none.
        score: Mean share over the layers behind the first that selects, of the set that each would read; c itself reads
            everything.
        screen: Mean loss of the method, nats per token, on the screened tokens; None: not screened.
        loss: The same on both texts; None: not tried.
    """

    layer: int
    after: Pair
    before: Pair
    score: Pair
    screen: float | None = None
    loss: Pair | None = None


@dataclass
class Calibration:
    """What was found for one method."""

    method: Reselect
    n_layer: int
    full: Pair  # mean loss of full attention, nats per token
    candidates: list[Candidate] = field(default_factory=list)
    own: list[Pair] = field(default_factory=list)  # per layer, mean share of its mass that its own set would hold

    @property
    def dense_layers(self) -> int:
        """How many layers at the start are too diffuse for the budget on either text: `dense_layers` for them."""
        return next((i for i, shares in enumerate(self.own) if min(shares) >= DIFFUSE), len(self.own))

    def excess(self, candidate: Candidate) -> float:
        """What the choice minimises; infinite where the candidate was not tried."""
        if candidate.loss is None:
            return math.inf
        return sum(candidate.loss) - sum(self.full)

    @property
    def best(self) -> Candidate:
        return min(self.candidates, key=self.excess)

    @property
    def entry(self) -> dict[str, Any]:
        """What is kept of it in a calibration file."""
        loss = self.best.loss
        return {
            "reselect": self.best.layer,
            "budget": self.method.budget,
            "n_layer": self.n_layer,
            "perplexity": {
                "full": [round(math.exp(x), 3) for x in self.full],
                "method": None if loss is None else [round(math.exp(x), 3) for x in loss],
            },
        }


def candidates(mass: Sequence[Sequence[Sequence[float]]], first: int) -> list[Candidate]:
    """All layers that may be re-selection layers, by a probe's result on both texts.

    Args:
        mass: [2][L][L], see `lil_probe_get` in lil.h.
        first: The first layer that selects.
    """
    m = np.asarray(mass, dtype=np.float64)
    n_layer = m.shape[1]

    def mean(values: Any) -> float:
        return float(np.mean(values)) if len(values) else math.nan

    def candidate(c: int) -> Candidate:
        after, before, score = [], [], []
        for text in m:
            after.append(mean(text[c, c + 1 :]))
            before.append(mean(text[first, first + 1 : c]))
            score.append(mean([*text[first, first + 1 : c], 1.0, *text[c, c + 1 :]]))
        return Candidate(c, (after[0], after[1]), (before[0], before[1]), (score[0], score[1]))

    return [candidate(c) for c in range(first + 1, n_layer)]


def fallback(n_layer: int, first: int) -> int:
    """The layer that is taken where nothing is known."""
    return max(math.floor(0.55 * n_layer + 0.5), first + 1)


def worth_trying(of: Sequence[Candidate], n: int, guess: int) -> list[Candidate]:
    """The `n` candidates of the least screen loss, and `guess`, that would be taken without a calibration."""
    ranked = sorted(of, key=lambda candidate: math.inf if candidate.screen is None else candidate.screen)
    more = [candidate for candidate in of if candidate.layer == guess and candidate not in ranked[:n]]
    return sorted([*ranked[:n], *more], key=lambda candidate: candidate.layer)


def calibrate(
    session: Session,
    texts: Texts,
    methods: Sequence[Reselect],
    *,
    screen: int = 32,
    tries: int = 6,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[Calibration]:
    """
    Args:
        texts: See `make_texts`.
        methods: Whose layer is looked for; of one budget and `dense_layers`, and of one `n_sink` and `ratio` where they
            have them.
        screen: Tokens of the recall text, after the prompt, on which every candidate is screened.
        tries: Candidates that are run over both texts, of each method; the one by formula is tried as well.
        progress: Called with the decode steps done, their number, and what is going on.

    Raises:
        ConfigError: The methods differ in budget, or the model has too few layers.
        NativeError: A context does not take over the state of the prompt.
    """
    if len({(method.budget, method.dense_layers) for method in methods}) != 1:
        raise ConfigError(f"methods={list(methods)} must be of one budget and one dense_layers")
    shape = {name: getattr(m, name) for m in methods for name in ("n_sink", "ratio") if hasattr(m, name)}
    probe = Probe(budget=methods[0].budget, **shape)
    n_ctx = max(map(len, (texts.plain, texts.recall)))
    screened = texts.recall[: texts.n_prompt + screen]
    done = total = 0

    def run(step: Step, tokens: list[int], what: str) -> float:
        nonlocal done

        def tick() -> None:
            nonlocal done
            done += 1
            progress(done, total, what)

        return float(np.mean(token_losses(step, tokens, n_prompt=texts.n_prompt, tick=tick)))

    full: list[float] = []
    mass: dict[str, list[Any]] = {method.name: [] for method in methods}
    n_layer = first = 0
    for tokens, kind in ((texts.plain, "plain text"), (texts.recall, "recall")):
        with session.context(probe, n_ctx=n_ctx) as context:
            info = context.info()
            assert info is not None
            n_layer = info.n_layer
            asked = methods[0].dense_layers
            first = default_dense_layers(n_layer) if asked is None else asked
            if n_layer < first + 2:
                raise ConfigError(
                    f"the model has {n_layer} full-attention layers, {first} of them dense; a re-selection layer needs "
                    f"{first + 2} or more"
                )
            most = min(n_layer - first - 1, tries + 1)
            screens = (n_layer - first - 1) * (len(screened) - texts.n_prompt)
            total = texts.n_steps + len(methods) * (screens + most * texts.n_steps)
            full.append(run(context.eval, tokens, f"probe, {kind}"))
            for method in methods:
                mass[method.name].append(context.probed(type(method)))

    found = []
    for m in methods:
        texts_own = [np.diagonal(np.asarray(text)) for text in mass[m.name]]
        own = [(float(a), float(b)) for a, b in zip(*texts_own, strict=True)]
        found.append(Calibration(m, n_layer, (full[0], full[1]), candidates(mass[m.name], first), own))
    with session.context(None, n_ctx=n_ctx) as context:
        prompt_logits = context.eval(texts.plain[: texts.n_prompt])
        prompt_state = context.save()

    def trial(method: Reselect, tokens: list[int], what: str) -> float:
        with session.context(method, n_ctx=n_ctx) as context:

            def step(part: Sequence[int]) -> Logits:
                if context.n_tokens:
                    return context.eval(part)
                if not context.load(prompt_state):
                    raise NativeError(f"{method.name}: the context does not take over the state of the prompt")
                return prompt_logits

            return run(step, tokens, f"{what} {method.name}, layer {method.reselect}")

    for calibration in found:
        for candidate in calibration.candidates:
            method = replace(calibration.method, reselect=candidate.layer)
            candidate.screen = trial(method, screened, "screen")
    trials = [(f, c) for f in found for c in worth_trying(f.candidates, tries, fallback(n_layer, first))]
    total = done + texts.n_steps * len(trials)
    for calibration, candidate in trials:
        method = replace(calibration.method, reselect=candidate.layer)
        candidate.loss = (trial(method, texts.plain, "try"), trial(method, texts.recall, "try"))
    return found
