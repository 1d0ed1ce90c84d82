// Calls one pipeline of proof/host/host.cpp once, for who counts its instructions:
// PATH PIPELINE DTYPE ROWS FEATURES OPERANDS, which are "dense", or have a bias second, or a number for an input.
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>

extern "C" bool run(const char* path, const char* pipeline, int dtype, void* const* operand, int operands, int ndim,
                    const int64_t* sizes, const int64_t* strides, const uint64_t* mask_strides, uint64_t mask_base,
                    uint64_t seed, uint64_t offset, double p, const uint64_t* keep_bits);

int main(int count, char** given) {
  if (count != 7) return 2;
  const int64_t rows = std::strtoll(given[4], nullptr, 10), features = std::strtoll(given[5], nullptr, 10);
  const bool bias = given[6] == std::string("bias"), constant = given[6] == std::string("number");
  const int64_t sizes[] = {rows, features}, row = constant ? 0 : features;
  const int64_t strides[] = {features, 1, row, constant ? 0 : 1, bias ? 0 : features, 1, features, 1};
  const uint64_t mask_strides[] = {static_cast<uint64_t>(features), 1};
  // An output twice as long as an input, for pipelines that have two; zeros from the system cost no instructions.
  void* operand[4];
  for (int k = 0; k < 4; ++k) operand[k] = std::calloc(static_cast<size_t>(rows * features) * 2, 8);
  // The output and the inputs, which are three where nothing else is said.
  const std::map<std::string, int> known{{"keep_mask", 1}, {"dropout", 2}, {"gaussian_dropout", 2}};
  const auto found = known.find(given[2]);
  const int operands = found == known.end() ? 4 : found->second, dtype = std::atoi(given[3]);
  const bool ran =
      run(given[1], given[2], dtype, operand, operands, 2, sizes, strides, mask_strides, 0, 42, 0, 0.1, nullptr);
  return ran ? 0 : 1;
}
