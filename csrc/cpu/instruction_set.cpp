// Run-time dispatch: asked once, then an atomic pointer.
#include "instruction_set.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace fused_dropout {
namespace {

#if defined(__x86_64__)
// What the target pragmas of kernels_*.cpp name.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

struct InstructionSet {
  const char* name;
  bool (*available)();
  const Kernels* kernels;
};

const InstructionSet kInstructionSets[] = {
#if defined(__x86_64__)
    {"avx512", has_avx512, &kernels_avx512},
    {"avx2", has_avx2, &kernels_avx2},
#endif
    {"portable", [] { return true; }, &kernels_portable},
};

const InstructionSet* find(const std::string& name) {
  for (const InstructionSet& set : kInstructionSets) {
    if (name == set.name && set.available()) return &set;
  }
  std::string names;
  for (const std::string& each : available_instruction_sets()) names += (names.empty() ? "" : ", ") + each;
  throw std::invalid_argument("CPU instruction set '" + name + "' is not available here; available: " + names);
}

std::atomic<const InstructionSet*>& active() {
  static std::atomic<const InstructionSet*> set{[] {
    const char* wanted = std::getenv("FUSED_DROPOUT_CPU_CAPABILITY");
    return find(wanted ? wanted : available_instruction_sets().front());
  }()};
  return set;
}

}  // namespace

std::vector<std::string> available_instruction_sets() {
  std::vector<std::string> names;
  for (const InstructionSet& set : kInstructionSets) {
    if (set.available()) names.emplace_back(set.name);
  }
  return names;
}

std::string instruction_set() { return active().load(std::memory_order_relaxed)->name; }
void use_instruction_set(const std::string& name) { active().store(find(name), std::memory_order_relaxed); }
const Kernels& kernels() { return *active().load(std::memory_order_relaxed)->kernels; }

}  // namespace fused_dropout
