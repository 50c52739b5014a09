"""Have a language model judge the answers of a finished evaluation, or audit the judge itself.

    python recipes/judge.py outputs/eval/locomo-test-rag --endpoint http://127.0.0.1:8000/v1 --model NAME
    python recipes/judge.py outputs/eval/locomo-test-rag --local SmolLM2-135M-Instruct --rubric strict
    python recipes/judge.py outputs/eval/locomo-test-rag --local SmolLM2-135M-Instruct --audit --limit 100

Writes verdicts.jsonl and judge.json into the folder and recomputes its results.json; with --audit it writes
judge_audit.json and judge_audit.jsonl instead. A server's key is read from the environment. The same command resumes an
interrupted run and asks nothing twice.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError
from memory_r1.evaluation.judging.rubrics import RUBRICS

if TYPE_CHECKING:
    from memory_r1.evaluation.judging.judge_model import JudgeModel


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="judge.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of a finished evaluation")
    parser.add_argument(
        "--rubric", choices=RUBRICS, help="judging rules (default: longmemeval on that benchmark, otherwise lenient)"
    )
    who = parser.add_argument_group("who judges")
    who.add_argument("--endpoint", metavar="URL", help="an OpenAI-compatible server, as in http://127.0.0.1:8000/v1")
    who.add_argument("--model", metavar="NAME", help="model name on that server")
    who.add_argument("--local", metavar="NAME", help="a local model: hub id, folder, or the embedded one")
    who.add_argument(
        "--key-variable",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable that holds the server's key (default: OPENAI_API_KEY)",
    )
    what = parser.add_argument_group("what is judged")
    what.add_argument("--audit", action="store_true", help="test the judge on made-up right and wrong answers")
    what.add_argument("--limit", type=int, metavar="N", help="audit on N questions, sampled by the hash of their ids")
    how = parser.add_argument_group("how")
    how.add_argument("--concurrency", type=int, default=16, metavar="N", help="concurrent requests (default: 16)")
    how.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="per attempt (default: 60)")
    how.add_argument("--retries", type=int, default=3, metavar="N", help="attempts after the first (default: 3)")
    how.add_argument("--batch-size", type=int, default=16, metavar="N", help="of a local judge (default: 16)")
    how.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of a local judge")
    how.add_argument(
        "--reply-tokens", type=int, metavar="N", help="maximum reply (default: 256; 10 for longmemeval's yes or no)"
    )
    how.add_argument("--cache", type=Path, metavar="FOLDER", help="cache of replies (default: judge/ in the cache)")
    how.add_argument("--quiet", action="store_true", help="no progress bar")
    how.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Raise ConfigurationError if options contradict each other, before anything is loaded or asked."""
    if (options.endpoint is None) == (options.local is None):
        raise ConfigurationError("no single judge named: give either --endpoint URL with --model NAME, or --local NAME")
    if (options.endpoint is None) != (options.model is None):
        raise ConfigurationError("--endpoint URL and --model NAME belong together; a local model is --local NAME")
    if options.limit is not None and not options.audit:
        raise ConfigurationError("--limit works only with --audit: an evaluation is judged on all of its questions")
    for name, least in (("concurrency", 1), ("batch_size", 1), ("retries", 0)):
        if getattr(options, name) < least:
            flag = name.replace("_", "-")
            raise ConfigurationError(f"--{flag} is {getattr(options, name)}: give a whole number from {least}")
    if not options.timeout > 0:
        raise ConfigurationError(f"--timeout is {options.timeout:g}: give seconds above 0")


def build_judge(options: argparse.Namespace) -> JudgeModel:
    """Build the judge that the options name; a local judge's name includes a hash of its weights."""
    from memory_r1.evaluation.judging.judge_model import LocalJudge, ServerJudge

    if options.endpoint is not None:
        from memory_r1.inference.endpoint import Endpoint

        bounds: dict[str, Any] = {
            "timeout": options.timeout,
            "retries": options.retries,
            "concurrency": options.concurrency,
        }
        return ServerJudge(Endpoint(options.endpoint, options.model, key_variable=options.key_variable, **bounds))
    from memory_r1.inference.local_model import LocalLanguageModel
    from memory_r1.models import weights_hash

    model = LocalLanguageModel.load(options.local, dtype=options.dtype, batch_size=options.batch_size)
    weights = weights_hash(options.local)
    name = Path(options.local).name + (f"@{weights[:12]}" if weights else "")
    return LocalJudge(model, f"{name} ({options.dtype})", batch_size=options.batch_size)


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    check(options)

    from memory_r1.evaluation.judging.judge_audit import audit_judge
    from memory_r1.evaluation.judging.judge_folder import judge_folder
    from memory_r1.evaluation.judging.judge_model import CachedJudge, ReplyCache
    from memory_r1.evaluation.records import read_run
    from memory_r1.evaluation.scoring.results import write_results

    benchmark = read_run(options.folder).benchmark
    rubric = options.rubric or ("longmemeval" if benchmark == "longmemeval" else "lenient")
    how: dict[str, Any] = {"reply_tokens": options.reply_tokens, "progress": not options.quiet}
    with ReplyCache(options.cache) as cache:
        judge = CachedJudge(build_judge(options), cache)
        if options.audit:
            show_audit(rubric, audit_judge(options.folder, rubric, judge, limit=options.limit, **how))
            return 0
        summary = judge_folder(options.folder, rubric, judge, **how)
    write_results(options.folder)
    show_verdicts(rubric, summary)
    return 0


def show_verdicts(rubric: str, summary: dict[str, Any]) -> None:
    """Print how many answers were accepted, what is missing, and the cost."""
    given = summary["right"] + summary["wrong"]
    share = f" ({summary['right'] / given:.1%})" if given else ""
    print(f"{rubric}, judged by {summary['judge']}: {summary['right']} of {given} answers right{share}")
    if summary["missing"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary["missing"].items())
        print(f"no verdict on {summary['n_questions'] - given} of {summary['n_questions']} questions: {reasons}")
    print(cost_line(summary))


def show_audit(rubric: str, content: dict[str, Any]) -> None:
    """Print the share of each kind of probe that the judge accepted."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{content['judge']}, {rubric}, on {content['n_questions']} questions")
    for heading in ("answer", "should be", "n", "accepted", "95% interval", "missing"):
        table.add_column(heading)
    for kind, row in content["probes"].items():
        measured = ("-", "-")
        if row["n"]:
            measured = (f"{row['share']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}")
        should = "accepted" if row["should_accept"] else "refused"
        table.add_row(kind, should, str(row["n"]), *measured, str(sum(row["missing"].values())))
    Console(markup=False).print(table)
    print(cost_line(content))


def cost_line(cost: dict[str, Any]) -> str:
    """Format requests, cached replies and tokens in one line."""
    return (
        f"cost: {cost['requests']} requests, {cost['cache_hits']} from the cache, {cost['prompt_tokens']} prompt and "
        f"{cost['completion_tokens']} completion tokens"
    )


if __name__ == "__main__":
    sys.exit(run_main(main))
