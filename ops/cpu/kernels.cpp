// SPDX-License-Identifier: Apache-2.0
// The kernels for one instruction set: compiled once for each, with CARAFE_ISA naming it.
#include "kernels.h"

#include "correlate.h"
#include "reassemble.h"
#include "reassemble_last.h"
#include "scatter.h"

#define CARAFE_STRING2(x) #x
#define CARAFE_STRING(x) CARAFE_STRING2(x)

namespace carafe::CARAFE_ISA {
namespace {

template <template <typename> class Operator, typename Acc>
constexpr Kernel kernel = {Operator<Acc>::plan, Operator<Acc>::run};

} // namespace

extern const KernelTable kernels = {
    CARAFE_STRING(CARAFE_ISA),
    kVectorBytes,
    {kernel<Reassemble, float>, kernel<Reassemble, double>},
    {kernel<ReassembleLast, float>, kernel<ReassembleLast, double>},
    {kernel<Correlate, float>, kernel<Correlate, double>},
    {kernel<Scatter, float>, kernel<Scatter, double>},
};

} // namespace carafe::CARAFE_ISA
