// The masks of DropBlock, as host.cpp has the elements: the CPU's loops for each instruction set, and the CUDA kernels
// run on the host.
#include <cstdlib>

#include "cpu/block_loops.h"
#if !defined(FD_WITHOUT_CUDA)
#include "cuda/block_kernels.cu"
#endif
#include "block_call.h"
#include "paths.h"

using namespace fused_dropout;

extern "C" int rng_version() { return kRngVersion; }

// One call; `keep_bits` has room for the mask and, behind it, for how many elements are kept. Returns whether there is
// such a path.
extern "C" bool run_blocks(const char* path, const int64_t* map, uint64_t seed, uint64_t offset, double p,
                           uint64_t* keep_bits) {
  BlockArgs args = block_args(map, seed, offset, p, nullptr, keep_bits, nullptr);
  const int64_t planes = args.map.planes();
  args.kept = reinterpret_cast<int64_t*>(keep_bits) + planes * args.map.words();
#if !defined(FD_WITHOUT_CUDA)
  if (std::string(path) == "cuda on the host") {
    std::vector<uint64_t> seeds(static_cast<size_t>(planes * args.map.seed_words() + 1));
    args.seed_bits = seeds.data();
    *args.kept = 0;
    cuda_on_host::first_block = 0;
    cuda_on_host::last_block = UINT64_MAX;
    if (launch_blocks(args, nullptr) != cudaSuccess) std::abort();
    return true;
  }
#endif
  return visit_cpu_path(path, [&](auto isa) {
    using Isa = decltype(isa);  // in two parts, as two threads would
    *args.kept = block_masks<Isa>(args, 0, planes / 2) + block_masks<Isa>(args, planes / 2, planes);
  });
}
