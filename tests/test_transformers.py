"""Hugging Face's BERT and GPT-2, converted and trained: against the same models with the reference in plain PyTorch.

Their eager attention reads p of its dropout module and calls torch's functional dropout with it: that one stays native,
one call a layer, whatever the module is. It draws from the same generator at the same place in both models, and so does
not disturb the comparison.
"""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fused_dropout
from fused_dropout import reference

transformers = pytest.importorskip("transformers", reason="the models are transformers'")
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's, of what torch imports

SIZE, VOCABULARY, LENGTH = 64, 97, 16
IDS = torch.randint(VOCABULARY, (4, LENGTH), generator=torch.Generator().manual_seed(0))
ATTENTION = ("attention.self.dropout", "attn.attn_dropout")  # modules of which attention may read p alone


def bert():
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, max_position_embeddings=LENGTH, hidden_size=SIZE, intermediate_size=2 * SIZE,
        num_hidden_layers=2, num_attention_heads=2, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
        initializer_range=0.2, attn_implementation="eager",
    )  # fmt: skip
    return transformers.BertForMaskedLM(config)


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=LENGTH, bos_token_id=0, eos_token_id=0, n_embd=SIZE, n_layer=2, n_head=2,
        embd_pdrop=0.1, resid_pdrop=0.1, attn_pdrop=0.1, initializer_range=0.2, attn_implementation="eager",
        use_cache=False,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


MODELS = {"BERT": bert, "GPT-2": gpt2}
every_model = pytest.mark.parametrize("name", MODELS)
# aot_eager traces, functionalizes and partitions as inductor does. Of a whole model inductor makes some 25 kernels, for
# which g++ takes half a minute: the last test has it compile the smaller blocks.
every_backend = pytest.mark.parametrize("backend", ["uncompiled", "aot_eager"])


@pytest.fixture(autouse=True)
def _fresh_compiler():
    yield
    torch._dynamo.reset()


def converted(name):
    """The model with our dropout, from the same weights every time."""
    torch.manual_seed(0)
    model = MODELS[name]()
    fused_dropout.convert(model)
    return model.train()


class ReferenceDropout(nn.Module):
    """The formula in PyTorch's operations and their derivatives, of the state that our module would have drawn."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        state = fused_dropout.draw()
        keep = reference.keep_mask(state, x.shape, self.p)
        return torch.where(keep, x * reference.gain_of(self.p, reference.GAIN_UPSCALE), 0.0)


def with_reference(model):
    twin = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, fused_dropout.Dropout):
            twin.set_submodule(name, ReferenceDropout(module.p))
    return twin


def compiled(model, backend):
    """Traced anew, whatever was compiled before."""
    torch._dynamo.reset()
    return model if backend == "uncompiled" else torch.compile(model, backend=backend, fullgraph=True)


def loss_of(model):
    """The model's, asked to say again what it was told: its forward alone is compiled."""
    return nn.functional.cross_entropy(model(input_ids=IDS).logits.flatten(0, 1), IDS.flatten())


def loss_and_gradients(model, backend="uncompiled", seed=5):
    torch.manual_seed(seed)
    model.zero_grad()
    loss = loss_of(compiled(model, backend))
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def train(model, backend="uncompiled", seed=5, steps=4):
    """The losses of a few steps on one batch; the model stays as it was."""
    model = copy.deepcopy(model)
    optimizer, traced = torch.optim.AdamW(model.parameters(), lr=5e-3), compiled(model, backend)
    torch.manual_seed(seed)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(traced)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@every_model
def test_every_dropout_module_is_converted_and_nothing_left(name):
    model = MODELS[name]()
    there = {path for path, module in model.named_modules() if type(module) is nn.Dropout}
    report = fused_dropout.convert(model)
    assert len(there) >= 7
    assert report.converted == dict.fromkeys(there, "torch.nn.Dropout -> fused_dropout.Dropout")
    assert report.left == {}


class RandomCalls(TorchDispatchMode):
    """Collects the names of the operations that draw."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if torch.Tag.nondeterministic_seeded in function.tags:
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@every_model
def test_only_attention_still_draws_natively_and_evaluation_not_at_all(name):
    """convert reports the modules of attention as converted; that their p alone is read, no report can tell."""
    model, called = converted(name), []
    for path, module in model.named_modules():
        if isinstance(module, fused_dropout.Dropout):
            module.register_forward_hook(lambda *args, path=path: called.append(path))
    with RandomCalls() as random:
        loss_and_gradients(model)
    drawn = [call for call in random.names if call.startswith("fused_dropout.")]
    uncalled = {path for path, module in model.named_modules() if isinstance(module, nn.Dropout)} - {*called}
    assert len(drawn) == len(called) == len(set(called)) >= 5
    assert all(path.endswith(ATTENTION) for path in uncalled)
    assert len(random.names) - len(drawn) == len(uncalled)  # each of those that is not called is a native call instead
    with RandomCalls() as random:
        model.eval()(input_ids=IDS)
    assert random.names == []


@every_model
@every_backend
def test_gradients_of_all_parameters_are_those_of_the_reference(name, backend):
    model = converted(name)
    loss, gradients = loss_and_gradients(model, backend)
    reference_loss, reference_gradients = loss_and_gradients(with_reference(model))
    tolerance = {"rtol": 0, "atol": 0} if backend == "uncompiled" else {"rtol": 1e-5, "atol": 1e-7}
    torch.testing.assert_close((loss, gradients), (reference_loss, reference_gradients), **tolerance)
    assert loss != loss_and_gradients(model, seed=6)[0]  # the masks matter


@every_model
@every_backend
def test_training_lowers_the_loss_and_a_seed_repeats_it(name, backend):
    """Compiled, a run is traced anew: neither a mask nor a state of the first may be in it."""
    model = converted(name)
    losses = train(model, backend)
    assert losses.isfinite().all()
    assert losses[-1] < losses[0] - 0.1
    assert torch.equal(train(model, backend), losses)
    assert not torch.equal(train(model, seed=6), losses)
    if backend != "uncompiled":  # its draws are in the eager order
        torch.testing.assert_close(losses, train(model), rtol=1e-5, atol=0)


def test_blocks_compiled_with_inductor_draw_the_eager_masks():
    """Compiled block by block each graph has one draw, whose place inductor cannot change, whatever its settings."""
    model = converted("GPT-2")
    expected = loss_and_gradients(with_reference(model))
    for block in model.transformer.h:
        block.mlp.compile(backend="inductor", fullgraph=True)
    torch.testing.assert_close(loss_and_gradients(model), expected, rtol=1e-4, atol=1e-6)
