"""Many threads and processes on one store file: its log folds to what every writer was told."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from memory_r1.memory.bank import MemoryBank
from memory_r1.memory.sqlite_log import SqliteLog
from memory_r1.systems.banked import Proposal, record_of
from memory_r1.systems.state import ScopeState
from memory_r1.types import Operation, OperationKind, Turn

ROOT = Path(__file__).parents[2]
ADD, UPDATE, DELETE, *_ = OperationKind
SCOPES = ("ann", "ben", "cleo")
PROCESSES, THREADS = 4, 8
OPERATIONS = int(os.environ.get("MEMORY_R1_STORE_OPERATIONS", "960"))  # 5,000 take half a minute


def write(store: SqliteLog[ScopeState], writer: str, count: int) -> Counter[str]:
    """Make `count` edits of entries read a moment before, like a slow model."""
    rng, told = random.Random(writer), Counter[str]()
    for number in range(count):
        scope = rng.choice(SCOPES)
        read = store.state(scope)
        turn = Turn(f"{writer}:{number}", writer, "words")
        live = read.bank.entries()
        kind = rng.choice([ADD, UPDATE, DELETE]) if len(live) > 3 else ADD
        target = None if kind is ADD else rng.choice(live).entry_id
        operation = Operation(kind, None if kind is DELETE else f"{writer} {number}", target)
        # Now and then, another writer's turn comes between this read and write.
        (record,) = store.write(
            [(scope, lambda now, r=read, t=turn, o=operation: record_of(t, Proposal((o,)), r, now))]
        )
        told["conflict" if record.refusals else str(kind)] += 1
    return told


def write_in_threads(path: Path, process: str, count: int) -> Counter[str]:
    with (
        SqliteLog(path, ScopeState(), system="stress") as store,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        writers = [f"{process}.{thread}" for thread in range(THREADS)]
        told = threads.map(lambda writer: write(store, writer, count // THREADS), writers)
        return sum(told, Counter())


def test_the_fold_of_the_log_is_the_bank_and_nothing_is_lost(tmp_path: Path) -> None:
    path, each = tmp_path / "log.db", OPERATIONS // PROCESSES
    command = [sys.executable, "-m", "tests.memory.test_log_concurrency", str(path), str(each)]
    running = [
        subprocess.Popen([*command, str(process)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for process in range(PROCESSES)
    ]
    told: Counter[str] = Counter()
    for process in running:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0
        told += Counter({kind: int(count) for kind, count in (line.split() for line in output.splitlines())})
    written: Counter[str] = Counter()
    with SqliteLog(path, ScopeState(), system="stress") as store:
        assert store.scopes() == SCOPES
        for scope in SCOPES:
            records = store.records(scope)
            bank = MemoryBank()
            for record in records:
                assert record.turn is not None
                written["conflict" if record.refusals else record.events[0].kind] += 1
                for event in record.events:  # Each one fits the bank that the ones before it made.
                    assert event.kind == ADD or event.item in bank
                    bank.play(event)
            assert store.state(scope).bank.entries() == bank.entries()
            assert [event.number for record in records for event in record.events] == list(
                range(1, 1 + sum(len(record.events) for record in records))
            )
            added = [event.item for record in records for event in record.events if event.kind == ADD]
            assert added == sorted(set(added))
    assert written == told  # Every acknowledged write is there, once, with what its writer was told.
    assert written.total() == each // THREADS * THREADS * PROCESSES
    assert written["conflict"] > 0
    if "MEMORY_R1_STORE_OPERATIONS" in os.environ:
        sys.stderr.write(f"{dict(written)}\n")


def test_a_new_file_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    def opened(number: int) -> None:
        SqliteLog(tmp_path / f"{number // THREADS}.db", ScopeState(), system="stress").close()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(opened, range(40 * THREADS)))


if __name__ == "__main__":
    for kind, count in write_in_threads(Path(sys.argv[1]), sys.argv[3], int(sys.argv[2])).items():
        sys.stdout.write(f"{kind} {count}\n")
