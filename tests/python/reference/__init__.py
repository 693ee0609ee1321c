"""The slow reference: what a method means, in NumPy, and the models that it is tested on.

    gguf_models   tiny random GGUF files, and float32 copies of real ones
    model         the forward pass, with a policy that says which cached tokens a query sees
    evict         the policies of the evict family: Sink and H2O, and Dense and Fed beside them

Nothing here is fast on purpose. Where this and the library disagree, read the definition, then decide which is wrong.
"""

from .evict import H2O, Dense, Fed, Policy, Sink
from .gguf_models import ARCHITECTURES, to_f32, write_tiny
from .model import HParams, Reference, Weights, round_kv

__all__ = [
    "ARCHITECTURES",
    "H2O",
    "Dense",
    "Fed",
    "HParams",
    "Policy",
    "Reference",
    "Sink",
    "Weights",
    "round_kv",
    "to_f32",
    "write_tiny",
]
