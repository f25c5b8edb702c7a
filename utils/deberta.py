"""DeBERTa's disentangled attention with no work done twice: the attention of transformers, to rounding."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention, make_log_bucket_position


@lru_cache(maxsize=64)  # one for each width of a chunk
def table_rows(width: int, buckets: int, longest: int, device: torch.device) -> tuple[slice, Tensor]:
    """Where the relative table has the distances -(width - 1), ..., width - 1 of query and key.

    buckets, longest: position_buckets and max_relative_positions of the configuration.
    Returns: the rows that occur, and for each distance its row among them, (2 width - 1,).
    """
    distances, span = torch.arange(1 - width, width), longest
    if buckets > 0:
        distances, span = make_log_bucket_position(distances, buckets, longest).long(), buckets
    rows = (distances + span).clamp(0, 2 * span - 1)
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1), (rows - first).to(device)


def sheared(products: Tensor) -> Tensor:
    """Of products (..., L, 2L - 1) the entry [..., i, i' - i + L - 1] for each pair (i, i'): a view (..., L, L)."""
    products = products.contiguous()
    length = products.shape[-2]
    strides = (*products.stride()[:-2], 2 * length - 2, 1)
    return products.as_strided((*products.shape[:-1], length), strides, products.storage_offset() + length - 1)


class Attention(DisentangledSelfAttention):
    """The same parameters and values as its parent, DeBERTa's own, at a lower cost:

    Of the relative table only the rows that a chunk's width can meet are projected; their products with queries and
    keys are made for all rows of a chunk in one go, without a copy of the table for each; and they are found by a
    view, where the parent gathers them, so that nothing is scattered in the backward pass.

    plain: whether attention is computed step by step, or by PyTorch's fused kernel with the position scores as a mask.

    score(i, j) = [q_i . k_j + q_i . K(i - j) + k_j . Q(i - j)] / sqrt(3 d)   with K, Q the projected table
    """

    plain = True

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Hidden states (n, L, p), mask (n, 1, L, L) of 0 and 1, relative table (2 buckets, p) -> (n, L, p)."""
        count, width, _ = hidden_states.shape
        heads = self.num_attention_heads
        query, key, value = (
            self._by_head(layer(hidden_states))  # (heads, n, L, d)
            for layer in (self.query_proj, self.key_proj, self.value_proj)
        )
        query = query * self._scale
        bias = self._position_scores(query, key, rel_embeddings)  # (heads, n, L, L)
        is_padding = attention_mask[:, 0].amax(dim=1)[:, None, :] == 0  # (n, 1, L), of the keys
        if self.plain:
            scores = (query @ key.transpose(-1, -2) + bias).masked_fill(is_padding, torch.finfo(query.dtype).min)
            mixed = self.dropout(scores.softmax(dim=-1)).to(value.dtype) @ value
        else:
            dropout = self.dropout.p if self.training else 0.0
            bias = bias.masked_fill(is_padding, -torch.inf)
            mixed = scaled_dot_product_attention(query, key, value, bias, dropout, scale=1.0)
        return mixed.permute(1, 2, 0, 3).reshape(count, width, heads * self.attention_head_size), None

    @property
    def _scale(self) -> float:
        return (3 * self.attention_head_size) ** -0.5

    def _by_head(self, projected: Tensor) -> Tensor:
        """(n, L, heads * d) -> (heads, n, L, d)."""
        return projected.unflatten(-1, (self.num_attention_heads, -1)).permute(2, 0, 1, 3).contiguous()

    def _position_scores(self, query: Tensor, key: Tensor, table: Tensor) -> Tensor:
        """Content to position and position to content of (heads, n, L, d) queries and keys: (heads, n, L, L)."""
        used, distances = table_rows(query.shape[2], self.position_buckets, self.max_relative_positions, query.device)
        table = self.pos_dropout(table)[None, used]
        of_keys, of_queries = self.key_proj, self.query_proj
        if not self.share_att_key:
            of_keys, of_queries = self.pos_key_proj, self.pos_query_proj
        table_keys = self._by_head(of_keys(table))[:, 0, distances.flip(0)]  # (heads, 2L - 1, d), of j - i
        table_queries = self._by_head(of_queries(table) * self._scale)[:, 0, distances]  # of i - j
        to_positions = self._products(query, table_keys)  # (heads, n, L, L)
        from_positions = self._products(key, table_queries)
        return to_positions + from_positions.transpose(-1, -2)

    @staticmethod
    def _products(rows: Tensor, table: Tensor) -> Tensor:
        """Products of (heads, n, L, d) with those of (heads, 2L - 1, d) that belong to each pair: (heads, n, L, L)."""
        products = rows.flatten(1, 2) @ table.transpose(-1, -2)  # (heads, n * L, 2L - 1)
        return sheared(products.unflatten(1, rows.shape[1:3]))


def quicken(backbone: PreTrainedModel, plain: bool) -> None:
    """Give a DeBERTa with the usual attention (content to position and back) the quick one; others stay as they are."""
    for module in backbone.modules():
        if type(module) is DisentangledSelfAttention and module.relative_attention:
            if set(module.pos_att_type) == {"c2p", "p2c"}:
                module.__class__, module.plain = Attention, plain
