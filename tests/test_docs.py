"""README.md's make targets, commands with their flags, tree of files and links all exist."""

from __future__ import annotations

import functools
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = ("bash", "sh", "shell", "console")
TREE_INDENT = re.compile(r"^[\s│├└─]*")


def expand_braces(text: str) -> list[str]:
    """Expand `a-{b,c}` like the shell, into `a-b` and `a-c`."""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", text)
    if match is None:
        return [text]
    variants = (text[: match.start()] + part + text[match.end() :] for part in match[1].split(","))
    return list(itertools.chain.from_iterable(map(expand_braces, variants)))


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each make, python and accelerate command in shell blocks and inline code, without comments."""
    blocks = [body.replace("\\\n", " ") for language, body in FENCE.findall(text) if language in SHELL]
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    for line in itertools.chain.from_iterable(re.split(r"&&|;|\|\s", line) for line in lines):
        # Placeholders such as [RECIPE=...] and <folder> are not part of the command.
        words = shlex.split(re.sub(r"\[[^\]]*\]|<[^>]*>", " ", line), comments=True)
        while words and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", words[0]):
            words = words[1:]
        if words and Path(words[0]).name in ("make", "python", "python3", "accelerate"):
            yield from (variant.split("\0") for variant in expand_braces("\0".join(words)))


def make_problem(words: list[str]) -> str:
    for word in words:
        variable, assigned, _ = word.partition("=")
        if assigned:
            if not re.search(rf"^{variable}\s*[:?]?=", MAKEFILE, re.MULTILINE):
                return f"the Makefile has no variable {variable}"
        elif not word.startswith("-") and not re.search(rf"^{re.escape(word)}:(?!=)", MAKEFILE, re.MULTILINE):
            return f"the Makefile has no target {word}"
    return ""


def python_problem(words: list[str]) -> str:
    if words[:1] == ["-c"] or not words:
        return ""
    if words[0] == "-m":
        module, options = words[1], words[2:]
        path = ROOT / module.replace(".", "/")
        if module.split(".")[0] not in ("memory_r1", "data"):
            return ""
        if not path.with_suffix(".py").is_file() and not (path / "__main__.py").is_file():
            return f"no module {module}"
        command = ("-m", module)
    else:
        command, options = (words[0],), words[1:]
        if not (ROOT / words[0]).is_file():
            return f"no file {words[0]}"
    flags = [word.split("=")[0] for word in options if word.startswith("--")]
    if not flags:
        return ""
    absent = [flag for flag in flags if not re.search(rf"(?<![\w-]){flag}(?![\w-])", help_of(command))]
    return f"{' '.join(command)} --help does not name {', '.join(absent)}" if absent else ""


@functools.cache
def help_of(command: tuple[str, ...]) -> str:
    result = subprocess.run(
        [sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, f"{' '.join(command)} --help failed:\n{result.stderr}"
    return result.stdout


def problem(words: list[str]) -> str:
    """Return why a command of the README does not work as written, or an empty string."""
    program, rest = Path(words[0]).name, words[1:]
    if program == "make":
        return make_problem(rest)
    if program == "accelerate":
        script = next((index for index, word in enumerate(rest) if word.endswith(".py")), len(rest))
        files = [rest[index + 1] for index in range(len(rest) - 1) if rest[index] in ("--config_file", "--config")]
        missing = [file for file in files if not (ROOT / file).is_file()]
        return f"no file {', '.join(missing)}" if missing else python_problem(rest[script:])
    return python_problem(rest)


def tree_paths(text: str) -> list[str]:
    """Return the paths in the README's file tree, the code block with `memory_r1/` at the start of a line."""
    blocks = [body for _, body in FENCE.findall(text) if re.search(r"^[\s│├└─]*memory_r1/", body, re.MULTILINE)]
    found: list[str] = []
    for block in blocks:
        folders: list[tuple[int, str]] = []
        for line in block.splitlines():
            indent = len(TREE_INDENT.match(line)[0])  # type: ignore[index]
            # Two spaces or a '#' separate names from descriptions.
            names = [
                name for name in re.split(r"\s{2,}|\s#", line[indent:])[0].split() if name not in ("·", "...", ".")
            ]
            while folders and folders[-1][0] >= indent:
                folders.pop()
            parent = folders[-1][1] if folders else ""
            found += [parent + path for name in names for path in expand_braces(name)]
            if len(names) == 1 and names[0].endswith("/"):
                folders.append((indent, parent + names[0]))
    return found


def test_readme_commands_resolve() -> None:
    found = list(commands(README.read_text(encoding="utf-8")))
    assert any(words[0] == "make" for words in found), "README.md shows no make command"
    problems = [f"{' '.join(words)}: {why}" for words in found if (why := problem(words))]
    assert problems == []


def test_readme_activates_the_environment_before_the_first_command_that_needs_it() -> None:
    text = README.read_text(encoding="utf-8")
    bare = re.search(r"^(accelerate|python) |`python [^`]", text, re.MULTILINE)
    assert bare and text.find("source .venv/bin/activate") in range(bare.start())


def test_readme_tree_names_files_that_exist() -> None:
    paths = tree_paths(README.read_text(encoding="utf-8"))
    assert paths, "README.md has no file tree"
    assert [path for path in paths if not any(ROOT.glob(path.rstrip("/")))] == []


def test_links_between_documents_resolve() -> None:
    documents = [README, *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "data").glob("*.md")]
    broken = []
    for document in dict.fromkeys(documents):
        for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", FENCE.sub("", document.read_text(encoding="utf-8"))):
            if not re.match(r"[a-z]+:", link) and not (document.parent / link).exists():
                broken.append(f"{document.relative_to(ROOT)}: {link}")
    assert broken == []


def test_commands_are_read_from_blocks_and_inline_code() -> None:
    block = "```bash\n$ A=1 make test  # all\npython x.py \\\n  --a 1 && make check\n```\n"
    text = f"Run `make demo` now.\n{block}```\nmake x\n```\n"
    assert [" ".join(words) for words in commands(text)] == [
        "make test",
        "python x.py --a 1",
        "make check",
        "make demo",
    ]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("make test", ""),
        ("make train-{manager,answer}-sft [RECIPE=file] SEED=3", ""),
        ("make no-such-target", "no target no-such-target"),
        ("make train-{manager,nobody}-sft", "no target train-nobody-sft"),
        ("make test NOTHING=1", "no variable NOTHING"),
        ("python recipes/no_such.py", "no file recipes/no_such.py"),
        ("python -m memory_r1.no_such", "no module memory_r1.no_such"),
        ("python -m memory_r1.models --cache x", ""),
        ("python -m memory_r1.models --cach x", "does not name --cach"),
        (
            "accelerate launch --config_file recipes/accelerate/tpu.yaml recipes/sft.py",
            "no file recipes/accelerate/tpu.yaml",
        ),
    ],
)
def test_command_that_does_not_resolve_is_told(command: str, expected: str) -> None:
    problems = "; ".join(filter(None, (problem(words) for words in commands(f"`{command}`"))))
    assert expected in problems
    assert bool(expected) == bool(problems)


def test_tree_paths_follow_the_indentation() -> None:
    library = "memory_r1/        the library\n  types.py        records\n  memory/         the bank\n    bank.py\n"
    assert tree_paths(f"```\n{library}tests/\nMakefile LICENSE  more\n```\n") == [
        "memory_r1/",
        "memory_r1/types.py",
        "memory_r1/memory/",
        "memory_r1/memory/bank.py",
        "tests/",
        "Makefile",
        "LICENSE",
    ]
    drawn = "```\n├── memory_r1/\n│   └── types.py  # records\n└── Makefile\n```\n"
    assert tree_paths(drawn) == ["memory_r1/", "memory_r1/types.py", "Makefile"]
