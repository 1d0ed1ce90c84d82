// Preloaded: one of the next allocations of tensors fails, the blocks that are alive are counted. PyTorch's CPU
// allocator asks posix_memalign.
#include <malloc.h>

#include <atomic>
#include <cerrno>
#include <cstddef>

extern "C" void* __libc_memalign(size_t alignment, size_t size);
extern "C" void __libc_free(void* p);

namespace {

constexpr int kSlots = 1 << 14;
std::atomic<void*> alive[kSlots];
std::atomic<long> until{-1}, count{0};

}  // namespace

// The allocation after `skipped` others fails; below 0, none does.
extern "C" void fail_after(long skipped) { until = skipped; }
// Whether the failure that was asked for is still to come.
extern "C" bool is_to_come() { return until >= 0; }
extern "C" long blocks_alive() { return count; }

extern "C" int posix_memalign(void** out, size_t alignment, size_t size) {
  if (until >= 0 && until.fetch_sub(1) == 0) return ENOMEM;
  void* const p = __libc_memalign(alignment, size);
  if (p == nullptr) return ENOMEM;
  *out = p;
  for (auto& slot : alive) {
    void* none = nullptr;
    if (slot.load(std::memory_order_relaxed) == nullptr && slot.compare_exchange_strong(none, p)) {
      ++count;
      break;
    }
  }
  return 0;
}

extern "C" void free(void* p) {
  if (p == nullptr) return;
  // Only blocks of posix_memalign are looked for: their addresses are multiples of 64.
  if (reinterpret_cast<size_t>(p) % 64 == 0) {
    for (auto& slot : alive) {
      void* same = p;
      if (slot.load(std::memory_order_relaxed) == p && slot.compare_exchange_strong(same, nullptr)) {
        --count;
        break;
      }
    }
  }
  __libc_free(p);
}
