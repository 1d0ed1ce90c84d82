"""torch.export, make_fx, AOTAutograd, torch.jit.trace and ONNX.

Of a training model they see one operation a call, which draws when the graph runs; of an evaluating one, none.
"""

import io
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import functorch.compile
import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.export import Dim
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

import fused_dropout

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:Exporting a model while it is in training mode",
    "ignore:While compiling, we found certain side effects",  # of WeightDrop, which undoes them
)


class Twice(nn.Module):
    """Two calls that differ in nothing, which a compiler may take for one."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) + 2 * self.layer(x)


class InPlace(nn.Module):
    """A layer that writes into what only this module has."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, rng=None):
        return self.layer(x * 2, rng=rng)


class Layer(NamedTuple):
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    forward: list[str]  # our operations in a training graph, in order
    backward: list[str]


def one(make, shape, forward="dropout", backward="dropout_apply"):
    return Layer(make, shape, [forward], [backward])


LAYERS = {
    "Dropout": one(lambda: fused_dropout.Dropout(0.4), (6, 10)),
    "Dropout with a noise shape": one(lambda: fused_dropout.Dropout(0.4, noise_shape=(None, 1, None)), (6, 4, 5)),
    "Dropout in place": one(lambda: InPlace(fused_dropout.Dropout(0.4, inplace=True)), (6, 10), "dropout_"),
    "Dropout, downscale": one(lambda: fused_dropout.Dropout(0.4, mode="downscale_in_infer"), (6, 10)),
    "Dropout1d": one(lambda: fused_dropout.Dropout1d(0.4), (6, 8, 5)),
    "Dropout2d": one(lambda: fused_dropout.Dropout2d(0.4), (6, 8, 3, 5)),
    "Dropout3d": one(lambda: fused_dropout.Dropout3d(0.4), (6, 8, 2, 3, 2)),
    "AlphaDropout": one(lambda: fused_dropout.AlphaDropout(0.4), (6, 10), "alpha_dropout"),
    "FeatureAlphaDropout": one(lambda: fused_dropout.FeatureAlphaDropout(0.4), (6, 8, 5), "alpha_dropout"),
    "DropPath": one(lambda: fused_dropout.DropPath(0.4), (12, 5)),
    "LockedDropout": one(lambda: fused_dropout.LockedDropout(0.4), (3, 4, 8)),
    "GaussianDropout": one(
        lambda: fused_dropout.GaussianDropout(0.4), (6, 10), "gaussian_dropout", "gaussian_dropout_apply"
    ),
    "DropBlock2d": one(lambda: fused_dropout.DropBlock2d(0.4, 3), (4, 2, 7, 9)),
    "DropBlock2d with noise": Layer(
        lambda: fused_dropout.DropBlock2d(0.4, 3, clip=True, with_noise=True),
        (4, 2, 7, 9),
        ["dropout", "normal_noise", "dropout_apply"],  # the noise, and the blocks that it fills, have the first's state
        ["dropout_apply"],
    ),
    "Zoneout": Layer(
        lambda: fused_dropout.Zoneout(nn.LSTMCell(5, 7), 0.4), (6, 5), ["zoneout"] * 2, ["dropout_apply"] * 2
    ),
    "WeightDrop": one(lambda: nn.Sequential(fused_dropout.WeightDrop(nn.Linear(9, 7), p=0.4)), (6, 9)),
    "one layer twice": Layer(
        lambda: Twice(fused_dropout.Dropout(0.4)), (6, 10), ["dropout"] * 2, ["dropout_apply"] * 2
    ),
    "a network": Layer(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), fused_dropout.Dropout2d(0.4), nn.Flatten(), nn.Linear(72, 9), fused_dropout.Dropout(0.4)
        ),
        (4, 3, 5, 5),
        ["dropout"] * 2,
        ["dropout_apply"] * 2,
    ),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
NO_DYNAMO = {"WeightDrop"} if torch.__version__ < "2.13" else set()  # it breaks the graph where an attribute is reset
strictness = pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])


@pytest.fixture(autouse=True)
def _fresh_compiler():
    yield
    torch._dynamo.reset()


@cache
def training(name, strict=False, dynamic=True):
    """A training layer and its exported program, with its first dimension static or dynamic."""
    module = LAYERS[name].make()
    return module, export(module, torch.randn(LAYERS[name].shape), strict=strict, dynamic=dynamic)


def export(module, *args, strict, dynamic):
    shapes = ({0: Dim.DYNAMIC}, *[{}] * (len(args) - 1)) if dynamic else None
    return torch.export.export(module, args, dynamic_shapes=shapes, strict=strict)


def inputs(name, dynamic):
    """Inputs that a graph must take: one of the traced size, and one longer in the first dimension."""
    (first, *rest), generator = LAYERS[name].shape, torch.Generator().manual_seed(1)
    return [torch.randn(size, *rest, generator=generator) for size in ([first, first + 3] if dynamic else [first])]


def ours(graph_module):
    """The names of our operations in a graph and in those inside it, in order; also where another node calls them."""
    nodes = [node for g in graph_module.modules() if isinstance(g, GraphModule) for node in g.graph.nodes]
    called = [called for node in nodes for called in (node.target, *node.args)]
    return [str(op).split(".")[1] for op in called if getattr(op, "namespace", None) == "fused_dropout"]


def run(f, x, seed=7):
    """All that a seed decides: the outputs, the gradient, and the number that the generator gives next."""
    torch.manual_seed(seed)
    x = x.clone().requires_grad_()
    y = f(x)
    outputs = [y] if isinstance(y, torch.Tensor) else list(y)
    grads = torch.autograd.grad(sum(output.square().sum() for output in outputs), x)
    return [*outputs, *grads, torch.rand(1)]


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


# torch.export


@every_layer
@strictness
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_an_exported_training_layer_is_one_operation_a_call_with_the_eager_bits(name, strict, dynamic):
    """Decomposed it would be slow and store a mask; traced with a state it would have the same mask for ever."""
    if strict and name in NO_DYNAMO:
        pytest.skip("this Dynamo does not take it")
    module, program = training(name, strict, dynamic)
    assert ours(program.graph_module) == LAYERS[name].forward
    exported = program.module()
    for x in inputs(name, dynamic):
        assert_same(run(exported, x), run(module, x))
        assert not torch.equal(run(exported, x, seed=8)[0], run(exported, x, seed=9)[0])


@pytest.mark.parametrize("name", [name for name in LAYERS if next(LAYERS[name].make().parameters(), None) is None])
def test_every_dimension_may_be_dynamic(name):
    """The mask's strides are products of sizes, which then are symbols; and so is p, for the seeds of blocks."""
    module, shape = LAYERS[name].make(), LAYERS[name].shape
    dynamic = {dim: Dim.DYNAMIC for dim in range(len(shape))}
    program = torch.export.export(module, (torch.randn(shape),), dynamic_shapes=(dynamic,))
    assert ours(program.graph_module) == LAYERS[name].forward
    for more in (0, 2, 7):
        x = torch.randn([size + more for size in shape])
        assert_same(run(program.module(), x), run(module, x))


@every_layer
@strictness
def test_an_exported_evaluating_layer_has_no_operation_of_ours_and_draws_nothing(name, strict):
    """What is exported to be served must run where fused_dropout is not installed."""
    module = LAYERS[name].make().eval()
    program = export(module, torch.randn(LAYERS[name].shape), strict=strict, dynamic=True)
    assert ours(program.graph_module) == []
    before = torch.get_rng_state()
    for x in inputs(name, dynamic=True):
        assert_same(program.module()(x.clone()), module(x.clone()))
    assert torch.equal(torch.get_rng_state(), before)


@every_layer
def test_a_saved_and_loaded_program_gives_the_same_mask(name):
    """The call goes into the file by its schema: every argument must be of a kind that can be written."""
    module, program = training(name)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    assert ours(loaded.graph_module) == LAYERS[name].forward
    for x in inputs(name, dynamic=True):
        assert_same(run(loaded.module(), x), run(module, x))


@every_layer
def test_decompositions_keep_the_operation(name):
    """Also two equal calls, which functionalization and the passes after it must not merge."""
    module, program = training(name)
    decomposed = program.run_decompositions()
    assert ours(decomposed.graph_module) == functional(LAYERS[name].forward)
    for x in inputs(name, dynamic=True):
        assert_same(run(decomposed.module(), x), run(module, x))


def functional(names):
    """What functionalization makes of them."""
    return [name.removesuffix("_") for name in names]


class Call(nn.Module):
    """A function of the input and one more tensor, as a module, which export asks for."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, other):
        return self.function(x, other)


NO_RNG = {"Zoneout", "WeightDrop", "one layer twice", "a network"}  # no rng=, or not one state


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in NO_RNG])
@strictness
def test_a_state_is_an_input_of_the_exported_graph(name, strict):
    """The values of the state that it was traced with must not stay in the graph, nor may it draw."""
    layer = LAYERS[name].make()
    module = Call(lambda x, rng: layer(x, rng=rng))
    program = export(module, torch.randn(LAYERS[name].shape), fused_dropout.draw(), strict=strict, dynamic=True)
    drawing = LAYERS[name].forward[0]
    applying = "dropout_apply_" if drawing == "dropout_" else f"{drawing}_apply"
    assert ours(program.graph_module) == [applying, *LAYERS[name].forward[1:]]
    exported = program.module()
    for x in inputs(name, dynamic=True):
        results = []
        for state in (torch.tensor([5, 8]), torch.tensor([-7, 1 << 40])):
            results.append(run(lambda x, state=state: exported(x, state), x))
            assert_same(results[-1], run(lambda x, state=state: module(x, state), x))
            assert_same(results[-1][-1], torch.rand(1, generator=torch.Generator().manual_seed(7)))
        assert not torch.equal(results[0][0], results[1][0])


P_CALLS = {
    "dropout": lambda x, p: fused_dropout.dropout(x, p),
    "alpha_dropout": lambda x, p: fused_dropout.alpha_dropout(x, p, True),
    "gaussian_dropout": lambda x, p: fused_dropout.gaussian_dropout(x, p),
    "drop_block2d": lambda x, p: fused_dropout.drop_block2d(x, p, 3),
    "zoneout": lambda x, p: fused_dropout.zoneout(x, -x, p),
    "dropout_add": lambda x, p: fused_dropout.dropout_add(x, 3 * x, p),
}


@pytest.mark.parametrize("call", P_CALLS)
@strictness
def test_a_tensor_p_is_an_input_of_the_exported_graph(call, strict):
    """One program serves a schedule of p: its value is not read in tracing."""
    module, x = Call(P_CALLS[call]), torch.randn(3, 2, 8, 9)
    exported = export(module, x, torch.tensor(0.3), strict=strict, dynamic=True).module()
    outputs = []
    for p in (torch.tensor(0.0), torch.tensor(0.1), torch.tensor(0.6), torch.tensor(1.0)):
        results = [run(lambda x, p=p, f=f: f(x, p), x) for f in (exported, module)]
        assert_same(*results)
        outputs.append(results[0][0])
    assert len({tuple(output.flatten().tolist()) for output in outputs}) == len(outputs)


# make_fx and AOTAutograd


@every_layer
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("trained", [True, False], ids=["training", "evaluating"])
def test_make_fx_sees_one_operation_a_training_call_and_none_in_evaluation(name, mode, trained):
    """Here nothing says that a graph is being made: the call takes the eager path, with proxies."""
    module = LAYERS[name].make().train(trained)
    parameters = dict(module.named_parameters())

    def call(parameters, x):
        return torch.func.functional_call(module, parameters, (x,))

    graph = make_fx(call, tracing_mode=mode)(parameters, torch.randn(LAYERS[name].shape))
    assert ours(graph) == (LAYERS[name].forward if trained else [])
    before = torch.get_rng_state()
    for x in inputs(name, dynamic=mode == "symbolic"):
        if trained:
            assert_same(run(lambda x: graph(parameters, x), x), run(module, x))
        else:
            assert_same(graph(parameters, x.clone()), module(x.clone()))
    assert trained or torch.equal(torch.get_rng_state(), before)


def compiled(module, **options):
    return torch.compile(module, backend=aot_autograd(**options), fullgraph=True)


MIN_CUT = functorch.compile.min_cut_rematerialization_partition  # inductor's; before it cuts, it merges equal calls
ROUTES = {
    "aot_module": partial(functorch.compile.aot_module, partition_fn=functorch.compile.default_partition),
    "aot_module, min-cut": partial(functorch.compile.aot_module, partition_fn=MIN_CUT),
    "torch.compile, min-cut": partial(compiled, partition_fn=MIN_CUT),
}


@every_layer
@pytest.mark.parametrize("route", ROUTES)
def test_aot_graphs_save_a_state_a_call_and_apply_it_in_the_backward_pass(name, route):
    """The backward graph makes the mask again from 16 bytes: no mask, no input and no draw are in it."""
    if route.startswith("torch.compile") and name in NO_DYNAMO:
        pytest.skip("this Dynamo does not take it")
    if (name, route) == ("Zoneout", "aot_module"):
        pytest.skip("default_partition repeats draws in the backward graph and reads none of them, F.dropout's too")
    graphs = {}

    def keep(which):
        def compiler(graph, example_inputs):
            graphs[which] = graph
            return functorch.compile.make_boxed_func(graph.forward)

        return compiler

    module = LAYERS[name].make()
    traced = ROUTES[route](module, fw_compiler=keep("forward"), bw_compiler=keep("backward"))
    (x,) = inputs(name, dynamic=False)
    assert_same(run(traced, x), run(module, x))
    assert ours(graphs["forward"]) == functional(LAYERS[name].forward)
    assert ours(graphs["backward"]) == LAYERS[name].backward
    given = [node for node in graphs["backward"].graph.nodes if node.op == "placeholder"]
    values = [node.meta["val"] for node in given if not node.name.startswith("tangents")]
    saved = [(value.dtype, tuple(value.shape)) for value in values]
    if name.startswith("DropBlock2d") and route.startswith("torch.compile"):  # sizes may be symbols: p is a tensor
        saved.remove((torch.float64, ()))
    states = [(torch.int64, (2,))] * len(LAYERS[name].backward)
    if not any(True for _ in module.parameters()):  # else what the layers between them need is saved too
        assert saved == states
    assert [kind for kind in saved if not kind[0].is_floating_point] == states


# torch.jit.trace and ONNX


@every_layer
def test_a_traced_evaluating_layer_has_no_operation_of_ours(name):
    """The way of a model into TorchScript, whose compiler does not take our modules."""
    module = LAYERS[name].make().eval()
    before = torch.get_rng_state()
    traced = torch.jit.trace(module, torch.zeros(LAYERS[name].shape))
    assert torch.equal(torch.get_rng_state(), before)
    assert "fused_dropout::" not in str(traced.inlined_graph)
    for x in inputs(name, dynamic=True):
        assert_same(traced(x.clone()), module(x.clone()))


def convnet():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        fused_dropout.Dropout2d(0.2),
        fused_dropout.DropBlock2d(0.2, 3),
        fused_dropout.DropPath(0.2),
        nn.Flatten(),
        nn.Linear(144, 16),
        nn.SELU(),
        fused_dropout.AlphaDropout(0.2),
        fused_dropout.GaussianDropout(0.2),
        fused_dropout.Dropout(0.2, mode="downscale_in_infer"),
        nn.Linear(16, 5),
    )


exporters = pytest.mark.parametrize("dynamo", [True, False], ids=["exporter", "legacy exporter"])


def write_onnx(model, path, dynamo, **options):
    if dynamo:
        pytest.importorskip("onnxscript", reason="torch.onnx.export needs it")
        options |= {"dynamic_shapes": ({0: Dim.DYNAMIC},), "verbose": False}
    else:
        options |= {"dynamic_axes": {"x": {0: "n"}}}
    x = torch.ones(2, 3, 8, 8)
    torch.onnx.export(model, (x,), path, input_names=["x"], dynamo=dynamo, **options)


@exporters
def test_onnx_of_an_evaluating_model_is_standard_and_gives_its_outputs(dynamo, tmp_path):
    """Any runtime can serve it: no node of a domain of ours, and none that is random."""
    onnx = pytest.importorskip("onnx", reason="it reads and runs what torch writes")
    from onnx.reference import ReferenceEvaluator

    model, before = convnet().eval(), torch.get_rng_state()
    write_onnx(model, tmp_path / "model.onnx", dynamo)
    assert torch.equal(torch.get_rng_state(), before)
    written = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert {entry.domain for entry in written.opset_import} == {""}
    assert len(written.functions) == 0
    nodes = {(node.domain, node.op_type) for node in written.graph.node}
    layers = {("", kind) for kind in ("Conv", "Relu", "Gemm", "Selu", "Mul")}  # Mul is 1 - p of "downscale_in_infer"
    assert layers <= nodes <= layers | {("", kind) for kind in ("Flatten", "Reshape", "Shape", "Concat", "Constant")}
    for size in (2, 5):
        x = torch.randn(size, 3, 8, 8)
        (y,) = ReferenceEvaluator(written).run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), model(x).detach())


@exporters
@pytest.mark.parametrize("layer", ["Dropout", "AlphaDropout", "GaussianDropout", "DropPath"])
def test_onnx_of_a_training_model_is_refused(layer, dynamo, tmp_path):
    """ONNX has no Philox: a mask that is not ours, or one that never changes, would be silently wrong."""
    pytest.importorskip("onnx", reason="torch.onnx.export needs it")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), getattr(fused_dropout, layer)(0.2)).train()
    options = {} if dynamo else {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False}
    with pytest.raises(torch.onnx.OnnxExporterError, match=r"fused_dropout(\.|::)\w*dropout"):
        write_onnx(model, tmp_path / "model.onnx", dynamo, **options)
    assert list(tmp_path.iterdir()) == []
