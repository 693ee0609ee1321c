"""Sound texts of data: tables, matrices, fixtures, logs, and what else is made of numbers and marks."""

from __future__ import annotations

import base64
import itertools
import json
from random import Random

from .language import ADJECTIVES, NAMES, NOUNS, PLACES, Pieces, clause, endless

# Grids have an end, whatever is asked for: sides that models are asked to write.


def identity(rng: Random) -> Pieces:
    n = rng.choice((12, 16, 20, 24, 32))
    rows = ("[" + ", ".join("1" if i == j else "0" for j in range(n)) + "]" for i in range(n))
    yield f"The identity matrix of size {n}:\n\n[" + ",\n ".join(rows) + "]\n"


def zeros(rng: Random) -> Pieces:
    n, m = rng.choice((10, 16, 24, 30)), rng.choice((10, 16, 24, 32))
    yield "grid = [\n" + ("    [" + ", ".join(["0"] * m) + "],\n") * n + "]\n"


def maze(rng: Random) -> Pieces:
    w, h = rng.randint(20, 60), rng.randint(20, 50)
    for _ in range(h):
        yield "".join(rng.choice("##....") for _ in range(w)) + "\n"


def one_hot(rng: Random) -> Pieces:
    """A word and its vector a line."""
    words = rng.sample(NOUNS, 24)
    for i, word in enumerate(words):
        yield f"{word}: [" + ", ".join("1" if i == j else "0" for j in range(24)) + "]\n"


def table(rng: Random) -> Pieces:
    yield "| name | town | age | note |\n|---|---|---|---|\n"
    while True:
        yield (
            f"| {rng.choice(NAMES)} | {rng.choice(PLACES)} | {rng.randint(18, 90)} | {rng.choice(ADJECTIVES)} "
            f"{rng.choice(NOUNS)} |\n"
        )


def yes_no(rng: Random) -> Pieces:
    """A table with two answers a row."""
    yield "| feature | basic | pro |\n|---|---|---|\n"
    words = [f"{a} {b}" for a in ADJECTIVES for b in NOUNS]
    for word in rng.sample(words, 400):
        yield f"| {word} | {rng.choice(('yes', 'no'))} | {rng.choice(('yes', 'no'))} |\n"


def truth(rng: Random) -> Pieces:
    names = "pqrst"[: rng.randint(4, 5)]
    yield "| " + " | ".join(names) + " | result |\n" + "|---" * (len(names) + 1) + "|\n"
    for values in itertools.product("TF", repeat=len(names)):
        yield "| " + " | ".join(values) + f" | {rng.choice('TF')} |\n"


def csv(rng: Random) -> Pieces:
    yield "id,name,amount,date\n"
    for i in itertools.count(1000):
        yield (
            f"{i},{rng.choice(NAMES)},{rng.randint(100, 99999) / 100:.2f},"
            f"2024-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}\n"
        )


def prices(rng: Random) -> Pieces:
    """A series in which little changes."""
    price = float(rng.randint(20, 200))
    for i in itertools.count():
        price += rng.choice((-0.25, 0, 0, 0.25, 0.5))
        yield f"2024-03-{1 + i // 24 % 28:02}T{i % 24:02}:00:00Z {price:.2f} {rng.choice((100, 200, 300, 500))}\n"


def measurements(rng: Random) -> Pieces:
    for i in itertools.count(1):
        yield f"Sample {i}: {rng.gauss(20, 3):.3f} mm, {rng.gauss(5, 1):.3f} g\n"


def fixtures(rng: Random) -> Pieces:
    """JSON objects that differ in words and numbers."""
    yield "[\n"
    for i in itertools.count(1):
        one = {"id": i, "name": rng.choice(NAMES), "email": f"{rng.choice(NOUNS)}{rng.randint(1, 99)}@example.com",
               "age": rng.randint(18, 80), "active": rng.random() < 0.5}  # fmt: skip
        yield "  " + json.dumps(one, indent=2).replace("\n", "\n  ") + ",\n"


def users(rng: Random) -> Pieces:
    """JSON fixtures that differ in one number: up to 40 of them."""
    for i in range(1, rng.randint(25, 41)):
        yield (
            f'  {{\n    "id": {i},\n    "username": "user{i}",\n    "email": "user{i}@example.com",\n'
            '    "role": "member",\n    "active": true\n  },\n'
        )


def nested(rng: Random) -> Pieces:
    return endless(
        lambda: json.dumps({rng.choice(NOUNS): {"kind": rng.choice(ADJECTIVES), "size": [rng.randint(1, 99), 0, 0]},
                            "tags": rng.sample(NOUNS, 2)}) + "\n"
    )  # fmt: skip


def kubernetes(rng: Random) -> Pieces:
    """Manifests of a deployment and its service, up to a dozen."""
    for name in rng.sample(NOUNS, rng.randint(5, 12)):
        port = rng.randint(3000, 9000)
        yield (
            "---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n"
            f"  name: {name}\n  labels:\n    app: {name}\nspec:\n  replicas: {rng.randint(1, 5)}\n  selector:\n"
            f"    matchLabels:\n      app: {name}\n  template:\n    metadata:\n      labels:\n        app: {name}\n"
            f"    spec:\n      containers:\n        - name: {name}\n"
            f"          image: registry.local/{name}:1.{port % 9}\n"
            f"          ports:\n            - containerPort: {port}\n---\napiVersion: v1\nkind: Service\nmetadata:\n"
            f"  name: {name}\nspec:\n  selector:\n    app: {name}\n  ports:\n    - port: 80\n      targetPort: {port}\n"
        )


def compose(rng: Random) -> Pieces:
    """Numbered workers in YAML, up to 30."""
    yield "services:\n"
    for i in range(1, rng.randint(12, 31)):
        yield (
            f"  worker-{i}:\n    image: worker:latest\n    restart: always\n    environment:\n      - WORKER_ID={i}\n"
            f'      - QUEUE=default\n    ports:\n      - "{8000 + i}:8000"\n'
        )


def ini(rng: Random) -> Pieces:
    return endless(
        lambda: f"[{rng.choice(NOUNS)}.{rng.choice(NOUNS)}]\n"
        + "".join(f"{rng.choice(NOUNS)}_{rng.choice(NOUNS)} = {rng.choice((0, 1, 'true', 'false', 10, 30, 60))}\n" for
                  _ in range(3)) + "\n"
    )  # fmt: skip


def access_log(rng: Random) -> Pieces:
    paths = [f"/{rng.choice(NOUNS)}/{rng.choice(NOUNS)}" for _ in range(12)]
    second = 0
    while True:
        second += rng.randint(0, 3)
        yield (
            f"10.0.{rng.randint(0, 9)}.{rng.randint(1, 254)} - - "
            f"[12/Mar/2024:10:{second // 60 % 60:02}:{second % 60:02} +0000] "
            f'"GET {rng.choice(paths)} HTTP/1.1" {rng.choice((200, 200, 200, 304, 404))} {rng.randint(99, 9999)}\n'
        )


def heartbeat(rng: Random) -> Pieces:
    """A log in which all is well, but for now and then."""
    for i in itertools.count():
        fault = rng.random() < 0.08
        what = f"WARN {clause(rng)}" if fault else f"INFO heartbeat ok, {rng.randint(1, 40)} ms"
        yield f"2024-03-12 {10 + i // 720 % 14}:{i // 12 % 60:02}:{i * 5 % 60:02} {what}\n"


def build_log(rng: Random) -> Pieces:
    names = [f"{rng.choice(ADJECTIVES)}_{rng.choice(NOUNS)}" for _ in range(400)]
    for i, name in enumerate(names, 1):
        yield f"[{i}/{len(names)}] Building CXX object src/CMakeFiles/core.dir/{name}.cpp.o\n"


def chess(rng: Random) -> Pieces:
    squares = [f + r for f in "abcdefgh" for r in "12345678"]
    for i in itertools.count(1):
        white, black = (rng.choice(("", "", "N", "B", "R", "Q", "K")) + rng.choice(squares) for _ in "wb")
        yield f"{i}. {white} {black} "


def board(rng: Random) -> Pieces:
    """A game's board after each move."""
    cells = [["."] * 8 for _ in range(8)]
    for i in itertools.count(1):
        x, y = rng.randrange(8), rng.randrange(8)
        cells[y][x] = "XO"[i % 2]
        yield f"After move {i} at {'abcdefgh'[x]}{y + 1}:\n" + "".join(" ".join(line) + "\n" for line in cells) + "\n"


def base64_data(rng: Random) -> Pieces:
    return endless(lambda: base64.b64encode(rng.randbytes(57)).decode() + "\n")


def hex_dump(rng: Random) -> Pieces:
    """A file with runs of zeros."""
    for i in itertools.count():
        data = bytes(16) if rng.random() < 0.3 else rng.randbytes(16)
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
        yield f"{16 * i:08x}  {data[:8].hex(' ')}  {data[8:].hex(' ')}  |{text}|\n"


def svg(rng: Random) -> Pieces:
    yield '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 600">\n'
    while True:
        yield (
            f'  <circle cx="{rng.randint(0, 800)}" cy="{rng.randint(0, 600)}" r="{rng.randint(2, 40)}" '
            f'fill="#{rng.randrange(1 << 24):06x}"/>\n'
        )


def path(rng: Random) -> Pieces:
    return endless(lambda: f"{rng.choice('LCQ')} {rng.randint(0, 800)} {rng.randint(0, 600)} ")


def division(rng: Random) -> Pieces:
    """Long division, digit by digit."""
    while True:
        a, b = rng.randint(10**8, 10**9), rng.randint(12, 99)
        yield f"{a} / {b}:\n"
        rest = 0
        for digit in str(a):
            number = rest * 10 + int(digit)
            rest = number % b
            part = number // b
            yield f"  bring down {digit}: {number} / {b} = {part}, {part} * {b} = {number - rest}, rest {rest}\n"
        yield f"So {a} = {b} * {a // b} + {rest}.\n\n"


def counting(rng: Random) -> Pieces:
    start = rng.randint(1, 500)
    return (f"{i}, " for i in range(start, start + 1500))


def binary(rng: Random) -> Pieces:
    return (f"{i:3d} = {i:08b}\n" for i in range(256))


def multiplication(rng: Random) -> Pieces:
    for a in range(rng.randint(2, 9), 40):
        yield "".join(f"{a} x {b} = {a * b}\n" for b in range(1, 13)) + "\n"


def latex(rng: Random) -> Pieces:
    yield "\\begin{tabular}{lrrr}\n"
    while True:
        yield f"{rng.choice(NOUNS)} & {rng.randint(0, 99)} & {rng.random():.3f} & {rng.random():.3f} \\\\\n"


def html_table(rng: Random) -> Pieces:
    return endless(
        lambda: (
            f"  <tr>\n    <td>{rng.choice(NAMES)}</td>\n    <td>{rng.choice(PLACES)}</td>\n"
            f'    <td class="number">{rng.randint(1, 999)}</td>\n  </tr>\n'
        )
    )


def form(rng: Random) -> Pieces:
    """A table of a page whose cells are still empty."""
    yield "<table>\n"
    for _ in range(rng.randint(8, 20)):
        yield "  <tr>\n" + '    <td class="cell"></td>\n' * 4 + "  </tr>\n"
    yield "</table>\n"


def calendar(rng: Random) -> Pieces:
    """Months of a year."""
    day = rng.randrange(7)
    for month, n in enumerate((31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), 1):
        cells = ["  "] * day + [f"{i:2d}" for i in range(1, n + 1)]
        weeks = (" ".join(cells[i : i + 7]) for i in range(0, len(cells), 7))
        yield f"Month {month}\nMo Tu We Th Fr Sa Su\n" + "\n".join(weeks) + "\n\n"
        day = (day + n) % 7


CHOOSE = (
    identity, maze, table, truth, csv, measurements, users, kubernetes, ini, access_log, board, base64_data, svg,
    counting, multiplication, html_table, form,
)  # fmt: skip
REPORT = (
    zeros, one_hot, yes_no, prices, fixtures, nested, compose, heartbeat, build_log, chess, hex_dump, path, division,
    binary, latex, calendar,
)  # fmt: skip
