"""The Hugging Face Hub: repositories become local folders, and folders become repositories.

Everything is downloaded before it is loaded, so that a repository that does not exist, or a network that is not there,
is one error at once: transformers by itself tries each of its files six times (150 seconds without a network). What the
cache holds is used where the Hub cannot be reached. Nothing else of perceptok uses the network.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perceptok.errors import CheckpointError, OutputError, PerceptokError, quote_error
from perceptok.files import parse_json, read_input

__all__ = ["can_reach_dataset", "download_checkpoint", "download_repository", "is_hub_id", "upload_folder"]

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""`owner/name`; anything else, also `./name` and `../name`, is a path."""

_SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
"""Configuration, processor and tokenizer of a checkpoint."""

_TIMEOUT = 10.0
"""Seconds until a Hub that does not answer counts as one that cannot be reached."""


def is_hub_id(source: str | os.PathLike[str], folder: str | os.PathLike[str] = ".") -> bool:
    """Whether a source is `owner/name` on the Hub: text of that form that is not a path in the folder."""
    return isinstance(source, str) and _HUB_ID.fullmatch(source) is not None and not (Path(folder) / source).exists()


def download_repository(
    repo_id: str,
    *,
    revision: str | None = None,
    patterns: Sequence[str] | None = None,
    error: type[PerceptokError] = CheckpointError,
    **options: Any,
) -> Path:
    """Download a repository of the Hub into the cache, or find it there.

    Args:
        repo_id: `owner/name`.
        revision: A branch, tag or commit; by default the main branch.
        patterns: The files to download, such as "*.json"; by default all.
        error: The error to raise.
        **options: Further arguments of `huggingface_hub.snapshot_download`, such as `token`.

    Returns:
        The folder in the cache.

    Raises:
        PerceptokError: Of the type `error`: the repository or revision does not exist or is not accessible, or the Hub
            cannot be reached and the cache does not have it.
    """
    from huggingface_hub import snapshot_download

    allowed = None if patterns is None else [*patterns]
    if sys.stderr.isatty():
        from tqdm.auto import tqdm

        options = {"tqdm_class": tqdm, **options}  # shown also where the bars of libraries are disabled
    with _translate_errors(f"{repo_id} cannot be downloaded from the Hugging Face Hub", error):
        folder = snapshot_download(repo_id, revision=revision, allow_patterns=allowed, etag_timeout=_TIMEOUT, **options)
    return Path(folder)


def download_checkpoint(repo_id: str, *, revision: str | None = None) -> Path:
    """Download a model with its processor; of weights in several formats, safetensors, else PyTorch's.

    Args:
        repo_id: `owner/name`.
        revision: A branch, tag or commit; by default the main branch.

    Returns:
        The folder in the cache.

    Raises:
        CheckpointError: As `download_repository`.
    """
    folder = download_repository(repo_id, revision=revision, patterns=_SMALL_FILES)
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            values = parse_json(read_input(folder / index), f"{repo_id}: {index}", CheckpointError)
            names = values.get("weight_map", {}).values() if isinstance(values, dict) else ()
            return download_repository(repo_id, revision=revision, patterns=sorted({str(name) for name in names}))
    folder = download_repository(repo_id, revision=revision, patterns=["model.safetensors"])
    if not (folder / "model.safetensors").exists():
        folder = download_repository(repo_id, revision=revision, patterns=["pytorch_model.bin"])
    return folder


def can_reach_dataset(repo_id: str, *, error: type[PerceptokError] = CheckpointError) -> bool:
    """Whether the Hub can be reached for a data set; one request, which is not repeated.

    Args:
        repo_id: `owner/name`.
        error: The error to raise.

    Raises:
        PerceptokError: Of the type `error`: the Hub answers that the data set does not exist or is not accessible.
    """
    from huggingface_hub import HfApi, errors

    with _translate_errors(f"{repo_id} cannot be loaded from the Hugging Face Hub", error):
        try:
            HfApi().dataset_info(repo_id, timeout=_TIMEOUT)
        except (errors.HfHubHTTPError, errors.HFValidationError):
            raise
        except (_find_transport_error(), OSError):
            return False
    return True


def upload_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a folder to a repository of the Hub, which is created where it does not exist.

    Args:
        folder: The folder; all its files are uploaded, hidden ones left out.
        repo_id: `owner/name`.
        private: Whether a new repository is private; by default as the account's settings say.
        token: A token with permission to write; by default HF_TOKEN, or that of `hf auth login`.
        revision: The branch, created where it does not exist; by default main.
        commit_message: The message of the commit.
        create_pr: Open a pull request instead of committing to the branch.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        OutputError: The repository cannot be created or written, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with _translate_errors(f"{Path(folder)} cannot be pushed to {repo_id}", OutputError):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
            ignore_patterns=[".*"],
        )
    return str(commit.pr_url or commit.commit_url)


@contextmanager
def _translate_errors(what: str, kind: type[PerceptokError]) -> Iterator[None]:
    """Raise an error of ours for what the Hub, the network and the cache can refuse."""
    from huggingface_hub import errors

    advice = "check the name and the network, or give a folder"
    if kind is OutputError:
        advice = "check the name, the network, and the token (`hf auth login`, or HF_TOKEN)"
    try:
        yield
    except errors.GatedRepoError as error:
        raise kind(f"{what}: access to it has to be granted to your account; then run `hf auth login`") from error
    except errors.RevisionNotFoundError as error:
        raise kind(f"{what}: it has no such revision; check its branches and tags") from error
    except errors.RepositoryNotFoundError as error:
        raise kind(f"{what}: there is no such repository, or it is private; {advice}") from error
    except errors.LocalEntryNotFoundError as error:
        raise kind(f"{what}: the Hub cannot be reached, and the cache does not have it; {advice}") from error
    except (errors.HfHubHTTPError, errors.HFValidationError, _find_transport_error(), OSError, ValueError) as error:
        raise kind(f"{what} ({quote_error(error)}); {advice}") from error


def _find_transport_error() -> type[Exception]:
    """The error of the HTTP client that the Hub's library uses."""
    from huggingface_hub import errors

    kind: type[Exception] = getattr(errors, "HTTPError", OSError)
    return kind
