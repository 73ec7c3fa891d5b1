// SPDX-License-Identifier: Apache-2.0
// What tools/make_dist.py puts before the hosts of a wheel: compiled on a newer system, the library still
// loads wherever torch's own wheels do (glibc 2.28, GLIBCXX_3.4.24). Two symbols stand in the way otherwise.
#pragma once

#ifdef TORCH_TARGET_VERSION // the kernels need none of it

// GLIBCXX_3.4.26: the default constructors of string streams. These are instantiated here, as other templates
// are; those of numbers and locales must not be, since a facet of our own has an id that no locale knows.
#include <istream>
#include <string>
#undef _GLIBCXX_EXTERN_TEMPLATE
#include <sstream>
#define _GLIBCXX_EXTERN_TEMPLATE 1

// GLIBC_2.32: shared_ptr asks whether the process has one thread only. "No" is always safe.
extern "C" {
__attribute__((weak, visibility("hidden"))) char __libc_single_threaded = 0;
}

#endif
