"""The slow reference: what a method means, in NumPy, and the models that it is tested on.

    gguf_models   tiny random GGUF files, and float32 copies of real ones
    model         the forward pass, with a policy that says which cached tokens a query sees
    evict         the policies of the evict family: Sink, H2O, TOVA and RKV, and Dense and Fed beside them
    select        the policies of the select family: Quest, InfLLM, TidalDecode, LessIsMore and RaaS

Nothing here is fast on purpose. Where this and the library disagree, read the definition, then decide which is wrong.
"""

from . import evict, gguf_models, model, select
from .evict import *
from .gguf_models import *
from .model import *
from .select import *

__all__ = [*evict.__all__, *gguf_models.__all__, *model.__all__, *select.__all__]
