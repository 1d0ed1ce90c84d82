// A CPU generator as it was before a call, so that a call which draws and then fails can give back what it drew.
#pragma once

#include <ATen/CPUGeneratorImpl.h>

#include <optional>

namespace fused_dropout {

class GeneratorMark {
 public:
  // The default generator where none is given.
  explicit GeneratorMark(std::optional<at::Generator> generator);

  // Puts the generator back where one state has been drawn since, and nothing else: what others drew stays drawn.
  void give_back();

 private:
  at::Generator generator_;
  at::mt19937 before_;
};

}  // namespace fused_dropout
