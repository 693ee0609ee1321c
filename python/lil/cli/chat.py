from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from .._errors import ConfigError, LilError, StateError
from . import _common as common
from . import _talking as talking
from ._talk import Answer, Talk


def chat(
    model: common.Model,
    system: talking.System = None,
    session: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Go on from there, where it is, and write the conversation there after every answer.",
            show_default=False,
        ),
    ] = None,
    sparse: common.Sparse = None,
    guardian: common.Guarded = None,
    ctx: talking.Context = 8192,
    max_tokens: talking.MaxTokens = None,
    temp: talking.Temperature = 0.8,
    top_k: talking.TopK = 40,
    top_p: talking.TopP = 0.95,
    min_p: talking.MinP = 0.05,
    seed: talking.Seed = None,
    threads: common.Threads = None,
    gpu_layers: common.GpuLayers = 0,
) -> None:
    """A conversation. Ctrl-C ends an answer, Ctrl-D the program; /help lists what else can be said.

    Thinking is dim. Under each answer stands what it took: tokens a second, the context, the KV cache, the method, and
    by how many bytes the text last grew, for Guardian. A session holds tokens and KV cache; its size is the cache's.
    """
    read = _reader()
    talk = talking.opened(
        model,
        sparse=sparse,
        guardian=guardian,
        ctx=ctx,
        max_tokens=max_tokens,
        temp=temp,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        threads=threads,
        gpu_layers=gpu_layers,
    )
    with contextlib.closing(talk):
        talking.check_template(talk, "lil run --raw continues a text")
        conversation = Conversation(talk, system, session)
        if session is not None and os.path.exists(session):
            conversation.load(session)
            if system is not None and conversation.messages[:1] != talking.messages(system):
                raise ConfigError(f"--system: the conversation in {session} has begun without it; leave it out")
        _say("Ctrl-C ends an answer, Ctrl-D the program; /help lists what else can be said")
        conversation.run(read)


class Conversation:
    """The messages so far, and what a user may do with them.

    Args:
        system: The system's message. None: as the model's template has it.
        session: Where the conversation is written after every answer. None: nowhere.
    """

    def __init__(self, talk: Talk, system: str | None, session: str | None) -> None:
        self._talk = talk
        self._system = system
        self._session = session
        self.messages = talking.messages(system)

    def run(self, read: Callable[[], str]) -> None:
        """Reads and answers until `read` raises EOFError or the user has enough."""
        while True:
            try:
                line = read().strip()
            except KeyboardInterrupt:
                _say("Ctrl-D or /exit ends the program")
                continue
            except EOFError:
                return
            try:
                if line in ("/exit", "/quit"):
                    return
                if line.startswith("/"):
                    self.command(line)
                elif line:
                    self.say(line)
            except KeyboardInterrupt:  # not in an answer
                _say("interrupted")
            except LilError as error:
                _say(str(error))

    def command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name not in COMMANDS:
            raise ConfigError(f"{name} is unknown; there are {', '.join(COMMANDS)}{common.near(name, COMMANDS)}")
        COMMANDS[name][2](self, rest.strip())

    def say(self, text: str) -> None:
        """A user's message, and the answer to it. Where there is none, the message is gone too."""
        answer = Answer()
        self.messages.append({"role": "user", "content": text})
        try:
            self._answer(answer)
        finally:
            if answer.text or answer.thinking:  # templates want no thinking of earlier turns
                self.messages.append({"role": "assistant", "content": answer.text})
            else:
                self.messages.pop()
        _say(self._status(answer))
        if self._session is not None:
            self._talk.llama.save_session(self._session, notes=self._notes())

    def _answer(self, answer: Answer) -> None:
        tokens, stops, thinks = self._talk.chat_prompt(self.messages)
        thought = False
        for thinking, piece in self._talk.answer(tokens, stops, thinks=thinks, into=answer):
            if thinking and not sys.stdout.isatty():
                continue
            if thought and not thinking:
                print("\n")
            thought = thinking
            talking.show(piece, to=sys.stdout, dim=thinking)
        print()

    def _status(self, answer: Answer) -> str:
        llama = self._talk.llama
        info = llama.sparse_info()
        kv = info.kv_bytes if info.kv_resident is None else info.kv_resident
        parts = [
            f"{answer.n_tokens} tokens",
            *([] if answer.rate is None else [f"{answer.rate:.1f} tokens/s"]),
            f"context {llama.n_tokens} of {llama._n_ctx}",
            *([] if kv is None else [f"KV {kv / 2**20:.0f} MiB"]),
            "full attention" if llama.sparse is None else f"{llama.sparse.name}, budget {llama.sparse.budget}",
        ]
        if answer.guardian is not None:
            growth = answer.guardian["last_growth"]
            parts.append("Guardian: " + ("no check yet" if growth is None else f"grew by {growth:.0f} bytes"))
            parts += answer.guardian_did
        ends = {"guardian": "ended by Guardian", "length": "cut", "interrupted": "interrupted"}
        end = "interrupted" if answer.interrupted else answer.stop_reason or answer.finish_reason
        return ", ".join([*parts, *([ends[end]] if end in ends else [])])

    # Commands

    def help(self, _: str) -> None:
        for name, (argument, text, _run) in COMMANDS.items():
            _say(f"{f'{name} {argument}':22}{text}")
        _say(f"{'/exit':22}end, as Ctrl-D does")

    def _notes(self) -> dict[str, object]:
        return {"kind": "chat", "messages": self.messages}

    def save(self, path: str) -> None:
        path = os.path.expanduser(path) or self._session or ""
        if not path:
            raise ConfigError("/save needs a FILE, as lil chat was begun without --session")
        self._talk.llama.save_session(path, notes=self._notes())
        _say(f"{path}: {len(self.messages)} messages, {os.path.getsize(path) / 2**20:.1f} MiB")

    def load(self, path: str) -> None:
        path = os.path.expanduser(path) or self._session or ""
        if not path:
            raise ConfigError("/load needs a FILE, as lil chat was begun without --session")
        notes = self._talk.llama.load_session(path)
        if not isinstance(notes, dict) or notes.get("kind") != "chat":
            raise StateError(f"{path}: the session holds no conversation; the one here goes on")
        self.messages = notes["messages"]
        _say(f"{path}: {len(self.messages)} messages, {self._talk.llama.n_tokens} tokens")

    def sparse(self, notation: str) -> None:
        if notation:
            self._talk.set_sparse(common.sparse("/sparse", notation))
        _say(f"sparse: {common.notation(self._talk.llama.sparse)}")

    def guardian(self, notation: str) -> None:
        if notation:
            self._talk.guardian = common.guardian("/guardian", notation)
        _say(f"guardian: {common.notation(self._talk.guardian)}")

    def again(self, _: str) -> None:
        self.say(self._take_back())

    def undo(self, _: str) -> None:
        self._take_back()
        _say(f"{len(self.messages)} messages")

    def _take_back(self) -> str:
        """Drops the last exchange. Returns what the user had said."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            raise ConfigError("there is no answer yet")
        said = self.messages[-2]["content"]
        del self.messages[-2:]
        return said

    def new(self, _: str) -> None:
        self.messages = talking.messages(self._system)
        _say("a new conversation")


COMMANDS: dict[str, tuple[str, str, Callable[[Conversation, str], None]]] = {
    "/help": ("", "this list", Conversation.help),
    "/save": ("FILE", "write the conversation and its KV cache", Conversation.save),
    "/load": ("FILE", "go on from there", Conversation.load),
    "/sparse": ("METHOD", "another method, such as h2o:budget=512, or full", Conversation.sparse),
    "/guardian": ("GUARDIAN", "on, off, or options such as every=100", Conversation.guardian),
    "/again": ("", "another answer to the last message", Conversation.again),
    "/undo": ("", "take the last message and its answer back", Conversation.undo),
    "/new": ("", "forget everything said", Conversation.new),
}


def _say(text: str) -> None:
    """What the program itself says: dim on a terminal."""
    print(f"\x1b[2m{text}\x1b[0m" if sys.stdout.isatty() else text, flush=True)


def _reader() -> Callable[[], str]:
    """What reads a user's next message, and raises EOFError at the end: lines, edited on a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return input
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    except ModuleNotFoundError:
        raise ConfigError('lil chat on a terminal needs prompt_toolkit: pip install "lil-cpp[cli]"') from None

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        completer=WordCompleter([*COMMANDS, "/exit"], sentence=True), complete_while_typing=False, key_bindings=keys
    )
    return lambda: session.prompt("> ")
