"""Operands with elements of their own along some dimensions only: biases, expanded gradients, numbers for channels."""

import pytest
import torch
from conftest import DEVICES, DTYPES
from test_values import assert_same_bits, state

from fused_dropout._extension import inputs_of, ops

OPERATIONS = ["dropout_apply", "zoneout_apply", "gaussian_dropout_apply", "bias_dropout_add_apply",
              "swiglu_dropout_backward", "swiglu_dropout_halves_backward"]  # fmt: skip
COMPLEX = {"dropout_apply", "zoneout_apply", "bias_dropout_add_apply"}
# Along which of three dimensions an operand has elements of its own.
EXPANDED = {
    "a number": (0, 0, 0), "a row": (0, 0, 1), "a row a sample": (1, 0, 1), "a number a row": (1, 1, 0),
    "a number a sample": (1, 0, 0), "rows of numbers": (0, 1, 0), "a sample": (0, 1, 1),
}  # fmt: skip
OTHERS = {  # the operands beside it
    "contiguous": lambda x: x,
    "part of another": lambda x: torch.cat([x] * 4, 1)[:, 3 : 3 + x.shape[1]],
    "every second": lambda x: torch.stack([x, x], -1)[..., 0],
    "transposed": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "batch last": lambda x: x.movedim(0, 2).contiguous().movedim(2, 0),
}
# Rows that are put together, and as many as leave some over; rows that are long enough; each a run or several.
SHAPES = [(3, 130, 40), (2, 700, 6), (1, 5000, 1), (2, 3, 1030), (3, 5, 5000), (5, 1, 9)]


def masks(shape):
    """Strides of masks that an operand's rows share or not, across its memory or along it."""
    a, b, c = shape
    return [None, [b * c, 0, 1], [0, c, 1], [1, 0, 0], [b, 1, 0], [0, 0, 0], [1, a * c, a], [2 * b * c, 2 * c, 2]]


def tensors_for(name, shape, dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [shape] * inputs_of(name)
    if "halves" in name:
        shapes[-1] = (*shape[:-1], 2 * shape[-1])
    return [torch.randn(s, generator=generator, dtype=torch.complex128).to(dtype) for s in shapes]


def results(name, tensors, **options):
    made = getattr(ops, name)(*tensors, state(tensors[0].device), 0.3, **options)
    return [torch.view_as_real(t) if t.is_complex() else t for t in ([made] if torch.is_tensor(made) else made)]


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("expanded", EXPANDED)
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_same_bits_as_of_dense_operands(name, expanded, device, instruction_set):
    dtypes = [*DTYPES, *([torch.complex64] if name in COMPLEX else [])]
    for turn, shape in enumerate(SHAPES):
        own = tuple(slice(None if along else 1) for along in EXPANDED[expanded])
        for number, mask_strides in enumerate(masks(shape)):
            dtype = dtypes[(number + turn) % len(dtypes)]
            tensors = [t.to(device) for t in tensors_for(name, shape, dtype)]
            for other in OTHERS.values():
                for k in range(len(tensors)):
                    given = [t[own].expand_as(t) if i == k else other(t) for i, t in enumerate(tensors)]
                    options = {"mask_strides": mask_strides, "mask_base": 2**35 - 99}
                    dense = results(name, [t.contiguous() for t in given], **options)
                    for mine, theirs in zip(results(name, given, **options), dense, strict=True):
                        assert_same_bits(mine, theirs)


@pytest.mark.parametrize("expanded", EXPANDED)
def test_the_same_bits_for_every_number_of_threads(expanded, threads):
    x, r = tensors_for("zoneout_apply", (30, 410, 40), torch.float32)
    row = r[tuple(slice(None if along else 1) for along in EXPANDED[expanded])].expand_as(x)
    made = []
    for count in (1, 2, 3, 7):
        threads(count)
        made += results("dropout_add_apply", [x, row])
    for each in made[1:]:
        assert_same_bits(each, made[0])
