"""The attention modules that call no attention function by name, and how each is sent through one: a row a family."""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers.models.bloom.modeling_bloom import BloomAttention
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention
from transformers.models.falcon.modeling_falcon import FalconAttention

from petune.sites.bloom import bloom_forward
from petune.sites.deberta import deberta_forward
from petune.sites.falcon import falcon_forward

OWN_FORWARD: dict[type[nn.Module], Callable[[Any, Callable[..., Any]], Callable[..., Any]]] = {
    BloomAttention: bloom_forward,
    DisentangledSelfAttention: deberta_forward,
    FalconAttention: falcon_forward,
}
"""Given a module and an attention function, each returns a forward pass for the module that calls the function."""
