"""Token memory under reinforcement learning: PPO decides what a small memory retains, discards and adds.

    python docs/examples/token_retention.py

A memory of three slots reads a chat, one turn at a time. For each turn the policy chooses: *retain* the memory as it
is, *discard* what a slot holds, or *add* the turn in a slot. Later, questions are asked; one pays 1 if the turn that
answers it is still held. stable-baselines3's PPO learns from that alone, and a callback tells how it is doing.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from memory_r1.entry import run_main
from memory_r1.environments import check_extra

SLOTS = 3


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60_000, help="turns to train on (default: 60000)")
    parser.add_argument("--dialogues", type=int, default=60, help="dialogues to train on (default: 60)")
    parser.add_argument("--embedder", default="all-MiniLM-L6-v2", help="sentence model (default: all-MiniLM-L6-v2)")
    options = parser.parse_args(arguments)
    check_extra()

    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback

    from data.synthetic.generator import generate_split
    from memory_r1.environments.policies import each, fifo, shares
    from memory_r1.environments.streams import stream_of
    from memory_r1.environments.token_retention import TokenRetentionEnv
    from memory_r1.memory.embedder import SentenceEmbedder
    from memory_r1.models import resolve_embedder
    from memory_r1.systems.token_slots import decode

    # Streams: the turns of generated dialogues, embedded, with their questions at times drawn with a seed.
    embedder = SentenceEmbedder(resolve_embedder(options.embedder))
    dialogues = [labelled.dialogue for labelled in generate_split("train", options.dialogues + 10, seed=0)]
    streams = [stream_of(each, embedder.embed([turn.text for turn in each.turns()]), seed=0) for each in dialogues]
    training, heldout = streams[:-10], streams[-10:]

    class Watch(BaseCallback):
        """Prints the share of questions answered, and which decisions the policy took, after every rollout."""

        def _on_training_start(self) -> None:
            self.decisions: Counter[str] = Counter()
            self.answered: list[float] = []

        def _on_step(self) -> bool:
            self.decisions.update(decode(int(action), SLOTS)[0].value for action in self.locals["actions"])
            self.answered += [info["answered"] / info["asked"] for info in self.locals["infos"] if "asked" in info]
            return True

        def _on_rollout_end(self) -> None:
            total = sum(self.decisions.values())
            taken = ", ".join(f"{name} {count / total:.0%}" for name, count in sorted(self.decisions.items()))
            mean = sum(self.answered) / max(1, len(self.answered))
            sys.stdout.write(f"{self.num_timesteps:6d} turns: {mean:.0%} of questions answered; {taken}\n")
            self._on_training_start()

    model = PPO("MultiInputPolicy", TokenRetentionEnv(training, SLOTS), seed=0, device="cpu", n_steps=1024)
    model.learn(options.steps, callback=Watch())

    def greedy(env: TokenRetentionEnv) -> int:
        return int(model.predict(env.observe(), deterministic=True)[0])

    for name, policy in (("first in, first out", fifo), ("PPO", greedy)):
        answered = shares(each(policy), heldout, SLOTS)
        sys.stdout.write(f"{name}: {sum(answered) / len(answered):.0%} on {len(heldout)} other dialogues\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
