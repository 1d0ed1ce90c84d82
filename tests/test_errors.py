"""Wrong calls: the exact type and text, nothing drawn, nothing written."""

import re

import pytest
import torch

import fused_dropout
from fused_dropout import (
    DropBlock2d,
    Dropout,
    Dropout2d,
    DropPath,
    GaussianDropout,
    LockedDropout,
    alpha_dropout,
    draw,
    drop_block2d,
    drop_path,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    dropout_add,
    dropout_linear,
    feature_alpha_dropout,
    gaussian_dropout,
    keep_mask,
    locked_dropout,
    normal_noise,
    zoneout,
)
from fused_dropout._extension import ops

X = torch.ones(4, 6)
NAN = float("nan")
LEAF = torch.ones(4, 6, requires_grad=True)
IMAGES = torch.ones(2, 3, 8, 8)
STATE = torch.tensor([1, 8])

# (what is wrong, call, exception, text)
ROWS = [
    ("p above 1", lambda: dropout(X, 1.5), ValueError, "dropout probability has to be between 0 and 1, but got 1.5"),
    ("p below 0", lambda: dropout(X, -0.1), ValueError, "dropout probability has to be between 0 and 1, but got -0.1"),
    ("p nan", lambda: dropout(X, NAN), ValueError, "dropout probability has to be between 0 and 1, but got nan"),
    ("p above 1, evaluation", lambda: dropout(X, 2, False), ValueError, "between 0 and 1, but got 2"),
    ("module p", lambda: Dropout(1.1), ValueError, "dropout probability has to be between 0 and 1, but got 1.1"),
    ("module p nan", lambda: Dropout(NAN), ValueError, "dropout probability has to be between 0 and 1, but got nan"),
    ("alpha p", lambda: alpha_dropout(X, 7), ValueError, "dropout probability has to be between 0 and 1, but got 7"),
    ("add p", lambda: dropout_add(X, X, NAN), ValueError, "has to be between 0 and 1, but got nan"),
    ("mask p", lambda: keep_mask((2,), -1, STATE), ValueError, "has to be between 0 and 1, but got -1"),
    ("operation p", lambda: ops.dropout(X, 1.5), ValueError, "has to be between 0 and 1, but got 1.5"),
    ("operation p nan", lambda: ops.dropout_apply(X, STATE, NAN), ValueError, "has to be between 0 and 1, but got nan"),
    (
        "p a string",
        lambda: dropout(X, "x"),
        TypeError,
        "dropout(): argument 'p' must be a number or a 0-d tensor, not str",
    ),
    ("p None", lambda: dropout(X, None), TypeError, "argument 'p' must be a number or a 0-d tensor, not NoneType"),
    ("module p a list", lambda: Dropout([0.5]), TypeError, "Dropout(): argument 'p' must be a number"),
    (
        "p a vector",
        lambda: dropout(X, torch.ones(2)),
        ValueError,
        "expected p to be a 0-d floating-point tensor, but got",
    ),
    (
        "p an int tensor",
        lambda: dropout(X, torch.tensor(1)),
        ValueError,
        "expected p to be a 0-d floating-point tensor",
    ),
    (
        "p elsewhere",
        lambda: dropout(X, torch.tensor(0.1, device="meta")),
        ValueError,
        "expected p on the input's device cpu",
    ),
    ("input a list", lambda: dropout([1.0]), TypeError, "dropout(): argument 'input' must be a Tensor, not list"),
    ("training None", lambda: dropout(X, 0.5, None), TypeError, "argument 'training' must be bool, not NoneType"),
    ("training 1", lambda: dropout(X, 0.5, 1), TypeError, "argument 'training' must be bool, not int"),
    ("inplace None", lambda: dropout(X, 0.5, True, None), TypeError, "argument 'inplace' must be bool, not NoneType"),
    (
        "generator 3",
        lambda: dropout(X, generator=3),
        TypeError,
        "argument 'generator' must be a torch.Generator, not int",
    ),
    (
        "long",
        lambda: dropout(X.long()),
        RuntimeError,
        "dropout: expected a tensor of dtype float16, bfloat16, float32, float64, complex64 or complex128,"
        " but got Long; convert it first, or call it with training=False",
    ),
    ("bool", lambda: dropout(X.bool()), RuntimeError, "but got Bool"),
    (
        "alpha complex",
        lambda: alpha_dropout(X.cfloat(), 0.5, True),
        RuntimeError,
        "alpha_dropout: expected a tensor of dtype float16, bfloat16, float32 or float64, but got ComplexFloat;",
    ),
    ("complex half", lambda: dropout(X.to(torch.complex32)), RuntimeError, "but got ComplexHalf"),
    (
        "alpha long",
        lambda: alpha_dropout(X.long(), 0.5, True),
        RuntimeError,
        "alpha_dropout: expected a tensor of dtype",
    ),
    ("in-place long", lambda: dropout(X.long(), inplace=True), RuntimeError, "but got Long"),
    (
        "sparse",
        lambda: dropout(X.to_sparse()),
        RuntimeError,
        "dropout: expected a dense tensor, but got a sparse one (Sparse); call to_dense()",
    ),
    (
        "noise shape size",
        lambda: dropout(X, noise_shape=(4, 5)),
        ValueError,
        "expected a noise_shape that broadcasts to the"
        " input's shape (4, 6), each entry 1, None or the input's size, but got (4, 5)",
    ),
    (
        "noise shape rank",
        lambda: dropout(X, noise_shape=(6,)),
        ValueError,
        "input's shape (4, 6), each entry 1, None or the input's size, but got (6,)",
    ),
    (
        "65 dimensions",
        lambda: dropout(torch.ones([1] * 65), noise_shape=[1] * 65),
        ValueError,
        "dropout: expected at most 64 dimensions, but got 65",
    ),
    ("mask of 65 dimensions", lambda: keep_mask([1] * 65, 0.5, STATE), ValueError, "expected at most 64 dimensions"),
    ("p a numeral", lambda: dropout(X, "0.5"), TypeError, "argument 'p' must be a number or a 0-d tensor, not str"),
    ("p a vector, evaluation", lambda: dropout(X, torch.ones(2), False), ValueError, "expected p to be a 0-d"),
    ("mode a list", lambda: dropout(X, mode=[]), ValueError, "expected mode to be one of"),
    ("noise shape of floats", lambda: dropout(X, noise_shape=(4.0, 1)), TypeError, "None, not one that holds a float"),
    ("module noise shape", lambda: Dropout(noise_shape=3), TypeError, "argument 'noise_shape' must be a sequence"),
    (
        "residual dtype, evaluation",
        lambda: dropout_add(X, X.double(), 0.5, False),
        RuntimeError,
        "the input's dtype torch.float32, but got one of torch.float64",
    ),
    ("noise shape kind", lambda: dropout(X, noise_shape=3), TypeError, "argument 'noise_shape' must be a sequence"),
    ("mask noise shape", lambda: keep_mask((4, 6), 0.5, STATE, noise_shape=(2, 6)), ValueError, "but got (2, 6)"),
    (
        "mode",
        lambda: dropout(X, mode="upscale"),
        ValueError,
        "expected mode to be one of 'upscale_in_train', 'downscale_in_infer', but got 'upscale'",
    ),
    ("module mode", lambda: Dropout(mode="x"), ValueError, "expected mode to be one of 'upscale_in_train'"),
    (
        "rng float",
        lambda: dropout(X, rng=torch.ones(2)),
        ValueError,
        "expected rng to be an int64 tensor of 2 elements, as fused_dropout.draw() returns, but got Float of shape [2]",
    ),
    ("rng size", lambda: dropout(X, rng=torch.tensor([1, 2, 3])), ValueError, "but got Long of shape [3]"),
    ("rng rank", lambda: dropout(X, rng=torch.ones(2, 1).long()), ValueError, "but got Long of shape [2, 1]"),
    (
        "rng elsewhere",
        lambda: dropout(X, rng=torch.ones(2, device="meta").long()),
        ValueError,
        "rng on the input's device",
    ),
    (
        "rng kind",
        lambda: dropout(X, rng=7),
        TypeError,
        "argument 'rng' must be an int64 tensor of 2 or two ints, not int",
    ),
    ("rng of floats", lambda: dropout(X, rng=(1.0, 2)), TypeError, "argument 'rng' must hold two ints, not float, int"),
    ("rng of one", lambda: dropout(X, rng=(1,)), ValueError, "expected rng to be (seed, offset), but got 1 values"),
    (
        "seed negative",
        lambda: dropout(X, rng=(-1, 0)),
        ValueError,
        "expected the seed of rng in [0, 2**64), but got -1",
    ),
    ("offset too large", lambda: dropout(X, rng=(0, 2**64)), ValueError, "expected the offset of rng in [0, 2**64)"),
    ("offset odd", lambda: dropout(X, rng=(0, 6)), ValueError, "offset of rng to be a multiple of 4, but got 6"),
    (
        "rng and generator",
        lambda: dropout(X, rng=(0, 0), generator=torch.Generator()),
        ValueError,
        "dropout: expected rng or generator, not both",
    ),
    (
        "both in evaluation",
        lambda: dropout(X, 0.5, False, rng=(0, 0), generator=torch.Generator()),
        ValueError,
        "not both",
    ),
    ("mask without rng", lambda: keep_mask((2,), 0.5, None), TypeError, "argument 'rng' must be a state"),
    (
        "mask device",
        lambda: keep_mask((2,), 0.5, STATE, device="meta"),
        ValueError,
        "expected device to be that of rng",
    ),
    (
        "mask rng",
        lambda: keep_mask((2,), 0.5, torch.ones(2)),
        ValueError,
        "keep_mask: expected rng to be an int64 tensor",
    ),
    (
        "residual shape",
        lambda: dropout_add(X, X[0]),
        ValueError,
        "expected all tensors to have the input's shape [4, 6], but got one of shape [6]",
    ),
    (
        "residual dtype",
        lambda: dropout_add(X, X.double()),
        RuntimeError,
        "the input's dtype torch.float32, but got one of torch.float64",
    ),
    ("residual kind", lambda: dropout_add(X, 1.0), TypeError, "argument 'residual' must be a Tensor, not float"),
    ("residual elsewhere", lambda: dropout_add(X, X.to("meta")), RuntimeError, "meta"),
    (
        "strides",
        lambda: ops.dropout(X, 0.5, mask_strides=[1, 1, 1]),
        ValueError,
        "expected at most 2 mask strides, one a dimension, but got 3",
    ),
    ("gain", lambda: ops.dropout(X, 0.5, gain=9), ValueError, "unknown gain 9"),
    (
        "in-place leaf",
        lambda: dropout(LEAF, inplace=True),
        RuntimeError,
        "a leaf Variable that requires grad is being used in an in-place operation.",
    ),
    (
        "in-place leaf, state",
        lambda: dropout(LEAF, inplace=True, rng=STATE),
        RuntimeError,
        "a leaf Variable that requires",
    ),
    (
        "in-place view of leaf",
        lambda: dropout(LEAF[0], inplace=True),
        RuntimeError,
        "a view of a leaf Variable that requires grad is being used in an in-place operation.",
    ),
    (
        "in-place expanded",
        lambda: dropout(torch.ones(1, 4).expand(3, 4), inplace=True),
        RuntimeError,
        "unsupported operation: more than one element of the written-to tensor refers to a single memory location",
    ),
    (
        "alpha in-place leaf",
        lambda: alpha_dropout(LEAF, 0.5, True, True),
        RuntimeError,
        "a leaf Variable that requires grad",
    ),
    ("channels p", lambda: dropout2d(IMAGES, 1.5), ValueError, "has to be between 0 and 1, but got 1.5"),
    ("path p", lambda: drop_path(X, NAN), ValueError, "has to be between 0 and 1, but got nan"),
    ("block p, evaluation", lambda: drop_block2d(IMAGES, 2.0, training=False), ValueError, "0 and 1, but got 2.0"),
    ("block p beside its rank", lambda: drop_block2d(X, -1), ValueError, "between 0 and 1, but got -1"),
    ("zoneout p", lambda: zoneout(X, X, -1), ValueError, "between 0 and 1, but got -1"),
    ("gaussian p a string", lambda: gaussian_dropout(X, "x"), TypeError, "gaussian_dropout(): argument 'p' must be"),
    ("module p of a path", lambda: DropPath(1.1), ValueError, "between 0 and 1, but got 1.1"),
    ("module p of a block", lambda: DropBlock2d("x"), TypeError, "DropBlock2d(): argument 'p' must be a number"),
    ("module inplace", lambda: Dropout2d(0.5, None), TypeError, "Dropout2d(): argument 'inplace' must be bool"),
    (
        "p of a block elsewhere",
        lambda: drop_block2d(IMAGES, torch.tensor(0.1, device="meta")),
        ValueError,
        "device cpu",
    ),
    (
        "p of a block with grad",
        lambda: drop_block2d(IMAGES, torch.tensor(0.1, requires_grad=True)),
        RuntimeError,
        "p is not differentiable",
    ),
    ("channels input", lambda: dropout1d(3.0), TypeError, "dropout1d(): argument 'input' must be a Tensor, not float"),
    ("channels long", lambda: dropout3d(torch.ones(2, 3, 4, 4, 4).long()), RuntimeError, "but got Long"),
    ("channels mode", lambda: dropout1d(X, mode="x"), ValueError, "dropout1d: expected mode to be one of"),
    ("path training", lambda: drop_path(X, 0.5, None), TypeError, "argument 'training' must be bool, not NoneType"),
    ("path scale", lambda: drop_path(X, 0.5, True, 2), TypeError, "argument 'scale_by_keep' must be bool, not int"),
    (
        "path per",
        lambda: drop_path(X, 0.5, True, per="column"),
        ValueError,
        "drop_path: expected per to be one of 'row', 'batch', but got 'column'",
    ),
    ("module per", lambda: DropPath(0.5, per=1), ValueError, "DropPath: expected per to be one of"),
    ("module path mode", lambda: DropPath(0.5, mode="x"), ValueError, "DropPath: expected mode to be one of"),
    ("module scale", lambda: DropPath(0.5, None), TypeError, "DropPath(): argument 'scale_by_keep' must be bool"),
    (
        "path of a number",
        lambda: drop_path(torch.tensor(1.0), 0.5, True),
        ValueError,
        "drop_path: expected an input of at least 1 dimension",
    ),
    (
        "locked rank",
        lambda: locked_dropout(IMAGES),
        ValueError,
        "locked_dropout: expected an input (time, batch, features) or (time, features), but got one of shape "
        "[2, 3, 8, 8]",
    ),
    (
        "locked rank, batch first, evaluation",
        lambda: locked_dropout(X[0], training=False, batch_first=True),
        ValueError,
        "expected an input (batch, time, features) or (time, features), but got one of shape [6]",
    ),
    ("locked batch first", lambda: locked_dropout(X, batch_first=1), TypeError, "'batch_first' must be bool, not int"),
    ("module batch first", lambda: LockedDropout(batch_first=None), TypeError, "LockedDropout(): argument 'batch"),
    ("gaussian noise shape", lambda: gaussian_dropout(X, noise_shape=(4, 5)), ValueError, "but got (4, 5)"),
    ("module gaussian noise shape", lambda: GaussianDropout(noise_shape=3), TypeError, "must be a sequence"),
    ("gaussian long", lambda: gaussian_dropout(X.long()), RuntimeError, "gaussian_dropout: expected a tensor of dtype"),
    (
        "gaussian in-place leaf",
        lambda: gaussian_dropout(LEAF, inplace=True),
        RuntimeError,
        "a leaf Variable that requires grad",
    ),
    (
        "block rank",
        lambda: drop_block2d(X),
        ValueError,
        "drop_block2d: expected an input (batch, channels, height, width) or (channels, height, width), but got one of "
        "shape [4, 6]",
    ),
    ("block rank, evaluation", lambda: drop_block2d(X, training=False), ValueError, "but got one of shape [4, 6]"),
    ("block size 0", lambda: drop_block2d(IMAGES, 0.1, 0), ValueError, "block_size to be at least 1, but got 0"),
    ("block size float", lambda: drop_block2d(IMAGES, 0.1, 7.0), TypeError, "'block_size' must be int, not float"),
    (
        "module block size",
        lambda: DropBlock2d(0.1, None),
        TypeError,
        "DropBlock2d(): argument 'block_size' must be int",
    ),
    (
        "gamma scale",
        lambda: drop_block2d(IMAGES, gamma_scale=-1.0),
        ValueError,
        "expected gamma_scale to be finite and at least 0, but got -1.0",
    ),
    (
        "gamma scale nan",
        lambda: drop_block2d(IMAGES, gamma_scale=NAN),
        ValueError,
        "finite and at least 0, but got nan",
    ),
    ("gamma scale a string", lambda: drop_block2d(IMAGES, gamma_scale="1"), TypeError, "must be a number, not str"),
    ("module gamma scale", lambda: DropBlock2d(gamma_scale=None), TypeError, "'gamma_scale' must be a number"),
    ("block clip", lambda: drop_block2d(IMAGES, clip=1), TypeError, "argument 'clip' must be bool, not int"),
    ("module noise", lambda: DropBlock2d(with_noise=1), TypeError, "argument 'with_noise' must be bool, not int"),
    ("block long", lambda: drop_block2d(IMAGES.long(), with_noise=True), RuntimeError, "expected a tensor of dtype"),
    (
        "block in-place leaf",
        lambda: drop_block2d(IMAGES.clone().requires_grad_(), inplace=True, with_noise=True),
        RuntimeError,
        "a leaf Variable that requires grad",
    ),
    (
        "block in-place expanded",
        lambda: drop_block2d(torch.ones(3, 1, 8).expand(3, 8, 8), inplace=True, with_noise=True),
        RuntimeError,
        "unsupported operation: more than one element of the written-to tensor refers to a single memory location",
    ),
    (
        "block rng",
        lambda: drop_block2d(IMAGES, rng=(0, 6)),
        ValueError,
        "offset of rng to be a multiple of 4, but got 6",
    ),
    (
        "zoneout shape",
        lambda: zoneout(X, X[0]),
        ValueError,
        "zoneout: expected all tensors to have the input's shape [4, 6], but got one of shape [6]",
    ),
    (
        "zoneout dtype, evaluation",
        lambda: zoneout(X, X.double(), 0.5, False),
        RuntimeError,
        "zoneout: expected all tensors to have the input's dtype torch.float32, but got one of torch.float64",
    ),
    ("zoneout previous", lambda: zoneout(X, None), TypeError, "argument 'previous' must be a Tensor, not NoneType"),
    *(
        (
            f"zoneout long, {kind}",
            lambda training=training: zoneout(X.long(), X.long(), 0.5, training),
            RuntimeError,
            "zoneout: expected tensors of a floating-point dtype, but got torch.int64",
        )
        for kind, training in (("training", True), ("evaluation", False))
    ),
    ("zoneout both", lambda: zoneout(X, X, rng=(0, 0), generator=torch.Generator()), ValueError, "not both"),
    ("feature alpha rank", lambda: feature_alpha_dropout(X[0], 0.5, True), RuntimeError, "requires at least 2 dim"),
    (
        "noise without rng",
        lambda: normal_noise((2,), None),
        TypeError,
        "normal_noise(): argument 'rng' must be a state",
    ),
    (
        "noise dtype",
        lambda: normal_noise((2,), STATE, dtype=torch.complex64),
        RuntimeError,
        "normal_noise: expected dtype float16, bfloat16, float32 or float64, but got torch.complex64",
    ),
    *(
        (
            f"{name} of a number as shape",
            call,
            TypeError,
            f"{name}(): argument 'shape' must be a sequence of ints, not int",
        )
        for name, call in (
            ("keep_mask", lambda: keep_mask(3, 0.5, STATE)),
            ("normal_noise", lambda: normal_noise(3, STATE)),
        )
    ),
    ("noise shape of noise", lambda: normal_noise((2, 3), STATE, noise_shape=(2,)), ValueError, "but got (2,)"),
    ("noise device", lambda: normal_noise((2,), STATE, device="meta"), ValueError, "expected device to be that of rng"),
    (
        "noise rng",
        lambda: normal_noise((2,), torch.ones(2)),
        ValueError,
        "expected rng to be an int64 tensor",
    ),
    (
        "sparse weight",
        lambda: dropout_linear(X, torch.ones(2, X.shape[-1]).to_sparse(), torch.ones(2).to_sparse()),
        RuntimeError,
        "dropout_linear: expected dense tensors, but got one of layout torch.sparse_coo",
    ),
    (
        "sparse input, tensor p",
        lambda: dropout_linear(X.to_sparse(), torch.ones(2, X.shape[-1]), p=torch.tensor(0.5)),
        RuntimeError,
        "dropout_linear: expected dense tensors, but got one of layout torch.sparse_coo",
    ),
    (
        "complex with normal noise",
        lambda: drop_block2d(torch.ones(1, 2, 4, 4, dtype=torch.complex64), 0.5, True, with_noise=True),
        RuntimeError,
        "drop_block2d: expected a real tensor to add noise to, but got torch.complex64",
    ),
    (
        "instruction set",
        lambda: fused_dropout._extension.extension.use_instruction_set("mmx"),
        ValueError,
        "CPU instruction set 'mmx' is not available here; available: ",
    ),
]


@pytest.mark.parametrize(("wrong", "call", "exception", "text"), ROWS, ids=[row[0] for row in ROWS])
def test_wrong_call_raises_and_changes_nothing(wrong, call, exception, text):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    with pytest.raises(exception, match=re.escape(text)):
        call()
    assert torch.equal(before, torch.get_rng_state()), "a call that raises draws none"
    assert (X == 1).all()
    assert (LEAF == 1).all()
    assert LEAF._version == 0


def test_texts_are_torchs_own_where_torch_has_the_check():
    for theirs, ours in [
        (lambda: torch.nn.functional.dropout(X, 1.5), lambda: dropout(X, 1.5)),
        (lambda: torch.nn.Dropout(-1), lambda: Dropout(-1)),
        (lambda: torch.nn.functional.dropout(LEAF, inplace=True), lambda: dropout(LEAF, inplace=True)),
        (lambda: torch.nn.functional.dropout(LEAF[0], inplace=True), lambda: dropout(LEAF[0], inplace=True)),
        (lambda: torch.ones(1, 4).expand(3, 4).mul_(2), lambda: dropout(torch.ones(1, 4).expand(3, 4), inplace=True)),
    ]:
        with pytest.raises((ValueError, RuntimeError)) as torch_error:
            theirs()
        with pytest.raises(torch_error.type) as our_error:
            ours()
        assert str(our_error.value).splitlines()[0] == str(torch_error.value).splitlines()[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a generator of another device")
def test_generator_of_another_device():
    with pytest.raises(RuntimeError, match="Expected a 'cpu' device type for generator but found 'cuda'"):
        dropout(X, generator=torch.Generator("cuda"))


def test_draw_arguments():
    generator = torch.Generator().manual_seed(3)
    a = draw(generator=generator)
    assert a.dtype == torch.int64
    assert a.shape == (2,)
    assert a[1] % 4 == 0
    assert torch.equal(a, draw("cpu", torch.Generator().manual_seed(3)))
    assert not torch.equal(a, draw(generator=generator))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: fused_dropout.dropout(x, 0.5),
        lambda x: fused_dropout.softmax_dropout(x, 0.5),
        lambda x: fused_dropout.dropout_add_layer_norm(x, x, None, None, 0.5),
        lambda x: fused_dropout.dropout_add_rms_norm(x, x, None, 0.5),
        lambda x: fused_dropout.drop_block2d(x[None, None], 0.5, 3),
        lambda x: fused_dropout.dropout_linear(torch.ones(2, 4), x[:1, :1].expand(1 << 46, 4)),
    ],
    ids=[
        "dropout",
        "softmax_dropout",
        "dropout_add_layer_norm",
        "dropout_add_rms_norm",
        "drop_block2d",
        "dropout_linear",
    ],
)
def test_an_output_that_memory_cannot_hold_leaves_the_generator_as_it_was(call):
    """Also where the state is drawn before the output is allocated."""
    x = torch.zeros(1).expand(1 << 22, 1 << 24)  # 256 TiB, as soon as it is written down
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="memory"):
        call(x)
    assert torch.equal(before, torch.get_rng_state())
