from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from . import _session_file, _state
from ._check import check_bool, check_int
from ._context import SparseContext, full_info, make_context, memory_lack
from ._detokenize import Detokenizer
from ._errors import (
    BusyError,
    CalibrationWarning,
    ClosedError,
    ConfigError,
    ContextError,
    ContextFullError,
    MemoryWarning,
    ModelError,
    PromptError,
)
from ._gate import Gate
from ._guardian import Guardian
from ._info import SparseInfo
from ._native import lib
from ._notation import ENV_GUARDIAN, ENV_SPARSE, from_environment, resolve_guardian, resolve_sparse
from ._processors import CheckedSampler, Processors
from ._watch import Watch, WatchedSampler
from .llama_cpp import _internals as internals
from .llama_cpp import llama as bindings
from .llama_cpp import llama_cpp as native
from .methods import Evict, Method

_STOCK = inspect.signature(bindings.Llama.__init__).parameters
# Keywords that the bindings' own server and LangChain still pass and that no version reads.
_OBSOLETE = {"f16_kv", "mul_mat_q", "n_parts", "rpc_servers"}


@dataclass
class _Request:
    """One completion: what was asked of Guardian, and the Guardian that follows it once generation has begun."""

    llama: Llama
    guardian: Guardian | None
    scope: _Scope | None = None
    watch: Watch | None = None
    generates: bool = False
    output: Detokenizer | None = None
    left: list[int] = field(default_factory=list)  # of what was generated, where the rest was taken back

    @property
    def owner(self) -> object:
        """What the gate knows it by: the user's call that it is a part of, where there is one."""
        return self if self.scope is None else self.scope

    def annotate(self, result: dict[str, Any]) -> None:
        """Writes `stop_reason` and `guardian` into the choices that are at their end."""
        if self.watch is None:
            return
        for choice in result.get("choices", ()):
            if choice.get("finish_reason") is not None:
                self.watch.annotate(choice)


@dataclass
class _Scope:
    """One call of a user, which may make several completions (a chat handler that first picks a tool)."""

    llama: Llama
    guardian: Guardian | None
    requests: list[_Request] = field(default_factory=list)
    active: _Request | None = None

    def annotate(self, result: Any) -> None:
        watched = [request for request in self.requests if request.watch is not None]
        if watched and isinstance(result, dict):
            stopped = [request for request in watched if request.watch and request.watch.stopped]
            (stopped or watched)[-1].annotate(result)


# What the code below the bindings' own methods needs to know, and they do not pass on.
_scope: ContextVar[_Scope | None] = ContextVar("lil_scope", default=None)
_request: ContextVar[_Request | None] = ContextVar("lil_request", default=None)


@contextmanager
def _set(variable: ContextVar[Any], value: object) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _with_keywords(stock: Callable[..., Any], **added: inspect.Parameter) -> Callable[..., Any]:
    """Gives a method that takes `**kwargs` the signature of the stock method, and the keywords it adds."""

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(stock)
        parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        parameters += added.values()
        method.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return method

    return decorate


def _keyword(name: str, default: object = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)


def _one_at_a_time(stock: Callable[..., Any], *, reads: bool) -> Callable[..., Any]:
    @functools.wraps(stock)
    def method(self: Llama, *args: Any, **kwargs: Any) -> Any:
        with self._gate.reading() if reads else self._gate:
            return stock(self, *args, **kwargs)

    return method


class Llama(bindings.Llama):
    """`llama_cpp.Llama` with sparse attention and an early stop.

    Takes everything that `llama_cpp.Llama` takes, and

    Args:
        model_path: Path to the GGUF file.
        sparse: A method, such as `Quest(budget=512)`; the name of one, such as "quest", for its defaults
            (`lil.methods.METHODS` has them all); or the notation of both, "quest:budget=512,first_page=true". False or
            "none" for full attention. None: what `LIL_SPARSE` in the environment says (ordinary contexts alone: not
            with `embedding`, `vocab_only`, `draft_model`), full attention where it is not set. A method needs
            FlashAttention, which is then on whatever `flash_attn` says.
        fused_dense: Whether decode steps that attend to everything, the layers of a method that do, and the evicting
            methods over what they hold run through our fused op, which is faster: the same result within rounding.
            False: llama.cpp's attention, bit for bit. None: the op where it is known to be faster, on the CPU; anything
            else runs as in llama.cpp. True: an error where it cannot be had. With None, FlashAttention is on where the
            op runs, unless `flash_attn=False` is said; what `save_state` returns can be exchanged with
            `llama_cpp.Llama` all the same.
        guardian: False; True for `Guardian()`; `Guardian(...)` or its notation, "every=250,action=close_think". None:
            what `LIL_GUARDIAN` in the environment says, none where it is not set. Completions take `guardian=` too,
            which then holds for that request: None as said here, False for none. With Guardian on, a result's choice
            carries `stop_reason` ("guardian" or None) and `guardian` (a report) next to `finish_reason`; in a stream,
            the last chunk does. `eval` and `sample`, called one by one, know nothing of it.

    A keyword that nobody knows is ignored with a warning.

    Calls from several threads wait for each other. A stream owns the model from its first chunk, on whatever threads
    its chunks are fetched, until it is exhausted, closed or collected; other requests meanwhile raise `BusyError` at
    once (tokenizing, `save_state` and the like do not). `close()` may come at any time: a generation in progress raises
    `ClosedError`.

    Raises:
        ConfigError: A parameter out of range, an unknown name, or a combination that cannot work.
        ConfigTypeError: A parameter of the wrong type.
        ModelError: The file is missing, or cannot be loaded.
        ContextError: The native library cannot give this model such a context.

    Examples:
        >>> llama = Llama("model.gguf", n_ctx=8192, sparse=H2O(budget=512, capacity=1024), guardian=True)
        >>> choice = llama.create_completion("Once upon a time", max_tokens=4000)["choices"][0]
        >>> choice["finish_reason"], choice["stop_reason"]
        ('stop', 'guardian')
    """

    sparse: Method | None
    guardian: Guardian | None
    fused_dense: bool | None

    @_with_keywords(
        bindings.Llama.__init__,
        sparse=_keyword("sparse"),
        guardian=_keyword("guardian"),
        fused_dense=_keyword("fused_dense"),
    )
    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        sparse: str | Method | bool | None = None,
        guardian: str | bool | Guardian | None = None,
        fused_dense: bool | None = None,
        **kwargs: Any,
    ) -> None:
        verbose = bool(kwargs.get("verbose", True))
        generates = not (kwargs.get("embedding") or kwargs.get("vocab_only"))
        said = None
        if sparse is None and fused_dense is None and generates and not kwargs.get("draft_model"):
            said = from_environment(ENV_SPARSE, resolve_sparse, verbose=verbose)
        self.sparse, fused = said or resolve_sparse(sparse)
        if guardian is None and generates:
            guardian = from_environment(ENV_GUARDIAN, resolve_guardian, verbose=verbose)
        self.guardian = resolve_guardian(guardian)
        if fused_dense is not None:
            check_bool("Llama", "fused_dense", fused_dense)
        else:
            fused_dense = fused
        self.fused_dense = fused_dense
        if kwargs.get("flash_attn") is None:  # as in llama_cpp.Llama, or None as in the server's settings
            kwargs.pop("flash_attn", None)
        self._flash_attn_free = "flash_attn" not in kwargs
        if self.sparse is not None or fused_dense:
            _refuse_combinations(self.sparse, kwargs)
            kwargs["flash_attn"] = True
        _warn_unknown(kwargs)
        _set_threads(kwargs)

        path = os.fspath(model_path)
        if not os.path.exists(path):
            raise ModelError(f"Model path does not exist: {path}")
        self._gate = Gate(path)
        self._pending: _Request | None = None
        self._in_prompt = False  # a generation is at its prompt
        self._steps = 0  # decode steps, and the tokens that they attended to: full attention only
        self._tokens_read = 0
        self._widening: Watch | None = None  # may have changed the budget
        self._asked = (1, 0)  # numbers of tokens, first and last, after each of which logits were asked for
        try:
            super().__init__(path, **kwargs)
        except ValueError as error:
            if "Failed to load model" in str(error):
                raise ModelError(f"Failed to load model from file: {path} ({what_is_wrong(path)})") from None
            if str(error) == "Failed to create llama_context":
                raise ContextError(
                    f"{error}: no memory for n_ctx={self.context_params.n_ctx}, or parameters that llama.cpp refuses, "
                    "which verbose=True prints; try a smaller n_ctx (--ctx)"
                ) from None
            raise
        self._n_ctx = min(self._n_ctx, len(self.input_ids))  # the native one is padded, the bindings' arrays are not
        if self.guardian is not None:
            Watch(self._ctx, self.guardian).close()
        guess = self._ctx.guess() if isinstance(self._ctx, SparseContext) else None
        if guess is not None:
            warnings.warn(f"{guess}; run: lil calibrate {path}", CalibrationWarning, stacklevel=2)
        lack = memory_lack(self._ctx)
        if lack is not None:
            warnings.warn(lack, MemoryWarning, stacklevel=2)

    def _new_context(self) -> internals.LlamaContext:
        return make_context(
            model=self._model,
            params=self.context_params,
            method=self.sparse,
            fused_dense=self.fused_dense,
            flash_attn_free=self._flash_attn_free,
            verbose=self.verbose,
        )

    def sparse_info(self) -> SparseInfo:
        """What this model's context has done so far, and the memory of its cache."""
        with self._gate.reading():
            info = self._ctx.info() if isinstance(self._ctx, SparseContext) else None
            if info is not None:
                return info
            return full_info(self._ctx, self.metadata, steps=self._steps, tokens_read=self._tokens_read)

    def close(self) -> None:
        """Frees the model and its context. Calls that come later, and a generation in progress, raise `ClosedError`."""
        gate = self.__dict__.get("_gate")
        if gate is None or "_stack" not in self.__dict__:  # __init__ refused before there was anything to free
            return
        gate.close(self._free)

    def _free(self) -> None:
        self._sampler = None
        super().close()

    # Generation

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluates tokens after those that are there already.

        One token after a call that gave logits (`sample` chooses from those) is a decode step. Everything else is a
        prompt, whatever its length.

        Raises:
            ContextFullError: More tokens than positions are left. Nothing was evaluated.
            BusyError: A stream owns the model.
            ClosedError: The model was closed.
            RuntimeError: The native library could not.
        """
        with self._gate:
            if len(tokens) > self._n_ctx - self.n_tokens:
                raise ContextFullError(
                    f"{len(tokens)} tokens after {self.n_tokens} exceed context window of {self._n_ctx}; "
                    "shorten the prompt, lower max_tokens, or make the Llama with a larger n_ctx"
                )
            if not tokens:
                super().eval(tokens)
                return
            if self._pending is None and not self._in_prompt:
                self._narrow()
            # drafts are told from a prompt by who sends them
            drafts = self._pending is not None and not self._in_prompt
            declared = self._logits_all and (self._in_prompt or (len(tokens) > 1 and not drafts))
            before, (first, last) = self.n_tokens, self._asked
            follows = first <= before <= last
            if declared:
                lib.lil_set_prompt(self._ctx.ctx, True)
            try:
                super().eval(tokens)
            except ClosedError:
                raise
            except RuntimeError:
                # part of the batch may have been taken, and other tokens evicted for it
                if isinstance(self.sparse, Evict):
                    self._ctx.kv_cache_clear()
                    self.reset()  # type: ignore[no-untyped-call]
                raise
            finally:
                if declared:
                    lib.lil_set_prompt(self._ctx.ctx, False)
            if self._logits_all or (follows and len(tokens) == 1):
                self._asked = (first if follows else before + 1, self.n_tokens)
            else:
                self._asked = (self.n_tokens, self.n_tokens)
            if follows and not declared and (len(tokens) == 1 or drafts):
                self._steps += len(tokens)
                self._tokens_read += sum(range(before + 1, before + len(tokens) + 1))

    def _before_decode(self) -> None:
        self._gate.check()

    def sample(self, *args: Any, **kwargs: Any) -> int:
        """`llama_cpp.Llama.sample`.

        Raises:
            PromptError: Nothing was evaluated since the model was made, reset, or took a state.
            BusyError: A stream owns the model.
            ClosedError: The model was closed.
        """
        with self._gate:
            if self._requires_eval or self.n_tokens == 0:
                raise PromptError("there is nothing to sample from; eval() at least one token first")
            return super().sample(*args, **kwargs)

    def _init_sampler(self, *args: Any, **kwargs: Any) -> Any:
        processors = None
        if kwargs.get("logits_processor") is not None:
            kwargs["logits_processor"] = [processors := Processors(kwargs["logits_processor"])]
        chain: Any = super()._init_sampler(*args, **kwargs)
        if processors is not None:
            chain = CheckedSampler(chain, processors)
        pending, self._pending = self._pending, None
        if pending is None or pending.watch is None:
            return chain
        for token in pending.left:
            native.llama_sampler_accept(chain.sampler, token)
        return WatchedSampler(chain, pending.watch)

    @_with_keywords(bindings.Llama.generate, guardian=_keyword("guardian"))
    def generate(
        self, tokens: Sequence[int], *args: Any, guardian: str | bool | Guardian | None = None, **kwargs: Any
    ) -> Generator[int, Sequence[int] | None, None]:
        """`llama_cpp.Llama.generate`. Where Guardian stops, the last token is the end-of-generation token.

        Raises:
            PromptError: No tokens, and none from before.
            ContextFullError: More tokens than positions.
            BusyError: Another stream owns the model.
            ClosedError: The model was closed.
        """
        request = _request.get()
        if request is None or request.llama is not self or request.generates:
            request = _Request(self, self.guardian if guardian is None else resolve_guardian(guardian))
            _refuse_rewind(request.guardian, stream=True)
        return self._generate(request, list(tokens), args, kwargs)

    def _generate(
        self, request: _Request, tokens: list[int], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Generator[int, Sequence[int] | None, None]:
        stream = super().generate(tokens, *args, **kwargs)
        fresh = kwargs.get("reset", True)
        sent: Sequence[int] | None = None
        begun = False
        request.generates = True
        inner = self._gate.owned_by(request.owner)  # a completion's: it is the stream, or none
        try:
            with self._gate.turn(request.owner, stream=True):
                if not tokens and (fresh or self.n_tokens == 0):
                    raise PromptError(
                        "the prompt has no tokens, and this model adds none of its own; give at least one"
                    )
                self._narrow()
                if request.guardian is not None:
                    actions = request.guardian.actions
                    if kwargs.get("grammar") is not None:  # it knows no end of thinking
                        actions = tuple(action for action in actions if action != "close_think") or ("stop",)
                    request.watch = Watch(self._ctx, request.guardian, actions=actions)
                    self._widening = request.watch
                    request.watch.feed(tokens if fresh else [*self._input_ids.tolist(), *tokens])
            while True:
                with self._gate.turn(request.owner, stream=True):
                    self._pending, self._in_prompt = request, not begun
                    try:
                        token = stream.send(sent)
                    except StopIteration:
                        self._narrow()
                        return
                    finally:
                        self._pending, self._in_prompt = None, False
                    begun = True
                    left = None if request.watch is None else request.watch.rewind()
                    if left is not None and request.output is not None:
                        stream.close()
                        stream = super().generate([*tokens, *left], *args, **kwargs)
                        request.left, sent, begun = left, None, False
                        request.output.rewind(left)
                        continue
                    over = request.watch is not None and self._is_end(token) and request.watch.stopped
                    if over:
                        self._narrow()
                sent = yield token
                if over:
                    return
        finally:
            stream.close()
            if not inner:
                self._gate.release(request.owner)

    def _follow(self, output: Detokenizer) -> None:
        """Called by the text of a completion, when it is made."""
        request = _request.get()
        if request is not None and request.llama is self and request.output is None:
            request.output = output

    def _narrow(self) -> None:
        """Gives the context its own budget back. A stream that was left does it late: here, before what comes next."""
        watch, self._widening = self._widening, None
        if watch is not None:
            watch.narrow()

    def _is_end(self, token: int) -> bool:
        return native.llama_vocab_is_eog(self._model.vocab, token)

    # Completions

    def _create_completion(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        scope = _scope.get()
        if scope is not None and scope.llama is self:
            request = _Request(self, scope.guardian, scope)
            scope.requests.append(request)
        else:
            request = _Request(self, self.guardian)
        _refuse_rewind(request.guardian, stream=bool(kwargs.get("stream", False)))
        chunks = super()._create_completion(*args, **kwargs)
        return self._run(request, chunks, stream=bool(kwargs.get("stream", False)))

    def _run(self, request: _Request, chunks: Iterator[Any], *, stream: bool) -> Iterator[Any]:
        scope = request.scope or _Scope(self, None)
        inner = self._gate.owned_by(request.owner)  # a chat's, which has the model already
        try:
            while True:
                with self._gate.turn(request.owner, stream=stream):
                    if scope.active not in (None, request):
                        raise BusyError("a completion was asked for from within another one; ask when that has ended")
                    scope.active = request
                    with _set(_request, request):
                        chunk = next(chunks, None)
                    if chunk is None or not stream:
                        self._narrow()
                    if chunk is None:
                        return
                    if not stream:
                        scope.active = None
                    request.annotate(chunk)
                yield chunk
        finally:
            if scope.active is request:
                scope.active = None
            if stream and not inner:
                self._gate.release(request.owner)

    def _in_scope(self, guardian: str | bool | Guardian | None) -> _Scope:
        self._gate.check()
        outer = _scope.get()
        if guardian is None and outer is not None and outer.llama is self:
            return outer
        return _Scope(self, self.guardian if guardian is None else resolve_guardian(guardian))

    @_with_keywords(bindings.Llama.create_completion, guardian=_keyword("guardian"))
    def create_completion(self, *args: Any, guardian: str | bool | Guardian | None = None, **kwargs: Any) -> Any:
        """`llama_cpp.Llama.create_completion`, with `guardian` for this request.

        Raises:
            ConfigError: `guardian` is nothing of the kind.
            PromptError: The prompt has no tokens.
            ValueError: The prompt is longer than the context.
            BusyError: A stream owns the model. A stream says so at its first chunk.
            ClosedError: The model was closed, before or meanwhile.
        """
        with _set(_scope, self._in_scope(guardian)):
            return super().create_completion(*args, **kwargs)

    @_with_keywords(bindings.Llama.__call__, guardian=_keyword("guardian"))
    def __call__(self, *args: Any, guardian: str | bool | Guardian | None = None, **kwargs: Any) -> Any:
        """As `create_completion`."""
        with _set(_scope, self._in_scope(guardian)):
            return super().__call__(*args, **kwargs)

    @_with_keywords(bindings.Llama.create_chat_completion, guardian=_keyword("guardian"))
    def create_chat_completion(self, *args: Any, guardian: str | bool | Guardian | None = None, **kwargs: Any) -> Any:
        """`llama_cpp.Llama.create_chat_completion`, with `guardian` for this request. Raises as `create_completion`."""
        scope = self._in_scope(guardian)
        with _set(_scope, scope), contextlib.ExitStack() as stack:
            if not kwargs.get("stream"):  # all completions that it takes, in one turn
                stack.enter_context(self._gate.turn(scope))
            result = super().create_chat_completion(*args, **kwargs)
        if isinstance(result, dict):
            scope.annotate(result)
            return result
        return self._chat_chunks(scope, iter(result))

    def _chat_chunks(self, scope: _Scope, chunks: Iterator[Any]) -> Iterator[Any]:
        try:
            while True:
                with self._gate.turn(scope, stream=True), _set(_scope, scope):
                    chunk = next(chunks, None)
                if chunk is None:
                    return
                scope.annotate(chunk)
                yield chunk
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
            self._gate.release(scope)

    # States

    def save_state(self) -> bindings.LlamaState:
        """`llama_cpp.Llama.save_state`, with the model and the method noted in the state, and without scores where the
        model keeps none (`logits_all=False`).
        """
        with self._gate.reading():
            return _state.save(self)

    def load_state(self, state: bindings.LlamaState) -> None:
        """Goes back to a saved state, also one of another `Llama` of this model and method, with a larger `n_ctx` or a
        smaller one that it fits.

        Raises:
            StateError: It does not fit; the message says why. The model is as it was.
            BusyError: A stream owns the model.
        """
        with self._gate:
            _state.load(self, state)
            self._asked = (1, 0)

    def save_session(self, path: str | os.PathLike[str], *, notes: Any = None) -> None:
        """Writes where this model is, tokens and KV cache, to a file, so that another process goes on from there
        without evaluating them again. Its size is the cache's.

        The file is written beside `path` and renamed: whatever ends the process or the machine meanwhile, what was at
        `path` before is whole. Only its owner may read it. Guardian has no part in it: each request gives it the text
        anew.

        Args:
            path: The file; its folder must be there.
            notes: Anything that JSON can hold, such as a conversation's messages. `load_session` returns it.

        Raises:
            ConfigTypeError: `notes` is no JSON.
            StateError: The file cannot be written.
            NativeError: The native library could not save its state.
        """
        with self._gate.reading():
            _session_file.save(self, os.fspath(path), notes)

    def load_session(self, path: str | os.PathLike[str]) -> Any:
        """Goes back to where `save_session` was called, in this process or another one. Returns its `notes`.

        It must be the same model (a copy of the file will do), with the same `sparse`, LoRA adapter, types of the
        cache and RoPE parameters; `n_ctx` may be another one that the tokens fit in.

        Raises:
            StateError: There is no such file, it is damaged, or it does not fit; the message says why. The model is as
                it was.
            BusyError: A stream owns the model.
        """
        with self._gate:
            notes = _session_file.load(self, os.fspath(path))
            self._asked = (1, 0)
            return notes

    # Pickling

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()  # type: ignore[no-untyped-call]
        if self._flash_attn_free:
            state["flash_attn"] = None
        return {
            **state,
            "sparse": self.sparse,
            "guardian": self.guardian,
            "fused_dense": self.fused_dense,
        }


# These touch native memory and are otherwise the bindings' own. The second ones change nothing that a stream needs.
for _name in ("create_embedding", "embed", "reset"):
    setattr(Llama, _name, _one_at_a_time(getattr(bindings.Llama, _name), reads=False))
for _name in (
    "detokenize",
    "n_ctx",
    "n_embd",
    "n_vocab",
    "pooling_type",
    "token_bos",
    "token_eos",
    "token_nl",
    "tokenize",
):
    setattr(Llama, _name, _one_at_a_time(getattr(bindings.Llama, _name), reads=True))


def _refuse_rewind(guardian: Guardian | None, *, stream: bool) -> None:
    if stream and guardian is not None and guardian.rewind:
        raise ConfigError(
            "Guardian: rewind=True cannot work with a stream, which takes nothing back; leave one of the two out"
        )


def _refuse_combinations(sparse: Method | None, kwargs: dict[str, Any]) -> None:
    what = "fused_dense=True" if sparse is None else f"sparse={sparse}"
    reasons = {
        "embedding": "an embedding model decodes nothing; drop one of the two",
        "vocab_only": "there is no cache without a model; drop one of the two",
    }
    if sparse is not None and not sparse.takes_drafts:
        reasons["draft_model"] = (
            "drafts that are rejected must be taken back from the cache, and others were evicted for them; "
            if isinstance(sparse, Evict)
            else "a step leaves marks on the tokens that it reads, and those of a rejected draft cannot be taken back; "
        ) + "use Quest, TidalDecode or LessIsMore, or drop one of the two"
    for name, reason in reasons.items():
        if kwargs.get(name):
            raise ConfigError(f"{what} cannot work with {name}={kwargs[name]!r}: {reason}")


def _warn_unknown(kwargs: dict[str, Any]) -> None:
    for name, value in kwargs.items():
        if name in _STOCK or name in _OBSOLETE:
            continue
        near = difflib.get_close_matches(name, [*_STOCK, "sparse", "guardian", "fused_dense"], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        warnings.warn(f"Llama: unknown keyword {name}={value!r} is ignored{hint}", stacklevel=3)


def _set_threads(kwargs: dict[str, Any]) -> None:
    for name in ("n_threads", "n_threads_batch"):
        given = kwargs.get(name)
        number = 0 if given is None else check_int("Llama", name, given, least=0)  # 0: the bindings' word for None
        kwargs[name] = number or lib.lil_n_threads()


def is_gguf(path: str) -> bool:
    """Whether a file that is there begins as a model does."""
    if os.path.isdir(path):
        return False
    with open(path, "rb") as file:
        return file.read(4) == b"GGUF"


def what_is_wrong(path: str) -> str:
    """Why a file that is there cannot be loaded as a model."""
    if os.path.isdir(path):
        return "it is a directory; give the .gguf file in it"
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        return f"it is not a GGUF file: it begins with {magic!r}, and has {size} bytes"
    return (
        f"a GGUF file of {size} bytes; it may be cut short, so compare its size with the original's, or of an "
        "architecture that this llama.cpp does not know; verbose=True prints llama.cpp's own words"
    )
