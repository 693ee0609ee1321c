"""Measuring: losses, calibration, passkeys, answers to tasks, times. What the command line prints, as functions.

with Session("model.gguf") as session:
    tokens = session.tokenize(text)
    with session.context(Quest(budget=128), n_ctx=1024) as context:
        losses = token_losses(context.eval, tokens[:912], n_prompt=512)
    print(perplexity(losses))
"""

from ._session import Context, Session
from .bench import Plan, benchmark, make_plan
from .bench_rows import BenchRow, read_bench, step_seconds
from .bench_runtimes import Runtime, find_runtime
from .calibration import Calibration, Candidate, calibrate
from .compare import Comparison
from .evaluation import Asked, Summary, ask, evaluate, summarize
from .generation import Generation, Sampling, generate
from .intervals import wilson
from .judging import Verdict, judge
from .losses import Texts, make_texts, perplexity, recall_text, token_loss, token_losses
from .passkey import FILLER, Passkey, Prompt, Wording, make_prompt, passkeys
from .records import Answer, AnswersFile, Run, case_label, extend_run, read_answers, read_run
from .replay import Replay, Stop, replay_run, sweep
from .splits import CaseResult, Part
from .tasks import Problem, load_problems, read_problems
from .timing import Timing, break_even, step_times

__all__ = [
    "FILLER",
    "Answer",
    "AnswersFile",
    "Asked",
    "BenchRow",
    "Calibration",
    "Candidate",
    "CaseResult",
    "Comparison",
    "Context",
    "Generation",
    "Part",
    "Passkey",
    "Plan",
    "Problem",
    "Prompt",
    "Replay",
    "Run",
    "Runtime",
    "Sampling",
    "Session",
    "Stop",
    "Summary",
    "Texts",
    "Timing",
    "Verdict",
    "Wording",
    "ask",
    "benchmark",
    "break_even",
    "calibrate",
    "case_label",
    "evaluate",
    "extend_run",
    "find_runtime",
    "generate",
    "judge",
    "load_problems",
    "make_plan",
    "make_prompt",
    "make_texts",
    "passkeys",
    "perplexity",
    "read_answers",
    "read_bench",
    "read_problems",
    "read_run",
    "recall_text",
    "replay_run",
    "step_seconds",
    "step_times",
    "summarize",
    "sweep",
    "token_loss",
    "token_losses",
    "wilson",
]
