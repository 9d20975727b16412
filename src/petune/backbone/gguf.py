"""A GGUF file as a plain safetensors folder: unpacked to float32 once, loaded from petune's cache after that.

Unpacking is exact: float32 holds every value the packed file can mean.
"""

import contextlib
import io
import logging
from functools import partial
from pathlib import Path

import torch
import transformers
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from petune.backbone.cache import build_once, cache_folder, need_space
from petune.backbone.digests import file_digest
from petune.backbone.refusals import explained
from petune.errors import ArtifactError

logger = logging.getLogger(__name__)

SHARD_SIZE = "5GB"
"""Size of one safetensors file of a converted model, at most."""


def plain_folder(gguf: Path) -> Path:
    """Return the folder that holds ``gguf`` converted, converting it the first time.

    The folder is named by the file's SHA-256, so a changed file is converted anew.

    Raises:
        ArtifactError: it is not a GGUF file, or is damaged.
        ResourceError: the cache cannot take the unpacked weights.
    """
    with gguf.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ArtifactError(f"{gguf} is not a GGUF file (its first bytes are not 'GGUF'); download it again")
    return build_once(cache_folder() / "converted" / file_digest(gguf), partial(_convert, gguf))


def _convert(gguf: Path, folder: Path) -> None:
    need_space(folder, 4 * _value_count(gguf), f"unpacking {gguf.name} to float32")
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    # releases that keep GGUF weights packed by default have this class; those before it always unpack
    unpack = {}
    if packing := getattr(transformers, "GgufConfig", None):
        unpack["quantization_config"] = packing(dequantize=True)
    logger.info("unpacking %s into %s (once)", gguf.name, folder.parent)
    # transformers draws this progress bar whatever its own settings say
    with explained(str(gguf)), contextlib.redirect_stderr(io.StringIO()):
        model, report = AutoModelForCausalLM.from_pretrained(
            **source, **unpack, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(**source)
    if missing := sorted(report["missing_keys"]):
        raise ArtifactError(f"{gguf} lacks {len(missing)} of its model's tensors, such as {missing[0]}")
    model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    tokenizer.save_pretrained(folder)


def _value_count(gguf: Path) -> int:
    try:
        return sum(int(tensor.n_elements) for tensor in GGUFReader(gguf).tensors)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise ArtifactError(f"{gguf} is damaged or cut short ({error}); download it again") from error
