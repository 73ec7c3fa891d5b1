// SPDX-License-Identifier: Apache-2.0
// Which kernel serves a problem: the first that can.
#include "problem.h"

namespace carafe {
namespace {

using Launch = Launched (*)(const Problem&, void*);

// Where strides alone are in the way (an expanded gradient, two layouts, channels_last
// with odd channels), a copy costs far less than the generic kernels do.
Launched first_of(const Problem& p, void* stream, Host& host, Launch last, Launch planar) {
  Launched launched = last(p, stream);
  if (launched.kernel == nullptr)
    launched = planar(p, stream);
  if (launched.kernel == nullptr && is_specialised(p) && p.step == 1 && !p.wide &&
      p.features.dtype == p.output.dtype && p.group_channels() > 0) {
    launched = planar(host.in_rows(p), stream);
    if (launched.kernel != nullptr && launched.error == 0)
      host.finish();
  }
  return launched;
}

Launched reassemble_rows(const Problem& p, void* stream) {
  const Launched launched = reassemble_tensor(p, stream);
  return launched.kernel == nullptr ? reassemble_planar(p, stream) : launched;
}

} // namespace

Launched reassemble(const Problem& p, void* stream, Host& host) {
  const Launched launched = first_of(p, stream, host, reassemble_last, reassemble_rows);
  return launched.kernel == nullptr ? reassemble_generic(p, stream) : launched;
}

Launched correlate(const Problem& p, void* stream, Host& host) {
  const Launched launched = first_of(p, stream, host, correlate_last, correlate_planar);
  return launched.kernel == nullptr ? correlate_generic(p, stream) : launched;
}

Launched scatter(const Problem& p, void* stream, Host& host) {
  const Launched launched = first_of(p, stream, host, scatter_last, scatter_planar);
  if (launched.kernel != nullptr)
    return launched;
  Problem generic = p;
  if (p.softmax)
    generic.stats = host.scratch(p.stats_bytes());
  return scatter_generic(generic, stream);
}

} // namespace carafe
