"""The modules that compute attention without calling a function by name, and what stands in for a method of each."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from transformers.models.bloom.modeling_bloom import BloomAttention
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Encoder, DisentangledSelfAttention
from transformers.models.falcon.modeling_falcon import FalconAttention

from petune.sites.bloom import bloom_forward
from petune.sites.deberta import deberta_forward, distance_embeddings
from petune.sites.falcon import falcon_forward

STAND_INS: Mapping[type[nn.Module], tuple[str, Callable[[Any, Callable[..., Any]], Callable[..., Any]]]] = {
    BloomAttention: ("forward", bloom_forward),
    DebertaV2Encoder: ("get_rel_embedding", distance_embeddings),
    DisentangledSelfAttention: ("forward", deberta_forward),
    FalconAttention: ("forward", falcon_forward),
}
"""The name of the method, and what makes the stand-in of a module and an attention function. It computes the same."""
