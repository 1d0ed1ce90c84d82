#include "generator_mark.h"

#include <mutex>
#include <utility>

namespace fused_dropout {
namespace {

constexpr int kNumbersOfState = 4;  // of 32 bits: two words of 64

bool equal(const at::mt19937_data_pod& a, const at::mt19937_data_pod& b) {
  return a.seed_ == b.seed_ && a.left_ == b.left_ && a.next_ == b.next_ && a.state_ == b.state_;
}

at::CPUGeneratorImpl* impl(const at::Generator& generator) {
  return at::check_generator<at::CPUGeneratorImpl>(generator);
}

}  // namespace

GeneratorMark::GeneratorMark(std::optional<at::Generator> generator)
    : generator_(generator ? std::move(*generator) : at::detail::getDefaultCPUGenerator()) {
  const std::lock_guard<std::mutex> lock(generator_.mutex());
  before_ = impl(generator_)->engine();
}

void GeneratorMark::give_back() {
  const std::lock_guard<std::mutex> lock(generator_.mutex());
  at::mt19937 after = before_;
  for (int i = 0; i < kNumbersOfState; ++i) after();
  if (equal(after.data(), impl(generator_)->engine().data())) impl(generator_)->set_engine(before_);
}

}  // namespace fused_dropout
