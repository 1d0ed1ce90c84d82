// The Python module. Importing it registers the operations; tensors go through the dispatcher.
#include <ATen/EmptyTensor.h>
#include <c10/core/InferenceMode.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>

#include "core/mask.h"
#include "cpu/instruction_set.h"
#include "eager_calls.h"
#include "generator_mark.h"

namespace py = pybind11;

namespace {

// Two int64 of the CPU that nobody reads, whatever mode the import happens in. A trace may keep them: zeros.
at::Tensor unread_state() {
  const c10::InferenceMode off(false);
  const at::Tensor state = at::detail::empty_cpu({2}, at::TensorOptions(at::kLong));
  std::fill_n(state.mutable_data_ptr<int64_t>(), 2, 0);
  return state;
}

py::dict build_info() {
  py::dict info;
  info["torch"] = FD_TORCH_VERSION;
  info["cuda"] = std::string(FD_CUDA_VERSION).empty() ? py::object(py::none()) : py::str(FD_CUDA_VERSION);
  info["cuda_architectures"] = py::str(FD_CUDA_ARCHITECTURES).attr("split")();
  info["cpu_instruction_sets"] = fused_dropout::available_instruction_sets();
  info["cpu_instruction_set"] = fused_dropout::instruction_set();
  info["compiler"] = __VERSION__;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  fused_dropout::instruction_set();  // an unknown name in the environment is refused here, not in the first call
  m.attr("RNG_VERSION") = fused_dropout::kRngVersion;
  m.attr("agree") = fused_dropout::agree();
  m.attr("UNREAD_STATE") = unread_state();
  m.def("build_info", &build_info);
  m.def("eager_calls", &fused_dropout::eager_calls, py::arg("overloads"));
  py::class_<fused_dropout::GeneratorMark>(m, "GeneratorMark")
      .def(py::init<std::optional<at::Generator>>())
      .def("give_back", &fused_dropout::GeneratorMark::give_back);
  m.def("use_instruction_set", &fused_dropout::use_instruction_set, py::arg("name"));
}
