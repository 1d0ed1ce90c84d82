#include "new_output.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace fused_dropout {
namespace {

// From this size on glibc's malloc takes memory from the kernel for each call and gives it back after (its dynamic mmap
// threshold ends here); smaller blocks it hands out again with their pages in place.
constexpr int64_t kFromKernel = int64_t{32} << 20;
constexpr int64_t kPopulated = int64_t{4} << 20;  // bytes in one request, so that threads share them

// PyTorch's own switch for large pages, of which without it PyTorch asks for none.
bool large_pages() {
  static const char* const choice = std::getenv("THP_MEM_ALLOC_ENABLE");
  return choice == nullptr || std::strcmp(choice, "0") != 0;
}

}  // namespace

// The pages of a large new output are asked for in requests of 4 MiB, and large ones where the kernel leaves that to
// the program (transparent huge pages "madvise", as most distributions have it). One at a time, by a fault inside the
// loop, they cost more than the loop: a fault throws away the work in flight behind it. (64 MiB on Zen 4, one thread:
// 27 ms by faults, 23 ms in requests of small pages, 6 ms so.) A kernel before 5.14 refuses, which is no error.
at::Tensor new_cpu_output(const at::Tensor& like) {
  at::Tensor output = at::empty_like(like);
#if defined(MADV_POPULATE_WRITE)
  const int64_t bytes = static_cast<int64_t>(output.nbytes());
  if (bytes >= kFromKernel) {
    char* const data = static_cast<char*>(output.mutable_data_ptr());
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t begin_of_pages = reinterpret_cast<uintptr_t>(data) & ~(page - 1);
    if (large_pages()) {
      madvise(reinterpret_cast<void*>(begin_of_pages), reinterpret_cast<uintptr_t>(data + bytes) - begin_of_pages,
              MADV_HUGEPAGE);
    }
    at::parallel_for(0, (bytes + kPopulated - 1) / kPopulated, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const uintptr_t first = reinterpret_cast<uintptr_t>(data + i * kPopulated) & ~(page - 1);
        const uintptr_t last = reinterpret_cast<uintptr_t>(data + std::min(bytes, (i + 1) * kPopulated));
        madvise(reinterpret_cast<void*>(first), last - first, MADV_POPULATE_WRITE);
      }
    });
  }
#endif
  return output;
}

}  // namespace fused_dropout
