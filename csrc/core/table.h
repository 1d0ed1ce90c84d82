// The table of pipelines. Kernels, operations, schemas, checks and derivatives are all made from its rows.
#pragma once

#include <type_traits>

#include "activation_pipelines.h"
#include "bias_pipelines.h"
#include "gated_pipelines.h"
#include "normal_pipelines.h"

namespace fused_dropout {

// A row: a pipeline, for each type that may be computed in.
template <template <class> class P>
struct Row {
  template <class C>
  using Pipeline = P<C>;
};
template <template <class, class> class P, class Act>
struct ActivationRow {
  template <class C>
  using Pipeline = P<C, Act>;
};
template <class AnyRow>
struct SummedRow {
  template <class C>
  using Pipeline = AndSum<typename AnyRow::template Pipeline<C>>;
};

using PipelineId = int;  // a row's number

template <class... Rows>
struct Table {
  // Calls visit(row) for each.
  template <class Visitor>
  static void each(const Visitor& visit) {
    (visit(Rows{}), ...);
  }

  // visit(row) of number `id`.
  template <class Visitor>
  static auto visit(PipelineId id, const Visitor& visitor) {
    return visit_from<Rows...>(id, visitor);
  }

  // The number of a pipeline of float.
  template <class Pipeline>
  static constexpr PipelineId find() {
    PipelineId id = 0;
    bool found = false;
    ((found = found || std::is_same_v<typename Rows::template Pipeline<float>, Pipeline>, id += !found), ...);
    return id;
  }

 private:
  template <class First, class... Rest, class Visitor>
  static auto visit_from(PipelineId id, const Visitor& visitor) {
    if constexpr (sizeof...(Rest) > 0) {
      if (id > 0) return visit_from<Rest...>(id - 1, visitor);
    }
    return visitor(First{});
  }
};

template <class... Tables>
struct Joined;
template <class... Rows>
struct Joined<Table<Rows...>> {
  using type = Table<Rows...>;
};
template <class... First, class... Second, class... Rest>
struct Joined<Table<First...>, Table<Second...>, Rest...> : Joined<Table<First..., Second...>, Rest...> {};
template <class... Tables>
using Join = typename Joined<Tables...>::type;

template <class OfRows>
struct SummedRows;
template <class... Rows>
struct SummedRows<Table<Rows...>> {
  using type = Table<SummedRow<Rows>...>;
};
template <class OfRows>
using AndSums = typename SummedRows<OfRows>::type;

template <template <class> class... P>
using Each = Table<Row<P>...>;
template <template <class, class> class P, class... Acts>
using With = Table<ActivationRow<P, Acts>...>;

// What kernels are compiled for.
using KernelTable =
    Join<Each<Dropout, AlphaDropout, DropoutAdd, BiasDropout, BiasDropoutAdd, GaussianDropout, Zoneout, Dropped,
              BlockDropout, KeepMask, NormalNoise, ReluDropout, BiasReluDropout, ReluDropoutBackward>,
         With<ActivationDropout, SquaredRelu, Gelu, GeluTanh, Silu>,
         With<ActivationBackward, SquaredRelu, Gelu, GeluTanh, Silu>,
         With<BiasActivationDropout, SquaredRelu, Gelu, GeluTanh, Silu>,
         With<BiasActivationBackward, SquaredRelu, Gelu, GeluTanh, Silu>, With<GatedDropout, Gelu, GeluTanh, Silu>,
         With<GatedBackward, Gelu, GeluTanh, Silu>>;

// The gradients of what adds a bias, with the bias's own.
using SummedTable =
    AndSums<Join<Each<Dropout, ReluDropoutBackward>, With<BiasActivationBackward, SquaredRelu, Gelu, GeluTanh, Silu>>>;

// What has operations: all of these, and the same kernels on the halves of a tensor.
using OperationTable = Join<KernelTable, SummedTable, With<GatedHalvesDropout, Gelu, GeluTanh, Silu>,
                            With<GatedHalvesBackward, Gelu, GeluTanh, Silu>>;

// The number of the kernels that a pipeline runs.
template <class Pipeline>
constexpr PipelineId kernel_of() {
  if constexpr (Pipeline::kHalves || Pipeline::kSummed) {
    return KernelTable::find<typename Pipeline::Kernel>();
  } else {
    return KernelTable::find<Pipeline>();
  }
}

}  // namespace fused_dropout
