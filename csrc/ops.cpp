// The operations' schemas: those of the pipelines, from their table (core/table.h), and those of states.
//
// Each pipeline, and each operation on rows, is two operations. `NAME` draws a state and returns it beside its output;
// `NAME_apply` is the same function of a given state: pure, and what backward, double backward and recomputation call.
// A trailing underscore works in place, and `NAME_backward` is the derivative of what is not linear. All of them end
// with the same arguments:
//   p, p_tensor          the probability of dropping; where p_tensor is given (0-d, on the device) it replaces p
//   gain                 what a kept element is multiplied by: 0: 1/(1-p), 1: 1, 2: alpha dropout's a
//   mask_strides, _base  the affine map from coordinates to mask index; dimensions behind the last stride share their
//                        decisions; None: row-major over the output's own shape
//   block                DropBlock's: height and width of a block, and of the seeds' grid, which mask_strides then maps
//   call_id              read by nobody: a fresh tensor for each traced call keeps a compiler from merging two draws
#include <torch/library.h>

#include "refusal.h"
#include "registration.h"

#define FD_MAP \
  "Tensor? p_tensor=None, int gain=0, SymInt[]? mask_strides=None, SymInt mask_base=0, SymInt[]? block=None"
#define FD_ROWS "Tensor? p_tensor=None, int gain=0, SymInt[]? mask_strides=None, SymInt mask_base=0"
#define FD_DRAW ", Generator? generator=None, Tensor? call_id=None"

namespace fused_dropout {
namespace {

// Masks are logical: a compiler may choose the layout of what it passes.
void define(torch::Library& m, const std::string& schema, const std::vector<at::Tag>& more = {}) {
  std::vector<at::Tag> all{at::Tag::flexible_layout, at::Tag::pt2_compliant_tag};
  all.insert(all.end(), more.begin(), more.end());
  const std::vector<at::Tag>& tags = all;
  m.def(schema.c_str(), tags);
  refuse_other_tensors(m, schema);
}

// What draws must not be merged, nor drawn again where it is recomputed.
void define_drawing(torch::Library& m, const std::string& schema) {
  define(m, schema, {at::Tag::nondeterministic_seeded});
}

template <class P>
void define_pipeline(torch::Library& m) {
  if constexpr (P::kRole != Role::kInternal) {
    const std::string name = facts<P>().name, tensors = P::kTensors;
    constexpr bool two = kReturnsPair<P>;
    define(m, apply_name<P>() + "(" + tensors + ", Tensor state, float p, *, " FD_MAP ") -> " +
                  (two ? "(Tensor, Tensor)" : "Tensor"));
    if constexpr (P::kRole == Role::kOperation) {
      define_drawing(m, name + "(" + tensors + ", float p, *, " FD_MAP FD_DRAW ") -> (Tensor output, Tensor state)");
    }
    if constexpr (P::kInPlace) {
      define_drawing(m, name + "_(Tensor(a!) self, float p, *, " FD_MAP FD_DRAW ") -> Tensor state");
      define(m, name + "_apply_(Tensor(a!) self, Tensor state, float p, *, " FD_MAP ") -> ()");
    }
  }
}

// An operation on rows. Beside its results it leaves what the backward direction wants of each row; `wanted` says there
// which gradients to compute, and the others are undefined.
void define_rows(torch::Library& m, const std::string& name, const std::string& tensors, const std::string& constant,
                 const std::string& results) {
  const std::string numbers = "float p, float " + constant + ", *, " FD_ROWS;
  define(m, name + "_apply(" + tensors + ", Tensor state, " + numbers + ") -> (" + results + ")");
  define_drawing(m, name + "(" + tensors + ", " + numbers + FD_DRAW ") -> (" + results + ", Tensor state)");
}

}  // namespace

TORCH_LIBRARY(fused_dropout, m) {
  OperationTable::each([&](auto row) { define_pipeline<typename decltype(row)::template Pipeline<float>>(m); });

  define_rows(m, "dropout_add_layer_norm", "Tensor input, Tensor residual, Tensor? weight, Tensor? bias", "eps",
              "Tensor normed, Tensor sum, Tensor mean, Tensor rstd");
  define(m,
         "dropout_add_layer_norm_backward(Tensor grad_normed, Tensor? grad_sum, Tensor sum, Tensor? weight, "
         "Tensor mean, Tensor rstd, Tensor state, float p, float eps, bool[4] wanted, *, " FD_ROWS
         ") -> (Tensor grad_input, Tensor grad_residual, Tensor grad_weight, Tensor grad_bias)");
  define_rows(m, "dropout_add_rms_norm", "Tensor input, Tensor residual, Tensor? weight", "eps",
              "Tensor normed, Tensor sum, Tensor rstd");
  define(m,
         "dropout_add_rms_norm_backward(Tensor grad_normed, Tensor? grad_sum, Tensor sum, Tensor? weight, Tensor rstd, "
         "Tensor state, float p, float eps, bool[3] wanted, *, " FD_ROWS
         ") -> (Tensor grad_input, Tensor grad_residual, Tensor grad_weight)");
  define_rows(m, "softmax_dropout", "Tensor input, Tensor? attn_mask", "softmax_scale",
              "Tensor output, Tensor maximum, Tensor inverse");
  define(m,
         "softmax_dropout_backward(Tensor grad_output, Tensor input, Tensor? attn_mask, Tensor maximum, Tensor "
         "inverse, Tensor state, float p, float softmax_scale, bool[2] wanted, *, " FD_ROWS
         ") -> (Tensor grad_input, Tensor grad_scores)");

  // States. `device_of` says where: its values are not read.
  define_drawing(m, "draw(Tensor device_of, *, Generator? generator=None) -> Tensor");
  define(m, "make_state(Tensor device_of, int seed, int offset) -> Tensor");

  // What a state decides.
  define(m, "keep_mask(Tensor state, SymInt[] shape, float p, *, " FD_MAP ") -> Tensor");
  define(m,
         "normal_noise(Tensor state, SymInt[] shape, *, ScalarType dtype=float, SymInt[]? mask_strides=None, "
         "SymInt mask_base=0) -> Tensor");
}

}  // namespace fused_dropout
