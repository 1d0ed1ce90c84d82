// Every path that makes masks without a GPU, behind plain C functions: scalar code, the CPU's loops for each
// instruction set that the compiler was told to use, and the CUDA kernels run on the host. No torch; compiled in
// seconds, since the table of pipelines was cut (proof/host.py).
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/layout.cpp"
#include "cpu/column_loops.h"
#include "cpu/columns.cpp"
#include "cpu/elementwise_loops.h"
#include "cpu/long_rows.h"
#if !defined(FD_WITHOUT_CUDA)
#include "cuda/columns_kernels.cu"
#include "cuda/elementwise_kernels.cu"
#endif
#include "paths.h"

namespace fused_dropout {
namespace {
const Kernels* in_use = nullptr;
}
const Kernels& kernels() { return *in_use; }
}  // namespace fused_dropout

using namespace fused_dropout;

namespace {

int threads = 1;

// Dropout, and the sum of its rows behind the output.
template <class Isa>
void and_sum_on_cpu(DType dtype, const ElementwiseArgs& args, int64_t numel, int64_t features) {
  static const Kernels table{run_elementwise<Isa>, nullptr, nullptr, add_rows<Isa>};
  in_use = &table;
  if (!args.layout.counts_rows(features)) return;  // and nothing is written: who asks expects it to be taken
  const int64_t parts = pieces(numel / features, rows_in_sum(numel / features, features));
  std::vector<double> sums(static_cast<size_t>(parts * features));
  run_and_sum(KernelTable::find<Dropout<float>>(), dtype, args, features, sums.data());
  void* const sum = static_cast<char*>(args.outputs[0]) + numel * bytes_of(dtype);
  sums_of_parts(dtype, sums.data(), &sum, 1, parts, features);
}

template <class Isa>
void on_cpu(PipelineId pipeline, DType dtype, ElementwiseArgs& args) {
  with_long_rows(pipeline, dtype, args, [&](const ElementwiseArgs& part) {
    const int64_t items = elementwise_work(part.layout).items, share = (items + threads - 1) / threads;
    std::vector<std::thread> others;
    for (int64_t begin = share; begin < items; begin += share) {
      const int64_t end = std::min(items, begin + share);
      others.emplace_back([=, &part] { run_elementwise<Isa>(pipeline, dtype, part, begin, end); });
    }
    run_elementwise<Isa>(pipeline, dtype, part, 0, std::min(items, share));
    for (std::thread& other : others) other.join();
  });
}

// As on_path, of dropout with a sum.
bool and_sum(const std::string& path, DType dtype, ElementwiseArgs& args, int64_t numel, int64_t features) {
#if !defined(FD_WITHOUT_CUDA)
  if (path == "cuda on the host" && args.layout.unit_inner_strides()) {  // otherwise it leaves the call to others
    if (!takes_sums(args.layout, features)) return true;
    const int64_t rows = numel / features, in_part = rows_in_part(rows, features), parts = pieces(rows, in_part);
    std::vector<double> sums(static_cast<size_t>(parts * features));
    cuda_on_host::first_block = 0;
    cuda_on_host::last_block = UINT64_MAX;
    launch_and_sum(SummedTable::find<AndSum<Dropout<float>>>(), dtype, args, features, sums.data(), nullptr);
    void* const sum = static_cast<char*>(args.outputs[0]) + numel * bytes_of(dtype);
    launch_sums_of_parts(dtype, sums.data(), &sum, 1, parts, features, nullptr);
    return true;
  }
#endif
  return visit_cpu_path(path, [&](auto isa) { and_sum_on_cpu<decltype(isa)>(dtype, args, numel, features); });
}

bool on_path(const std::string& path, PipelineId pipeline, DType dtype, ElementwiseArgs& args) {
#if !defined(FD_WITHOUT_CUDA)
  if (path == "cuda on the host") {
    cuda_on_host::first_block = 0;
    cuda_on_host::last_block = UINT64_MAX;
    int64_t left[2] = {};  // by the kernel: the state that it used
    args.state_out = left;
    if (launch_elementwise(pipeline, dtype, args, nullptr) != cudaSuccess) std::abort();
    const bool draws = KernelTable::visit(
        pipeline, [](auto row) { return decltype(row)::template Pipeline<float>::kNoise != Noise::kNone; });
    const bool right = left[0] == static_cast<int64_t>(args.state.seed) &&
                       left[1] == static_cast<int64_t>(args.state.offset & ~uint64_t{3});
    if (draws && !right) std::abort();
    return true;
  }
#endif
  return visit_cpu_path(path, [&](auto isa) { on_cpu<decltype(isa)>(pipeline, dtype, args); });
}

// As the table has it; -1 where it was cut.
PipelineId number_of(const std::string& name) {
  PipelineId id = 0, found = -1;
  KernelTable::each([&](auto row) {
    using Pipeline = typename decltype(row)::template Pipeline<float>;
    constexpr Name own = Pipeline::kName;
    const bool blocks = std::is_same_v<Pipeline, BlockDropout<float>>;  // has dropout's name
    if (name == (blocks ? "block_dropout" : std::string(own.prefix) + own.stem + own.suffix)) found = id;
    ++id;
  });
  return found;
}

}  // namespace

// One call: `operands` are the output, then the inputs, and `strides` theirs, of elements; `keep_bits` those of stored
// noise. Returns whether there is such a path.
extern "C" bool run(const char* path, const char* pipeline, int dtype, void* const* operand, int operands, int ndim,
                    const int64_t* sizes, const int64_t* strides, const uint64_t* mask_strides, uint64_t mask_base,
                    uint64_t seed, uint64_t offset, double p, const uint64_t* keep_bits) {
  ElementwiseArgs args{};
  const int64_t* each[kMaxOperands] = {strides, strides};
  const int outputs = std::string(pipeline) == "swiglu_dropout_backward" ? 2 : 1;  // the second behind the first
  int64_t numel = 1;
  for (int d = 0; d < ndim; ++d) numel *= sizes[d];
  for (int k = 0; k < outputs; ++k) {
    args.outputs[k] = static_cast<char*>(operand[0]) + k * numel * bytes_of(static_cast<DType>(dtype));
  }
  for (int k = 1; k < operands; ++k) {
    args.inputs[k - 1] = operand[k];
    each[outputs + k - 1] = strides + k * ndim;
  }
  args.layout = plan(ndim, sizes, outputs + operands - 1, each, mask_strides, mask_base);
  args.state = {nullptr, nullptr, seed, offset};
  args.p = {nullptr, Probability::of(p)};
  args.keep_bits = keep_bits;
  if (std::string(pipeline) == "dropout_and_sum") {
    return and_sum(path, static_cast<DType>(dtype), args, numel, sizes[ndim - 1]);
  }
  const PipelineId number = number_of(pipeline);
  return number >= 0 && on_path(path, number, static_cast<DType>(dtype), args);
}

extern "C" bool keep_mask(const char* path, uint64_t seed, uint64_t offset, uint64_t mask_base, int64_t numel, double p,
                          uint8_t* keep) {
  if (std::string(path) == "scalar") {
    const Mask mask({seed, offset}, Probability::of(p));
    for (int64_t i = 0; i < numel; ++i) keep[i] = mask.keep(mask_base + static_cast<uint64_t>(i));
    return true;
  }
  void* const operand[] = {keep};
  const int64_t one = 1;
  const uint64_t mask_stride = 1;
  return run(path, "keep_mask", static_cast<int>(DType::kFloat32), operand, 1, 1, &numel, &one, &mask_stride, mask_base,
             seed, offset, p, nullptr);
}

extern "C" int rng_version() { return kRngVersion; }

// How many threads share a call on the CPU from here on.
extern "C" void use_threads(int count) { threads = count; }

namespace {

// Rows, tiles, expanded inputs and masks that are shared, in four threads and in one: for a thread sanitizer. 0 where
// they are equal.
int compare_threads() {
  const int64_t sizes[] = {30, 40, 700}, row_major[] = {28000, 700, 1}, reversed[] = {1, 30, 1200};
  const int64_t one_row[] = {0, 0, 1}, one_number[] = {0, 0, 0};
  const std::pair<const int64_t*, const int64_t*> layouts[] = {
      {row_major, row_major}, {reversed, reversed}, {row_major, one_row}, {row_major, one_number}};
  const uint64_t masks[][3] = {{28000, 700, 1}, {700, 0, 1}, {1, 0, 0}};
  const int64_t numel = 30 * 40 * 700;
  const std::vector<float> x(numel, 1.0f);
  std::vector<float> y(numel), same(numel);
  bool equal = true;
  for (const char* path : {"portable", "avx2", "avx512"}) {
    for (const auto& [y_stride, x_stride] : layouts) {
      for (const uint64_t* mask_strides : masks) {
        const int64_t strides[] = {y_stride[0], y_stride[1], y_stride[2], x_stride[0], x_stride[1], x_stride[2]};
        for (std::vector<float>* to : {&y, &same}) {
          threads = to == &y ? 4 : 1;
          void* const operand[] = {to->data(), const_cast<float*>(x.data())};
          run(path, "dropout", static_cast<int>(DType::kFloat32), operand, 2, 3, sizes, strides, mask_strides, 5, 1, 8,
              0.3, nullptr);
        }
        equal = equal && y == same;
      }
    }
  }
  return equal ? 0 : 1;
}

}  // namespace

// For a machine that is emulated: seed, offset, base and count as decimal numbers, then as many p; bytes come out. For
// a sanitizer: "threads".
int main(int count, char** given) {
  if (count == 2 && std::string(given[1]) == "threads") return compare_threads();
  const auto number = [&](int k) { return std::strtoull(given[k], nullptr, 10); };
  const int64_t numel = static_cast<int64_t>(number(5));
  std::string keep(static_cast<size_t>(numel), '\0');
  for (int k = 6; k < count; ++k) {
    if (!keep_mask(given[1], number(2), number(3), number(4), numel, std::strtod(given[k], nullptr),
                   reinterpret_cast<uint8_t*>(&keep[0]))) {
      return 1;
    }
    std::fwrite(keep.data(), 1, keep.size(), stdout);
  }
  return 0;
}
