"""`memory-r1 push`: a trained adapter goes to the Hugging Face Hub, and nothing else with it."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from memory_r1.adapter_settings import SUMMARY
from memory_r1.cli.merge import trained_on
from memory_r1.errors import ConfigurationError, EndpointError, ModelError
from memory_r1.jsonl import read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
REQUIRED = (CONFIG, WEIGHTS, "tokenizer.json", "tokenizer_config.json", "README.md", SUMMARY)
OPTIONAL = ("chat_template.jinja", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt")
"""Further files of tokenizers. Whatever else the folder holds stays here."""

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SECRET = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{30,}|sk-[\w-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|AKIA[0-9A-Z]{16}|AIza[\w-]{35}"
    r"|xox[abp]-[\w-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY)"
)
_SECRET_VARIABLE = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD)$")
_HOMES = r"/(?:home|Users|root|tmp|mnt|scratch|private)/|[A-Za-z]:\\{1,2}Users\\"


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An adapter folder, as a training run writes it.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="owner/name on the Hub; made if missing.")],
    private: Annotated[bool, typer.Option("--private/--public", help="Who may see a new repository.")] = True,
    base: Annotated[
        str | None, typer.Option(metavar="HUB_ID", help="Base model to name. Default: that in training_summary.json.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Upload an adapter to the Hugging Face Hub: its weights, configuration, tokenizer, card and summary alone.

    Refuses what holds a secret or a path of this machine. In the uploaded configuration, the base model's path is
    replaced by its hub id. Log in first with: hf auth login

    Example: memory-r1 push outputs/demo/answer_grpo ann/answer-agent
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if not _REPO.fullmatch(repo):
        raise ConfigurationError(f"REPO is {repo!r}, allowed: owner/name")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigurationError(f"REPO: {error} Choose another name") from error
    files = _files(folder, base)
    for name, content in files.items():
        _refuse_private(folder / name, content)
    for name, content in files.items():
        typer.echo(f"{len(content):>12,}  {name}")
    seen_by = "private" if private else "public"
    if not yes and not typer.confirm(f"Upload these {len(files)} files to {repo} ({seen_by})?"):
        typer.echo("nothing uploaded")
        raise typer.Exit(1)
    typer.echo(_upload(files, repo, private))


def _files(folder: Path, base: str | None) -> dict[str, bytes]:
    """Return the content of each file to upload, by name.

    Raises:
        ModelError: A file is missing or broken, or the base model has no hub id.
    """
    from memory_r1.weights import read_tensor_headers

    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder}: missing {', '.join(missing)}; push a folder that a training run finished")
    read_tensor_headers(folder / WEIGHTS)
    files = {name: (folder / name).read_bytes() for name in (*REQUIRED, *OPTIONAL) if (folder / name).is_file()}
    base = base or str(trained_on(folder))
    if not _REPO.fullmatch(base):
        raise ModelError(f"{folder / SUMMARY}: the base model {base!r} is no hub id; give the one it has with --base")
    configuration = read_json(folder / CONFIG) | {"base_model_name_or_path": base}
    files[CONFIG] = (json.dumps(configuration, indent=2) + "\n").encode()
    return files


def _refuse_private(path: Path, content: bytes) -> None:
    """Raise a ConfigurationError if a file holds a secret, which is not shown, or a path of this machine."""
    if path.name == WEIGHTS:
        content = content[8 : 8 + int.from_bytes(content[:8], "little")]  # its header; the rest is numbers
    text = content.decode("utf-8", errors="replace")
    secrets = re.compile("|".join([_SECRET.pattern, *map(re.escape, _own_secrets())]))
    places = re.compile(rf"(?<![\w.~-])(?:{'|'.join([_HOMES, *map(re.escape, _own_places())])})[^\s\"'`]+")
    for number, line in enumerate(text.splitlines(), start=1):
        if secrets.search(line):
            raise ConfigurationError(f"{path}:{number}: found a secret; remove it, and change it if others saw it")
        if found := places.search(line):
            raise ConfigurationError(f"{path}:{number}: found the path {found[0]!r} of this machine; remove it")


def _own_secrets() -> Iterator[str]:
    from huggingface_hub import get_token

    yield from filter(None, [get_token()])
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name.upper()) and len(value) >= 8:
            yield value


def _own_places() -> Iterator[str]:
    from memory_r1.packaged_models import cache_folder

    for place in (Path.home(), Path.cwd(), cache_folder(), Path(tempfile.gettempdir())):
        if place != Path(place.anchor):
            yield f"{place}{os.sep}"


def _upload(files: dict[str, bytes], repo: str, private: bool) -> str:
    """Upload the files in one commit and return its address."""
    import httpx2
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise ConfigurationError(f"{repo} exists and is public; choose another name, or say --public")
        commit = api.create_commit(repo, operations, commit_message="Upload a memory_r1 adapter")
    except httpx2.HTTPError as error:
        raise EndpointError(f"{repo}: not uploaded: {error}; try again after 'hf auth login'") from error
    return str(commit.commit_url)
