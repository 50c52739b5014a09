"""Only groups without variance are replaced by fresh prompts, in bounded rounds, on one process and on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from memory_r1.training import dynamic_sampling
from memory_r1.training.dynamic_sampling import DynamicSampler, Sample, Settled, samples_of
from memory_r1.training.grpo import MemoryGRPOTrainer
from memory_r1.training.rows import Row
from memory_r1.training.sampling import PromptDraws, PromptRecord
from memory_r1.training.trainer_configs import MemoryGRPOConfig
from memory_r1.training.zero_variance import group_spreads
from tests.tiny import load_base, load_tokenizer, lora_parameters, messages, sharpen, snapshot, with_lora

ROOT = Path(__file__).parents[2]
G = 2
ROWS = [{"row_index": row} for row in range(12)]
VARIED = {1, 5, 7, 8, 9, 10, 11}  # rows whose groups vary: 0 and 1; the others earn 1 and 1


def spreads(rewards: torch.Tensor) -> torch.Tensor:
    return group_spreads(rewards[:, 0].view(-1, G))


def reward_of(row: Row, place: int) -> float:
    return float(place % G) if row["row_index"] in VARIED else 1.0


def sample_of(row: Row, place: int) -> Sample:
    return Sample(row, [row["row_index"]], [place], None, f"{row['row_index']}.{place % G}", None)


class Sampler:
    """Samples rows like one process, and records its requests."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, rows: list[Row]) -> Settled:
        self.asked.append([row["row_index"] for row in rows])
        samples = [sample_of(row, place) for place, row in enumerate(rows)]
        return Settled(samples, torch.tensor([[reward_of(row, place)] for place, row in enumerate(rows)]))


def resampler(rounds: int, rows: Sequence[Row] = ROWS, seed: int = 0, **options: Any) -> DynamicSampler:
    draws = PromptDraws(PromptRecord(len(rows)), 0.0, seed)
    return DynamicSampler(rows, draws, rounds=rounds, generations=G, **options)


def rollout(*rows: int) -> Settled:
    return Sampler()([ROWS[row] for row in rows for _ in range(G)])


def drawn_rows(settled: Settled) -> list[int]:
    return [sample.row["row_index"] for sample in settled.samples]


def test_flat_groups_alone_are_replaced_by_fresh_ones_that_vary() -> None:
    sampler = Sampler()
    first = rollout(0, 1, 2, 5)
    settled = resampler(20).settle(first, [0, 0, 1, 1, 2, 2, 5, 5], spreads, sampler)
    assert (spreads(settled.rewards) > 0).all()
    assert settled.samples[2:4] == first.samples[2:4]
    assert settled.samples[6:] == first.samples[6:]
    fresh = set(drawn_rows(settled)[:2] + drawn_rows(settled)[4:6])
    assert len(fresh) == 2 and fresh <= VARIED - {1, 5}
    for place, sample in enumerate(settled.samples):  # rewards stay with their completions, group by group
        assert settled.rewards[place, 0] == reward_of(sample.row, place)
        assert sample.completion == f"{sample.row['row_index']}.{place % G}"
    asked = [row for rows in sampler.asked for row in rows]
    assert len(sampler.asked[0]) == 2 * G  # for two groups at first
    assert not set(asked) & {0, 1, 2, 5}  # tried rows are not drawn again while others remain


def test_the_rollout_that_was_given_is_left_as_it_was() -> None:
    first = rollout(0, 2)
    before = (list(first.samples), first.rewards.clone())
    resampler(20).settle(first, [0, 0, 2, 2], spreads, Sampler())
    assert (first.samples, first.rewards.tolist()) == (before[0], before[1].tolist())


def test_nothing_flat_costs_nothing() -> None:
    sampler, source = Sampler(), resampler(3)
    settled = source.settle(rollout(1, 5), [1, 1, 5, 5], spreads, sampler)
    assert (sampler.asked, source.replaced, drawn_rows(settled)) == ([], 0, [1, 1, 5, 5])


@pytest.mark.parametrize("rounds", [1, 3])
def test_rounds_are_bounded_and_what_stays_flat_stays(rounds: int) -> None:
    flat_rows = [{"row_index": row} for row in (0, 2, 3, 4)]
    sampler, source = Sampler(), resampler(rounds, flat_rows)
    first = rollout(0, 1, 2)
    settled = source.settle(first, [0, 0, 1, 1, 2, 2], spreads, sampler)
    assert len(sampler.asked) == rounds
    assert all(len(rows) == 2 * G for rows in sampler.asked)
    assert settled.samples == first.samples
    assert source.replaced == 0


def test_no_prompt_is_tried_twice_while_there_are_others() -> None:
    sampler = Sampler()
    flat_rows = [{"row_index": 100 + row} for row in range(12)]
    resampler(11, flat_rows).settle(rollout(0), [0, 0], spreads, sampler)
    assert sorted(rows[0] for rows in sampler.asked) == list(range(101, 112))


def test_draws_are_decided_by_the_seed() -> None:
    def settled(seed: int) -> list[int]:
        return drawn_rows(resampler(4, seed=seed).settle(rollout(0, 2, 3), [0, 2, 3], spreads, Sampler()))

    assert settled(1) == settled(1)
    assert len({tuple(settled(seed)) for seed in range(6)}) > 1


@pytest.mark.parametrize(("ranks", "per_rank"), [(2, 2), (2, 3), (2, 4), (4, 1), (4, 2)])
def test_ranks_do_together_what_one_does(ranks: int, per_rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads act as ranks; with one or three rows each, a group spans two, and one fresh group is too few."""
    rows = [0, 1, 2, 5][: per_rank * ranks // G]
    whole = rollout(*rows)
    tried = [row for row in rows for _ in range(G)]
    barrier, box = threading.Barrier(ranks, timeout=20), {}
    rank = threading.local()

    def gather(value: list[Any]) -> list[Any]:
        box[rank.number] = value
        barrier.wait()
        everything = [item for number in range(ranks) for item in box[number]]
        barrier.wait()
        return everything

    monkeypatch.setattr(dynamic_sampling, "gather_object", gather)
    results: dict[int, Settled] = {}
    asked: dict[int, list[int]] = {number: [] for number in range(ranks)}

    def play(number: int) -> None:
        rank.number = number
        start = number * per_rank

        def sample(mine: list[Row]) -> Settled:
            asked[number].append(len(mine))
            scored = Sampler()(gather(mine))
            return Settled(scored.samples[number * len(mine) : (number + 1) * len(mine)], scored.rewards)

        local = Settled(whole.samples[start : start + per_rank], whole.rewards)
        results[number] = resampler(20, rank=number, ranks=ranks).settle(local, tried, spreads, sample)

    threads = [threading.Thread(target=play, args=(number,)) for number in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == ranks
    assert all(asked[number] == asked[0] for number in range(ranks)) and all(asked[0])
    rewards = results[0].rewards
    assert all(torch.equal(results[number].rewards, rewards) for number in range(ranks))
    assert (spreads(rewards) > 0).all()
    together = [sample for number in range(ranks) for sample in results[number].samples]
    assert len(together) == ranks * per_rank
    for place, item in enumerate(together):
        assert rewards[place, 0] == reward_of(item.row, place)
        assert item.completion == f"{item.row['row_index']}.{place % G}"
        assert item.row["row_index"] == together[place - place % G].row["row_index"]


def test_ranks_share_fresh_rows_evenly() -> None:
    assert [dynamic_sampling._whole_shares(1, *sizes) for sizes in ((8, 1), (8, 2), (3, 2), (2, 4), (8, 3))] == [
        1,
        1,
        2,
        2,
        3,
    ]
    assert dynamic_sampling._whole_shares(4, 3, 2) == 4


def test_samples_survive_the_way_through_trls_tuple() -> None:
    rows = [{"a": 1}, {"a": 2}]
    generated = (
        [[1], [2]],
        [[3], [4, 5]],
        [[1], [1, 0]],
        ["x", "y"],
        [[0.1], [0.2, 0.3]],
        {"b": [7, 8], "c": 9},
        None,
        [],
    )
    samples = samples_of(rows, generated)
    assert [sample.row for sample in samples] == [{"a": 1, "b": 7, "c": 9}, {"a": 2, "b": 8, "c": 9}]
    again = Settled(samples, torch.zeros(2, 1)).generated()
    assert again == (*generated[:5], {}, None, [])
    assert rows == [{"a": 1}, {"a": 2}]
    bare = samples_of(rows, ([[1], [2]], [[3], [4]], None, ["x", "y"], None, {}, None, []))
    assert Settled(bare, torch.zeros(2, 1)).generated()[2] is None
    assert Settled(bare, torch.zeros(2, 1)).generated()[4] is None


# The real trainer, on the tiny model.

PROMPTS = messages(f"Where is {name}?" for name in ("Ann", "Ben", "Cem", "Dot", "Eva", "Fay"))
OPTIONS = ("num_iterations", "max_steps", "learning_rate", "save_steps", "save_strategy")
DATA = [{"prompt": prompt, "flat": place in (0, 1, 2)} for place, prompt in enumerate(PROMPTS)]


def make_trainer(
    tiny_model: Path,
    folder: Path,
    reward: Callable[..., Any],
    rows: list[Row] = DATA,
    log: Path | None = None,
    **own: Any,
) -> MemoryGRPOTrainer:
    options = {name: own.pop(name) for name in OPTIONS if name in own}
    return MemoryGRPOTrainer(
        model=with_lora(sharpen(load_base(tiny_model)), seed=1),
        args=MemoryGRPOConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            report_to=[],
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=4,
            **{"max_steps": 3, "logging_steps": 1, **options},
        ),
        processing_class=load_tokenizer(tiny_model),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        reward_funcs=[reward],
        completions_log=log,
        **own,
    )


class Varied:
    """Varies within the groups of rows that are not flat, and records the rows of each call."""

    __name__ = "varied"

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.texts: list[str] = []

    def __call__(self, completions: Sequence[Any], flat: Sequence[bool], **columns: Any) -> list[float | None]:
        self.calls.append(columns.get("row_index", []))
        self.texts.append(str(completions))
        return [1.0 if same else float(place % 2) for place, same in enumerate(flat)]


def test_a_step_trains_on_settled_groups_at_its_size(tiny_model: Path, tmp_path: Path) -> None:
    reward = Varied()
    trainer = make_trainer(tiny_model, tmp_path, reward, log=tmp_path / "c.jsonl", dynamic_sampling_rounds=6)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(history) == 3
    assert [entry["frac_reward_zero_std"] for entry in history] == [0.0] * 3
    assert [entry["groups/zero_variance/varied"] for entry in history] == [0.0] * 3
    assert sum(entry["dynamic_sampling/zero_variance_at_first"] for entry in history) > 0
    assert all(
        entry["dynamic_sampling/replaced"] == entry["dynamic_sampling/zero_variance_at_first"] for entry in history
    )
    assert [len(rows) for rows in reward.calls if len(rows) != 4] != []  # extra rounds sample flat groups alone
    assert len(set(reward.texts)) == len(reward.texts)  # each rollout is a new one
    lines = (tmp_path / "c.jsonl").read_text().splitlines()
    assert len(lines) == 3 * 4
    assert all(f"{name}?" not in line for line in lines for name in ("Ann", "Ben", "Cem"))


def test_resampling_is_bounded_where_everything_is_flat(tiny_model: Path, tmp_path: Path) -> None:
    reward = Varied()
    flat = [{**row, "flat": True} for row in DATA]
    trainer = make_trainer(tiny_model, tmp_path, reward, flat, dynamic_sampling_rounds=2, learning_rate=0.01)
    before = snapshot(lora_parameters(trainer.model))
    trainer.train()
    assert len(reward.calls) == 3 * (1 + 2)
    assert [entry["dynamic_sampling/replaced"] for entry in trainer.state.log_history if "loss" in entry] == [0.0] * 3
    assert all(torch.equal(value, before[name]) for name, value in lora_parameters(trainer.model).items())


def test_a_group_with_one_reward_known_has_no_variance(tiny_model: Path, tmp_path: Path) -> None:
    def every_other(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return [1.0 if place % 2 else None for place in range(len(completions))]

    trainer = make_trainer(tiny_model, tmp_path, every_other, dynamic_sampling_rounds=1, max_steps=1)
    trainer.train()
    log = trainer.state.log_history[0]
    assert (log["dynamic_sampling/zero_variance_at_first"], log["dynamic_sampling/replaced"]) == (1.0, 0.0)
    assert log["groups/zero_variance/every_other"] == 1.0


def test_without_resampling_rows_and_logs_are_as_ever(tiny_model: Path, tmp_path: Path) -> None:
    reward = Varied()
    trainer = make_trainer(tiny_model, tmp_path, reward)
    trainer.train()
    assert reward.calls == [[]] * 3  # none of our columns
    assert not any(name.startswith("dynamic_sampling/") for name in trainer.state.log_history[0])


def test_variance_sampling_comes_back_to_prompts_that_vary(tiny_model: Path, tmp_path: Path) -> None:
    reward = Varied()
    one = [{**row, "flat": place != 4} for place, row in enumerate(DATA)]
    trainer = make_trainer(tiny_model, tmp_path, reward, one, variance_sampling=1.0, max_steps=9)
    trainer.train()
    assert {row for rows in reward.calls[:6] for row in rows} == set(range(6))  # all are tried soon
    assert all(4 in rows for rows in reward.calls[-3:])
    assert [rows[0] == rows[1] and rows[2] == rows[3] for rows in reward.calls] == [True] * 9


def test_a_rollout_is_trained_on_for_as_many_iterations_as_asked(tiny_model: Path, tmp_path: Path) -> None:
    reward = Varied()
    options = {"variance_sampling": 0.5, "dynamic_sampling_rounds": 3, "num_iterations": 2, "max_steps": 4}
    make_trainer(tiny_model, tmp_path, reward, [{**row, "flat": False} for row in DATA], **options).train()
    assert len(reward.calls) == 2


def test_a_flat_reward_is_told_in_training(tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flat = [{**row, "flat": True} for row in DATA]
    make_trainer(tiny_model, tmp_path, Varied(), flat, max_steps=11).train()
    told = [entry.getMessage() for entry in caplog.records if "the reward is flat" in entry.getMessage()]
    assert len(told) == 1
    assert "100% of the groups had no variance" in told[0]
    assert "set dynamic_sampling_rounds: 2" in told[0]


RANK = """
import json, os, sys, torch
from pathlib import Path
from tests.training.test_dynamic_sampling import DATA, make_trainer

def varied(completions, flat, row_index, **columns):
    CALLS.append(list(row_index))
    return [1.0 if same else float(torch.rand(1)) for same in flat]

CALLS = []
torch.manual_seed(int(os.environ["RANK"]))
model, folder = map(Path, sys.argv[1:])
trainer = make_trainer(
    model, folder, varied, DATA * 2, dynamic_sampling_rounds=8, variance_sampling=0.5, learning_rate=0.01
)
trainer.train()
weights = sum(value.detach().abs().double().sum().item() for value in trainer.model.parameters())
left = [entry["frac_reward_zero_std"] for entry in trainer.state.log_history if "loss" in entry]
result = {"calls": [len(call) for call in CALLS], "spreads": trainer._record.spreads.nan_to_num(-1.0).tolist()}
(folder / f"{os.environ['RANK']}.json").write_text(json.dumps({**result, "weights": weights, "left": left}))
"""


@pytest.mark.slow
def test_two_processes_stay_in_step(tiny_model: Path, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(tiny_model), str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second  # calls, the rows' statistics, weights, and groups left flat
    assert len(first["calls"]) > 3  # there were extra rounds
    assert first["left"] == [0.0] * 3
