"""The critic of PPO: a value head on the policy's hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from memory_r1.errors import TrainingError
from memory_r1.inference.prompt_trees import grouped
from memory_r1.training.advantages import Sum

CRITIC_FILE = "critic.safetensors"


class Critic(torch.nn.Module):
    """A linear value head in float32 with its own optimiser, outside the policy.

    The policy's module does not contain it, so adapters are saved and synchronised without it. Its weights start at
    zero: the first values are 0, and every process starts with the same head. States are first scaled to mean 0 and
    variance 1, since their scale differs by orders of magnitude between base models and one learning rate must fit all.

    Args:
        size: Width of the hidden states.
        learning_rate: Constant learning rate of AdamW, without weight decay.
        device: Device of the head.
    """

    def __init__(self, size: int, *, learning_rate: float, device: torch.device) -> None:
        super().__init__()
        self.head = torch.nn.Linear(size, 1, device=device, dtype=torch.float32)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=learning_rate, weight_decay=0.0)

    def forward(self, states: torch.Tensor) -> torch.Tensor:  # (B, T, H) -> (B, T)
        """Return the values of detached states."""
        with torch.autocast(states.device.type, enabled=False):
            return self.head(F.layer_norm(states.float(), states.shape[-1:])).squeeze(-1)

    def step(self, total: Sum, max_grad_norm: float) -> None:
        """Sum the gradients over all processes, clip them and take the same optimiser step everywhere."""
        for parameter in self.head.parameters():
            parameter.grad = total(parameter.grad)
        if max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.head.parameters(), max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self, folder: str | Path, metadata: dict[str, str] | None = None) -> None:
        """Write head and optimiser moments as `critic.safetensors`, with `metadata` in the file's header."""
        tensors = dict(self.head.state_dict())
        for name, parameter in self.head.named_parameters():
            tensors |= {f"{name}.{moment}": value for moment, value in self.optimizer.state[parameter].items()}
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(whole, _file(folder), metadata=metadata)

    def load(self, folder: str | Path) -> None:
        """Continue from `critic.safetensors`.

        Raises:
            TrainingError: The file is missing or broken, or belongs to a model of another width.
        """
        path = _file(folder)
        if not path.is_file():
            raise TrainingError(f"{path}: no such file, so this is not a PPO checkpoint; resume it with its own method")
        try:
            tensors = load_file(path)
            self.head.load_state_dict({name: tensors.pop(name) for name in self.head.state_dict()})
        except (SafetensorError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise TrainingError(
                f"{path}: not the critic of this model ({reason}); remove the checkpoint folder"
            ) from error
        for name, parameter in self.head.named_parameters():
            moments = {key.removeprefix(f"{name}."): tensors[key] for key in tensors if key.startswith(f"{name}.")}
            self.optimizer.state[parameter] = {
                moment: value if moment == "step" else value.to(parameter.device) for moment, value in moments.items()
            }


class HiddenStates:
    """The policy's last hidden states, captured before the language-model head in a log-probability pass.

    Args:
        model: The policy, plain or under PEFT. If prompts are shared, `keep_positions` must have been called on it.
    """

    def __init__(self, model: Any) -> None:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        base.base_model.register_forward_hook(self._catch, with_kwargs=True)
        self.size = int(base.config.get_text_config().hidden_size)
        self._catching = False
        self._caught: list[torch.Tensor] = []
        self._packed = False

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Capture the states of forward passes inside the block, and of no others (rollouts, rewards)."""
        self._catching, self._caught = True, []
        try:
            yield
        finally:
            self._catching = False

    def of_completions(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_length: int, batch_size: int
    ) -> torch.Tensor:
        """Take the captured states, each *before* a completion token is read; the first is the prompt's last state.

        Args:
            input_ids: The input of the pass: left-padded prompts, then right-padded completions, `(B, P + T)`.
            attention_mask: As `input_ids`.
            completion_length: T.
            batch_size: Rows of each forward in the pass.

        Returns:
            Detached states, `(B, T, H)`.
        """
        prompts = input_ids[:, :-completion_length].split(batch_size)
        real = attention_mask[:, :-completion_length].bool().split(batch_size)
        caught, self._caught = self._caught, []
        return torch.cat(
            [
                _before_tokens(states, completion_length, rows if self._packed else None)
                for states, *rows in zip(caught, prompts, real, strict=True)
            ]
        )

    def _catch(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if self._catching:
            self._packed = kwargs.get("kept_positions") is not None
            self._caught.append(output.last_hidden_state.detach())


def _before_tokens(
    states: torch.Tensor, completion_length: int, packed: list[torch.Tensor] | None
) -> torch.Tensor:  # -> (B, T, H)
    """Select the states before completion tokens from the states of one forward.

    Args:
        states: `(B, P + T, H)`, or `(D, G * T, H)` if prompts are shared.
        completion_length: T.
        packed: If prompts are shared, their ids and the mask of real tokens, both `(B, P)`.
    """
    if packed is None:
        return states[:, -completion_length - 1 : -1]
    groups = grouped([row[real].tolist() for row, real in zip(*packed, strict=True)])
    by_slot = states.view(len(states), groups.size, completion_length, -1)  # (D, G, T, H)
    return by_slot[groups.group, groups.slot]


def _file(folder: str | Path) -> Path:
    return Path(folder) / CRITIC_FILE
