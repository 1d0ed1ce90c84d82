#include "border.h"

#include <ATen/ExpandUtils.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>

namespace fused_dropout {

void check_dims(const char* name, int64_t dims) {
  TORCH_CHECK_VALUE(dims <= kMaxDims, name, ": expected at most ", kMaxDims, " dimensions, but got ", dims);
}

void check_inputs(const Facts& facts, at::ArrayRef<at::Tensor> inputs) {
  const std::string& name = facts.name;
  const at::Tensor& x = inputs[0];
  const at::ScalarType dtype = x.scalar_type();
  const bool real = dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf || dtype == at::kDouble;
  const bool complex = dtype == at::kComplexFloat || dtype == at::kComplexDouble;
  TORCH_CHECK(real || (complex && facts.complex), name, ": expected a tensor of dtype float16, bfloat16, float32",
              facts.complex ? ", float64, complex64 or complex128" : " or float64", ", but got ", dtype,
              "; convert it first", facts.evaluates ? ", or call it with training=False" : "");
  TORCH_CHECK(x.layout() == at::kStrided, name, ": expected a dense tensor, but got one of layout ", x.layout());
  check_dims(name.c_str(), x.dim() + complex);
  for (size_t k = 1; k < inputs.size(); ++k) {
    const at::Tensor& other = inputs[k];
    if (static_cast<int>(k) == facts.bias) {
      TORCH_CHECK_VALUE(at::is_expandable_to(other.sym_sizes(), x.sym_sizes()), name,
                        ": expected a bias that broadcasts to the input's shape ", x.sym_sizes(),
                        ", but got one of shape ", other.sym_sizes());
    } else {
      TORCH_CHECK_VALUE(other.sym_sizes() == x.sym_sizes(), name, ": expected all tensors to have the input's shape ",
                        x.sym_sizes(), ", but got one of shape ", other.sym_sizes());
    }
    TORCH_CHECK(other.scalar_type() == dtype, name, ": expected all tensors to have the input's dtype ", dtype,
                ", but got one of ", other.scalar_type());
    TORCH_CHECK(other.device() == x.device(), name, ": expected all tensors on the input's device ", x.device(),
                ", but got one on ", other.device());
    TORCH_CHECK(other.layout() == at::kStrided, name, ": expected dense tensors, but got one of layout ",
                other.layout());
  }
}

void check_halves(const Facts& facts, const at::Tensor& input) {
  TORCH_CHECK_VALUE(input.dim() > 0 && input.sym_size(-1) % 2 == 0, facts.name,
                    ": expected an input whose last dimension has two halves, but got one of shape ",
                    input.sym_sizes());
}

void check_map(const Facts& facts, const at::Tensor& like, double p, const std::optional<at::Tensor>& p_tensor,
               int64_t gain, std::optional<size_t> mask_strides, at::OptionalSymIntArrayRef block) {
  const std::string& name = facts.name;
  TORCH_CHECK_VALUE(p >= 0 && p <= 1, "dropout probability has to be between 0 and 1, but got ", p);
  TORCH_CHECK_VALUE(gain >= 0 && gain <= static_cast<int64_t>(Gain::kAlpha), name, ": unknown gain ", gain);
  if (p_tensor) {
    TORCH_CHECK_VALUE(p_tensor->dim() == 0 && at::isFloatingType(p_tensor->scalar_type()), name,
                      ": expected p to be a 0-d floating-point tensor, but got ", p_tensor->scalar_type(), " of shape ",
                      p_tensor->sym_sizes());
    TORCH_CHECK_VALUE(p_tensor->device() == like.device(), name, ": expected p on the input's device ", like.device(),
                      ", but it is on ", p_tensor->device());
  }
  TORCH_CHECK_VALUE(!mask_strides || *mask_strides <= static_cast<size_t>(like.dim()), name, ": expected at most ",
                    like.dim(), " mask strides, one a dimension, but got ", mask_strides.value_or(0));
  if (!block) return;
  TORCH_CHECK_VALUE(facts.blocks, name, ": takes no blocks");
  TORCH_CHECK_VALUE(
      like.dim() == 4 && mask_strides == 4u, name,
      ": expected an input of 4 dimensions (N, C, H, W) and the mask strides of the seeds' grid, but got ", like.dim(),
      " dimensions");
  const auto& b = *block;
  TORCH_CHECK_VALUE(b.size() == 4, name, ": expected block to be 4 sizes, but got ", b.size());
  for (int d = 0; d < 2; ++d) {
    const c10::SymInt size = like.sym_size(2 + d);
    TORCH_CHECK_VALUE(
        b[d] >= 1 && b[d] <= size && (b[2 + d] == size || b[2 + d] == size - b[d] + 1), name,
        ": expected blocks within the map and a grid of seeds as large as it, or as the places of a whole "
        "block, but got a block of ",
        b[d], " and ", b[2 + d], " seeds along a dimension of size ", size);
  }
}

void check_state(const char* name, const at::Tensor& state, c10::Device device) {
  TORCH_CHECK_VALUE(state.scalar_type() == at::kLong && state.dim() == 1 && state.sym_size(0) == 2, name,
                    ": expected rng to be an int64 tensor of 2 elements, as fused_dropout.draw() returns, but got ",
                    state.scalar_type(), " of shape ", state.sym_sizes());
  TORCH_CHECK_VALUE(state.device() == device, name, ": expected rng on the input's device ", device, ", but it is on ",
                    state.device());
}

std::optional<at::Tensor> device_p(const std::optional<at::Tensor>& p_tensor) {
  if (!p_tensor) return std::nullopt;
  return p_tensor->to(at::kDouble);
}

DType kernel_dtype(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return DType::kFloat16;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kDouble:
    case at::kComplexDouble:
      return DType::kFloat64;
    default:
      return DType::kFloat32;
  }
}

BlockMap block_map(const at::Tensor& input, const MapArgs& map) {
  const at::IntArrayRef strides = *map.mask_strides, block = *map.block;
  BlockMap m;
  m.samples = strides[0] == 0 ? 1 : input.size(0);
  m.channels = strides[1] == 0 ? 1 : input.size(1);
  m.sample_stride = static_cast<uint64_t>(strides[0]);
  m.channel_stride = static_cast<uint64_t>(strides[1]);
  m.mask_base = static_cast<uint64_t>(map.mask_base);
  m.height = input.size(2), m.width = input.size(3);
  m.block_height = block[0], m.block_width = block[1];
  m.seeds_height = block[2], m.seeds_width = block[3];
  m.top = block[2] == m.height ? -(block[0] / 2) : 0;
  m.left = block[3] == m.width ? -(block[1] / 2) : 0;
  return m;
}

bool drops_none(double p, const std::optional<at::Tensor>& p_tensor) { return !p_tensor && drop_below(p) == 0; }

at::Tensor new_state(const at::Tensor& like) { return at::empty({2}, like.options().dtype(at::kLong)); }

StateSource state_source(const at::Tensor& state) {
  const int64_t* seed = state.const_data_ptr<int64_t>();
  return {seed, seed + state.stride(0), 0, 0};
}

namespace {

// The shape of a call in the tensors' own order of dimensions: what `plan` is made from. A complex element is two real
// ones that share a decision: one more dimension.
class Shape {
 public:
  explicit Shape(const at::Tensor& output) : complex_(output.is_complex()), ndim_(static_cast<int>(output.dim())) {
    std::copy_n(output.sizes().begin(), ndim_, sizes_.begin());
    if (complex_) sizes_[ndim_] = 2;
  }

  // A smaller one is broadcast.
  void add_operand(const at::Tensor& t) {
    const int k = operands_++, missing = ndim_ - static_cast<int>(t.dim());
    for (int d = 0; d < ndim_; ++d) {
      const bool shared = d < missing || t.size(d - missing) != sizes_[d];
      strides_[k][d] = shared ? 0 : t.stride(d - missing) * (complex_ ? 2 : 1);
    }
    if (complex_) strides_[k][ndim_] = 1;
  }

  Layout layout(const at::OptionalIntArrayRef& given, uint64_t base) const {
    std::array<uint64_t, kMaxDims> mask_strides;
    uint64_t row_major = 1;
    for (int d = ndim_ - 1; d >= 0; --d) {
      mask_strides[d] = row_major;
      if (given) mask_strides[d] = d < static_cast<int>(given->size()) ? static_cast<uint64_t>((*given)[d]) : 0;
      row_major *= static_cast<uint64_t>(sizes_[d]);
    }
    if (complex_) mask_strides[ndim_] = 0;
    std::array<const int64_t*, kMaxOperands> strides;
    for (int k = 0; k < operands_; ++k) strides[k] = strides_[k].data();
    return plan(ndim_ + complex_, sizes_.data(), operands_, strides.data(), mask_strides.data(), base);
  }

 private:
  bool complex_;
  int ndim_, operands_ = 0;
  std::array<int64_t, kMaxDims> sizes_;
  std::array<std::array<int64_t, kMaxDims>, kMaxOperands> strides_;
};

}  // namespace

ElementwiseArgs elementwise_args(at::ArrayRef<at::Tensor> outputs, at::ArrayRef<at::Tensor> inputs, const MapArgs& map,
                                 const std::optional<at::Tensor>& device_p) {
  const at::Tensor& output = outputs[0];
  ElementwiseArgs args;
  const uint64_t base = static_cast<uint64_t>(map.mask_base);
  bool contiguous = true;
  for (size_t k = 0; k < outputs.size(); ++k) {
    args.outputs[k] = outputs[k].mutable_data_ptr();
    contiguous = contiguous && outputs[k].is_contiguous();
  }
  for (size_t k = 0; k < inputs.size(); ++k) {
    args.inputs[k] = inputs[k].const_data_ptr();
    contiguous = contiguous && inputs[k].is_contiguous() && inputs[k].numel() == output.numel();
  }
  // The common case is a single run: nothing to sort. So is nothing at all.
  if ((contiguous && !map.mask_strides && !output.is_complex()) || output.numel() == 0) {
    constexpr int64_t one = 1;
    constexpr uint64_t one_mask = 1;
    const int64_t numel = output.numel();
    std::array<const int64_t*, kMaxOperands> strides;
    strides.fill(&one);
    args.layout = plan(1, &numel, static_cast<int>(outputs.size() + inputs.size()), strides.data(), &one_mask, base);
  } else {
    Shape shape(output);
    for (const at::Tensor& y : outputs) shape.add_operand(y);
    for (const at::Tensor& x : inputs) shape.add_operand(x);
    args.layout = shape.layout(map.mask_strides, base);
  }
  args.p.value = Probability::of(map.p);
  args.p.p_ptr = device_p ? device_p->const_data_ptr<double>() : nullptr;
  args.gain = static_cast<Gain>(map.gain);
  return args;
}

}  // namespace fused_dropout
