// The kernels of csrc/cuda behind plain C functions, for tests to call with ctypes.
// No torch, no GPU: g++ compiles it in seconds.
#include <string>

#include "../../csrc/core/layout.cpp"
#include "../../csrc/cuda/block_kernels.cu"
#include "../../csrc/cuda/elementwise_kernels.cu"
#include "block_call.h"

using namespace fused_dropout;

extern "C" void tell_launches(cuda_on_host::Launched to) { cuda_on_host::on_launch = to; }

// The number of the pipeline of that name, or -1.
extern "C" int pipeline_of(const char* name) {
  int id = 0, found = -1;
  KernelTable::each([&](auto row) {
    using P = typename decltype(row)::template Pipeline<float>;
    constexpr Name own = P::kName;
    const bool blocks = std::is_same_v<P, BlockDropout<float>>;  // has dropout's name
    if (blocks ? std::string("blocks") == name : std::string(own.prefix) + own.stem + own.suffix == name) found = id;
    ++id;
  });
  return found;
}

// One call: `operands` are the outputs, then the inputs, and `strides` theirs; `state_ptr` and `p_ptr` may be null.
extern "C" void run_on_cuda(int pipeline, int dtype, void* const* operand, int outputs, int operands, int ndim,
                            const int64_t* sizes, const int64_t* strides, const uint64_t* mask_strides,
                            uint64_t mask_base, uint64_t seed, uint64_t offset, const int64_t* state_ptr, double p,
                            const double* p_ptr, int64_t gain, int64_t* state_out, const uint64_t* keep_bits,
                            uint64_t first_block, uint64_t last_block) {
  ElementwiseArgs args;
  const int64_t* each[kMaxOperands] = {};
  for (int k = 0; k < operands; ++k) each[k] = strides + k * ndim;
  for (int k = 0; k < operands; ++k) {
    if (k < outputs) {
      args.outputs[k] = operand[k];
    } else {
      args.inputs[k - outputs] = operand[k];
    }
  }
  args.layout = plan(ndim, sizes, operands, each, mask_strides, mask_base);
  args.state =
      state_ptr ? StateSource{state_ptr, state_ptr + 1, 0, offset} : StateSource{nullptr, nullptr, seed, offset};
  args.state_out = state_out;
  args.p = {p_ptr, Probability::of(p)};
  args.gain = static_cast<Gain>(gain);
  args.keep_bits = keep_bits;
  cuda_on_host::first_block = first_block;
  cuda_on_host::last_block = last_block;
  launch_elementwise(static_cast<PipelineId>(pipeline), static_cast<DType>(dtype), args, nullptr);
}

// As block_args has them.
extern "C" void run_blocks_on_cuda(const int64_t* map, uint64_t seed, uint64_t offset, double p, uint64_t* seed_bits,
                                   uint64_t* keep_bits, int64_t* kept) {
  cuda_on_host::first_block = 0;
  cuda_on_host::last_block = UINT64_MAX;
  launch_blocks(block_args(map, seed, offset, p, seed_bits, keep_bits, kept), nullptr);
}

extern "C" void write_state_on_cuda(uint64_t seed, uint64_t offset, int64_t* state) {
  cuda_on_host::first_block = 0;
  cuda_on_host::last_block = UINT64_MAX;
  launch_write_state({nullptr, nullptr, seed, offset}, state, nullptr);
}

// The conversions, for all their inputs.
extern "C" void half_to_float(const uint16_t* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = to_compute(Half{from[i]});
}
extern "C" void float_to_half(const float* from, uint16_t* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    Half half;
    from_compute(from[i], half);
    to[i] = half.bits;
  }
}
