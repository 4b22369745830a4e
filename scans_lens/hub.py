"""Hub: where what was learned is put so that others find it, and fetched from; a folder or a repository."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

FILE, CARD = "method.safetensors", "README.md"
"""What a shared folder holds."""


@dataclass
class Upload:
    """A folder to be filled, and where its files are then found."""

    folder: Path
    address: str = ""


@contextmanager
def put(
    repo_id: str, message: str, private: bool = False, token: str | None = None, endpoint: str | None = None
) -> Iterator[Upload]:
    """A folder whose files become a commit to a repository, which is made where there is none.

    Args:
        repo_id: owner/name.
        message: of the commit.
        private: of a repository that is made.
        token: by default the one that huggingface_hub knows.
        endpoint: another hub than the usual one.

    Raises:
        ValueError: no such name, before anything is done; or the hub does not take it.
    """
    from huggingface_hub import HfApi

    _require_name(repo_id)
    api = HfApi(endpoint=endpoint, token=token)
    with TemporaryDirectory() as folder:
        yield (upload := Upload(Path(folder)))
        try:
            upload.address = str(api.create_repo(repo_id, private=private, exist_ok=True))
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
        except Exception as error:  # whatever its client raises, and what that one's transport does
            raise ValueError(f"{repo_id!r} cannot be put on the hub: {_first(error)}") from error


def fetched(
    where: str | Path, revision: str | None = None, token: str | None = None, endpoint: str | None = None
) -> Path:
    """The file of a shared folder, or of a hub's repository owner/name, which is then in the hub's cache.

    Args:
        revision: of the repository: a commit, a branch or a tag.

    Raises:
        ValueError: there is no such folder or repository, or not with such a file.
    """
    from huggingface_hub import hf_hub_download

    if Path(where).is_dir():
        if not (Path(where) / FILE).is_file():
            raise ValueError(f"The folder {str(where)!r} holds no {FILE}.")
        return Path(where) / FILE
    _require_name(str(where))
    try:
        return Path(str(hf_hub_download(str(where), FILE, revision=revision, token=token, endpoint=endpoint)))
    except Exception as error:  # as above
        raise ValueError(
            f"{str(where)!r} is no folder here, and the hub does not give a {FILE} under that name: {_first(error)}"
        ) from error


def _require_name(repo_id: str) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ValueError(f"There is no folder {repo_id!r} here, and a repository is named owner/name.")


def _first(error: Exception) -> str:
    """The first line that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def card(
    kind: str,
    code: str,
    model: str,
    about: str,
    said: str,
    uses: Sequence[Mapping[str, object]],
    versions: Mapping[str, str],
) -> str:
    """What a stranger should know: on which model, how it was chosen, how to use it, with our code or without.

    Args:
        kind: what it is.
        code: the class, with its module.
        model, about: the name of the model that it fits, and what makes it that model; empty where that is not known.
        said: what it says of itself.
        uses: what its tensors are for, as its file's header has it.
    """
    module, _, name = code.rpartition(".")
    head = ["---", "library_name: scans_lens", "tags:", "- activation-steering", "- refusal"]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        head.append(f"base_model: {model}")
    rows = [[str(value).replace("|", "\\|") for value in use.values()] for use in uses]
    table = [f"| {' | '.join(row)} |" for row in (list(uses[0]), ["---"] * len(uses[0]), *rows)] if uses else []
    return "\n".join([
        *head, "---", "",
        f"# {kind} for {model or 'a model that is not named'}", "",
        f"Fitted with scans_lens. It fits that model alone{f' ({about})' if about else ''}.", "",
        "```python",
        "import scans_lens",
        f"from {module} import {name}", "",
        f"model = scans_lens.load_model({model!r})" if model else "model = …",
        f'method = {name}.from_pretrained("owner/name", model)',
        "```", "",
        "## How it came about", "",
        "```", said, "```", "",
        "## Without our code", "",
        f"`{FILE}` holds tensors and, as JSON in its header, what they are for:", "",
        *table, "",
        ", ".join(f"{name} {version}" for name, version in versions.items()) + ".", "",
    ])  # fmt: skip
