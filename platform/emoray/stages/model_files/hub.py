"""Files of models on the Hugging Face hub. Its client keeps them in a cache that all processes of a machine share."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from emoray.errors import ConfigError
from emoray.stages.model_files.weight_files import has_weights, wanted

log = logging.getLogger(__name__)


@functools.cache
def files(model: str, at: str | None) -> Mapping[str, str | None] | None:
    """A model's files and, of those that the hub stores as large ones, the SHA-256; None if the hub cannot be asked.

    Args:
        at: Commit, tag or branch; None for the newest.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFile

    try:
        listed = list(HfApi().list_repo_tree(model, recursive=True, revision=at))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _not_fetched(model, at, type(error).__name__) from error
    except Exception as error:
        # No network, offline mode, a hub that is down: what is in the cache will do.
        log.info("the Hugging Face hub cannot be asked for %s: %s", model, type(error).__name__)
        return None
    return {one.path: one.lfs.sha256 if one.lfs else None for one in listed if isinstance(one, RepoFile)}


def download(model: str, at: str | None, *, remote_code: bool) -> Path:
    """The folder with all that loading a model reads; from the cache alone if the hub cannot be asked.

    Raises:
        ConfigError: There is no such model or revision, or it cannot be fetched.
    """
    known = files(model, at)
    return _cached(model, at) if known is None else fetch(model, at, wanted(known, remote_code=remote_code))


def fetch(model: str, at: str | None, names: Sequence[str]) -> Path:
    """The folder with some files of a model.

    Raises:
        ConfigError: They cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=at, allow_patterns=list(names)))
    except Exception as error:
        raise _not_fetched(model, at, type(error).__name__) from error


def _cached(model: str, at: str | None) -> Path:
    from huggingface_hub import try_to_load_from_cache

    for name in ("config.json", "adapter_config.json"):
        path = try_to_load_from_cache(model, name, revision=at)
        if isinstance(path, str):
            folder = Path(path).parent
            if has_weights(folder):
                return folder
    raise _not_fetched(model, at, "the hub cannot be asked, and the cache does not hold it")


def _not_fetched(model: str, at: str | None, why: str) -> ConfigError:
    return ConfigError(
        f"cannot fetch model {model!r}{f' at {at!r}' if at else ''} from the Hugging Face hub: {why}",
        remedy="Check the name, the revision, the network and HF_TOKEN (for models with a licence to agree to); or give"
        " a folder, or minilm",
        kind="missing_model",
    )
