// SPDX-License-Identifier: Apache-2.0
// A for dense rows of 16 bits, k = 5, s = 2, on tensor cores (mma.m16n8k16).
//
// Two neighbouring cells, x even, share a window of 5 rows x 6 columns: 15 pairs of
// taps, of 16 that two mma take. M: 16 channels. N: the 4 x 2 output pixels of the
// two cells. The features lie in shared memory as they do in the tensor, so that two
// neighbours are one word: each fragment of them is a plain read. The masks of a
// cell have zeros at the taps of the other cell alone.
//
// Such a zero times a feature that is not finite would be NaN. So a sum that came
// out NaN is computed again, tap by tap; one that did not met no such product.
#include "planar.cuh"

namespace carafe {
namespace {

constexpr int K = 5, S = 2, kTaps = K * K;
constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kResident = 2; // blocks on a multiprocessor, by registers
constexpr int kSlab = 16; // channels of an mma
constexpr int kMaskSlabs = 3; // slabs that take as long as to load the masks (NOTES.md, estimated)
constexpr int kUnit = 8; // pairs of cells in a row, whose masks a warp keeps
constexpr int kStageRow = 18; // words of an output row of a unit, 2 of them unused: no two lanes meet a bank

// The features under a block's units, one unit a warp.
template <int kAcross>
struct Layout {
  static constexpr int kDown = kWarps / kAcross;
  static constexpr int kRows = kDown + K - 1;
  static constexpr int kWords = kUnit * kAcross + 2; // of a row: pairs of columns
  // Word p of a window lies p mod 4 from its first one, mod 4, and channels lie 4 apart,
  // mod 32: the lanes that read 4 words of 8 channels meet no bank twice.
  static constexpr int kPitch = kWords + 1;
  static constexpr int kPlane = (kRows * kPitch + 27) / 32 * 32 + 4;
  static constexpr int kStage = kSlab * kPlane;
  static constexpr int kOutput = kSlab * S * kStageRow; // words of a warp
  static constexpr int kSharedWords = 2 * kStage + kWarps * kOutput;
  static_assert(kPitch % 4 == 3 && kPlane % 32 == 4 && kRows * kWords <= kThreads);
  static_assert(kStage + kThreads * kTaps <= kSharedWords, "the masks pass through all but a stage");
};

// The words of the window that a lane reads and weighs: number q, q + 4, q + 8, q + 12.
CARAFE_DEVICE int word_row(int word) { return word < 15 ? word / 3 : 4; }
CARAFE_DEVICE int word_column(int word) { return word < 15 ? word % 3 : 3; } // 15: any, its weights are 0

// One output pixel, tap by tap.
template <int kBFloat16>
__device__ float exact_sum(const Problem& p, int64_t masks, const uint16_t* features, int pitch) {
  const auto logit = [&](int t) {
    return load<float>(p.masks.data, masks + t * p.masks.entry, p.masks.dtype);
  };
  float largest = logit(0), total = 0, sum = 0;
#pragma unroll 1
  for (int t = 1; p.softmax && t < kTaps; ++t)
    largest = fmaxf(largest, logit(t));
#pragma unroll 1
  for (int t = 0; p.softmax && t < kTaps; ++t)
    total += expf(logit(t) - largest);
#pragma unroll 1
  for (int t = 0; t < kTaps; ++t) {
    const float weight = p.softmax ? expf(logit(t) - largest) / total : logit(t);
    sum += weight * widen(features[t / K * pitch + t % K], kBFloat16 ? Dtype::kBFloat16 : Dtype::kHalf);
  }
  return sum;
}

CARAFE_DEVICE int least(int a, int b) { return a < b ? a : b; }

template <int kAcross, int kParts, int kBFloat16>
__global__ void __launch_bounds__(kThreads, kResident) reassemble_tensor_kernel(const PlanarParams a) {
  using L = Layout<kAcross>;
  CARAFE_SHARED(shared);
  constexpr Dtype kDtype = kBFloat16 ? Dtype::kBFloat16 : Dtype::kHalf;
  const Problem& p = a.problem;
  const Block block = block_at(a.cut, p);
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
  const int group = lane / 4, q = lane % 4; // of the fragments
  const int left = a.cut.group_channels - block.first_channel;
  const int channels = left < a.cut.split_channels ? left : a.cut.split_channels;
  const int64_t first = block.group * a.cut.group_channels + block.first_channel;
  uint32_t* tiles = reinterpret_cast<uint32_t*>(shared);
  // Results of the warp, [channel][row][word], and where this lane's first one goes.
  uint32_t* rows = tiles + 2 * L::kStage + warp * L::kOutput;
  uint32_t* staged = rows + (group * S + q / 2) * kStageRow + q % 2;

  // A thread brings one word of the tile, of every channel; what is outside the map stays zero.
  const int tile_row = int(threadIdx.x) / L::kWords, tile_word = int(threadIdx.x) % L::kWords;
  const int feature_y = block.y + tile_row - K / 2, feature_x = block.x + 2 * tile_word - K / 2;
  const bool inside = feature_y >= 0 && feature_y < p.in_h && feature_x >= 0 && feature_x < p.in_w;
  const uint16_t* source = static_cast<const uint16_t*>(p.features.data) +
      block.image * p.features.stride[0] + first * p.features.stride[1];
  source += inside ? feature_y * p.features.stride[2] + feature_x : 0;
  const auto fetch = [&](int c) {
    if (tile_row < L::kRows && inside) {
      uint32_t* target = tiles + c / kSlab % 2 * L::kStage + tile_row * L::kPitch + tile_word;
#pragma unroll
      for (int i = 0; i < kSlab; ++i) {
        copy_async<4>(target + i * L::kPlane, source);
        source += c + i + 1 < channels ? p.features.stride[1] : 0; // past the last one: anything
      }
    }
    commit_copies();
  };
  fetch(0);
  // The masks, four pairs of cells at a time: a lane has one output pixel's, leaves them
  // in shared memory behind the first stage, and takes its fragments from there. They
  // serve the `group`th pixel of a pair. A cell outside the map has some other's masks.
  uint32_t masks[kUnit][kParts][4];
  const int unit_y = warp / kAcross, unit_x = warp % kAcross * (2 * kUnit); // in the block, in cells
  uint32_t* own = tiles + L::kStage + warp * kWarp * kTaps;
#pragma unroll
  for (int pass = 0; pass < kUnit; pass += 4) {
    CellMasks<K, 1> w;
    const int y = least(block.y + unit_y, int(p.cells_h) - 1);
    const int x = least(block.x + unit_x + 2 * pass + lane % 16 / S, int(p.cells_w) - 1);
    load_masks<K, S, 1>(
        w, p.masks, p.softmax, true, mask_offset(p.masks, block, y, x), lane / 16 * S + lane % S);
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      const uint16_t high = narrow(w[t][0], kDtype);
      const uint16_t low = kParts == 1 ? 0 : narrow(w[t][0] - widen(high, kDtype), kDtype);
      own[lane * kTaps + t] = high | uint32_t(low) << 16;
    }
    __syncwarp();
#pragma unroll
    for (int pair = 0; pair < 4; ++pair)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t* from = own + (group / 4 * 16 + 4 * pair + group % 4) * kTaps;
        uint32_t both[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int word = q + 4 * i, column = 2 * word_column(word) + half - group % 4 / S;
          const bool real = word < 15 && column >= 0 && column < K;
          both[half] = real ? from[word_row(word) * K + column] : 0;
        }
        masks[pass + pair][0][i] = (both[0] & 0xffff) | both[1] << 16;
        if constexpr (kParts == 2)
          masks[pass + pair][1][i] = both[0] >> 16 | (both[1] & 0xffff0000u);
      }
    __syncwarp();
  }
  __syncthreads();
  // Word 15 of the last window of a row lies behind the row.
  for (int i = int(threadIdx.x); i < 2 * kSlab * L::kRows; i += kThreads)
    tiles[i / L::kRows * L::kPlane + i % L::kRows * L::kPitch + L::kWords] = 0;
  if (tile_row < L::kRows && !inside)
    for (int i = 0; i < 2 * kSlab; ++i)
      tiles[i * L::kPlane + tile_row * L::kPitch + tile_word] = 0;

  const int corner = group * L::kPlane + unit_y * L::kPitch + unit_x / 2; // of the first window, in a stage
  int words[4]; // of the features under it, that this lane reads
#pragma unroll
  for (int i = 0; i < 4; ++i)
    words[i] = corner + word_row(q + 4 * i) * L::kPitch + word_column(q + 4 * i);
  uint16_t* output = static_cast<uint16_t*>(p.output.data) + block.image * p.output.stride[0] +
      first * p.output.stride[1];

  const int y = block.y + unit_y, x = block.x + unit_x;
  const bool exists = y < p.cells_h && x < p.cells_w; // the unit
#pragma unroll 1
  for (int c = 0; c < channels; c += kSlab) {
    wait_copies<0>();
    __syncthreads();
    fetch(c + kSlab); // where slab c - kSlab was, which nobody reads any more
    if (!exists)
      continue;
    const uint32_t* stage = tiles + c / kSlab % 2 * L::kStage;
    float doubt = 0;
#pragma unroll
    for (int pair = 0; pair < kUnit; ++pair) {
      float sum[4] = {};
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        const uint32_t features[4] = {
            stage[words[i] + pair], stage[words[i] + 8 * L::kPlane + pair], stage[words[i + 1] + pair],
            stage[words[i + 1] + 8 * L::kPlane + pair]};
#pragma unroll
        for (int part = 0; part < kParts; ++part)
          multiply_add<kBFloat16>(sum, features, masks[pair][part] + i);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half)
        staged[half * 8 * S * kStageRow + 2 * pair] = narrow(sum[2 * half], kDtype) |
            uint32_t(narrow(sum[2 * half + 1], kDtype)) << 16;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        doubt += sum[i] * 0; // NaN for what is not finite
    }
    if (doubt != 0) {
#pragma unroll 1
      for (int i = 0; i < kUnit * 4; ++i) {
        const int pair = i / 4, half = i / 2 % 2, column = 2 * pair + q % 2;
        if (x + column >= p.cells_w)
          continue;
        const int64_t offset = mask_offset(p.masks, block, y, x + column) + q / 2 * p.masks.phase_row +
            i % 2 * p.masks.phase_column;
        const uint32_t* row = stage + corner + 8 * half * L::kPlane;
        reinterpret_cast<uint16_t*>(staged + half * 8 * S * kStageRow + 2 * pair)[i % 2] = narrow(
            exact_sum<kBFloat16>(p, offset, reinterpret_cast<const uint16_t*>(row) + column, 2 * L::kPitch),
            kDtype);
      }
    }
    __syncwarp();
    // Lanes 8 apart take rows 8 apart, which are 4 channels: no two meet a bank.
    const int pair = lane % 8, channel = c + lane / 8 * 4, end = x + 2 * pair < p.cells_w ? channels : 0;
    uint16_t* target = output + channel * p.output.stride[1] + y * S * p.output.stride[2] +
        (x + 2 * pair) * S;
    const uint32_t* from = rows + lane / 8 * 8 * kStageRow + 2 * pair;
#pragma unroll
    for (int i = 0; i < 4; ++i, target += p.output.stride[1], from += S * kStageRow)
      if (channel + i < end) {
        store_global(reinterpret_cast<uint2*>(target), *reinterpret_cast<const uint2*>(from));
        store_global(
            reinterpret_cast<uint2*>(target + p.output.stride[2]),
            *reinterpret_cast<const uint2*>(from + kStageRow));
      }
    __syncwarp();
  }
}

template <int kAcross, int kParts, int kBFloat16>
Launched launch_tensor(const Problem& p, Host& host) {
  using L = Layout<kAcross>;
  const auto kernel = reassemble_tensor_kernel<kAcross, kParts, kBFloat16>;
  if (!has_tensor_cores(kernel))
    return {};
  PlanarParams a{p};
  Cut& cut = a.cut;
  cut.width = 2 * kUnit * kAcross;
  cut.height = L::kDown;
  cut.columns = int(ceil_div(p.cells_w, cut.width));
  cut.rows = int(ceil_div(p.cells_h, cut.height));
  choose_splits(cut, p, host.multiprocessors, kResident, kMaskSlabs * kSlab, kSlab);
  return {
      "reassemble_tensor",
      launch(
          kernel, block_count(cut, p), kThreads, sizeof(uint32_t) * int64_t(L::kSharedWords), host.stream,
          a)};
}

// Two units across where that takes no more blocks than one.
template <int kParts, int kBFloat16>
Launched launch_shaped(const Problem& p, Host& host) {
  const auto blocks = [&p](int width, int height) {
    return ceil_div(p.cells_w, width) * ceil_div(p.cells_h, height);
  };
  return blocks(4 * kUnit, Layout<2>::kDown) <= blocks(2 * kUnit, Layout<1>::kDown)
      ? launch_tensor<2, kParts, kBFloat16>(p, host)
      : launch_tensor<1, kParts, kBFloat16>(p, host);
}

// A weight is one word where it has the kind of the features, else the sum of two: those of a softmax,
// and masks beside bfloat16 features. Beside float16 ones masks could be too large or too small.
bool weighs_in_parts(const Problem& p) { return p.softmax || p.masks.dtype != p.features.dtype; }

// Rows of features that are words, output rows that are pairs of words.
bool is_tensor(const Problem& p) {
  const auto divides = [](const TensorView& view, int64_t n) {
    return view.stride[0] % n == 0 && view.stride[1] % n == 0 && view.stride[2] % n == 0 &&
        is_aligned(view.data, 2 * n);
  };
  return is_planar(p) && is_16_bit(p.features.dtype) && p.kernel_size == K && p.phases == S &&
      p.in_w % 2 == 0 && divides(p.features, 2) && divides(p.output, 4) && group_channels(p) >= kSlab &&
      (p.softmax || p.features.dtype == Dtype::kBFloat16 || p.masks.dtype == p.features.dtype);
}

} // namespace

Launched reassemble_tensor(const Problem& p, Host& host) {
  if (!is_tensor(p))
    return {};
  const bool parts = weighs_in_parts(p);
  if (p.features.dtype == Dtype::kBFloat16)
    return parts ? launch_shaped<2, 1>(p, host) : launch_shaped<1, 1>(p, host);
  return parts ? launch_shaped<2, 0>(p, host) : launch_shaped<1, 0>(p, host);
}

} // namespace carafe
