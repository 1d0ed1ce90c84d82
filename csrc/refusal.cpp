#include "refusal.h"

#include <ATen/core/Tensor.h>

namespace fused_dropout {
namespace {

// What a tensor is and what to do about it; nothing of a dense one.
std::string description(const at::Tensor& x) {
  if (x.is_nested()) return "a nested one of strided layout; make it with layout=torch.jagged";
  if (x.is_quantized())
    return std::string("a quantized one (") + c10::toString(x.scalar_type()) + "); call dequantize()";
  if (x.is_mkldnn()) return "one of layout torch._mkldnn; call to_dense()";
  if (x.layout() != at::kStrided) return "a sparse one (" + c10::str(x.layout()) + "); call to_dense()";
  return "";
}

// "dropout" of "fused_dropout::dropout_apply_": what a caller knows it as.
std::string stem(const std::string& name) {
  std::string stem = name.substr(name.rfind(':') + 1);
  if (stem.back() == '_') stem.pop_back();
  for (const char* form : {"_apply", "_backward"}) stem = stem.substr(0, stem.rfind(form));
  return stem;
}

void refuse(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const size_t count = op.schema().arguments().size();
  for (const c10::IValue& argument : torch::jit::last(*stack, count)) {
    if (!argument.isTensor() || !argument.toTensor().defined()) continue;
    const std::string what = description(argument.toTensor());
    TORCH_CHECK(what.empty(), stem(op.schema().name()), ": expected a dense tensor, but got ", what);
  }
  TORCH_INTERNAL_ASSERT(false, op.schema().name(), ": refused without a tensor to refuse");
}

}  // namespace

void refuse_other_tensors(torch::Library& m, const std::string& schema) {
  using c10::DispatchKey;
  const std::string name = schema.substr(0, schema.find('('));
  for (const DispatchKey key : {DispatchKey::SparseCPU, DispatchKey::SparseCUDA, DispatchKey::SparseCsrCPU,
                                DispatchKey::SparseCsrCUDA, DispatchKey::QuantizedCPU, DispatchKey::QuantizedCUDA,
                                DispatchKey::MkldnnCPU, DispatchKey::NestedTensorCPU, DispatchKey::NestedTensorCUDA}) {
    m.impl(name.c_str(), torch::dispatch(key, torch::CppFunction::makeFromBoxedFunction<&refuse>()));
  }
}

}  // namespace fused_dropout
