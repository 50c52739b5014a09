"""`memory-r1 questions`: draft questions for dialogues that have none, and take the reviewed ones back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memory_r1.adapter_settings import BASE, SUMMARY, AgentSettings
from memory_r1.dialogue_file import dialogues_hash, read_dialogues, write_dialogues
from memory_r1.drafting.drafts import WINDOW
from memory_r1.errors import ConfigurationError
from memory_r1.jsonl import read_json
from memory_r1.packaged_adapters import choose
from memory_r1.packaged_models import EMBEDDER, LANGUAGE_MODEL
from memory_r1.types import Dialogue

if TYPE_CHECKING:
    from memory_r1.drafting.checks import Checker
    from memory_r1.drafting.drafts import Drafter

DRAFTER = "drafter"
"""The agent of a drafting adapter, as its summary names it."""


@dataclass(frozen=True, slots=True)
class Drafting:
    """Who drafts and who answers, as the options name them."""

    drafter: str | None
    endpoint: str | None
    model: str | None
    key_variable: str
    answer: str | None
    check_answers: bool
    constrained: bool
    dtype: str | None
    embedder: str
    window: int


def questions(
    file: Annotated[Path, typer.Argument(help="Your dialogues, one JSON object a line.")],
    out: Annotated[Path, typer.Option(help="File for review (.csv or .jsonl); with --reviewed, the dialogues.")],
    reviewed: Annotated[Path | None, typer.Option(help="Take this reviewed file back.")] = None,
    drafter: Annotated[str | None, typer.Option(help="Drafting adapter, or `base` for the untrained model.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="OpenAI-compatible server that drafts instead.")] = None,
    model: Annotated[str | None, typer.Option(help="Model on the server, or local base model.")] = None,
    key_variable: Annotated[str, typer.Option(help="Variable with the server's key.")] = "OPENAI_API_KEY",
    answer: Annotated[str | None, typer.Option(help="Answer Agent of the check: an adapter, or `base`.")] = None,
    check_answers: Annotated[bool, typer.Option(help="Ask each question with its evidence and without.")] = True,
    constrained: Annotated[bool, typer.Option(help="Hold a local drafter to its JSON, token by token.")] = False,
    dtype: Annotated[str | None, typer.Option(help="Precision of local models (default: the drafter's).")] = None,
    embedder: Annotated[str, typer.Option(help="Sentence model that finds duplicates.")] = EMBEDDER.name,
    window: Annotated[int, typer.Option(help="Most turns that are read at once.", min=1)] = WINDOW,
    restart: Annotated[bool, typer.Option(help="Discard an unfinished run and the file for review.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress bar.")] = False,
) -> None:
    """Draft questions for the dialogues that have none, check them, and write them to a file for review.

    With --reviewed, put the questions that the review keeps into the dialogues.

    Example: memory-r1 questions own.jsonl --out review.csv --endpoint http://127.0.0.1:8000/v1 --model NAME
    """
    if out.resolve() in (file.resolve(), reviewed and reviewed.resolve()):
        raise ConfigurationError(f"--out is {out}, which this command reads: name another file")
    dialogues = read_dialogues(file)
    if reviewed is not None:
        _take_back(reviewed, dialogues, out)
        return
    who = Drafting(drafter, endpoint, model, key_variable, answer, check_answers, constrained, dtype, embedder, window)
    _draft([dialogue for dialogue in dialogues if not dialogue.questions], who, file, out, restart, quiet)


def _take_back(reviewed: Path, dialogues: Sequence[Dialogue], out: Path) -> None:
    from memory_r1.drafting.review import take_back

    result = take_back(reviewed, dialogues)
    write_dialogues(out, result.dialogues)
    bare = sum(not dialogue.questions for dialogue in result.dialogues)
    typer.echo(f"{out}: {len(dialogues)} dialogues, {result.kept} reviewed questions, {bare} dialogues without any")
    if result.unsaid:
        rows = ", ".join(map(str, result.unsaid))
        typer.echo(f"the evidence of these rows does not say their answer word for word, check them: {rows}")


def _draft(dialogues: Sequence[Dialogue], who: Drafting, file: Path, out: Path, restart: bool, quiet: bool) -> None:
    from memory_r1.drafting.review import check_turn_ids, write_review
    from memory_r1.drafting.running import draft_all, tally
    from memory_r1.evaluation.progress import progress_bars

    unfinished = out.with_name(f"{out.name}.drafts")
    if out.exists() and not restart:
        raise ConfigurationError(
            f"{out} is there already: take it back with --reviewed {out}, name another --out, or discard it with "
            "--restart"
        )
    if not dialogues:
        raise ConfigurationError(f"{file}: every dialogue has questions already, so there is nothing to draft")
    _check(who)
    check_turn_ids(out, dialogues)
    drafter, checker, models = _load(who)
    if restart:  # only now, when all that the options name has been found fit
        out.unlink(missing_ok=True)
        unfinished.unlink(missing_ok=True)
    settings = {
        "dialogues_sha256": dialogues_hash(dialogues),
        **{name: getattr(who, name) for name in ("check_answers", "constrained", "embedder", "window")},
        **models,
    }
    with progress_bars(not quiet) as bars:
        bar = bars.add_task("drafting", total=len(dialogues))
        drafted = draft_all(dialogues, drafter, checker, unfinished, settings, lambda done: bars.advance(bar, done))
    write_review(out, dialogues, drafted)
    unfinished.unlink()
    for line in tally(drafted):
        typer.echo(line)
    typer.echo(f"review {out}, then: memory-r1 questions {file} --reviewed {out} --out reviewed.jsonl")


def _check(who: Drafting) -> None:
    """Refuse options that contradict each other, before a model is loaded."""
    if (who.endpoint is None) == (who.drafter is None):
        raise ConfigurationError(
            "no single drafter named: give --endpoint URL with --model NAME, or --drafter DIR, which make "
            "train-drafter-sft trains"
        )
    if who.endpoint is not None and who.model is None:
        raise ConfigurationError("--endpoint is given without --model: name the model on that server")
    for option, value in (("--answer", who.answer), ("--constrained", who.constrained), ("--dtype", who.dtype)):
        if who.endpoint is not None and value:
            raise ConfigurationError(f"{option} is for local models, but --endpoint is given: leave it out")
    if who.answer is not None and not who.check_answers:
        raise ConfigurationError("--answer is given with --no-check-answers: leave one of them out")
    if who.drafter not in (None, BASE):
        summary = Path(str(who.drafter)).expanduser() / SUMMARY
        agent = read_json(summary).get("agent", DRAFTER) if summary.is_file() else DRAFTER
        if agent != DRAFTER:
            raise ConfigurationError(
                f"--drafter is {who.drafter!r}, which is the adapter of the {agent} agent: give a drafter's, which "
                "make train-drafter-sft trains"
            )


def _load(who: Drafting) -> tuple[Drafter, Checker, dict[str, Any]]:
    """Return the drafter, the checker, and what identifies their models."""
    from memory_r1.agents.answer_agent import AnswerAgent
    from memory_r1.agents.prompts import ANSWER_TOKENS
    from memory_r1.drafting.checks import Checker
    from memory_r1.drafting.drafts import Drafter
    from memory_r1.inference.endpoint import Endpoint
    from memory_r1.inference.language_model import LanguageModel
    from memory_r1.inference.local_model import LocalLanguageModel
    from memory_r1.inference.server_model import ServerLanguageModel
    from memory_r1.memory.embedder import SentenceEmbedder
    from memory_r1.models import adapter_hash, resolve_embedder
    from memory_r1.systems.writer import Writer

    model: LanguageModel
    if who.endpoint is not None:
        server = Endpoint(who.endpoint, str(who.model), key_variable=who.key_variable)
        model = ServerLanguageModel(server, None, sampling={})
        adapters: dict[str, str] = {}
    else:
        name = who.model or LANGUAGE_MODEL.name
        answers = choose({"answer": who.answer}, name)["answer"] if who.check_answers else None
        if who.check_answers and answers is None and who.answer is None:
            typer.echo(
                "no Answer Agent is named and none comes with this installation: the untrained base model answers; "
                "name one with --answer, or leave the check out with --no-check-answers",
                err=True,
            )
        named = {"drafter": None if who.drafter == BASE else who.drafter, "answer": answers}
        adapters = {agent: folder for agent, folder in named.items() if folder is not None}
        of_drafter = AgentSettings.read(adapters["drafter"]) if "drafter" in adapters else AgentSettings()
        model = LocalLanguageModel.load(name, adapters, dtype=who.dtype or of_drafter.dtype or "float32")
    writer = Writer(model, adapter="drafter" if "drafter" in adapters else None, constrained=who.constrained)
    trained = AgentSettings.read(adapters["answer"]) if "answer" in adapters else AgentSettings()
    style = trained.answer_style or "ids"
    answerer = AnswerAgent(
        model,
        adapter="answer" if "answer" in adapters else None,
        max_new_tokens=trained.max_new_tokens or ANSWER_TOKENS[style],
        style=style,
    )
    checker = Checker(SentenceEmbedder(resolve_embedder(who.embedder)), answerer if who.check_answers else None)
    identity = {agent: adapter_hash(folder) for agent, folder in adapters.items()}
    return Drafter(writer, who.window), checker, {"model": who.model or LANGUAGE_MODEL.name, **identity}
