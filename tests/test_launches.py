"""How many operations of ours a call asks for: each is a kernel on a GPU, and one is enough."""

import pytest
import torch
from conftest import DEVICES, Called

import fused_dropout
from fused_dropout import reference
from fused_dropout._extension import ops

X, Y, F = torch.randn(4, 6), torch.randn(4, 6), torch.ones(6)
ALWAYS = {  # functions that are one pass in evaluation too, and what they take
    "bias_dropout_add": (X, F, Y),
    "relu_dropout": (X,),
    "squared_relu_dropout": (X,),
    "gelu_dropout": (X,),
    "silu_dropout": (X,),
    "bias_relu_dropout": (X, F),
    "bias_gelu_dropout": (X, F),
    "swiglu_dropout": (X, Y),
    "geglu_dropout": (X, None),
    "dropout_add_layer_norm": (X, Y, F, F),
    "dropout_add_rms_norm": (X, Y, F),
    "softmax_dropout": (X,),
}
IN_TRAINING = {  # what evaluation leaves of them is nothing, or an operation of PyTorch's
    "dropout": (X,),
    "alpha_dropout": (X,),
    "gaussian_dropout": (X,),
    "zoneout": (X, Y),
    "dropout_add": (X, Y),
    "bias_dropout": (X, F),
    "drop_path_add": (X, Y),
    "dropout_linear": (X, torch.ones(3, 6)),
}
BOTH = ALWAYS | IN_TRAINING


def operations(name, **options):
    tensors = [t if t is None else t.clone().requires_grad_() for t in BOTH[name]]
    with Called() as called:
        getattr(fused_dropout, name)(*tensors, **options)
    return called.ours()


@pytest.mark.parametrize("name", BOTH)
def test_a_call_that_draws_is_one_operation(name):
    (only,) = operations(name, p=0.4, training=True)
    assert not only.endswith("_apply"), "it draws by itself"


@pytest.mark.parametrize("name", BOTH)
def test_a_call_of_a_given_state_is_one_operation(name):
    (only,) = operations(name, p=0.4, training=True, rng=torch.tensor([1, 4]))
    assert only.endswith("_apply")


@pytest.mark.parametrize(("p", "training"), [(0.4, False), (0.0, True), (torch.tensor(0.4), False)])
@pytest.mark.parametrize("name", BOTH)
def test_evaluation_is_one_operation_or_none(name, p, training):
    called = operations(name, p=p, training=training)
    assert [each.endswith("_apply") for each in called] == [True] * (name in ALWAYS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(100, 300), (3, 5000), (7,), (0, 9), (5, 0)], ids=str)
@pytest.mark.parametrize("name", reference.ROWS)
@pytest.mark.parametrize("implementation", [ops, reference], ids=["operation", "reference"])
@pytest.mark.parametrize("p", [0.4, 1e-11])  # which keeps everything, and draws
def test_rows_are_those_of_the_state_that_they_draw_and_leave(p, implementation, name, shape, device):
    generator = torch.Generator(device).manual_seed(3)
    want = fused_dropout.draw(generator=generator)
    operands = {"input": 0.5 + torch.rand(shape, device=device), "residual": torch.zeros(shape, device=device)}
    tensors = [operands.get(key) for key in reference.ROWS[name]]
    *results, state = getattr(implementation, name)(*tensors, p, 1.0, generator=generator.manual_seed(3))
    assert torch.equal(state, want)
    dropped = results[0 if name == "softmax_dropout" else 1] == 0
    assert torch.equal(dropped, ~fused_dropout.keep_mask(shape, p, state))


@pytest.mark.parametrize(("p", "training"), [(0.4, False), (0.0, True)])
def test_the_gradient_of_a_sum_without_a_mask_is_no_operation(p, training):
    tensors = [t.clone().requires_grad_() for t in BOTH["bias_dropout_add"]]
    y = fused_dropout.bias_dropout_add(*tensors, p, training)
    grad = torch.randn_like(y)
    with Called() as called:
        grads = torch.autograd.grad(y, tensors, grad)
    assert called.ours() == []
    for got, want in zip(grads, torch.autograd.grad(X + tensors[1] + Y, tensors[1], grad) * 3, strict=True):
        assert torch.equal(got, want if got.dim() == 1 else grad)
