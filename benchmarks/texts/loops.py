"""Loops: what a model writes that has stopped saying anything, family by family. Each goes on without end."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random

from .language import ADJECTIVES, NAMES, NOUNS, Pieces, endless, paragraph, sentence, slots

Loop = Callable[[Random], Pieces]


def again(text: str) -> Pieces:
    return itertools.repeat(text)


# the same bytes


def phrase(rng: Random) -> Pieces:
    """A few words."""
    return again(" ".join(rng.choice(NOUNS) for _ in range(rng.randint(2, 6))) + rng.choice((" ", ", ", ". ", "\n")))


def passage(rng: Random) -> Pieces:
    """A paragraph or two."""
    return again(paragraph(rng, rng.randint(3, 12)) + "\n\n")


def chapter(rng: Random) -> Pieces:
    """Some 2,500 to 6,000 bytes."""
    return again("\n\n".join(paragraph(rng, 5) for _ in range(rng.randint(8, 16))) + "\n\n")


def token(rng: Random) -> Pieces:
    """One token, or one character."""
    return again(rng.choice((" the", " =", " na", " -", "!", " 0", "ha", "\u2014", " I", " *", " so", ".")) * 50)


def blank(rng: Random) -> Pieces:
    """Whitespace."""
    return again(rng.choice(("\n", " ", "\n\n", "\t", " \n", "\r\n")) * 200)


def chant(rng: Random) -> Pieces:
    """Two or three short lines by turns."""
    return again("".join(f"{sentence(rng)}\n" for _ in range(rng.randint(2, 3))))


# the same, counted


def step(rng: Random) -> Pieces:
    """Numbered sentences, the same but for the number."""
    n, text = (
        rng.randint(1, 40),
        f"Let's solve the {rng.choice(ADJECTIVES)} equation for the {rng.choice(NOUNS)} again.",
    )
    lead = rng.choice(("{}. ", "Step {}: ", "({}) "))
    return (f"{lead.format(i)}{text}\n" for i in itertools.count(n))


def attempt(rng: Random) -> Pieces:
    """A paragraph that counts its attempts in running text."""
    parts = [sentence(rng) for _ in range(rng.randint(1, 3))]
    start = rng.randint(2, 12)
    return (f"This is attempt number {i} to find the {parts[0][:-1].lower()}. {' '.join(parts)} " for i in
            itertools.count(start))  # fmt: skip


def two_counters(rng: Random) -> Pieces:
    """Two numbers that grow at different paces."""
    a, b, c, d = rng.randint(1, 9), rng.randint(10, 99), rng.choice(NOUNS), rng.choice(NOUNS)
    return (f"On day {a + i} the {c} was {b + 3 * i} steps from the {d}, and nothing else had changed.\n" for i in
            itertools.count())  # fmt: skip


def row(rng: Random) -> Pieces:
    """Rows of a table in which only the number grows."""
    a, b, c = (rng.choice(NOUNS) for _ in range(3))
    return (f"| {i} | {a} | {b} of {c} | yes |\n" for i in itertools.count(rng.randint(1, 30)))


# the same in other words

WAIT = {
    "oh": ("Wait,", "Hmm,", "Hold on,", "Actually,", "But wait,", "Okay,", "Well,", "Right,"),
    "let": ("let me", "I should", "I need to", "I want to", "we should", "let us", "I had better"),
    "check": ("check", "verify", "re-examine", "reconsider", "double-check", "go over", "look at"),
    "this": ("this", "that", "the result", "the answer", "the equation", "my work", "the last step"),
    "again": ("again", "once more", "more carefully", "from the start", "one more time", "to be sure"),
}
DOUBT = {
    "a": ("I am not sure", "I am not certain", "It is unclear", "I doubt", "I cannot tell", "I wonder"),
    "b": ("whether", "if"),
    "c": ("the sign", "the first step", "the formula", "the assumption", "the last term", "that value"),
    "d": ("is right", "is correct", "holds", "makes sense", "can be trusted", "is what was asked"),
}


def wait(rng: Random) -> Pieces:
    """Thinking that will check again, and never does."""

    def make() -> str:
        text = slots(rng, "{oh} {let} {check} {this} {again}. ", WAIT)
        return text if rng.random() < 0.6 else text + slots(rng, "{a} {b} {c} {d}. ", DOUBT)

    return endless(make)


SUMMARY = {
    "so": ("In summary,", "Overall,", "To conclude,", "In short,", "Altogether,", "In the end,"),
    "we": ("we can say that", "it is clear that", "we see that", "it follows that", "this shows that"),
    "thing": ("the method", "the approach", "the procedure", "the technique"),
    "is": ("is effective", "works well", "is useful", "is reliable", "gives good results"),
    "for": ("in many cases", "in practice", "for most problems", "under these conditions", "in general"),
}


def summary(rng: Random) -> Pieces:
    """Conclusions that follow each other."""
    return endless(lambda: slots(rng, "{so} {we} {thing} {is} {for}. ", SUMMARY))


def apology(rng: Random) -> Pieces:
    """Excuses from a synonym table, a line each."""
    table = {
        "sorry": ("I apologize", "I am sorry", "My apologies", "Please forgive me", "Sorry"),
        "for": ("for the confusion", "for the mistake", "for that", "for the error", "for my earlier answer"),
        "here": ("Here is", "This is", "Below is", "Let me give you", "You will find"),
        "right": ("the corrected version", "the right answer", "the updated text", "a better version"),
    }
    return endless(lambda: slots(rng, "{sorry} {for}. {here} {right}.\n", table))


def shuffled(rng: Random) -> Pieces:
    """A few sentences in random order."""
    known = [sentence(rng) + " " for _ in range(rng.randint(5, 9))]
    return endless(lambda: rng.choice(known))


def shuffled_lines(rng: Random) -> Pieces:
    """Lines of thinking in random order."""
    known = [f"So the {rng.choice(NOUNS)} must be {rng.choice(ADJECTIVES)}.\n" for _ in range(4)]
    known += [f"But then the {rng.choice(NOUNS)} would have to be {rng.choice(ADJECTIVES)}.\n" for _ in range(4)]
    return endless(lambda: rng.choice(known))


# templates


def story(rng: Random) -> Pieces:
    """The same little problem with other names and numbers."""
    names, things = rng.sample(NAMES, 5), rng.sample(NOUNS, 5)

    def make() -> str:
        a, b, c = rng.choice(names), rng.choice(names), rng.choice(things)
        return f"{a} has {rng.randint(2, 20)} {c}s and gives {rng.randint(2, 9)} of them to {b}. How many are left? "

    return endless(make)


def email(rng: Random) -> Pieces:
    """A letter whose name and day change."""
    names, days = rng.sample(NAMES, 6), ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
    body = f"thank you for your message about the {rng.choice(NOUNS)}. We will get back to you on"
    return endless(
        lambda: f"Dear {rng.choice(names)},\n\n{body} {rng.choice(days)}.\n\nKind regards,\n{rng.choice(names)}\n\n"
    )


def question(rng: Random) -> Pieces:
    """A quiz that asks the same of a few things."""
    things, kinds = rng.sample(NOUNS, 8), rng.sample(ADJECTIVES, 4)
    return endless(
        lambda: (
            f"Question: What is the most {rng.choice(kinds)} part of the {rng.choice(things)}?\n"
            f"Answer: The most {rng.choice(kinds)} part is the {rng.choice(things)}.\n\n"
        )
    )


# lists


def bullets(rng: Random) -> Pieces:
    """A list whose items come back."""
    items = [f"- {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}\n" for _ in range(rng.randint(6, 14))]
    return endless(lambda: rng.choice(items))


def numbered(rng: Random) -> Pieces:
    """A numbered list whose items come back."""
    items = [f"The {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} of the {rng.choice(NOUNS)}" for _ in range(12)]
    return (f"{i}. {items[i % 12] if rng.random() < 0.8 else rng.choice(items)}\n" for i in itertools.count(1))


def commas(rng: Random) -> Pieces:
    """An enumeration in running text whose words come back."""
    words = rng.sample(NOUNS, rng.randint(8, 16))
    return endless(lambda: rng.choice(words) + ", ")


# code


def functions(rng: Random) -> Pieces:
    """Numbered functions of Python without end."""
    name, k = rng.choice(NOUNS), rng.randint(2, 9)
    return (f"def {name}_{i}(x):\n    return x * {k} + {i}\n\n\n" for i in itertools.count(1))


def handlers(rng: Random) -> Pieces:
    """Numbered handlers of JavaScript without end."""
    name = rng.choice(NOUNS)
    return (
        f'document.getElementById("{name}{i}").addEventListener("click", function () {{\n'
        f'    console.log("{name} {i} was clicked");\n}});\n\n'
        for i in itertools.count(1)
    )


def cases(rng: Random) -> Pieces:
    """A switch without end."""
    name = rng.choice(NOUNS).upper()
    return (f'        case {name}_{i}: return "{name.lower()} {i}";\n' for i in itertools.count(rng.randint(0, 20)))


def markup(rng: Random) -> Pieces:
    """The same element of a page."""
    a, b = rng.choice(NOUNS), rng.choice(NOUNS)
    return again(f'<div class="{a}">\n  <span class="{b}">{a} of {b}</span>\n</div>\n')


def objects(rng: Random) -> Pieces:
    """Objects of JSON without end, of which only the number changes."""
    name, kind = rng.choice(NOUNS), rng.choice(ADJECTIVES)
    return (
        f'  {{\n    "id": {i},\n    "name": "{name} {i}",\n    "kind": "{kind}",\n    "active": true\n  }},\n'
        for i in itertools.count(1)
    )


# other scripts


def _phrases(rng: Random, table: str, n: int, joint: str) -> Pieces:
    known = table.split("|")
    rng.shuffle(known)
    if n == 1:
        return again(known[0] + joint)
    return endless(lambda: rng.choice(known[:n]) + joint)


RUSSIAN = (
    "Давайте проверим это ещё раз.|Но сначала посмотрим на условие задачи.|Значит, ответ должен быть другим.|"
    "Подождите, здесь может быть ошибка.|Попробуем решить уравнение иначе.|Итак, вернёмся к началу."
)
CHINESE = (
    "让我再检查一遍。|等一下，这里可能有错误。|所以答案应该是正确的。|"
    "我们重新计算一次。|不过，先看看题目的条件。|因此结果是一样的。"
)
GREEK = (
    "Ας το ελέγξουμε ξανά.|Περίμενε, ίσως υπάρχει λάθος.|Άρα η απάντηση είναι σωστή.|Ξεκινάμε πάλι από την αρχή.|"
    "Όμως πρέπει να δούμε και την άλλη περίπτωση."
)
JAPANESE = (
    "もう一度確認します。|ちょっと待ってください。|したがって、答えは同じです。|"
    "最初からやり直しましょう。|でも、条件を見てみましょう。"
)
ARABIC = "دعنا نتحقق مرة أخرى.|انتظر، قد يكون هناك خطأ.|إذن الجواب صحيح.|لنبدأ من جديد.|لكن لننظر إلى الشرط أولا."


def russian(rng: Random) -> Pieces:
    return _phrases(rng, RUSSIAN, rng.choice((1, 3, 6)), " ")


def chinese(rng: Random) -> Pieces:
    return _phrases(rng, CHINESE, rng.choice((1, 3, 6)), "")


def greek(rng: Random) -> Pieces:
    return _phrases(rng, GREEK, rng.choice((1, 3, 5)), " ")


def japanese(rng: Random) -> Pieces:
    return _phrases(rng, JAPANESE, rng.choice((1, 3, 5)), "")


def arabic(rng: Random) -> Pieces:
    return _phrases(rng, ARABIC, rng.choice((1, 3, 5)), " ")


# the part of the set that a family is in: what is chosen on one is reported on the other
CHOOSE: tuple[Loop, ...] = (
    phrase, chapter, blank, step, two_counters, summary, apology, shuffled_lines, story, bullets, commas, handlers,
    markup, russian, japanese,
)  # fmt: skip
REPORT: tuple[Loop, ...] = (
    passage, chant, token, attempt, row, wait, shuffled, email, question, numbered, functions, cases, objects, chinese,
    greek, arabic,
)  # fmt: skip
