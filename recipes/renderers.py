"""Markdown from committed records: the generated spans of a document each call one of `RENDERERS`.

A renderer takes the folder of the records and the span's words, and returns one line, or the lines of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memory_r1.errors import DataError
from memory_r1.evaluation.scoring.statistics import PairedDifference, bootstrap_interval, paired_difference
from memory_r1.jsonl import read_json
from recipes.consistency import contradictions
from recipes.tables import TABLES, Comparison, interval, lines_of, markdown, signed

NOT_RUN = "*Not run yet.*"
METRICS = {"f1_mem0": "F1 (Mem0)", "f1_locomo": "F1 (LoCoMo)", "f1_squad": "F1 (SQuAD)", "bleu1": "BLEU-1"}
OPERATIONS = ("ADD", "UPDATE", "DELETE", "NOOP", "parse_failures")
BENCH_SYSTEMS = "bench-systems.json"
GROWTH: dict[str, tuple[str, float]] = {
    "index, s per 1,000 turns": ("index_seconds_per_1000", 1),
    "recall, median, ms": ("recall_p50", 1e3),
    "peak memory, MiB": ("peak_bytes", 2**-20),
}
"""What the figure shows of the benchmark of memory systems: keys of a row, and the units in one of the record's."""
GROWTH_TABLE = {
    **GROWTH,
    "recall, 95%, ms": ("recall_p95", 1e3),
    "recall after a turn, ms": ("recall_after_turn", 1e3),
    "log, MiB": ("log_bytes", 2**-20),
    "entries": ("entries", 1),
}


def table(folder: Path, name: str) -> str:
    """A table of `recipes/tables.py` over the seeds present, such as `answer/0`."""
    comparison, records = _comparison(name), seeds(folder)
    return markdown(comparison, records) if lines_of(comparison, records) else NOT_RUN


def categories(folder: Path, name: str) -> str:
    """Token F1 of the same rows by category of question."""
    comparison, records = _comparison(name), seeds(folder)
    lines = lines_of(comparison, records)
    if not lines:
        return NOT_RUN
    found = sorted({*records[0]["questions"].values()})
    columns = {category: lines_of(comparison, records, [category]) for category in found}
    cells = [
        [line.name, *(f"{column[place].f1.mean:.3f}" for column in columns.values())]
        for place, line in enumerate(lines)
    ]
    return _markdown([comparison.title, *columns], cells)


def training(folder: Path) -> str:
    """What each run cost and came to, a value for every seed."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for record in seeds(folder):
        for name, run in record["training"].items():
            runs.setdefault(name, []).append(run)
    columns: dict[str, Callable[[Any], str]] = {
        "seeds": lambda run: str(run["seed"]),
        "steps": lambda run: str(run["steps"]),
        "completions": lambda run: f"{run['completions']:,}",
        "CPU seconds": lambda run: f"{run['cpu_seconds']:,.0f}",
        "validation, start to best": _validation,
    }
    cells = [[f"`{name}`", *("; ".join(map(column, run)) for column in columns.values())] for name, run in runs.items()]
    return _markdown(["run", *columns], cells) if cells else NOT_RUN


def exports(folder: Path, metrics: str, ours: str, *others: str) -> str:
    """Evaluations that `recipes/export_results.py` published, recomputed from each question's metrics.

    Args:
        folder: The records.
        metrics: Comma-separated; the first has an interval, and decides the difference between `ours` and the others.
        ours: A record's name, or `title=name`; without a title it goes by its memory system.
        others: The same, of the rows above it.
    """
    first, *rest = metrics.split(",")
    cells = []
    for word in (*others, ours):
        title, _, name = word.rpartition("=")
        record = read_json(folder / f"{name}.json")
        means = [
            bootstrap_interval([*scores.values()], [*dialogues.values()])
            for scores, dialogues in (_scores(record, one) for one in (first, *rest))
        ]
        cost, paired = record["results"]["cost"], _paired(folder, first, ours.rpartition("=")[2], name)
        cells.append([
            title or record["results"]["system"],
            interval(means[0]) if means[0] else "",
            *(f"{mean.mean:.3f}" if mean else "" for mean in means[1:]),
            shown(record["results"]["operations"]),
            f"{cost['write_tokens']:,}, {cost['read_tokens']:,}",
            "" if word == ours else signed(paired),
        ])  # fmt: skip
    titles = [METRICS.get(metric, metric.replace("_", " ")) for metric in (first, *rest)]
    titles += ["ADD / UPDATE / DELETE / NOOP / unparsed", "tokens written, read", f"{cells[-1][0]} less this"]
    return _markdown(["system", *titles], cells)


def difference(folder: Path, metric: str, first: str, second: str) -> str:
    """Of two published evaluations, paired by question."""
    return signed(_paired(folder, metric, first, second))


def rows(folder: Path, name: str, path: str, *columns: str) -> str:
    """A list, or a mapping (whose keys are the column `name`), of a record; columns are `title=path[:format]`."""
    if wrong := [column for column in columns if "=" not in column]:
        raise DataError(f"a column is title=path[:format], not {wrong[0]!r}")
    found = at(_consistent(folder, name), path)
    lines = [{"name": key, **line} for key, line in found.items()] if isinstance(found, Mapping) else found
    titles, paths = zip(*(column.split("=", 1) for column in columns), strict=True)
    cells = [
        [shown(at(line, path), form) for path, _, form in (path.partition(":") for path in paths)] for line in lines
    ]
    return _markdown(titles, cells)


def value(folder: Path, name: str, path: str, form: str = "") -> str:
    """One value of a record."""
    return shown(at(_consistent(folder, name), path), form)


def growth(folder: Path) -> str:
    """What each memory system took at each size that `make bench-systems` published, or why it was stopped."""
    if not (folder / BENCH_SYSTEMS).is_file():
        return NOT_RUN
    systems: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in read_json(folder / BENCH_SYSTEMS)["rows"]:
        systems.setdefault(row["system"], {})[row["turns"]] = row
    sizes = sorted({size for of_system in systems.values() for size in of_system})
    columns = GROWTH_TABLE.values()
    cells = [
        [f"`{name}`", *(" / ".join(_short(grown(of_system.get(size), *of)) for size in sizes) for of in columns)]
        for name, of_system in systems.items()
    ]
    stopped = [
        f"`{row['system']}` was stopped {row['stopped']}, having played {row['played']:,} of {row['turns']:,} turns, "
        f"the last at {_short(row['turns_per_second'])} a second."
        for of_system in systems.values()
        for row in of_system.values()
        if "stopped" in row
    ]
    table = _markdown([f"{' / '.join(f'{size:,}' for size in sizes)} turns", *GROWTH_TABLE], cells)
    return "\n".join([table, "", *stopped] if stopped else [table])


RENDERERS: dict[str, Callable[..., str]] = {
    function.__name__: function for function in (table, categories, training, exports, difference, rows, value, growth)
}


def seeds(folder: Path) -> list[dict[str, Any]]:
    """Return the records that `recipes/reproduce.py` has published, in the order of their seeds."""
    return sorted(map(read_json, folder.glob("everyday-seed*.json")), key=lambda record: int(record["seed"]))


def at(content: Any, path: str) -> Any:
    """Return what lies at a path such as `tables/both/row=grpo/f1_squad`; `key=value&key=value` picks from a list.

    Raises:
        DataError: Nothing lies there.
    """
    for part in filter(None, path.split("/")):
        if isinstance(content, list):
            wanted = dict(pair.partition("=")[::2] for pair in part.split("&"))
            matching = [row for row in content if all(str(row.get(key)) == text for key, text in wanted.items())]
            content = {part: matching[0]} if matching else {}
        if part not in content:
            raise DataError(f"the record has no {part!r} of '{path}'; there is: {', '.join(content) or 'nothing'}")
        content = content[part]
    return content


def shown(found: Any, form: str = "") -> str:
    """Render a mean or difference with its bounds, counts of operations, a number (`minutes` of seconds) or a text."""
    if found is None:
        return ""
    if isinstance(found, Mapping) and "ADD" in found:
        return " / ".join(str(found[kind]) for kind in OPERATIONS)
    if isinstance(found, Mapping):
        bounds = found["interval"] if isinstance(found.get("interval"), Mapping) else found
        sign = "+" if "difference" in found else ""
        mean = found["difference" if sign else "mean"]
        return f"{mean:{sign}.3f} ({bounds['low']:{sign}.3f} to {bounds['high']:{sign}.3f})"
    if form == "minutes":
        return f"{found / 60:.1f}"
    return f"{found:{form or ('.3f' if isinstance(found, float) else '')}}"


def grown(row: Mapping[str, Any] | None, key: str, factor: float) -> float | None:
    """Return a value of a row, times a factor; None if there is none, or the row's measurement was stopped."""
    return None if row is None or "stopped" in row or row[key] is None else factor * row[key]


def _short(number: float | None) -> str:
    """Render a number with two figures, or all that stand before the point."""
    return "-" if number is None else f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _consistent(folder: Path, name: str) -> dict[str, Any]:
    """Read a record whose values are copied.

    Raises:
        DataError: It is missing, or contradicts itself.
    """
    record = read_json(folder / f"{name}.json")
    for line in contradictions(record):
        raise DataError(f"{name}.json: {line}; publish the record again")
    return record


def _comparison(name: str) -> Comparison:
    names = {f"{stage}/{place}": one for stage, tables in TABLES.items() for place, one in enumerate(tables)}
    if name not in names:
        raise DataError(f"no table '{name}'; there is: {', '.join(names)}")
    return names[name]


def _validation(run: Mapping[str, Any]) -> str:
    scores = [f"{run[key]:.3f}" for key in ("start_validation", "best_validation") if run[key] is not None]
    return " to ".join(scores) + (" (start kept)" if run["kept_start"] else "")


def _scores(record: Any, metric: str) -> tuple[dict[str, float | None], dict[str, str]]:
    """Each question's score in a published evaluation, and its dialogue."""
    keyed = {f"{row['dialogue_id']}/{row['question_id']}": row for row in record["questions"]}
    return (
        {key: row["metrics"].get(metric) for key, row in keyed.items()},
        {key: row["dialogue_id"] for key, row in keyed.items()},
    )


def _paired(folder: Path, metric: str, first: str, second: str) -> PairedDifference:
    (ours, dialogues), (theirs, _) = (_scores(read_json(folder / f"{name}.json"), metric) for name in (first, second))
    if (found := paired_difference(ours, theirs, dialogues)) is None:
        raise DataError(f"no question of {first}.json and {second}.json has both scores of '{metric}'")
    return found


def _markdown(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *cells))
