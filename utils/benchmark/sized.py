"""An encoder of mDeBERTa-v3-base's real size with random weights, where the real one cannot be had."""

import torch
from transformers import DebertaV2Config, DebertaV2Model

from ..encoders import Encoder, load_encoder

SIZED = "mdeberta-size"
CONFIGURATION = {
    "vocab_size": 251_000,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "relative_attention": True,
    "max_relative_positions": -1,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "pad_token_id": 0,
}  # 278 M values


def make_encoder(name: str, dropout: float | None = 0.0, **changed: int) -> Encoder:
    """`load_encoder(name)`, or for SIZED the encoder of CONFIGURATION, with MiniLM's tokenizer.

    dropout: None keeps the encoder's own. changed: entries of CONFIGURATION, for tests.
    """
    if name != SIZED:
        return load_encoder(name, dropout=dropout)
    tokenizer = load_encoder("minilm").tokenizer
    rates = {} if dropout is None else {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    torch.manual_seed(0)
    return Encoder(SIZED, DebertaV2Model(DebertaV2Config(**CONFIGURATION | rates | changed)), tokenizer, "first", 512)
