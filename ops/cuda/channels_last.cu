// SPDX-License-Identifier: Apache-2.0
// The kernels for channels_last features: lanes are channels, four to a thread,
// so that every access is a wide one as the tensors lie. Any kernel size, scale
// factor and map whose weights for a tile of cells fit in shared memory:
// weights [cell][entry][phase], through softmax where they are logits.
#include "channels_last.cuh"

namespace carafe {
namespace {

// A: a thread takes a cell and four channels, kPhases of the cell's pixels at a
// time. The features come from the L1 cache, the weights as broadcasts.
template <typename T, int kPhases>
__global__ void __launch_bounds__(kThreads, 3) reassemble_last_kernel(const LastParams a) {
  CARAFE_SHARED(shared);
  const Problem& p = a.problem;
  const Block block = block_at(a);
  int* table = reinterpret_cast<int*>(shared);
  stage_table(table, a);
  stage_weights(shared + a.table, a, block, {block.y, block.x, a.height, a.width});
  const int k = a.kernel_size, phases2 = a.phases2;
  const int rest = a.group_channels - block.first_channel;
  const int quads = (rest < a.split_channels ? rest : a.split_channels) / kQuad;
  for (int item = int(threadIdx.x); item < a.width * a.height * quads; item += kThreads) {
    const int cell = item / quads, channel = item % quads * kQuad;
    const int y = block.y + cell / a.width, x = block.x + cell % a.width;
    if (y >= p.cells_h || x >= p.cells_w)
      continue;
    const int top = y * a.step - k / 2, left = x * a.step - k / 2; // of the features under the cell
    const T* corner = pixel_of<const T>(p.features, a, block, top, left) + channel;
    T* output = pixel_of<T>(p.output, a, block, y * a.phases, x * a.phases) + channel;
    for (int phase = 0; phase < phases2; phase += kPhases) {
      float sum[kPhases][kQuad] = {};
      const float* weights = shared + a.table + cell * k * k * phases2 + phase;
      for (int i = 0; i < k; ++i) {
        const bool inside = top + i >= 0 && top + i < p.in_h;
        const T* source = corner + i * p.features.stride[2];
        for (int j = 0; j < k; ++j, weights += phases2, source += p.features.stride[3]) {
          float feature[kQuad], weight[kPhases];
          load_feature(feature, source, inside && left + j >= 0 && left + j < p.in_w, p.features.dtype);
          read_weights<kPhases>(weight, weights);
#pragma unroll
          for (int q = 0; q < kPhases; ++q)
#pragma unroll
            for (int c = 0; c < kQuad; ++c)
              sum[q][c] += weight[q] * feature[c];
        }
      }
#pragma unroll
      for (int q = 0; q < kPhases; ++q)
        store_quad(output + table[phase + q], sum[q], p.output.dtype);
    }
  }
}

// Add 2 * kHalf values of each lane over the lanes, kHalf of which keep one half
// and give the other: lane i ends with the sum of value i.
template <int kHalf>
CARAFE_DEVICE float reduce_scatter(float* value) {
  const bool upper = threadIdx.x & kHalf;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const float keep = upper ? value[i + kHalf] : value[i];
    const float give = upper ? value[i] : value[i + kHalf];
    value[i] = keep + shuffle_xor(give, kHalf);
  }
  if constexpr (kHalf > 1)
    return reduce_scatter<kHalf / 2>(value);
  return value[0];
}

// B: a warp takes a cell, its lanes the channels of the group, 32 pairs of tap and
// phase at a time (float, or one phase: 16, for want of registers), whose sums then go one to a lane.
template <typename T, int kPhases>
__global__ void __launch_bounds__(kThreads, kPhases == 4 ? 2 : 1) correlate_last_kernel(const LastParams a) {
  CARAFE_SHARED(shared); // the table, sums, and with softmax the probabilities
  constexpr int kSums = kPhases == 1 || sizeof(T) == 4 ? 16 : 32, kTaps = kSums / kPhases;
  const Problem& p = a.problem;
  const Block block = block_at(a);
  const Cells cells{block.y, block.x, a.height, a.width};
  const int k = a.kernel_size, phases2 = a.phases2, lane = int(threadIdx.x) % 32;
  const int count = a.width * a.height, size = count * k * k * phases2;
  int* table = reinterpret_cast<int*>(shared);
  float* sums = shared + a.table;
  float* probability = sums + size;
  stage_table(table, a);
  __syncthreads();
  if (p.softmax)
    stage_weights(probability, a, block, cells);
  for (int cell = int(threadIdx.x) / 32; cell < count; cell += kWarps) {
    const int y = block.y + cell / a.width, x = block.x + cell % a.width;
    const bool exists = y < p.cells_h && x < p.cells_w;
    const int top = y * a.step - k / 2, left = x * a.step - k / 2;
    const T* corner = pixel_of<const T>(p.features, a, block, top, left);
    const int next = int(p.features.stride[3]), next_row = int(p.features.stride[2]) - k * next;
    const T* output = pixel_of<const T>(p.output, a, block, y * a.phases, x * a.phases);
    for (int phase = 0; phase < phases2; phase += kPhases)
      for (int first = 0; first < k * k; first += kTaps) {
        float sum[kSums] = {};
        const int first_row = first / k, first_column = first % k;
        const T* first_feature =
            corner + first_row * p.features.stride[2] + first_column * p.features.stride[3];
        for (int c = exists ? lane * kQuad : a.group_channels; c < a.group_channels; c += 32 * kQuad) {
          float grad[kPhases][kQuad];
#pragma unroll
          for (int q = 0; q < kPhases; ++q)
            load_quad(grad[q], output + table[phase + q] + c, p.output.dtype);
          int fy = top + first_row, fx = left + first_column;
          int offset = c;
#pragma unroll
          for (int t = 0; t < kTaps; ++t) { // past the last tap the sums go nowhere
            float feature[kQuad];
            const bool inside = unsigned(fy) < unsigned(p.in_h) && unsigned(fx) < unsigned(p.in_w);
            load_feature(feature, first_feature + offset, inside, p.features.dtype);
            offset += next;
            if (++fx == left + k) {
              fx = left, ++fy;
              offset += next_row;
            }
#pragma unroll
            for (int q = 0; q < kPhases; ++q)
#pragma unroll
              for (int i = 0; i < kQuad; ++i)
                sum[t * kPhases + q] += grad[q][i] * feature[i];
          }
        }
        float total = reduce_scatter<kSums / 2>(sum);
        if constexpr (kSums == 16)
          total += shuffle_xor(total, 16);
        const int entry = first + lane / kPhases;
        if (lane < kSums && entry < k * k)
          sums[(cell * k * k + entry) * phases2 + phase + lane % kPhases] = total;
      }
  }
  __syncthreads();
  if (p.softmax) {
    for_each_softmax(a, count, [=](int start, int part, int entries, int stride) {
      float dot = 0;
      for (int t = part; t < entries; t += 8)
        dot += probability[start + t * stride] * sums[start + t * stride];
      dot = sum_of_8(dot);
      for (int t = part; t < entries; t += 8)
        sums[start + t * stride] = probability[start + t * stride] * (sums[start + t * stride] - dot);
    });
    __syncthreads();
  }
  for_each_weight(a, p.grad_weights, block, cells, [=, &p](int64_t offset, int index) {
    if (offset >= 0)
      store(p.grad_weights.data, offset, p.grad_weights.dtype, sums[index]);
  });
}

CARAFE_HD int64_t clip(int64_t value, int64_t most) { return value < 0 ? 0 : value < most ? value : most; }

// Cells, clipped to the map or not, that `size` features from `first` on gather from.
CARAFE_HD int cells_reaching(const LastParams& a, int first, int size) {
  const int radius = a.kernel_size / 2;
  return int(last_cell(first + size - 1, a.step, radius) - first_cell(first, a.step, radius) + 1);
}

// C, as a gather: a thread takes four neighbouring feature pixels of a row and
// four channels; an output pixel that it reads serves all four.
template <typename T, int kPhases>
__global__ void __launch_bounds__(kThreads, 2) scatter_last_kernel(const LastParams a) {
  CARAFE_SHARED(shared);
  constexpr int kPixels = 4;
  const Problem& p = a.problem;
  const Block block = block_at(a);
  const int k = a.kernel_size, radius = k / 2, phases2 = a.phases2;
  const Cells cells{
      int(first_cell(block.y, a.step, radius)), int(first_cell(block.x, a.step, radius)),
      cells_reaching(a, block.y, a.height), cells_reaching(a, block.x, a.width)};
  int* table = reinterpret_cast<int*>(shared);
  stage_table(table, a);
  stage_weights(shared + a.table, a, block, cells);
  const int left = a.group_channels - block.first_channel;
  const int quads = (left < a.split_channels ? left : a.split_channels) / kQuad;
  const int columns = a.width / kPixels;
  for (int item = int(threadIdx.x); item < columns * a.height * quads; item += kThreads) {
    const int pixel = item / quads, channel = item % quads * kQuad;
    const int y = block.y + pixel / columns, x = block.x + pixel % columns * kPixels;
    if (y >= p.in_h || x >= p.in_w)
      continue;
    const int bottom = int(clip(last_cell(y, a.step, radius) + 1, p.cells_h));
    const int right = int(clip(last_cell(x + kPixels - 1, a.step, radius) + 1, p.cells_w));
    float sum[kPixels][kQuad] = {};
    for (int cy = int(clip(first_cell(y, a.step, radius), p.cells_h)); cy < bottom; ++cy)
      for (int cx = int(clip(first_cell(x, a.step, radius), p.cells_w)); cx < right; ++cx) {
        const int row = int(tap_at(y, cy, a.step, radius)), first = int(tap_at(x, cx, a.step, radius));
        const float* weights =
            shared + a.table + (((cy - cells.y) * cells.width + cx - cells.x) * k * k + row * k) * phases2;
        const T* output = pixel_of<const T>(p.output, a, block, cy * a.phases, cx * a.phases) + channel;
        for (int phase = 0; phase < phases2; phase += kPhases) {
          float grad[kPhases][kQuad];
#pragma unroll
          for (int q = 0; q < kPhases; ++q)
            load_quad(grad[q], output + table[phase + q], p.output.dtype);
#pragma unroll
          for (int i = 0; i < kPixels; ++i) {
            if (first + i < 0 || first + i >= k)
              continue;
            float weight[kPhases];
            read_weights<kPhases>(weight, weights + (first + i) * phases2 + phase);
#pragma unroll
            for (int q = 0; q < kPhases; ++q)
#pragma unroll
              for (int c = 0; c < kQuad; ++c)
                sum[i][c] += weight[q] * grad[q][c];
          }
        }
      }
#pragma unroll
    for (int i = 0; i < kPixels; ++i)
      if (x + i < p.in_w)
        store_quad(pixel_of<T>(p.features, a, block, y, x + i) + channel, sum[i], p.features.dtype);
  }
}

bool is_last(const Problem& p) {
  const int64_t bytes = kQuad * (is_16_bit(p.features.dtype) ? 2 : 4);
  const auto wide = [bytes, &p](const TensorView& view, int64_t height, int64_t width) {
    const auto divides = [](int64_t size, int64_t stride) { return size == 1 || stride % kQuad == 0; };
    return view.dtype != Dtype::kDouble && view.stride[1] == 1 && divides(p.batch, view.stride[0]) &&
        divides(height, view.stride[2]) && divides(width, view.stride[3]) && is_aligned(view.data, bytes);
  };
  return !p.wide && p.features.dtype == p.output.dtype && p.group_channels() > 0 &&
      p.group_channels() % kQuad == 0 && p.kernel_size < 128 && p.phases < 128 &&
      p.phases * (p.output.stride[2] + p.output.stride[3]) < INT32_MAX &&
      (p.kernel_size + 32) * (p.features.stride[2] + p.features.stride[3]) < INT32_MAX && wide(p.features, p.in_h, p.in_w) &&
      wide(p.output, p.cells_h * p.phases, p.cells_w * p.phases) &&
      p.weights.dtype != Dtype::kDouble && p.grad_weights.dtype != Dtype::kDouble;
}

// Cut a map of height x width into tiles whose `shared` bytes fit, fewer cells to a
// tile where the map is small, and the channels into splits if it is smaller yet.
template <typename Shared>
bool choose_tiles(
    LastParams& a, int64_t height, int64_t width, bool split, int64_t most_shared, Shared shared) {
  const Problem& p = a.problem;
  a.width = 8, a.height = 4;
  a.kernel_size = int(p.kernel_size), a.phases = int(p.phases), a.step = int(p.step);
  a.entries = a.kernel_size * a.kernel_size, a.phases2 = a.phases * a.phases;
  a.table = int(ceil_div(a.phases2, 4)) * 4;
  a.group_channels = a.split_channels = int(p.group_channels());
  const auto tiles = [&] {
    a.columns = int(ceil_div(width, a.width)), a.rows = int(ceil_div(height, a.height));
    return p.batch * p.groups * a.columns * a.rows;
  };
  const auto bytes = [&] { return a.table * int64_t(sizeof(float)) + shared(a); };
  while (a.height > 1 && (bytes() > most_shared || tiles() < 4 * p.multiprocessors))
    a.height /= 2;
  if (bytes() > kMostShared)
    a.width = 4;
  if (bytes() > kMostShared)
    return false;
  const int64_t blocks = tiles();
  int64_t most = split ? a.group_channels / 64 : 1;
  const int64_t wanted = ceil_div(4 * p.multiprocessors, blocks > 0 ? blocks : 1);
  most = wanted < most ? wanted : most;
  if (most > 1)
    a.split_channels = int(ceil_div(ceil_div(a.group_channels, most), kQuad)) * kQuad;
  a.splits = int(ceil_div(a.group_channels, a.split_channels));
  return true;
}

int64_t weight_bytes(const Problem& p) { // of a cell
  return p.kernel_size * p.kernel_size * p.phases * p.phases * int64_t(sizeof(float));
}

// `kernels`: of float, of 16 bits; four phases at a time, or one.
using Kernel = void (*)(LastParams);
Launched launch_last(
    const char* name, const Kernel (&kernels)[2][2], const LastParams& a, int64_t shared, void* stream) {
  const Problem& p = a.problem;
  const Kernel kernel = kernels[is_16_bit(p.features.dtype)][p.phases * p.phases % 4 != 0];
  const int64_t blocks = p.batch * p.groups * a.columns * a.rows * a.splits;
  const int64_t bytes = a.table * int64_t(sizeof(float)) + shared;
  return {name, launch(kernel, blocks, kThreads, bytes, stream, a)};
}

} // namespace

Launched reassemble_last(const Problem& p, void* stream) {
  const auto shared = [&p](const LastParams& a) { return a.width * a.height * weight_bytes(p); };
  LastParams a{p};
  if (!is_last(p) || !choose_tiles(a, p.cells_h, p.cells_w, true, kMostShared / 2, shared))
    return {};
  const Kernel kernels[2][2] = {
      {reassemble_last_kernel<float, 4>, reassemble_last_kernel<float, 1>},
      {reassemble_last_kernel<uint16_t, 4>, reassemble_last_kernel<uint16_t, 1>}};
  return launch_last("reassemble_last", kernels, a, shared(a), stream);
}

Launched correlate_last(const Problem& p, void* stream) {
  const auto shared = [&p](const LastParams& a) {
    return a.width * a.height * weight_bytes(p) * (p.softmax ? 2 : 1);
  };
  LastParams a{p};
  if (!is_last(p) || !choose_tiles(a, p.cells_h, p.cells_w, false, kMostShared / 2, shared))
    return {};
  const Kernel kernels[2][2] = {
      {correlate_last_kernel<float, 4>, correlate_last_kernel<float, 1>},
      {correlate_last_kernel<uint16_t, 4>, correlate_last_kernel<uint16_t, 1>}};
  return launch_last("correlate_last", kernels, a, shared(a), stream);
}

Launched scatter_last(const Problem& p, void* stream) {
  const auto shared = [&p](const LastParams& a) { // a tile may lie anywhere on the steps of the cells
    const auto most = [&p](int size) { return (size + p.kernel_size - 2) / p.step + 1; };
    return most(a.width) * most(a.height) * weight_bytes(p);
  };
  LastParams a{p};
  if (!is_last(p) || !choose_tiles(a, p.in_h, p.in_w, true, kMostShared, shared))
    return {};
  const Kernel kernels[2][2] = {
      {scatter_last_kernel<float, 4>, scatter_last_kernel<float, 1>},
      {scatter_last_kernel<uint16_t, 4>, scatter_last_kernel<uint16_t, 1>}};
  return launch_last("scatter_last", kernels, a, shared(a), stream);
}

} // namespace carafe
