"""utils/deberta.py: values and gradients of transformers' own attention, whatever the width."""

import copy

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DebertaV2Config, DebertaV2Model

from utils.deberta import Attention, quicken


def make_deberta(**changed) -> DebertaV2Model:
    """mDeBERTa's structure in small: 8 buckets each way, which widths above 4 share between distances."""
    sizes = {"vocab_size": 50, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 64, "position_buckets": 8, "type_vocab_size": 0}
    kind = {"relative_attention": True, "norm_rel_ebd": "layer_norm", "share_att_key": True}
    kind |= {"pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    torch.manual_seed(0)
    return DebertaV2Model(DebertaV2Config(**sizes | kind | changed)).eval()


def inputs(width: int) -> tuple[Tensor, Tensor]:
    """Three rows of states (3, L, 48), one of them padded, and their mask."""
    random = torch.Generator().manual_seed(width)
    mask = torch.ones(3, width, dtype=torch.long)
    mask[0, (width + 1) // 2 :] = 0
    return torch.randn(3, width, 48, generator=random), mask


def values_and_gradients(model: DebertaV2Model, width: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Of the tokens that are no padding; gradients of a sum that LayerNorm does not make constant."""
    states, mask = inputs(width)
    model.zero_grad()
    found = model(inputs_embeds=states.to(model.dtype), attention_mask=mask).last_hidden_state[mask.bool()]
    found.sin().sum().backward()
    return found.detach(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("changed", [{}, {"share_att_key": False}, {"position_buckets": -1}])
def test_values_and_gradients_are_those_of_transformers(changed, plain):
    theirs = make_deberta(**changed)
    ours = copy.deepcopy(theirs)
    quicken(ours, plain)
    assert sum(type(module) is Attention for module in ours.modules()) == 3
    for width in (1, 3, 9, 33, 64):
        (value, gradients), (expected, expected_gradients) = (values_and_gradients(m, width) for m in (ours, theirs))
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
        assert gradients.keys() == expected_gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=2e-5, msg=name)


def test_the_formula_is_the_same_beyond_rounding():
    """In float64; their 1 / sqrt(3 d) is one of float32."""
    theirs = make_deberta().double()
    ours = copy.deepcopy(theirs)
    quicken(ours, True)
    for width in (9, 64):
        (value, gradients), (expected, expected_gradients) = (values_and_gradients(m, width) for m in (ours, theirs))
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-9)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected_gradients[name], rtol=0, atol=1e-7, msg=name)


def test_other_attention_stays_as_it_is():
    for changed in ({"pos_att_type": ["c2p"]}, {"relative_attention": False}):
        model = make_deberta(**changed)
        quicken(model, True)
        assert not any(isinstance(module, Attention) for module in model.modules())


class Operations(TorchDispatchMode):
    """Notes the operations in a block."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket._qualified_op_name)
        return function(*args, **kwargs or {})


def test_nothing_is_gathered_or_scattered():
    model, (states, mask) = make_deberta(), inputs(33)
    counts = []
    for _ in range(2):
        with Operations() as seen:
            model(inputs_embeds=states, attention_mask=mask).last_hidden_state.sum().backward()
        counts.append(sum(name in ("aten::gather", "aten::scatter_add", "aten::scatter_add_") for name in seen.names))
        quicken(model, True)
    assert counts[0] >= 6 and counts[1] == 0
