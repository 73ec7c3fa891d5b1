// SPDX-License-Identifier: Apache-2.0
// Kernels that are right for every problem: any strides, dtypes, kernel size,
// groups, scale factor, either map. No shared memory, no barrier.
#include "device.h"

namespace carafe {
namespace {

constexpr int kThreads = 128;
constexpr int kSums = 8; // channels, or taps in correlate, that a thread sums at a time

// A pixel of the output: image, group, cell and phase.
struct Pixel {
  int64_t image, group, cell_y, cell_x, phase_y, phase_x;

  // Offset of entry 0 of its mask.
  __device__ int64_t mask(const MaskView& masks) const {
    return image * masks.image + group * masks.group + cell_y * masks.cell_row + cell_x * masks.cell_column +
        phase_y * masks.phase_row + phase_x * masks.phase_column;
  }
  __device__ int64_t output(const Problem& p, int64_t channel) const {
    return image * p.output.stride[0] + channel * p.output.stride[1] +
        (cell_y * p.phases + phase_y) * p.output.stride[2] +
        (cell_x * p.phases + phase_x) * p.output.stride[3];
  }
  // Its place in the stats.
  __device__ int64_t index(const Problem& p) const {
    return (image * p.groups + group) * output_pixels(p) +
        (cell_y * p.phases + phase_y) * p.cells_w * p.phases + cell_x * p.phases + phase_x;
  }
};

// Neighbouring threads take neighbouring pixels of a row; what is left of `index` goes to `rest`.
CARAFE_DEVICE Pixel pixel_at(const Problem& p, int64_t index, int64_t& rest) {
  Pixel pixel;
  const int64_t width = p.cells_w * p.phases, height = p.cells_h * p.phases;
  const int64_t x = index % width, y = index / width % height;
  rest = index / width / height;
  pixel.group = rest % p.groups;
  pixel.image = rest / p.groups % p.batch;
  rest = rest / p.groups / p.batch;
  pixel.cell_x = x / p.phases, pixel.phase_x = x % p.phases;
  pixel.cell_y = y / p.phases, pixel.phase_y = y % p.phases;
  return pixel;
}

CARAFE_DEVICE int64_t thread_index() { return int64_t(blockIdx.x) * kThreads + threadIdx.x; }

// The mask of one pixel: as it is, or from logits through softmax.
template <typename Acc>
struct Mask {
  const MaskView& view;
  bool softmax;
  Acc largest = 0, scale = 1;
  int64_t offset;

  __device__ Acc logit(int64_t entry) const {
    return load<Acc>(view.data, offset + entry * view.entry, view.dtype);
  }
  __device__ Acc weight(int64_t entry) const {
    const Acc value = logit(entry);
    return softmax ? exponential(value - largest) * scale : value;
  }
  __device__ void normalise(int64_t entries) {
    if (!softmax)
      return;
    largest = logit(0);
    for (int64_t t = 1; t < entries; ++t)
      largest = logit(t) > largest ? logit(t) : largest;
    Acc sum = 0;
    for (int64_t t = 0; t < entries; ++t)
      sum += exponential(logit(t) - largest);
    scale = Acc(1) / sum;
  }
};

template <typename Acc>
CARAFE_DEVICE Mask<Acc> mask_of(const Problem& p, const Pixel& pixel) {
  return Mask<Acc>{p.masks, p.softmax, 0, 1, pixel.mask(p.masks)};
}

// The feature under a tap, zero outside the map.
template <typename Acc>
CARAFE_DEVICE Acc feature(const Problem& p, int64_t image, int64_t channel, int64_t y, int64_t x) {
  if (y < 0 || y >= p.in_h || x < 0 || x >= p.in_w)
    return 0;
  const int64_t* stride = p.features.stride;
  return load<Acc>(
      p.features.data, image * stride[0] + channel * stride[1] + y * stride[2] + x * stride[3],
      p.features.dtype);
}

// A: a thread sums kSums channels of one output pixel.
template <typename Acc>
__global__ void __launch_bounds__(kThreads, 2) reassemble_kernel(const Problem p, int64_t parts) {
  int64_t part;
  const Pixel pixel = pixel_at(p, thread_index(), part);
  if (part >= parts)
    return;
  const int64_t k = p.kernel_size, channels = group_channels(p);
  Mask<Acc> mask = mask_of<Acc>(p, pixel);
  mask.normalise(k * k);
  const int64_t first = pixel.group * channels + part * kSums;
  const int64_t count = channels - part * kSums;
  Acc sum[kSums] = {};
  for (int64_t t = 0; t < k * k; ++t) {
    const Acc weight = mask.weight(t);
    const int64_t y = tap_position(pixel.cell_y, p.step, t / k, k / 2);
    const int64_t x = tap_position(pixel.cell_x, p.step, t % k, k / 2);
#pragma unroll
    for (int c = 0; c < kSums; ++c)
      if (c < count)
        sum[c] += weight * feature<Acc>(p, pixel.image, first + c, y, x);
  }
#pragma unroll
  for (int c = 0; c < kSums; ++c)
    if (c < count)
      store(p.output.data, pixel.output(p, first + c), p.output.dtype, sum[c]);
}

// Sums of kSums taps of one output pixel, over all channels of its group.
template <typename Acc>
CARAFE_DEVICE void correlate_taps(const Problem& p, const Pixel& pixel, int64_t first, Acc* sum) {
  const int64_t k = p.kernel_size, channels = group_channels(p);
#pragma unroll
  for (int t = 0; t < kSums; ++t)
    sum[t] = 0;
  for (int64_t c = pixel.group * channels; c < (pixel.group + 1) * channels; ++c) {
    const Acc grad = load<Acc>(p.output.data, pixel.output(p, c), p.output.dtype);
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      const int64_t t = first + i;
      const int64_t y = tap_position(pixel.cell_y, p.step, t / k, k / 2);
      if (t < k * k)
        sum[i] += grad * feature<Acc>(p, pixel.image, c, y, tap_position(pixel.cell_x, p.step, t % k, k / 2));
    }
  }
}

// B: a thread has kSums taps of one output pixel; with softmax all taps, twice:
// its derivative needs the dot product with the probabilities first.
template <typename Acc>
__global__ void __launch_bounds__(kThreads, 2) correlate_kernel(const Problem p, int64_t parts) {
  int64_t part;
  const Pixel pixel = pixel_at(p, thread_index(), part);
  if (part >= parts)
    return;
  const int64_t entries = mask_entries(p);
  Acc sum[kSums], dot = 0;
  Mask<Acc> mask = mask_of<Acc>(p, pixel);
  if (p.softmax) {
    mask.normalise(entries);
    for (int64_t first = 0; first < entries; first += kSums) {
      correlate_taps(p, pixel, first, sum);
#pragma unroll
      for (int i = 0; i < kSums; ++i)
        if (first + i < entries)
          dot += mask.weight(first + i) * sum[i];
    }
  }
  const int64_t target = pixel.mask(p.grad_masks);
  const int64_t end = p.softmax ? entries : (part + 1) * kSums;
  for (int64_t first = part * kSums; first < end; first += kSums) {
    correlate_taps(p, pixel, first, sum);
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      const int64_t t = first + i;
      if (t >= entries)
        continue;
      const Acc value = p.softmax ? mask.weight(t) * (sum[i] - dot) : sum[i];
      store(p.grad_masks.data, target + t * p.grad_masks.entry, p.grad_masks.dtype, value);
    }
  }
}

// The largest logit and 1 / sum of every softmax, for scatter.
template <typename Acc>
__global__ void __launch_bounds__(kThreads, 2) stats_kernel(const Problem p, Acc* stats) {
  int64_t rest;
  const Pixel pixel = pixel_at(p, thread_index(), rest);
  if (rest > 0)
    return;
  Mask<Acc> mask = mask_of<Acc>(p, pixel);
  mask.normalise(mask_entries(p));
  store_global(stats + 2 * pixel.index(p), mask.largest);
  store_global(stats + 2 * pixel.index(p) + 1, mask.scale);
}

// C, as a gather: a thread sums kSums channels of one feature pixel over the
// output pixels that read it.
template <typename Acc>
__global__ void __launch_bounds__(kThreads, 2)
    scatter_kernel(const Problem p, int64_t parts, const Acc* stats) {
  int64_t rest = thread_index();
  const int64_t x = rest % p.in_w;
  rest /= p.in_w;
  const int64_t y = rest % p.in_h;
  rest /= p.in_h;
  Pixel pixel;
  pixel.group = rest % p.groups;
  rest /= p.groups;
  pixel.image = rest % p.batch;
  const int64_t part = rest / p.batch;
  if (part >= parts)
    return;
  const int64_t k = p.kernel_size, channels = group_channels(p);
  const int64_t first = pixel.group * channels + part * kSums;
  const int64_t count = channels - part * kSums;
  const int64_t top = first_cell(y, p.step, k / 2), bottom = last_cell(y, p.step, k / 2);
  const int64_t left = first_cell(x, p.step, k / 2), right = last_cell(x, p.step, k / 2);
  Acc sum[kSums] = {};
  for (pixel.cell_y = top < 0 ? 0 : top; pixel.cell_y <= bottom; ++pixel.cell_y)
    for (pixel.cell_x = left < 0 ? 0 : left; pixel.cell_x <= right; ++pixel.cell_x) {
      if (pixel.cell_y >= p.cells_h || pixel.cell_x >= p.cells_w)
        break;
      const int64_t row = tap_at(y, pixel.cell_y, p.step, k / 2);
      const int64_t entry = row * k + tap_at(x, pixel.cell_x, p.step, k / 2);
      for (pixel.phase_y = 0; pixel.phase_y < p.phases; ++pixel.phase_y)
        for (pixel.phase_x = 0; pixel.phase_x < p.phases; ++pixel.phase_x) {
          Mask<Acc> mask = mask_of<Acc>(p, pixel);
          if (p.softmax) {
            mask.largest = load_global(stats + 2 * pixel.index(p));
            mask.scale = load_global(stats + 2 * pixel.index(p) + 1);
          }
          const Acc weight = mask.weight(entry);
#pragma unroll
          for (int c = 0; c < kSums; ++c)
            if (c < count)
              sum[c] += weight * load<Acc>(p.output.data, pixel.output(p, first + c), p.output.dtype);
        }
    }
#pragma unroll
  for (int c = 0; c < kSums; ++c)
    if (c < count) {
      const int64_t* stride = p.features.stride;
      store(
          p.features.data, pixel.image * stride[0] + (first + c) * stride[1] + y * stride[2] + x * stride[3],
          p.features.dtype, sum[c]);
    }
}

int64_t blocks_for(int64_t threads) { return ceil_div(threads, kThreads); }

template <typename Acc>
int make_stats(const Problem& p, Host& host, const Acc*& stats) {
  const int64_t pixels = p.batch * p.groups * output_pixels(p);
  Acc* const made = static_cast<Acc*>(host.scratch(2 * pixels * int64_t(sizeof(Acc))));
  stats = made;
  return launch(stats_kernel<Acc>, blocks_for(pixels), kThreads, 0, host.stream, p, made);
}

template <typename Acc>
Launched launch_scatter(const Problem& p, Host& host) {
  const Acc* stats = nullptr;
  if (p.softmax) {
    const int error = make_stats(p, host, stats);
    if (error)
      return {"scatter_generic", error};
  }
  const int64_t parts = ceil_div(group_channels(p), kSums);
  const int64_t grid = blocks_for(p.batch * p.groups * p.in_h * p.in_w * parts);
  return {"scatter_generic", launch(scatter_kernel<Acc>, grid, kThreads, 0, host.stream, p, parts, stats)};
}

} // namespace

int softmax_stats(const Problem& p, Host& host, const float*& stats) { return make_stats(p, host, stats); }

Launched reassemble_generic(const Problem& p, Host& host) {
  const int64_t parts = ceil_div(group_channels(p), kSums);
  const int64_t grid = blocks_for(p.batch * p.groups * output_pixels(p) * parts);
  const auto kernel = p.wide ? reassemble_kernel<double> : reassemble_kernel<float>;
  return {"reassemble_generic", launch(kernel, grid, kThreads, 0, host.stream, p, parts)};
}

Launched correlate_generic(const Problem& p, Host& host) {
  const int64_t parts = p.softmax ? 1 : ceil_div(mask_entries(p), kSums);
  const int64_t grid = blocks_for(p.batch * p.groups * output_pixels(p) * parts);
  const auto kernel = p.wide ? correlate_kernel<double> : correlate_kernel<float>;
  return {"correlate_generic", launch(kernel, grid, kThreads, 0, host.stream, p, parts)};
}

Launched scatter_generic(const Problem& p, Host& host) {
  return p.wide ? launch_scatter<double>(p, host) : launch_scatter<float>(p, host);
}

} // namespace carafe
