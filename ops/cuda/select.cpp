// SPDX-License-Identifier: Apache-2.0
// Which kernel serves a problem: the first that can.
#include "kernels.h"

namespace carafe {
namespace {

using Launch = Launched (*)(const Problem&, Host&);

// Where strides alone are in the way (an expanded gradient, two layouts, channels_last
// with odd channels), a copy costs far less than the generic kernels do.
Launched first_of(const Problem& p, Host& host, Launch last, Launch planar) {
  Launched launched = last(p, host);
  if (launched.kernel == nullptr)
    launched = planar(p, host);
  if (launched.kernel == nullptr && is_specialised(p) && p.step == 1 && !p.wide &&
      p.features.dtype == p.output.dtype && group_channels(p) > 0) {
    launched = planar(host.in_rows(p), host);
    if (launched.kernel != nullptr && launched.error == 0)
      host.finish();
  }
  return launched;
}

Launched reassemble_rows(const Problem& p, Host& host) {
  const Launched launched = reassemble_tensor(p, host);
  return launched.kernel == nullptr ? reassemble_planar(p, host) : launched;
}

} // namespace

Launched reassemble(const Problem& p, Host& host) {
  const Launched launched = first_of(p, host, reassemble_last, reassemble_rows);
  return launched.kernel == nullptr ? reassemble_generic(p, host) : launched;
}

Launched correlate(const Problem& p, Host& host) {
  const Launched launched = first_of(p, host, correlate_last, correlate_planar);
  return launched.kernel == nullptr ? correlate_generic(p, host) : launched;
}

Launched scatter(const Problem& p, Host& host) {
  const Launched launched = first_of(p, host, scatter_last, scatter_planar);
  return launched.kernel == nullptr ? scatter_generic(p, host) : launched;
}

} // namespace carafe
