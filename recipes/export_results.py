"""Write the publishable part of an evaluation: results and each question's ids and metrics, but no text of the data.

    python recipes/export_results.py outputs/eval/locomo-test-rag --output docs/results/locomo-test-rag.json

Questions, answers, memories and turns stay in the evaluation's folder. The hash identifies the scored predictions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from memory_r1.entry import run_main
from memory_r1.evaluation.records import PREDICTIONS
from memory_r1.evaluation.scoring.results import compute_results, scored_predictions
from memory_r1.jsonl import write_json
from memory_r1.weights import hash_file


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="export_results.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of an evaluation")
    parser.add_argument("--output", type=Path, required=True, metavar="JSON", help="docs/results/NAME.json")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    questions = [
        {
            "dialogue_id": row.dialogue_id,
            "question_id": row.question_id,
            "category": row.category,
            "metrics": dict(row.metrics),
            "tokens": row.tokens,
            "seconds": round(row.seconds, 3),
        }
        for row in scored_predictions(options.folder)
    ]
    published = {
        "results": compute_results(options.folder),
        "predictions_sha256": hash_file(options.folder / PREDICTIONS),
        "questions": questions,
    }
    print(write_json(options.output, published))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
