// SPDX-License-Identifier: Apache-2.0
// Which kernel serves a problem: the first that can.
#include "problem.h"

namespace carafe {
namespace {

using Launch = Launched (*)(const Problem&, void*);

Launched first_of(const Problem& p, void* stream, Launch last, Launch planar, Launch generic) {
  Launched launched = last(p, stream);
  if (launched.kernel == nullptr)
    launched = planar(p, stream);
  return launched.kernel == nullptr ? generic(p, stream) : launched;
}

} // namespace

Launched reassemble(const Problem& p, void* stream) {
  const Launched launched = reassemble_tensor(p, stream);
  return launched.kernel ? launched
                         : first_of(p, stream, reassemble_last, reassemble_planar, reassemble_generic);
}

Launched correlate(const Problem& p, void* stream) {
  return first_of(p, stream, correlate_last, correlate_planar, correlate_generic);
}

Launched scatter(const Problem& p, void* stream) {
  return first_of(p, stream, scatter_last, scatter_planar, scatter_generic);
}

} // namespace carafe
