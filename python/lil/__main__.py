"""python -m lil, and the program `lil`: the command line, where what it needs is installed."""

import sys


def main() -> int:
    try:
        from .cli import main as run
    except ModuleNotFoundError as error:
        if error.name not in ("rich", "typer"):
            raise
        print(f'lil: the command line needs {error.name}: pip install "lil-cpp[cli]"', file=sys.stderr)
        return 2
    return run()


if __name__ == "__main__":
    raise SystemExit(main())
