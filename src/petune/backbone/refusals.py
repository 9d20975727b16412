"""What transformers and the hub raise while a model is loaded, said again in one line with what to try."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from petune.errors import (
    ArtifactError,
    BaseModelError,
    MissingExtraError,
    PetuneError,
    ResourceError,
    is_out_of_memory,
    nearest,
)

CONVERT = (
    'If you trust the file, convert it once: python -c "import sys, transformers as t; a, b = sys.argv[1:]; '
    "t.AutoModelForCausalLM.from_pretrained(a).save_pretrained(b); "
    't.AutoTokenizer.from_pretrained(a).save_pretrained(b)" MODEL NEW_FOLDER'
)
"""How to turn a model that has no safetensors into one that has."""

_INSTEAD = "a local folder, a .gguf file, or demo"


@contextmanager
def explained(name: str, *, hub: bool = False, revision: str | None = None) -> Iterator[None]:
    """Turn whatever loading a base model raises into one of petune's errors.

    Args:
        name: the base model.
        hub: it is a Hugging Face id.
        revision: the revision of it that was asked for.

    Raises:
        BaseModelError: it cannot be had, or transformers cannot use it.
        ArtifactError: its files are damaged.
        ResourceError: not enough memory, or a missing package.
    """
    try:
        yield
    except PetuneError:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        MemoryError,
        ImportError,
        SafetensorError,
    ) as error:
        raise _refusal(name, error, hub=hub, revision=revision) from error


def _refusal(name: str, error: BaseException, *, hub: bool, revision: str | None) -> PetuneError:
    causes = list(_chain(error))
    said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if any(map(is_out_of_memory, causes)):
        return ResourceError(
            f"not enough memory to load {name}; use a smaller model, --dtype bfloat16, or another --device"
        )
    if isinstance(error, ImportError):
        return MissingExtraError(f"{name} needs a package that is not installed: {_cut(said)}")
    if any(isinstance(cause, SafetensorError) for cause in causes):
        cure = "fetch it again" if hub else "copy it again"
        return ArtifactError(f"the weights of {name} are damaged ({_cut(said)}); {cure}")
    if hub and (refused := _from_hub(name, revision, causes)):
        return refused
    if "trust_remote_code" in said:
        return BaseModelError(
            f"{name} runs code of its own; read that code, and if you trust it pass --trust-remote-code"
        )
    if "named model.safetensors" in said:
        return BaseModelError(f"{name} has no safetensors weights, and petune reads no other. {CONVERT}")
    if "size mismatch" in said or "mismatched" in said or "not a valid JSON" in said:
        return ArtifactError(f"the files of {name} do not fit together ({_cut(said)}); fetch the model again")
    return BaseModelError(f"{name} cannot be loaded: {_cut(said)}; a base model is a Hugging Face id, {_INSTEAD}")


def _from_hub(name: str, revision: str | None, causes: list[BaseException]) -> BaseModelError | None:
    def met(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if met(GatedRepoError):
        return BaseModelError(
            f"{name} is gated: accept its terms on its page, then set HF_TOKEN to a token of that account"
        )
    if met(RevisionNotFoundError):
        return BaseModelError(f"{name} has no revision {revision!r}; use a branch, a tag or a commit it has")
    if met(RepositoryNotFoundError):
        here = [entry.name for entry in os.scandir() if entry.is_dir()]
        return BaseModelError(
            f"the hub has no model {name}, or it is private.{nearest(name, here)} Check the spelling, set "
            f"HF_TOKEN if it is private, or use {_INSTEAD}"
        )
    if not met(LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, HfHubHTTPError):
        return None
    if constants.HF_HUB_OFFLINE:
        return BaseModelError(
            f"{name} is no folder here and not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set; unset"
            f" it to download, or use {_INSTEAD}"
        )
    return BaseModelError(
        f"{name} is no folder here and not in the cache {constants.HF_HUB_CACHE}, and the hub cannot be reached; check"
        f" the network, set HF_HOME to a folder that has it, or use {_INSTEAD}"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _cut(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:297]}..."
