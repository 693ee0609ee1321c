"""The slow reference: what a method means, in NumPy, and the models that it is tested on.

    gguf_models   tiny random GGUF files, and float32 copies of real ones
    model         the forward pass, with a policy that says which cached tokens a query sees
    evict         the policies of the evict family: Sink, H2O, TOVA and RKV, and Dense and Fed beside them
    select        the policies of the select family: Quest, InfLLM, TidalDecode, LessIsMore and RaaS

Nothing here is fast on purpose. Where this and the library disagree, read the definition, then decide which is wrong.
"""

from .evict import H2O, RKV, TOVA, Dense, Fed, LayerView, Policy, Sink
from .gguf_models import ARCHITECTURES, to_f32, write_tiny
from .model import HParams, Reference, Weights, round_kv
from .select import (
    NEVER,
    PAGE,
    InfLLM,
    LessIsMore,
    Quest,
    RaaS,
    Select,
    TidalDecode,
    merge_ranks,
    page_bounds,
    page_scores,
)

__all__ = [
    "ARCHITECTURES",
    "H2O",
    "NEVER",
    "PAGE",
    "RKV",
    "TOVA",
    "Dense",
    "Fed",
    "HParams",
    "InfLLM",
    "LayerView",
    "LessIsMore",
    "Policy",
    "Quest",
    "RaaS",
    "Reference",
    "Select",
    "Sink",
    "TidalDecode",
    "Weights",
    "merge_ranks",
    "page_bounds",
    "page_scores",
    "round_kv",
    "to_f32",
    "write_tiny",
]
