"""Check every figure of README.md and docs/experiments.md, and spans of docs/performance.md, against their records.

Scores with their intervals are recomputed where records have them by question: by `table`, `categories`, `exports` and
`difference`. Other figures, such as costs, are copied. A record that `rows` or `value` copies from must not contradict
itself (recipes/consistency.py).

    make verify-results
    make verify-results ARGS=--write

A generated span stands between HTML comments, which name its renderer (recipes/renderers.py) and its arguments:

    <!-- table both/0 -->
    (a table)
    <!-- end -->

    It came to <!-- value cpu-seed0 tables/both/row=sft/f1_squad -->0.317 (0.264 to 0.372)<!-- end -->.

A span whose first comment begins a line is a block of lines of its own. Each line that differs from the records is
told, and so is each decimal number or percentage outside spans and code, except in docs/performance.md. --write renders
all spans anew, and leaves the text around them alone.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from memory_r1.entry import run_main
from memory_r1.errors import DataError
from recipes.renderers import RENDERERS

SPANS_ONLY = Path("docs/performance.md")
"""Its other figures were timed once and have no record."""
DOCUMENTS = (Path("README.md"), Path("docs/experiments.md"), SPANS_ONLY)
RESULTS = Path("docs/results")
MENDS = "`make verify-results ARGS=--write` mends it"
SPAN = re.compile(
    r"(?P<open><!-- (?!end )(?P<call>.+?) -->)(?P<content>(?:(?!<!--).)*)(?P<close><!-- end -->)", re.DOTALL
)
# Code in a line may go on in the next one, within its paragraph; addresses hold figures too.
CODE = re.compile(r"^```.*?^```|`(?:[^`\n]|\n(?!\s*\n))+`|\]\([^)]*\)|https?://\S+", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"[+-]?(?:\d[\d,]*)?\.\d+(?:\s?%)?|[+-]?\d+\s?%")
SETTING = re.compile(r"\b(?:95%\s+(?:bootstrap\s+)?intervals|Python\s+3\.11|CC\s+BY-NC\s+4\.0|Apache-2\.0)\b")


def rendered(span: re.Match[str], results: Path) -> str:
    """Return what a span should hold.

    Raises:
        DataError: It names no renderer, gives it words that it cannot use, or asks for what no record has.
    """
    try:
        name, *words = shlex.split(span["call"])
        if name not in RENDERERS:
            raise DataError(f"no renderer '{name}'; there is: {', '.join(RENDERERS)}")
        text = RENDERERS[name](results, *words)
    except (DataError, TypeError, KeyError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise DataError(f"`{' '.join(span['call'].split())}`: {reason}; correct the comment or the record") from error
    begins_line = not span.start() or span.string[span.start() - 1] == "\n"
    return f"\n{text}\n" if begins_line else text


def mismatches(path: Path, text: str, results: Path) -> Iterator[str]:
    """Yield a line for everything in a document that the records do not give."""
    for span in SPAN.finditer(text):
        line, name = _line(text, span.start("content")), " ".join(span["call"].split())
        try:
            given = rendered(span, results)
        except DataError as error:
            yield f"{path}:{line}: {error}"
            continue
        for number, (ours, theirs) in enumerate(zip_longest(span["content"].split("\n"), given.split("\n")), line):
            if ours != theirs:
                yield f"{path}:{number}: {ours!r} stands there, `{name}` gives {theirs!r}; {MENDS}"
    others = SETTING.sub(_blank, CODE.sub(_blank, SPAN.sub(_blank, text)))
    for comment in re.finditer("<!--", others):
        yield f"{path}:{_line(text, comment.start())}: a comment that opens or ends no span; close it with <!-- end -->"
    for figure in FIGURE.finditer("" if path == SPANS_ONLY else others):
        yield (
            f"{path}:{_line(text, figure.start())}: {figure[0]!r} stands outside a generated span; write "
            "<!-- value RECORD PATH --><!-- end --> in its place, set a setting in code, or leave it out"
        )


def main(argv: Sequence[str]) -> int:
    """Compare, or render anew, and say what does not agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path, nargs="*", default=DOCUMENTS, metavar="FILE", help="default: all three")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="the committed records")
    parser.add_argument("--write", action="store_true", help="render all spans anew")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    found: list[str] = []
    for path in options.documents:
        text = path.read_text(encoding="utf-8")
        if options.write:
            text = SPAN.sub(lambda span: span["open"] + rendered(span, options.results) + span["close"], text)
            path.write_text(text, encoding="utf-8")
        found += mismatches(path, text, options.results)
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _blank(found: re.Match[str]) -> str:
    """As many lines and characters with nothing in them, so that what follows keeps its place."""
    return re.sub(r"[^\n]", " ", found[0])


if __name__ == "__main__":
    sys.exit(run_main(main))
