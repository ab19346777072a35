import math

import torch
from torch.nn.functional import scaled_dot_product_attention

from animesketchnet_core.attention import decoupled_attention


def random_inputs():
    torch.manual_seed(0)
    query, text = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    return query, text, torch.randn(2, 7, 5), torch.randn(2, 7, 5)


def test_two_tokens_by_hand():
    """Q = (2, 0), K' = (1, 0), (0, 1): logits 2 / sqrt 2 and 0, so weights s and 1 - s."""
    query = torch.tensor([[[2.0, 0.0]]])
    key = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    value = torch.tensor([[[10.0, 1.0], [20.0, 3.0]]])
    text = torch.tensor([[[100.0, 200.0]]])
    s = 1 / (1 + math.exp(-math.sqrt(2)))
    out = decoupled_attention(query, text, key, value, 0.5, scaled_dot_product_attention)
    expected = [100 + 0.5 * (20 - 10 * s), 200 + 0.5 * (3 - 2 * s)]
    torch.testing.assert_close(out, torch.tensor([[expected]]))


def test_alpha_0_is_the_text_branch_exactly():
    query, text, key, value = random_inputs()
    out = decoupled_attention(query, text, key, value, 0.0, scaled_dot_product_attention)
    assert torch.equal(out, text)


def test_linear_in_alpha():
    query, text, key, value = random_inputs()

    def added(alpha):
        attend = scaled_dot_product_attention
        return decoupled_attention(query, text, key, value, alpha, attend) - text

    torch.testing.assert_close(added(0.75), 3 * added(0.25))
    torch.testing.assert_close(added(-1), -added(1))


def test_alpha_may_differ_by_position_and_by_sample():
    query, text, key, value = random_inputs()
    attend = scaled_dot_product_attention
    whole = decoupled_attention(query, text, key, value, 1.0, attend)
    mask = torch.tensor([[[0.0], [1.0], [0.0]]])
    masked = decoupled_attention(query, text, key, value, mask, attend)
    assert torch.equal(masked[:, [0, 2]], text[:, [0, 2]])
    assert torch.equal(masked[:, 1], whole[:, 1])
    by_sample = torch.tensor([0.0, 1.0]).view(2, 1, 1)
    mixed = decoupled_attention(query, text, key, value, by_sample, attend)
    assert torch.equal(mixed[0], text[0])
    assert torch.equal(mixed[1], whole[1])


def test_a_float32_mask_leaves_half_precision_as_it_is():
    query, text, key, value = (x.bfloat16() for x in random_inputs())
    mask = torch.ones(1, 3, 1)
    out = decoupled_attention(query, text, key, value, mask, scaled_dot_product_attention)
    assert out.dtype == torch.bfloat16


def test_it_overwrites_nothing_but_what_attend_made():
    inputs = random_inputs()
    copies = [x.clone() for x in inputs]
    with torch.no_grad():
        for alpha in (0.5, torch.ones(2, 3, 1)):
            query, text, key, value = inputs
            out = decoupled_attention(query, text, key, value, alpha, scaled_dot_product_attention)
            with torch.enable_grad():  # into new memory, which a backward pass needs
                apart = decoupled_attention(
                    query, text, key, value, alpha, scaled_dot_product_attention
                )
            assert torch.equal(out, apart)
            assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))


def test_gradients_flow():
    inputs = [x.double().requires_grad_() for x in random_inputs()]

    def added(*given):
        return decoupled_attention(*given, 0.7, scaled_dot_product_attention)

    assert torch.autograd.gradcheck(added, inputs)
