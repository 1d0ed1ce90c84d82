// Operations as functions of Python, for calls outside of a graph.
//
// torch.ops reads the arguments of any schema and of any kind, which takes longer than a small dropout. Here the
// arguments are read that a signature in C++ has: plain tensors, numbers, lists of ints. A call with anything else (a
// subclass of Tensor, a function mode, a symbolic size, a mistake) goes to the overload of torch.ops, as if it had been
// called itself. Behind both is the dispatcher.
#pragma once

#include <pybind11/pybind11.h>

namespace fused_dropout {

// By the names of operations: for each overload of torch.ops a function that takes what it takes.
pybind11::dict eager_calls(const pybind11::dict& overloads);

// A function of Python, agree(input, *, bias=..., any=...): whether all are plain tensors of one dtype, a bias
// broadcasts to the input's shape, and any other has it. Where it is not so, Python looks again and finds the words.
pybind11::object agree();

}  // namespace fused_dropout
