// SPDX-License-Identifier: Apache-2.0
// The kernels for one instruction set. Compiled once for each, with
// CARAFE_TABLE naming the table; everything else has internal linkage.
#include <type_traits>

#include "params.h"

#if defined(__AVX512BW__)
#pragma GCC diagnostic push
#if !defined(__clang__) // GCC 12 about its own undefined vectors
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h> // nothing there has linkage
#pragma GCC diagnostic pop
#endif

namespace carafe {
namespace {

#include "vector.h"
#include "convert.h"
#include "pack.h"
#include "plan.h"
#include "weights.h"
#include "correlate.h"
#include "reassemble_last.h"
#include "reassemble.h"
#include "scatter.h"

template <template <typename> class Kernel, typename Acc>
constexpr Operator make() {
  return {Kernel<Acc>::plan, Kernel<Acc>::run};
}

} // namespace

#define CARAFE_STRING2(x) #x
#define CARAFE_STRING(x) CARAFE_STRING2(x)

extern const KernelTable CARAFE_TABLE = {
    CARAFE_STRING(CARAFE_ISA),
    {make<Reassemble, float>(), make<Reassemble, double>()},
    {make<Correlate, float>(), make<Correlate, double>()},
    {make<Scatter, float>(), make<Scatter, double>()},
};

} // namespace carafe
