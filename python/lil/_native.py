"""lil.h through ctypes, over the library that the bindings have loaded. Names and fields are the header's."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_bool, c_char_p, c_double, c_float, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p

from .llama_cpp import llama_cpp as _bindings

lib = _bindings._lib


class SparseParams(ctypes.Structure):
    """struct lil_sparse_params"""

    _fields_ = [
        ("method", c_int),
        ("budget", c_uint32),
        ("capacity", c_uint32),
        ("n_sink", c_uint32),
        ("recent", c_uint32),
        ("positions", c_int),
        ("prompt_scores", c_int),
        ("form", c_int),
        ("fused_dense", c_int32),
        ("flash_attn_free", c_bool),
        ("min_ctx", c_uint32),
        ("first_page", c_bool),
        ("n_init", c_uint32),
        ("block", c_uint32),
        ("n_repr", c_uint32),
        ("reselect", c_uint32),
        ("dense_layers", c_int32),
        ("ratio", c_float),
        ("buffer", c_uint32),
        ("n_obs", c_uint32),
        ("lambda_", c_float),  # lambda, which is a keyword here
        ("threshold", c_float),
        ("kept_prompts", c_uint32),
    ]


class SparseInfo(ctypes.Structure):
    """struct lil_sparse_info"""

    _fields_ = [
        ("method", c_int),
        ("budget", c_uint32),
        ("capacity", c_uint32),
        ("reselect", c_uint32),
        ("n_layer", c_uint32),
        ("n_dense_layers", c_uint32),
        ("fused", c_bool),
        ("fused_dense", c_bool),
        ("kv_bytes", c_uint64),
        ("n_dense", c_uint64),
        ("n_sparse", c_uint64),
        ("n_rows", c_uint64),
        ("n_evicted", c_uint64),
        ("backend", c_char_p),
        ("kv_resident", c_uint64),
        ("n_kept", c_uint32),
        ("n_restored", c_uint64),
    ]


class MemoryInfo(ctypes.Structure):
    """struct lil_memory_info"""

    _fields_ = [
        ("kv_bytes", c_uint64),
        ("kv_resident", c_uint64),
        ("available", c_uint64),
    ]


class GuardianParams(ctypes.Structure):
    """struct lil_guardian_params"""

    _fields_ = [
        ("every", c_uint32),
        ("threshold", c_double),
        ("patience", c_uint32),
        ("action", c_int),
        ("then", POINTER(c_int)),
        ("n_then", c_uint32),
        ("think_begin", c_char_p),
        ("think_end", c_char_p),
        ("message", c_char_p),
        ("grace", c_uint32),
        ("widen", c_uint32),
        ("rule", c_int),
    ]


class TextStretch(ctypes.Structure):
    """struct lil_text_stretch"""

    _fields_ = [
        ("n_bytes", c_uint64),
        ("growth", c_double),
        ("own_growth", c_double),
        ("age", c_uint32),
        ("text_class", c_int32),
        ("alarm", c_bool),
    ]


class GuardianReport(ctypes.Structure):
    """struct lil_guardian_report"""

    _fields_ = [
        ("alarmed", c_bool),
        ("stopped", c_bool),
        ("think_closed", c_bool),
        ("thinking", c_bool),
        ("n_tokens", c_uint64),
        ("n_tokens_alarm", c_uint64),
        ("n_bytes", c_uint64),
        ("size", c_double),
        ("last_growth", c_double),
        ("n_checks", c_uint32),
        ("n_alarms", c_uint32),
        ("action", c_int),
        ("cut", c_int),
        ("n_wide", c_uint32),
        ("n_tail", c_uint64),
    ]


class GuardianEvent(ctypes.Structure):
    """struct lil_guardian_event"""

    _fields_ = [
        ("kind", c_int),
        ("n_tokens", c_uint64),
    ]


_PROTOTYPES: dict[str, tuple[object, list[object]]] = {
    "lil_last_error": (c_char_p, []),
    "lil_version": (c_char_p, []),
    "lil_n_threads": (c_int32, []),
    "lil_sparse_default_params": (SparseParams, [c_int]),
    "lil_sparse_get_name": (c_char_p, [c_int]),
    "lil_sparse_find": (c_int, [c_char_p]),
    "lil_sparse_evicts": (c_bool, [c_int]),
    "lil_parse_sparse": (c_bool, [c_char_p, POINTER(SparseParams)]),
    "lil_parse_guardian": (c_bool, [c_char_p, POINTER(c_bool), POINTER(GuardianParams)]),
    "lil_format_sparse": (c_int32, [POINTER(SparseParams), c_char_p, c_size_t]),
    "lil_format_guardian": (c_int32, [POINTER(GuardianParams), c_char_p, c_size_t]),
    "lil_init_from_model": (
        c_void_p,
        [_bindings.llama_model_p_ctypes, _bindings.llama_context_params, SparseParams],
    ),
    "lil_sparse_get_info": (c_bool, [_bindings.llama_context_p_ctypes, POINTER(SparseInfo)]),
    "lil_sparse_get_warning": (c_char_p, [_bindings.llama_context_p_ctypes]),
    "lil_set_budget": (c_bool, [_bindings.llama_context_p_ctypes, c_uint32]),
    "lil_set_prompt": (None, [_bindings.llama_context_p_ctypes, c_bool]),
    "lil_memory_get_info": (c_bool, [_bindings.llama_context_p_ctypes, POINTER(MemoryInfo)]),
    "lil_sparse_get_slots": (
        c_int32,
        [
            _bindings.llama_context_p_ctypes,
            c_int32,
            c_int32,
            c_int32,
            POINTER(c_int32),
            POINTER(c_float),
            c_int32,
        ],
    ),
    "lil_probe_get": (c_int32, [_bindings.llama_context_p_ctypes, c_int, POINTER(c_float), c_int32]),
    "lil_lz77_init": (c_void_p, []),
    "lil_lz77_clone": (c_void_p, [c_void_p]),
    "lil_lz77_free": (None, [c_void_p]),
    "lil_lz77_reset": (None, [c_void_p]),
    "lil_lz77_feed": (c_bool, [c_void_p, c_char_p, c_size_t]),
    "lil_lz77_size": (c_double, [c_void_p]),
    "lil_lz77_phrases": (c_uint64, [c_void_p]),
    "lil_lz77_bytes": (c_uint64, [c_void_p]),
    "lil_lz77_memory": (c_uint64, [c_void_p]),
    "lil_text_rule_init": (c_void_p, []),
    "lil_text_rule_free": (None, [c_void_p]),
    "lil_text_rule_feed": (c_bool, [c_void_p, c_char_p, c_size_t]),
    "lil_text_rule_check": (c_bool, [c_void_p, c_double, c_double, c_uint32]),
    "lil_text_rule_get": (TextStretch, [c_void_p]),
    "lil_text_rule_memory": (c_uint64, [c_void_p]),
    "lil_guardian_default_params": (GuardianParams, []),
    "lil_sampler_init_guardian": (
        _bindings.llama_sampler_p_ctypes,
        [_bindings.llama_vocab_p_ctypes, GuardianParams],
    ),
    "lil_guardian_feed_prompt": (
        c_bool,
        [_bindings.llama_sampler_p_ctypes, POINTER(_bindings.llama_token), c_int32],
    ),
    "lil_find_thinking": (c_bool, [_bindings.llama_model_p_ctypes, POINTER(c_char_p), POINTER(c_char_p)]),
    "lil_guardian_decide": (c_bool, [_bindings.llama_sampler_p_ctypes, c_int]),
    "lil_guardian_rewind": (
        c_bool,
        [_bindings.llama_sampler_p_ctypes, POINTER(_bindings.llama_token), c_int32, c_int32],
    ),
    "lil_guardian_set_budget": (c_bool, [_bindings.llama_sampler_p_ctypes, _bindings.llama_context_p_ctypes]),
    "lil_guardian_set_thinking": (c_bool, [_bindings.llama_sampler_p_ctypes, c_bool]),
    "lil_guardian_get_report": (c_bool, [_bindings.llama_sampler_p_ctypes, POINTER(GuardianReport)]),
    "lil_guardian_get_curve": (c_size_t, [_bindings.llama_sampler_p_ctypes, POINTER(c_double), c_size_t]),
    "lil_guardian_get_events": (c_size_t, [_bindings.llama_sampler_p_ctypes, POINTER(GuardianEvent), c_size_t]),
}

for _name, (_restype, _argtypes) in _PROTOTYPES.items():
    try:
        _function = getattr(lib, _name)
    except AttributeError:
        raise ImportError(
            f"{lib._name} has no {_name}: it is not the library that lil was built with. "
            "If LIL_LLAMA_CPP_LIB_PATH is set, unset it"
        ) from None
    _function.restype = _restype
    _function.argtypes = _argtypes


def last_error() -> str:
    """Why this thread's last call failed."""
    return lib.lil_last_error().decode("utf-8", "replace") or "no reason given"
