"""monte_carlo turns on dropout alone; predict returns the moments of what a model says under its masks."""

import gc
import inspect
import textwrap
import threading
import warnings
import weakref

import pytest
import torch
from torch import nn

import fused_dropout
from fused_dropout import modules
from fused_dropout.conversion import convert
from fused_dropout.prediction import CHUNK_NUMEL, Prediction, monte_carlo, predict
from fused_dropout.recurrent import Zoneout
from fused_dropout.weight_drop import WeightDrop


class BeitDropPath(nn.Module):
    """Named after dropout, of an unknown type, without children."""


class DropoutBlock(nn.Sequential):
    """Named after dropout, and a container."""


class MyDropout(nn.Dropout):
    pass


def of_type(path, name, **attributes):
    module = type(name, (nn.Module,), {"__module__": path, "__qualname__": name})()
    module.__dict__.update(attributes)
    return module


class Spy(nn.Module):
    """The identity; keeps what it was called with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.clone())
        return x


def network(p=0.5, features=6):
    return nn.Sequential(nn.Linear(features, 20), nn.BatchNorm1d(20), nn.ReLU(), modules.Dropout(p), nn.Linear(20, 3))


def state_of(module):
    return [m.training for m in module.modules()], torch.backends.mha.get_fastpath_enabled()


DROPPING = [
    pytest.param(modules.Dropout(), id="ours"),
    pytest.param(modules.DropPath(0.1), id="our DropPath"),
    pytest.param(nn.Dropout(), id="torch"),
    pytest.param(nn.FeatureAlphaDropout(), id="torch alpha"),
    pytest.param(MyDropout(), id="subclass"),
    pytest.param(of_type("timm.layers.drop", "DropPath", drop_prob=0.1), id="timm"),
    pytest.param(of_type("torchvision.ops.stochastic_depth", "StochasticDepth", p=0.1, mode="row"), id="torchvision"),
    pytest.param(BeitDropPath(), id="named after dropout"),
    pytest.param(nn.MultiheadAttention(4, 2, dropout=0.1), id="attention"),
    pytest.param(nn.LSTM(4, 4, 2, dropout=0.1), id="lstm"),
    pytest.param(WeightDrop(nn.Linear(2, 2)), id="WeightDrop"),
    pytest.param(Zoneout(nn.GRUCell(2, 2)), id="Zoneout"),
]
NOT_DROPPING = [
    pytest.param(nn.BatchNorm1d(3), id="batch norm"),
    pytest.param(nn.Linear(3, 3), id="linear"),
    pytest.param(nn.RReLU(), id="random, but no dropout"),
    pytest.param(nn.MultiheadAttention(4, 2), id="attention without"),
    pytest.param(nn.LSTM(4, 4, 2), id="lstm without"),
    pytest.param(DropoutBlock(nn.Linear(2, 2)), id="container"),
]


@pytest.mark.parametrize("module", DROPPING)
def test_modules_that_drop_are_turned_on_and_not_what_they_hold(module):
    model = nn.Sequential(module, nn.BatchNorm1d(3)).eval()
    with monte_carlo(model):
        assert [m for m in model.modules() if m.training] == [module]
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize("module", NOT_DROPPING)
def test_other_modules_are_not_turned_on(module):
    model = nn.Sequential(module, nn.Dropout()).eval()
    with monte_carlo(model):
        assert [m for m in model.modules() if m.training] == [model[1]]


def test_dropout_within_a_wrapper_is_turned_on_too():
    inner = nn.Dropout()
    model = WeightDrop(nn.Sequential(nn.Linear(2, 2), inner), ["0.weight"]).eval()
    with monte_carlo(model):
        assert [m for m in model.modules() if m.training] == [model, inner]


def test_batch_norm_is_untouched_and_the_output_random():
    model, x = network().eval(), torch.randn(8, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with monte_carlo(model) as inside, torch.no_grad():
        assert inside is model
        assert not torch.equal(model(x), model(x))
    assert torch.equal(model(x), model(x))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("training", [True, False], ids=["in training", "in evaluation"])
def test_flags_and_fast_path_are_restored_after_an_exception(training):
    model = network().train(training)
    model[1].eval()
    before = state_of(model)
    with pytest.raises(KeyError), monte_carlo(model):
        raise KeyError
    assert state_of(model) == before


def test_blocks_may_be_nested():
    model = network().eval()
    before = state_of(model)
    with monte_carlo(model):
        inside = state_of(model)
        with monte_carlo(model), monte_carlo(model[3]):
            assert state_of(model) == inside
        assert state_of(model) == inside
        assert model[3].training
        assert not torch.backends.mha.get_fastpath_enabled()
    assert state_of(model) == before


@pytest.mark.parametrize("training", [True, False], ids=["in training", "in evaluation"])
@pytest.mark.parametrize("order", ["aabb", "abba", "abab", "abcabc", "abcbca", "abcacb"])
def test_blocks_may_be_left_in_any_order(order, training):
    """A letter enters its block the first time, and leaves it the second."""
    model = network().train(training)
    model[3].eval()
    before, open_blocks = state_of(model), {}
    for letter in order:
        if letter in open_blocks:
            open_blocks.pop(letter).__exit__(None, None, None)
        else:
            open_blocks[letter] = monte_carlo(model)
            open_blocks[letter].__enter__()
        assert model[3].training == bool(open_blocks)
        assert torch.backends.mha.get_fastpath_enabled() == (not open_blocks)
    assert state_of(model) == before


def test_blocks_of_models_that_share_a_module_count_it_once_each():
    inner = nn.Dropout().eval()
    one, other = nn.Sequential(inner).eval(), nn.Sequential(inner, nn.Dropout()).eval()
    first, second = monte_carlo(one), monte_carlo(other)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert other[0].training
    assert other[1].training
    second.__exit__(None, None, None)
    assert not other[0].training
    assert not other[1].training


def test_a_block_that_was_left_keeps_nothing_alive():
    model = network()
    with monte_carlo(model):
        pass
    alive = weakref.ref(model[3])
    del model
    gc.collect()
    assert alive() is None


def test_a_fast_path_that_was_off_stays_off():
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with monte_carlo(network()):
            pass
        assert not torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
TRANSFORMERS = [
    pytest.param(lambda layer: layer, id="layer"),
    pytest.param(lambda layer: nn.TransformerEncoder(layer, 2), id="encoder"),
    pytest.param(lambda layer: nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), id="encoder, not nested"),
]


@pytest.mark.parametrize("padding", [None, PADDING], ids=["no padding", "padding"])
@pytest.mark.parametrize("converted", [False, True], ids=["torch", "converted"])
@pytest.mark.parametrize("make", TRANSFORMERS)
def test_transformers_are_random_where_the_fast_path_would_skip_dropout(make, converted, padding):
    model, x = make(nn.TransformerEncoderLayer(8, 2, 16, 0.3, batch_first=True)).eval(), torch.randn(2, 5, 8)
    if converted:
        convert(model)

    def call():
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*nested tensors")
            y = model(x, src_key_padding_mask=padding)
        return y if padding is None else y[~padding]

    expected = call()
    with monte_carlo(model):
        assert not torch.equal(call(), call())
        assert all((call() != expected).any() for _ in range(3))
    assert torch.equal(call(), expected)


def test_attention_alone_is_random_within_the_block():
    attention, x = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True).eval(), torch.randn(2, 5, 8)
    with torch.no_grad(), monte_carlo(attention):
        assert not torch.equal(attention(x, x, x)[0], attention(x, x, x)[0])
        assert not attention.out_proj.training
    with torch.no_grad():
        assert torch.equal(attention(x, x, x)[0], attention(x, x, x)[0])


def test_a_model_without_dropout_is_worth_one_warning():
    with pytest.warns(UserWarning, match="Linear has no dropout to turn on") as caught, monte_carlo(nn.Linear(2, 2)):
        pass
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="no dropout") as caught:
        predict(nn.Linear(2, 2), torch.ones(2, 2), 4)
    assert len(caught) == 1
    assert str(caught[0].message).startswith("predict: Linear has")
    assert caught[0].filename == __file__


# predict


def by_hand(model, x, samples, seed):
    torch.manual_seed(seed)
    with torch.no_grad(), monte_carlo(model.eval()):
        outputs = torch.stack([model(x) for _ in range(samples)])
    return outputs.mean(0), outputs.var(0)


@pytest.mark.parametrize("samples", [2, 3, 32])
def test_predict_is_the_mean_and_the_variance_over_samples(samples):
    model, x = network().double().eval(), torch.randn(7, 6).double()
    got = predict(model, x, samples, seed=5, chunk=1)
    assert isinstance(got, Prediction)
    mean, variance = by_hand(model, x, samples, 5)
    torch.testing.assert_close(got.mean, mean)
    torch.testing.assert_close(got.variance, variance)
    assert not got.mean.requires_grad


@pytest.mark.parametrize(
    ("samples", "chunk", "batches"),
    [(6, 3, [21, 21]), (7, 3, [21, 21, 7]), (3, 8, [21]), (2, 1, [7, 7])],
    ids=["divisible", "not divisible", "chunk above samples", "one at a time"],
)
def test_predict_repeats_the_input_along_dimension_0(samples, chunk, batches):
    drop, spy = modules.Dropout(0.5), Spy()
    model, x = nn.Sequential(drop, spy), torch.randn(7, 6).double()
    got = predict(model, x, samples, seed=3, chunk=chunk)
    assert [len(batch) for batch in spy.seen] == batches
    outputs = torch.cat([batch.unflatten(0, (-1, 7)) for batch in spy.seen])
    assert len(outputs) == samples
    assert len({tuple((sample == 0).flatten().tolist()) for sample in outputs}) == samples  # each has its own mask
    torch.testing.assert_close(got.mean, outputs.mean(0))
    torch.testing.assert_close(got.variance, outputs.var(0))


def test_predict_matches_theory():
    """One linear layer after dropout: mean w x, variance p / (1 - p) * sum of (w x)^2, to six standard errors."""
    x, weight, p, samples = torch.randn(4, 10).double(), torch.randn(10).double(), 0.3, 20_000
    model = nn.Sequential(modules.Dropout(p), nn.Linear(10, 1, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(weight)
    mean, variance = predict(model, x, samples, seed=0, chunk=500)
    expected = (p / (1 - p) * (x * weight) ** 2).sum(1, keepdim=True)
    assert ((mean - (x * weight).sum(1, keepdim=True)).abs() < 6 * (expected / samples).sqrt()).all()
    torch.testing.assert_close(variance, expected, rtol=6 * (3 / samples) ** 0.5, atol=0)


def test_predict_with_a_seed_is_a_function_of_it_and_disturbs_nothing():
    model, x = network(), torch.randn(5, 6)
    before, generator = state_of(model), torch.get_rng_state()
    first = predict(model, x, 8, seed=1)
    assert torch.equal(torch.get_rng_state(), generator)
    assert state_of(model) == before
    torch.rand(3)
    again, other = predict(model, x, 8, seed=1), predict(model, x, 8, seed=2)
    assert torch.equal(first.mean, again.mean)
    assert torch.equal(first.variance, again.variance)
    assert not torch.equal(first.mean, other.mean)
    chunked = predict(model, x, 8, seed=1, chunk=2)
    assert torch.equal(chunked.mean, predict(model, x, 8, seed=1, chunk=2).mean)


def test_predict_without_a_seed_advances_the_generator():
    model, x = network(), torch.randn(5, 6)
    assert not torch.equal(predict(model, x, 4).mean, predict(model, x, 4).mean)
    torch.manual_seed(4)
    first = predict(model, x, 4, chunk=2)
    torch.manual_seed(4)
    assert torch.equal(predict(model, x, 4, chunk=2).mean, first.mean)


def test_predict_evaluates_all_but_dropout_and_restores_flags_after_an_exception():
    model, x, wrong = network(), torch.randn(5, 6), torch.randn(5, 7)
    model[4].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags, generator = state_of(model), torch.get_rng_state()
    predict(model, x, 4, seed=0)
    with pytest.raises(RuntimeError):
        predict(model, wrong, 4, seed=0)
    assert state_of(model) == flags
    assert torch.equal(torch.get_rng_state(), generator)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])  # the running statistics of BatchNorm, too


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_predict_does_not_write_to_its_input(chunk):
    x = torch.ones(4, 6)
    mean, _ = predict(nn.Sequential(modules.Dropout(0.5, inplace=True)), x, 64, chunk=chunk)
    assert torch.equal(x, torch.ones(4, 6))
    assert (mean > 0.3).all()  # a mask on top of a mask would leave nothing


@pytest.mark.filterwarnings("ignore:.*no dropout")
@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_predict_of_a_model_that_is_not_random_has_no_variance(chunk):
    x = torch.randn(4, 6)
    mean, variance = predict(nn.Tanh(), x, 10, chunk=chunk)
    assert torch.equal(mean, x.tanh())
    assert not variance.any()


class Meeting(nn.Module):
    """The identity; what a thread is to do in its n-th pass comes first."""

    def __init__(self, **actions):
        super().__init__()
        self.actions = {name: iter(todo) for name, todo in actions.items()}

    def forward(self, x):
        next(self.actions[threading.current_thread().name], lambda: None)()
        return x


def test_predict_samples_with_dropout_while_another_thread_begins_or_ends():
    there, back, on, results = threading.Event(), threading.Event(), [], {}

    def wait_in_the_first():
        there.set()
        assert back.wait(20)

    def end_the_first():
        back.set()
        first.join(20)

    def look():
        on.append(dropout.training)

    dropout = nn.Dropout(0.5)
    meeting = Meeting(first=[wait_in_the_first], second=[look, look, end_the_first, look])  # two passes are its trial
    model, x = nn.Sequential(nn.BatchNorm1d(500), meeting, dropout), torch.ones(2, 500)
    before = state_of(model)

    def sample(chunk):
        results[threading.current_thread().name] = predict(model, x, 40, chunk=chunk)

    first = threading.Thread(target=sample, args=(1,), name="first")
    second = threading.Thread(target=sample, args=(None,), name="second")
    first.start()
    assert there.wait(20)
    second.start()
    second.join(20)
    assert on == [True] * 3
    assert state_of(model) == before
    for name in ("first", "second"):
        assert abs(results[name].variance.mean().item() - 1) < 0.1  # of 2 or 0; where most samples are 1, far less


def test_predict_from_many_threads_leaves_every_flag_as_it_was():
    model, x = network(), torch.randn(4, 6)
    before, together = state_of(model), threading.Barrier(4)

    def work():
        together.wait(20)
        for _ in range(25):
            predict(model, x, 2)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert state_of(model) == before


def test_predict_within_a_block_tries_the_model_in_evaluation():
    model = Function(torch.tanh).eval()
    with monte_carlo(model):
        predict(model, torch.randn(4, 6), 10)
        assert model.dropouts[0].training
    assert model.batches == [40]


@pytest.mark.parametrize(
    ("dtype", "result"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float32, torch.float32),
     (torch.float64, torch.float64)],
    ids=str,
)  # fmt: skip
def test_predict_accumulates_in_float32_at_least(dtype, result):
    mean, variance = predict(modules.Dropout(0.5), torch.full((2000,), 3.0, dtype=dtype), 300, seed=0)
    assert mean.dtype == variance.dtype == result
    assert abs(mean.mean().item() - 3) < 6 * 3 / 600_000**0.5
    assert abs(variance.mean().item() - 9) < 0.1


def test_predict_variance_survives_a_large_mean():
    """E[y^2] - E[y]^2 in float32 would be off by more than the variance itself."""
    model = nn.Sequential(modules.Dropout(0.5), Add(10_000.0))
    x = torch.ones(500)
    _, variance = predict(model, x, 200, seed=0)
    assert abs(variance.mean().item() - 1) < 0.02


class Add(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return x + self.value


class Function(nn.Module):
    """A function, then dropout."""

    def __init__(self, function, *dropouts):
        super().__init__()
        self.function = function
        self.dropouts = nn.ModuleList(dropouts or [modules.Dropout(0.5)])
        self.batches = []

    def forward(self, x):
        if any(dropout.training for dropout in self.dropouts):
            self.batches.append(len(x))
        y = self.function(x)
        for dropout in self.dropouts:
            y = dropout(y)
        return y


def whole_batch_only(x):
    return x.view(4, 6) + 1


CHUNKED = [  # model, and whether samples may share a pass
    pytest.param(Function(torch.tanh), True, id="rows are independent"),
    pytest.param(Function(lambda x: x.sum(1)), True, id="another shape"),
    pytest.param(Function(torch.tanh, nn.Dropout(0.5), nn.FeatureAlphaDropout(0.5)), True, id="torch's layers"),
    pytest.param(Function(torch.tanh, modules.DropPath(0.5)), True, id="path per row"),
    pytest.param(Function(torch.tanh, modules.Dropout(0.5, noise_shape=(None, 1))), True, id="shared along features"),
    pytest.param(Function(torch.tanh, MyDropout(0.5)), True, id="unknown layer"),
    pytest.param(Function(lambda x: x - x.mean(0)), False, id="batch statistics"),
    pytest.param(Function(lambda x: x.cumsum(0)), False, id="dimension 0 is time"),
    pytest.param(Function(lambda x: x.flip(0).cumsum(0).flip(0)), False, id="dimension 0 is time, backwards"),
    pytest.param(Function(lambda x: x + torch.arange(len(x))[:, None]), False, id="positions along dimension 0"),
    pytest.param(Function(lambda x: x.mean(0)), False, id="dimension 0 is reduced"),
    pytest.param(Function(lambda x: x[:2]), False, id="fewer rows"),
    pytest.param(Function(torch.sum), False, id="a scalar"),
    pytest.param(Function(whole_batch_only), False, id="one batch size"),
    pytest.param(Function(torch.tanh, modules.DropPath(0.5, per="batch")), False, id="path per batch"),
    pytest.param(Function(torch.tanh, modules.Dropout(0.5, noise_shape=(1, None))), False, id="shared along the batch"),
    pytest.param(Function(torch.tanh, modules.Dropout(0.5, noise_shape=(4, 1))), False, id="noise shape in numbers"),
    pytest.param(Function(torch.tanh, modules.GaussianDropout(0.5, noise_shape=(1, None))), False, id="shared noise"),
    pytest.param(Function(lambda x: x[:, None], modules.LockedDropout(0.5)), False, id="locked, time first"),
    pytest.param(Function(lambda x: x[:, None], modules.LockedDropout(0.5, batch_first=True)), True, id="locked"),
    pytest.param(Function(torch.tanh, WeightDrop(nn.Linear(6, 6))), False, id="weight drop"),
    pytest.param(Function(lambda x: x[:, None, None], modules.DropBlock2d(0.5, 1)), False, id="block, scaled"),
    pytest.param(Function(lambda x: x[:, None, None], modules.DropBlock2d(0.5, 1, scale_by_keep=False)), True,
                 id="block, not scaled"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "chunked"), CHUNKED)
def test_predict_shares_a_pass_where_the_model_allows_it(model, chunked):
    model.batches.clear()
    x = torch.randn(4, 6)
    mean, _ = predict(model, x, 10, seed=0)
    assert model.batches == ([40] if chunked else [4] * 10)
    assert mean.shape == model.eval()(x).shape


def test_predict_of_layers_of_other_libraries_asks_for_their_settings():
    for mode, expected in (("row", [40]), ("batch", [4] * 10)):
        layer = of_type("torchvision.ops.stochastic_depth", "StochasticDepth", p=0.5, mode=mode)
        type(layer).forward = lambda self, x: x
        model = Function(torch.tanh, layer)
        predict(model, torch.randn(4, 6), 10)
        assert model.batches == expected


def test_predict_keeps_a_pass_within_the_documented_number_of_elements():
    rows = CHUNK_NUMEL // 60  # of 6 elements: ten samples fill a pass
    model = Function(torch.tanh)
    predict(model, torch.randn(rows, 6), 25)
    assert model.batches == [10 * rows, 10 * rows, 5 * rows]
    wide = Function(lambda x: x.repeat(1, 5))  # the output counts, too
    predict(wide, torch.randn(rows, 6), 3)
    assert wide.batches == [2 * rows, rows]
    large = Function(torch.tanh)
    predict(large, torch.randn(CHUNK_NUMEL), 2)
    assert large.batches == [CHUNK_NUMEL] * 2


def test_predict_takes_integers_and_empty_batches():
    model = nn.Sequential(nn.Embedding(9, 4), modules.Dropout(0.5))
    assert predict(model, torch.arange(9), 4).mean.shape == (9, 4)
    assert predict(network(), torch.empty(0, 6), 4).variance.shape == (0, 3)


def test_predict_takes_a_transformer_of_torchs_layers():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.3, batch_first=True), 2)
    x = torch.randn(3, 5, 8)
    mean, variance = predict(model, x, 16, seed=0)
    assert mean.shape == x.shape
    assert (variance > 0).all()


@pytest.mark.parametrize(
    ("model", "x", "options", "error", "message"),
    [
        pytest.param(torch.tanh, torch.ones(2), {}, TypeError, "'model' must be a torch.nn.Module", id="a function"),
        pytest.param(nn.Dropout(), [1.0], {}, TypeError, "'x' must be a Tensor, not list; wrap", id="a list"),
        pytest.param(nn.Dropout(), torch.ones(2), {"samples": 1}, ValueError, "samples to be at least 2, but got 1",
                     id="one sample"),
        pytest.param(nn.Dropout(), torch.ones(2), {"samples": 2.5}, TypeError, "'samples' must be int", id="samples"),
        pytest.param(nn.Dropout(), torch.ones(2), {"chunk": 0}, ValueError, "chunk to be at least 1", id="chunk"),
        pytest.param(nn.Dropout(), torch.ones(2), {"chunk": "a"}, TypeError, "'chunk' must be int", id="type of chunk"),
        pytest.param(Function(lambda x: x.mean(0)), torch.ones(2, 3), {"chunk": 2}, ValueError,
                     "an output of 4 rows for a chunk of 2", id="reduced, with a chunk"),
        pytest.param(modules.DropPath(0.5, per="batch"), torch.ones(2, 3), {"chunk": 2}, ValueError,
                     "rows share what DropPath draws", id="shared, with a chunk"),
        pytest.param(Function(lambda x: (x, x), nn.Identity()), torch.ones(2), {"chunk": 1}, TypeError,
                     "floating-point tensor, but got tuple; wrap", id="a tuple"),
        pytest.param(Function(lambda x: x > 0, nn.Identity()), torch.ones(2), {}, TypeError,
                     "but got a tensor of torch.bool", id="a bool output"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*no dropout")
def test_errors(model, x, options, error, message):
    with pytest.raises(error, match=message):
        predict(model, x, **options)


def test_monte_carlo_refuses_what_is_no_module():
    with pytest.raises(TypeError, match=r"'model' must be a torch\.nn\.Module, not function"), monte_carlo(network):
        pass


@pytest.mark.parametrize("function", [monte_carlo, predict])
def test_docstring_equivalents_run(function):
    code = textwrap.dedent(inspect.getdoc(function).split("::\n")[-1])
    model, x = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)).eval(), torch.randn(4, 6)
    names = {"model": model, "x": x, "samples": 6, "torch": torch, "fused_dropout": fused_dropout}
    torch.manual_seed(7)
    exec(code, names)
    if function is monte_carlo:
        assert [module.training for module in model.modules()] == [False, False, True]
    else:
        got = predict(model, x, 6, seed=7, chunk=1)
        torch.testing.assert_close(got.mean, names["mean"])
        torch.testing.assert_close(got.variance, names["variance"])


def test_timm_and_torchvision_models_are_random_and_restored():
    timm = pytest.importorskip("timm", reason="timm is not installed")
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    x = torch.randn(2, 3, 32, 32)
    for model in (
        timm.create_model("convnext_atto", drop_path_rate=0.5),
        models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.5),
    ):
        flags = state_of(model)
        for change in (lambda model: None, convert):
            change(model)
            mean, variance = predict(model, x, 8, seed=0, chunk=4)
            assert torch.isfinite(mean).all()
            assert variance.any()
            assert state_of(model) == flags
