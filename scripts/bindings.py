#!/usr/bin/env python3
"""Copy upstream's Python package under another name: bindings.py SOURCE TARGET NAME

Every absolute import of `llama_cpp` in the copy becomes one of NAME (lil.llama_cpp), so that the copy neither needs nor
touches an installed llama-cpp-python. Files that would not change are not written.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

OLD = "llama_cpp"


def is_old(module: str | None) -> bool:
    return module is not None and (module == OLD or module.startswith(OLD + "."))


def absolute_imports(tree: ast.AST) -> list[ast.Import | ast.ImportFrom]:
    """The import statements that name the old package."""
    found: list[ast.Import | ast.ImportFrom] = []
    for node in ast.walk(tree):
        plain = isinstance(node, ast.Import) and any(is_old(a.name) for a in node.names)
        if plain or (isinstance(node, ast.ImportFrom) and node.level == 0 and is_old(node.module)):
            found.append(node)
    return found


def rewritten(node: ast.Import, name: str) -> str:
    """An import statement with the new name. It binds what the old one bound."""

    def new(module: str) -> str:
        return name + module[len(OLD) :]

    def spelled(alias: ast.alias) -> str:
        return f"{alias.name} as {alias.asname}" if alias.asname else alias.name

    parts = []
    for alias in node.names:
        if not is_old(alias.name):
            parts.append(f"import {spelled(alias)}")
        elif alias.asname:
            parts.append(f"import {new(alias.name)} as {alias.asname}")
        else:  # binds the package itself, whatever submodule it names
            if alias.name != OLD:
                parts.append(f"import {new(alias.name)}")
            parts.append(f"import {name} as {OLD}")
    return "; ".join(parts)


def rewrite(text: str, name: str) -> str:
    """A module's source with its imports of the old package replaced."""
    lines = text.splitlines(keepends=True)
    nodes = sorted(absolute_imports(ast.parse(text)), key=lambda n: n.lineno, reverse=True)
    for node in nodes:
        first, last = node.lineno - 1, node.end_lineno - 1  # type: ignore[operator]
        if isinstance(node, ast.ImportFrom):
            lines[first] = re.sub(rf"^(\s*from\s+){OLD}\b", rf"\g<1>{name}", lines[first])
            continue
        head = lines[first].encode()[: node.col_offset].decode()
        tail = lines[last].encode()[node.end_col_offset :].decode()
        lines[first : last + 1] = [head + rewritten(node, name) + tail]
    return "".join(lines)


def main() -> int:
    source, target, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    wanted: dict[str, bytes] = {}
    for path in sorted(source.rglob("*")):
        if not path.is_file() or "__pycache__" in path.parts or "lib" in path.relative_to(source).parts:
            continue
        data = path.read_bytes()
        if path.suffix == ".py":
            text = rewrite(data.decode(), name)
            text = text.replace(f"-m {OLD}.server", f"-m {name}.server").replace(f"uvicorn {OLD}.", f"uvicorn {name}.")
            if left := absolute_imports(ast.parse(text)):
                print(f"{path}:{left[0].lineno}: still imports {OLD}", file=sys.stderr)
                return 1
            if f'import_module("{OLD}' in text or f"import_module('{OLD}" in text or f'__import__("{OLD}' in text:
                print(f"{path}: imports {OLD} by a string, which this script does not rewrite", file=sys.stderr)
                return 1
            data = text.encode()
        wanted[path.relative_to(source).as_posix()] = data
    if "__init__.py" not in wanted:
        print(f"{source} holds no Python package", file=sys.stderr)
        return 1

    for path in target.rglob("*"):
        if path.is_file() and path.relative_to(target).as_posix() not in wanted:
            path.unlink()
    for name_, data in wanted.items():
        path = target / name_
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
