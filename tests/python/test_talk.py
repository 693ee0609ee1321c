"""`lil run` and `lil chat`: what they print, how they end, and what they remember."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lil
import pytest
from lil import H2O, Guardian, Quest
from lil.cli import _common as common
from lil.cli import app
from lil.cli._talk import Answer, Talk, Thinking
from lil.cli.chat import Conversation
from typer.testing import CliRunner

GREEDY = ["--temp", "0", "-c", "512"]
POEM = "Write a poem about the sea that has one hundred lines."


def run(*args: str, stdin: str | bytes | None = None) -> Any:
    return CliRunner().invoke(app, ["run", *args], input=stdin)


@pytest.fixture(scope="module")
def talk(model_path: str) -> Iterator[Talk]:
    options = {"n_ctx": 512, "n_threads": 1, "n_threads_batch": 1}
    talk = Talk(model_path, sparse=None, guardian=None, options=options, sampling={"temperature": 0.0})
    yield talk
    talk.close()


def ask(talk: Talk, text: str, *, into: Answer | None = None) -> Answer:
    answer = into or Answer()
    tokens, stops, thinks = talk.chat_prompt([{"role": "user", "content": text}])
    for _ in talk.answer(tokens, stops, thinks=thinks, into=answer):
        pass
    return answer


# The notation


def test_sparse_notation() -> None:
    assert common.sparse("--sparse", None) is common.sparse("--sparse", "full") is None
    assert common.sparse("--sparse", "h2o") == H2O()
    assert common.sparse("--sparse", "quest:budget=512,first_page=true") == Quest(budget=512, first_page=True)
    for text, words in (
        ("qest", r"'qest' is no method: did you mean quest\?"),
        ("quest:bdget=3", r"'bdget' is no option of quest: did you mean budget\?"),
        ("h2o:budget=x", "budget='x'"),
        ("h2o:budget=1", "at least 2"),
        ("h2o:fused_dense=true", "leave fused_dense out"),
    ):
        with pytest.raises(lil.ConfigError, match=words):
            common.sparse("--sparse", text)


def test_guardian_notation() -> None:
    assert common.guardian("--guardian", None) is common.guardian("--guardian", "off") is None
    assert common.guardian("--guardian", "on") == common.guardian("--guardian", "guardian") == Guardian()
    for text in ("every=100,action=flag", "on:every=100,action=flag", "guardian:every=100,action=flag"):
        assert common.guardian("--guardian", text) == Guardian(every=100, action="flag")
    for text, words in (
        ("evry=3", r"'evry' is no option of guardian: did you mean every\?"),
        ("yes", "'yes' is unknown"),
        ("every=0", "every='0'"),
    ):
        with pytest.raises(lil.ConfigError, match=words):
            common.guardian("--guardian", text)


@pytest.mark.parametrize(
    "text", ["off", "h2o:budget=1024", "quest:budget=64,first_page=true", "sink:budget=9,n_sink=2"]
)
def test_notation_there_and_back(text: str) -> None:
    assert common.notation(common.sparse("", text)) == text
    for guardian in ("every=9,action=flag", "action=widen+close_think,widen=all", 'action=close_think,message="So: a"'):
        told = common.notation(common.guardian("", guardian))
        assert set(told.removeprefix("guardian:").split(",")) == set(guardian.split(","))


# Thinking


GPT_OSS = ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("text", "begun", "thinking", "answer"),
    [
        ("plain, no <think> here </think>", False, "", "plain, no <think> here </think>"),
        ("\n<think>a < b </th></think>\n\nso", False, "a < b </th>", "so"),
        ("a</think>b</think>", True, "a", "b</think>"),
        ("<think>cut", False, "cut", ""),
        ("<think>cut </thi", False, "cut </thi", ""),
        ("<thin", False, "", "<thin"),
        ("  indented", False, "", "  indented"),
        ("", True, "", ""),
        ("</think>so", False, "", "so"),
        ("[THINK]a[/THINK]so", False, "a", "so"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>so", False, "a", "so"),
        ("<|channel|>final<|message|>so", False, "", "so"),
        ("<|channel|>analysis<|message|>a<|end|>", False, "a<|end|>", ""),
    ],
)
def test_thinking_is_told_from_text(size: int, text: str, begun: bool, thinking: str, answer: str) -> None:
    tags = GPT_OSS if "<|" in text else ("[THINK]", "[/THINK]") if "[" in text else ("<think>", "</think>")
    splitter, got = Thinking(*tags, begun=begun), {True: "", False: ""}
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    for piece in pieces:
        for thinks, part in splitter.feed(piece):
            got[thinks] += part
    for thinks, part in splitter.feed("", last=True):
        got[thinks] += part
    assert got == {True: thinking, False: answer}


def test_tags_that_are_control_tokens(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As gpt-oss's and Magistral's are. Elsewhere such tokens have no text; these the answer is made of."""
    llama = talk.llama
    text = "<jupyter_start>rain falls<jupyter_output>\n\nIt does.<jupyter_text>"
    tokens = llama.tokenize(text.encode(), add_bos=False, special=True)
    assert llama.detokenize(tokens) == b"rain falls\n\nIt does."
    at = iter(tokens)

    def written(_: Any, scores: Any) -> Any:
        scores[:] = -1e9
        scores[next(at, llama.token_eos())] = 0
        return scores

    monkeypatch.setattr(talk, "tags", ("<jupyter_start>", "<jupyter_output>"))
    monkeypatch.setattr(llama, "tags", frozenset({tokens[0], tokens[3]}))
    monkeypatch.setitem(talk._sampling, "logits_processor", lil.llama_cpp.LogitsProcessorList([written]))
    answer = ask(talk, "Why?")
    assert (answer.thinking, answer.text) == ("rain falls", "It does.")


# lil run


def test_run(model_path: str, tmp_path: Path, make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama(n_ctx=512)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is rain?\n\nA text."}]
    options = {"temperature": 0.0, "max_tokens": 20, "top_p": 0.95, "min_p": 0.05}
    want = llama.create_chat_completion(messages, **options)["choices"][0]["message"]["content"]

    file, out = tmp_path / "a.txt", tmp_path / "a.json"
    file.write_text("A text.\n")
    args = [model_path, "What is rain?", "-f", str(file), "-s", "Be brief.", *GREEDY, "-n", "20", "--json", str(out)]
    result = run(*args, "--sparse", "h2o:budget=300")
    assert (result.exit_code, result.stdout) == (0, want + "\n")
    assert result.stderr == "lil: the answer was cut after 20 tokens (--max-tokens, --ctx)\n"
    record = json.loads(out.read_text())
    assert record["kind"] == "run" and record["options"]["sparse"] == "h2o:budget=300"
    assert record["results"]["text"] == want and record["results"]["n_tokens"] == 20
    assert record["results"]["sparse"]["method"] == "h2o"


def test_run_from_standard_input(model_path: str) -> None:
    given = run(model_path, "What is rain?", *GREEDY, "-n", "12").stdout
    assert run(model_path, *GREEDY, "-n", "12", stdin="What is rain?\n").stdout == given
    assert run(model_path, "-", *GREEDY, "-n", "12", stdin="What is rain?").stdout == given
    assert run(model_path, "What is", "-f", "-", *GREEDY, "-n", "12", stdin="rain?").stdout != given
    raw = run(model_path, "Once upon a time", "--raw", "--json", "-", *GREEDY, "-n", "4")
    record = json.loads(raw.stdout)
    assert record["results"]["n_prompt"] == 4 and record["results"]["text"].startswith(", ")


def test_run_with_guardian(model_path: str) -> None:
    result = run(model_path, POEM, "--temp", "0", "-c", "1024", "--guardian", "every=60")
    assert result.exit_code == 0 and "lil: Guardian ended the answer after " in result.stderr


def test_run_says_what_guardian_did(model_path: str) -> None:
    """A threshold above everything: an alarm at each check."""
    notation = "every=20,threshold=100000,rule=paper,action=widen+stop"
    result = run(model_path, POEM, "--temp", "0", "--sparse", "quest:budget=64", "--guardian", notation)
    said = re.search(r"lil: Guardian widened the budget after 20 tokens\nlil: .* ended .* after (\d+)", result.stderr)
    assert said and 60 <= int(said[1]) < 100


def test_what_guardian_did() -> None:
    events = [{"did": "alarm", "tokens": 9}, {"did": "close_think", "tokens": 11}]
    answer = Answer(guardian={"events": events, "incomplete": "tool_call"})
    assert answer.guardian_did == ["closed the thinking after 11 tokens", "cut off a tool call, which is not whole"]
    assert Answer().guardian_did == []


def test_options_from_the_environment(model_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIL_SPARSE", "quest:budget=64")
    monkeypatch.setenv("LIL_GUARDIAN", "every=100")
    for args, want in (
        ([], ("quest:budget=64", "guardian:every=100")),
        (["--sparse", "h2o:budget=80"], ("h2o:budget=80", "guardian:every=100")),
        (["--sparse", "full", "--guardian", "off"], ("off", "off")),
    ):
        result = run(model_path, "Hi", *GREEDY, "-n", "2", "--json", "-", *args)
        options = json.loads(result.stdout)["options"]
        assert (options["sparse"], options["guardian"]) == want


@pytest.mark.parametrize(
    ("args", "stdin", "said"),
    [
        (["--sparse", "qest"], None, "did you mean quest?"),
        (["-c", "8"], None, "leaves no room in a context of"),
        (["--raw", "-s", "x"], None, "--system has no meaning with --raw"),
        (["-f", "-", "-f", "-"], None, "standard input can be read once"),
        (["-f", "nowhere"], None, "-f nowhere: No such file"),
        (["-f", "-"], b"\xff\xfe", "not UTF-8"),
        (["--temp", "-1"], None, "--temp"),
    ],
)
def test_run_refuses(model_path: str, args: list[str], stdin: Any, said: str) -> None:
    result = run(model_path, "hi", *args, stdin=stdin)
    assert result.exit_code == 2 and said in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
def test_run_without_memory(model_path: str) -> None:
    command = f'ulimit -v 3000000; exec "{sys.executable}" -m lil run "{model_path}" hi -c 20000000'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("lil: Failed to create llama_context: no memory for n_ctx=20000000,")


def test_run_refuses_nothing(model_path: str) -> None:
    result = run(model_path, stdin=" \n")
    assert result.exit_code == 2 and "the prompt is empty" in result.stderr


# Ctrl-C


def test_an_answer_is_interrupted_in_good_order(talk: Talk, interruptible: None) -> None:
    whole = ask(talk, "Count to one hundred.")
    answer = Answer()
    tokens, stops, thinks = talk.chat_prompt([{"role": "user", "content": "Count to one hundred."}])
    for n, _ in enumerate(talk.answer(tokens, stops, thinks=thinks, into=answer)):
        if n == 5:
            signal.raise_signal(signal.SIGINT)
    assert answer.interrupted and answer.finish_reason is None
    assert 0 < len(answer.text) < len(whole.text) and whole.text.startswith(answer.text)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert ask(talk, "Count to one hundred.").text == whole.text

    # in the prompt, before anything was said
    talk.llama.reset()
    before = talk.llama._before_decode

    def slow() -> None:
        threading.Timer(0.01, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        time.sleep(0.1)
        before()

    talk.llama._before_decode = slow  # type: ignore[method-assign]
    answer = ask(talk, "Count to one hundred.")
    del talk.llama._before_decode
    assert answer.interrupted and answer.n_tokens == 0
    assert ask(talk, "Count to one hundred.").text == whole.text


def test_run_is_interrupted(model_path: str) -> None:
    command = [sys.executable, "-m", "lil", "run", model_path, POEM, "--temp", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(20)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "lil: interrupted\n"
        assert process.wait() == 130


# Another method


def test_another_method_meanwhile(talk: Talk) -> None:
    want = ask(talk, "What is rain?").text
    talk.set_sparse(Quest(budget=480))
    assert talk.llama.sparse_info().method == "quest"
    assert ask(talk, "What is rain?").text == want
    with pytest.raises(lil.ConfigError, match="capacity=30 must be"):
        talk.set_sparse(H2O(budget=20, capacity=30))
    assert talk.llama.sparse_info().method == "quest"
    talk.set_sparse(None)
    assert ask(talk, "What is rain?").text == want


# lil chat


def chat(model_path: str, *lines: str, args: Sequence[str] = ()) -> Any:
    said = "".join(f"{line}\n" for line in lines)
    return CliRunner().invoke(app, ["chat", model_path, *GREEDY, "-n", "16", *args], input=said)


def answers(result: Any) -> list[str]:
    """What the model said, without what the program says."""
    assert result.exit_code == 0, result.stderr
    return re.findall(r"(?:^|\n)([^\n]*)\n\d+ tokens, ", result.stdout)


def test_chat_remembers_what_was_said(model_path: str, make_llama: Callable[..., lil.Llama], tmp_path: Path) -> None:
    llama, messages, want = make_llama(n_ctx=512), [{"role": "system", "content": "You are Eve."}], []
    for text in ("My name is Bob.", "What is my name?"):
        messages.append({"role": "user", "content": text})
        message = llama.create_chat_completion(messages, temperature=0.0, max_tokens=16)["choices"][0]["message"]
        messages.append({"role": "assistant", "content": message["content"]})
        want.append(message["content"].replace("\n", ""))
    assert len(set(want)) == 2
    system = ("-s", "You are Eve.")
    first, second = want
    ask = ("My name is Bob.", "What is my name?")
    assert answers(chat(model_path, *ask, args=system)) == want
    assert answers(chat(model_path, ask[0], "/again", ask[1], "/again", args=system)) == [first, first, second, second]
    assert answers(chat(model_path, ask[0], "Hm?", "/undo", ask[1], args=system))[2:] == [second]
    assert answers(chat(model_path, "Hm?", "/new", *ask, args=system))[1:] == want
    h2o = make_llama(n_ctx=512, sparse=lil.H2O(budget=400))  # which reads the conversation anew
    again = h2o.create_chat_completion(messages[:4], temperature=0.0, max_tokens=16)["choices"][0]["message"]["content"]
    said = answers(chat(model_path, ask[0], "/sparse h2o:budget=400", ask[1], args=system))
    assert said == [first, again.replace("\n", "")]

    # a session, by command and by option
    file = str(tmp_path / "a.session")
    chat(model_path, ask[0], f"/save {file}", "Hm?", args=system)
    loaded = chat(model_path, f"/load {file}", ask[1])
    assert answers(loaded) == [second] and f"{file}: 3 messages, " in loaded.stdout
    assert answers(chat(model_path, ask[1], args=("--session", file))) == [second]
    assert len(answers(chat(model_path, "/again", args=("--session", file)))) == 1  # the answer was written too
    refused = chat(model_path, args=("--session", file, "--sparse", "h2o"))
    assert refused.exit_code == 2 and "saved with sparse=None" in refused.stderr
    refused = chat(model_path, args=("--session", file, "-s", "You are Al."))
    assert refused.exit_code == 2 and "--system: the conversation in" in refused.stderr


@pytest.mark.parametrize("terminal", [False, True])
def test_chat_shows_thinking_and_forgets_it(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    def answer(tokens: Any, stops: Any, *, thinks: bool, into: Answer) -> Iterator[tuple[bool, str]]:
        into.thinking, into.text, into.n_tokens = "hm\x1b[8m", "so", 2
        yield from ((True, "hm\x1b[8m"), (False, "s"), (False, "o"))

    monkeypatch.setattr(talk, "answer", answer)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    conversation = Conversation(talk, None, None)
    conversation.say("Why?")
    out = capsys.readouterr().out
    assert out.startswith("\x1b[2mhm\ufffd[8m\x1b[0m\n\nso\n" if terminal else "so\n2 tokens")
    assert conversation.messages[1] == {"role": "assistant", "content": "so"}


def test_chat_says_what_is_wrong_and_goes_on(model_path: str, tmp_path: Path, talk: Talk) -> None:
    empty = tmp_path / "none"
    talk.llama.save_session(empty)
    lines = [
        ("/hlp", "/hlp is unknown; there are /help, .*; did you mean /help?"),
        ("/sparse qest", "'qest' is no method: did you mean quest?"),
        ("/sparse h2o:budget=20,capacity=30", "H2O: capacity=30 must be at least"),
        ("/guardian x", "'x' is unknown"),
        ("/save", "/save needs a FILE"),
        ("/load", "/load needs a FILE"),
        ("/load /nowhere/a", "/nowhere/a: there is no such session"),
        (f"/load {empty}", "the session holds no conversation"),
        ("/again", "there is no answer yet"),
        ("word " * 600, "a prompt of 6.. tokens leaves no room in a context of 512"),
        ("/sparse", "sparse: off"),
        ("/guardian every=5,action=flag", "guardian: guardian:every=5,action=flag"),
        ("/help", "/undo  .*take the last message"),
        ("What is rain?", "16 tokens, .* context .* of 512, KV . MiB, full attention, Guardian: grew by .* bytes, cut"),
    ]
    result = chat(model_path, *(line for line, _ in lines))
    at = 0
    for _, said in lines:
        found = re.search(said.replace("?", r"\?"), result.stdout[at:])
        assert found, (said, result.stdout[at:])
        at += found.end()
    assert "/exit" in result.stdout and result.exit_code == 0


def test_chat_on_a_terminal(model_path: str, tmp_path: Path) -> None:
    pexpect = pytest.importorskip("pexpect", reason="pexpect plays the terminal; pip install pexpect")
    file, ready = tmp_path / "a.session", re.escape("\x1b[?2004h")  # pasting may begin

    def start(*args: str) -> Any:
        environment = {**os.environ, "PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm"}
        command = ["-m", "lil", "chat", model_path, "--temp", "0", "-c", "1024", *args]
        return pexpect.spawn(
            sys.executable, command, env=environment, encoding="utf-8", timeout=60, dimensions=(40, 100)
        )

    child = start()
    child.expect("/help lists what else")

    def say(text: str) -> None:  # what is typed while the terminal changes its mode is lost
        child.expect(ready)
        child.send(text)

    say(POEM + "\r")
    child.expect(re.escape("\x1b[?2004l"))
    child.expect("[a-z]{3,} .*[a-z]{3,} ")  # it streams
    child.sendintr()
    child.expect(r"\d+ tokens, .*interrupted")
    say("\x03")
    child.expect("Ctrl-D or /exit ends the program")
    say("/he\t")
    child.expect("lp")
    child.send("\r")
    child.expect("write the conversation and its KV cache")
    say("/guardian every=60\r")
    child.expect("guardian:every=60")
    say("/again\r")
    child.expect("ended by Guardian")
    say(f"/save {file}\r")
    child.expect("2 messages, ")
    say("\x04")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0

    child = start("--session", str(file))
    child.expect(r"2 messages, \d+ tokens")
    say("/exit\r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


# the screen, as a terminal draws it


class Screen:
    """A program in a terminal of tmux's."""

    def __init__(self, *command: str, socket: Path) -> None:
        self._tmux = ["tmux", "-u", "-f", os.devnull, "-S", str(socket)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("TMUX", "LIL_"))}
        size = ("-x", "100", "-y", "50")
        subprocess.run([*self._tmux, "new-session", "-d", *size, *command], env=environment, check=True)

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True)

    def press(self, *keys: str) -> None:
        subprocess.run([*self._tmux, "send-keys", *keys], check=True)

    def shown(self, *options: str) -> str:
        """What stands there, lines that were wrapped as one; with "-e" the colours too."""
        command = [*self._tmux, "capture-pane", "-p", "-J", *options]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        return "\n".join(line.rstrip() for line in lines).rstrip()

    def wait(self, pattern: str, n_prompts: int | None = None) -> str:
        """What stands there once it ends with that, and so many prompts were given."""
        for _ in range(1200):
            shown = self.shown()
            if re.search(pattern + r"\Z", shown) and n_prompts in (None, shown.count("\n>")):
                return shown
            time.sleep(0.1)
        raise AssertionError(f"{pattern!r} did not come:\n{shown}")


def test_chat_on_a_screen(model_path: str, make_llama: Callable[..., lil.Llama], tmp_path: Path) -> None:
    if shutil.which("tmux") is None:
        pytest.skip("tmux plays the terminal, and is not installed")
    rain = [{"role": "user", "content": "What is rain?"}]
    llama = make_llama(n_ctx=512)
    answer = llama.create_chat_completion(rain, temperature=0.0, max_tokens=16)["choices"][0]["message"]["content"]
    assert len(answer) > 40

    file = tmp_path / "a.session"
    chat = [sys.executable, "-m", "lil", "chat", model_path, "--temp", "0", "-c", "512"]
    with tempfile.TemporaryDirectory() as folder, Screen(*chat, "-n", "16", socket=Path(folder, "s")) as screen:
        told = ["Ctrl-C ends an answer, Ctrl-D the program; /help lists what else can be said"]

        def say(text: str, *lines: str) -> None:
            screen.wait(r"\n>", n_prompts=1 + sum(line.startswith(">") for line in told))
            screen.press("-l", text)
            screen.press("Enter")
            told.extend([f"> {text}", *lines])

        status = "16 tokens, N tokens/s, context N of 512, KV N MiB, "
        say("What is rain?", answer, f"{status}full attention, cut")
        say("/sparse h2o:budget=400", "sparse: h2o:budget=400")
        say("/guardian every=8,action=flag", "guardian: guardian:every=8,action=flag")
        say("/again", answer, f"{status}h2o, budget 400, Guardian: grew by N bytes, cut")
        say("/sparse qest", "/sparse: sparse='qest': 'qest' is no method: did you mean quest? There is ...")
        say(f"/save {file}", f"{file}: 2 messages, N MiB")
        say("/new", "a new conversation")
        say(f"/load {file}", f"{file}: 2 messages, N tokens")
        shown = screen.wait(r"\n>", n_prompts=9)
        shown = re.sub(r"There is .*", "There is ...", shown)
        for unit in ("tokens/s", "of 512", "MiB", "bytes"):
            shown = re.sub(rf"[\d.]+ {unit}", f"N {unit}", shown)
        shown = re.sub(r"messages, \d+ tokens", "messages, N tokens", shown)
        assert shown.splitlines() == [*told, ">"]
        assert re.search(r"\x1b\[2m16 tokens, ", screen.shown("-e"))  # dim

        screen.press("C-d")
        for _ in range(100):
            if subprocess.run([*screen._tmux, "has-session"], capture_output=True).returncode:
                break
            time.sleep(0.1)
        else:
            raise AssertionError(screen.shown())

    # Ctrl-C ends the answer, and the program goes on
    with tempfile.TemporaryDirectory() as folder, Screen(*chat, socket=Path(folder, "s")) as screen:
        screen.wait("\n>")
        screen.press("-l", POEM)
        screen.press("Enter")
        screen.wait(r"(\n[^\n>]+){3}")  # it streams
        screen.press("C-c")
        screen.wait(r"\n\d+ tokens, [^\n]*, interrupted\n>", n_prompts=2)
        screen.press("-l", "/help")
        screen.press("Enter")
        shown = screen.wait(r"/exit +end, as Ctrl-D does\n>")
        assert shown.count("interrupted") == 1
