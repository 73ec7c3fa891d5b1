// SPDX-License-Identifier: Apache-2.0
// The kernels for channels_last features: lanes are channels, four to a thread,
// so that every access is a wide one as the tensors lie. Any kernel size, scale
// factor and map whose masks for a tile of cells fit in shared memory:
// masks [cell][entry][phase], through softmax where they are logits.
#include "channels_last.cuh"

namespace carafe {
namespace {

// A: a thread takes a cell and four channels, kPhases of the cell's pixels at a
// time. The features come from the L1 cache, the masks as broadcasts.
template <typename T, int kPhases>
__global__ void __launch_bounds__(kLastThreads, 3) reassemble_last_kernel(const LastParams a) {
  CARAFE_SHARED(shared);
  const Problem& p = a.problem;
  const Block block = block_at(a.cut, p);
  int* table = reinterpret_cast<int*>(shared);
  stage_table(table, a);
  stage_masks(shared + a.table, a, block, {block.y, block.x, a.cut.height, a.cut.width});
  const int k = a.kernel_size, phases2 = a.phases2;
  const int rest = a.cut.group_channels - block.first_channel;
  const int quads = (rest < a.cut.split_channels ? rest : a.cut.split_channels) / kQuad;
  for (int item = int(threadIdx.x); item < a.cut.width * a.cut.height * quads; item += kLastThreads) {
    const int cell = item / quads, channel = item % quads * kQuad;
    const int y = block.y + cell / a.cut.width, x = block.x + cell % a.cut.width;
    if (y >= p.cells_h || x >= p.cells_w)
      continue;
    const int top = y * a.step - k / 2, left = x * a.step - k / 2; // of the features under the cell
    const T* corner = pixel_of<const T>(p.features, a, block, top, left) + channel;
    T* output = pixel_of<T>(p.output, a, block, y * a.phases, x * a.phases) + channel;
    for (int phase = 0; phase < phases2; phase += kPhases) {
      float sum[kPhases][kQuad] = {};
      const float* masks = shared + a.table + cell * k * k * phases2 + phase;
      for (int i = 0; i < k; ++i) {
        const bool inside = top + i >= 0 && top + i < p.in_h;
        const T* source = corner + i * p.features.stride[2];
        for (int j = 0; j < k; ++j, masks += phases2, source += p.features.stride[3]) {
          float feature[kQuad], weight[kPhases];
          load_feature(feature, source, inside && left + j >= 0 && left + j < p.in_w, p.features.dtype);
          read_weights<kPhases>(weight, masks);
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
__global__ void __launch_bounds__(kLastThreads, kPhases == 4 ? 2 : 1)
    correlate_last_kernel(const LastParams a) {
  CARAFE_SHARED(shared); // the table, sums, and with softmax the probabilities
  constexpr int kSums = kPhases == 1 || sizeof(T) == 4 ? 16 : 32, kTaps = kSums / kPhases;
  const Problem& p = a.problem;
  const Block block = block_at(a.cut, p);
  const Cells cells{block.y, block.x, a.cut.height, a.cut.width};
  const int k = a.kernel_size, phases2 = a.phases2, lane = int(threadIdx.x) % kWarp;
  const int count = a.cut.width * a.cut.height, size = count * k * k * phases2;
  int* table = reinterpret_cast<int*>(shared);
  float* sums = shared + a.table;
  float* probability = sums + size;
  stage_table(table, a);
  __syncthreads();
  if (p.softmax)
    stage_masks(probability, a, block, cells);
  for (int cell = int(threadIdx.x) / kWarp; cell < count; cell += kLastWarps) {
    const int y = block.y + cell / a.cut.width, x = block.x + cell % a.cut.width;
    const bool exists = y < p.cells_h && x < p.cells_w;
    const int top = y * a.step - k / 2, left = x * a.step - k / 2;
    const T* corner = pixel_of<const T>(p.features, a, block, top, left);
    const int next = int(p.features.stride[3]), next_row = int(p.features.stride[2]) - k * next;
    const T* output = pixel_of<const T>(p.output, a, block, y * a.phases, x * a.phases);
    for (int phase = 0; phase < phases2; phase += kPhases)
      for (int first = 0; first < k * k; first += kTaps) {
        float sum[kSums] = {};
        const int first_row = first / k, first_column = first % k;
        const T* first_feature = corner + first_row * p.features.stride[2] +
            first_column * p.features.stride[3];
        for (int c = exists ? lane * kQuad : a.cut.group_channels; c < a.cut.group_channels;
             c += kWarp * kQuad) {
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
      for (int t = part; t < entries; t += kSharers)
        dot += probability[start + t * stride] * sums[start + t * stride];
      dot = sum_of_sharers(dot);
      for (int t = part; t < entries; t += kSharers)
        sums[start + t * stride] = probability[start + t * stride] * (sums[start + t * stride] - dot);
    });
    __syncthreads();
  }
  for_each_weight(a, p.grad_masks, block, cells, [=, &p](int64_t offset, int index) {
    if (offset >= 0)
      store(p.grad_masks.data, offset, p.grad_masks.dtype, sums[index]);
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
__global__ void __launch_bounds__(kLastThreads, 2) scatter_last_kernel(const LastParams a) {
  CARAFE_SHARED(shared);
  constexpr int kPixels = 4;
  const Problem& p = a.problem;
  const Block block = block_at(a.cut, p);
  const int k = a.kernel_size, radius = k / 2, phases2 = a.phases2;
  const Cells cells{
      int(first_cell(block.y, a.step, radius)), int(first_cell(block.x, a.step, radius)),
      cells_reaching(a, block.y, a.cut.height), cells_reaching(a, block.x, a.cut.width)};
  int* table = reinterpret_cast<int*>(shared);
  stage_table(table, a);
  stage_masks(shared + a.table, a, block, cells);
  const int left = a.cut.group_channels - block.first_channel;
  const int quads = (left < a.cut.split_channels ? left : a.cut.split_channels) / kQuad;
  const int columns = a.cut.width / kPixels;
  for (int item = int(threadIdx.x); item < columns * a.cut.height * quads; item += kLastThreads) {
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
        const float* masks = shared + a.table +
            (((cy - cells.y) * cells.width + cx - cells.x) * k * k + row * k) * phases2;
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
            read_weights<kPhases>(weight, masks + (first + i) * phases2 + phase);
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

constexpr int64_t kMostSize = 128; // of a kernel's side and of a cell's: products of them fit 32 bits
constexpr int64_t kMostTaps = 32; // that correlate takes at a time, some of them past the last one

bool is_last(const Problem& p) {
  const int64_t bytes = kQuad * (is_16_bit(p.features.dtype) ? 2 : 4);
  const auto wide = [bytes, &p](const TensorView& view, int64_t height, int64_t width) {
    const auto divides = [](int64_t size, int64_t stride) { return size == 1 || stride % kQuad == 0; };
    return view.dtype != Dtype::kDouble && view.stride[1] == 1 && divides(p.batch, view.stride[0]) &&
        divides(height, view.stride[2]) && divides(width, view.stride[3]) && is_aligned(view.data, bytes);
  };
  return !p.wide && p.features.dtype == p.output.dtype && group_channels(p) > 0 &&
      group_channels(p) % kQuad == 0 && p.kernel_size < kMostSize && p.phases < kMostSize &&
      p.phases * (p.output.stride[2] + p.output.stride[3]) < INT32_MAX &&
      (p.kernel_size + kMostTaps) * (p.features.stride[2] + p.features.stride[3]) < INT32_MAX &&
      wide(p.features, p.in_h, p.in_w) && wide(p.output, p.cells_h * p.phases, p.cells_w * p.phases) &&
      p.masks.dtype != Dtype::kDouble && p.grad_masks.dtype != Dtype::kDouble;
}

constexpr int kTileWidth = 8, kTileHeight = 4; // cells, where nothing is in the way
constexpr int kLeastTileWidth = 4; // what a thread of scatter takes
constexpr int kWantedBlocks = 4; // for each multiprocessor: it holds up to three at a time
constexpr int kLeastSplit = 64; // channels: fewer do not repay the masks that each block stages

// Cut a map of height x width into tiles whose `shared` bytes fit, fewer cells to a
// tile where the map is small, and the channels into splits if it is smaller yet.
template <typename Shared>
bool choose_tiles(
    LastParams& a,
    int64_t height,
    int64_t width,
    bool split,
    int64_t multiprocessors,
    int64_t most_shared,
    Shared shared) {
  const Problem& p = a.problem;
  Cut& cut = a.cut;
  cut.width = kTileWidth, cut.height = kTileHeight;
  a.kernel_size = int(p.kernel_size), a.phases = int(p.phases), a.step = int(p.step);
  a.entries = a.kernel_size * a.kernel_size, a.phases2 = a.phases * a.phases;
  a.table = int(ceil_div(a.phases2, 4)) * 4; // the masks stay aligned to float4
  cut.group_channels = cut.split_channels = int(group_channels(p));
  cut.splits = 1;
  const auto tiles = [&] {
    cut.columns = int(ceil_div(width, cut.width)), cut.rows = int(ceil_div(height, cut.height));
    return block_count(cut, p);
  };
  const auto bytes = [&] { return a.table * int64_t(sizeof(float)) + shared(a); };
  const int64_t wanted_blocks = kWantedBlocks * multiprocessors;
  while (cut.height > 1 && (bytes() > most_shared || tiles() < wanted_blocks))
    cut.height /= 2;
  if (bytes() > kMostShared)
    cut.width = kLeastTileWidth;
  if (bytes() > kMostShared)
    return false;
  const int64_t blocks = tiles();
  int64_t most = split ? cut.group_channels / kLeastSplit : 1;
  const int64_t wanted = ceil_div(wanted_blocks, blocks > 0 ? blocks : 1);
  most = wanted < most ? wanted : most;
  if (most > 1)
    cut.split_channels = int(ceil_div(ceil_div(cut.group_channels, most), kQuad)) * kQuad;
  cut.splits = int(ceil_div(cut.group_channels, cut.split_channels));
  return true;
}

int64_t mask_bytes(const Problem& p) { // of a cell
  return mask_entries(p) * p.phases * p.phases * int64_t(sizeof(float));
}

// `kernels`: of float, of 16 bits; four phases at a time, or one.
using Kernel = void (*)(LastParams);
Launched launch_last(
    const char* name, const Kernel (&kernels)[2][2], const LastParams& a, int64_t shared, Host& host) {
  const Problem& p = a.problem;
  const Kernel kernel = kernels[is_16_bit(p.features.dtype)][p.phases * p.phases % 4 != 0];
  const int64_t bytes = a.table * int64_t(sizeof(float)) + shared;
  return {name, launch(kernel, block_count(a.cut, p), kLastThreads, bytes, host.stream, a)};
}

} // namespace

Launched reassemble_last(const Problem& p, Host& host) {
  const auto shared = [&p](const LastParams& a) { return a.cut.width * a.cut.height * mask_bytes(p); };
  LastParams a{p};
  if (!is_last(p) ||
      !choose_tiles(a, p.cells_h, p.cells_w, true, host.multiprocessors, kMostShared / 2, shared))
    return {};
  const Kernel kernels[2][2] = {
      {reassemble_last_kernel<float, 4>, reassemble_last_kernel<float, 1>},
      {reassemble_last_kernel<uint16_t, 4>, reassemble_last_kernel<uint16_t, 1>}};
  return launch_last("reassemble_last", kernels, a, shared(a), host);
}

Launched correlate_last(const Problem& p, Host& host) {
  const auto shared = [&p](const LastParams& a) {
    return a.cut.width * a.cut.height * mask_bytes(p) * (p.softmax ? 2 : 1);
  };
  LastParams a{p};
  if (!is_last(p) ||
      !choose_tiles(a, p.cells_h, p.cells_w, false, host.multiprocessors, kMostShared / 2, shared))
    return {};
  const Kernel kernels[2][2] = {
      {correlate_last_kernel<float, 4>, correlate_last_kernel<float, 1>},
      {correlate_last_kernel<uint16_t, 4>, correlate_last_kernel<uint16_t, 1>}};
  return launch_last("correlate_last", kernels, a, shared(a), host);
}

Launched scatter_last(const Problem& p, Host& host) {
  const auto shared = [&p](const LastParams& a) { // a tile may lie anywhere on the steps of the cells
    const auto most = [&p](int size) { return (size + p.kernel_size - 2) / p.step + 1; };
    return most(a.cut.width) * most(a.cut.height) * mask_bytes(p);
  };
  LastParams a{p};
  if (!is_last(p) || !choose_tiles(a, p.in_h, p.in_w, true, host.multiprocessors, kMostShared, shared))
    return {};
  const Kernel kernels[2][2] = {
      {scatter_last_kernel<float, 4>, scatter_last_kernel<float, 1>},
      {scatter_last_kernel<uint16_t, 4>, scatter_last_kernel<uint16_t, 1>}};
  return launch_last("scatter_last", kernels, a, shared(a), host);
}

} // namespace carafe
