// Linear forms, keyswitch and modulus switch: exact integers modulo 2^64.

// Copy rows: from (count, N+1) to row rows[i] of the slab. Grid (ceil((N+1)/256), count), 256 threads.
KERNEL __launch_bounds__(256) place_rows(const u64 *__restrict__ from, const i32 *__restrict__ rows, u64 *__restrict__ slab) {
  const int j = blockIdx.x * 256 + threadIdx.x;
  if (j <= N) slab[(u64)rows[blockIdx.y] * (N + 1) + j] = from[(u64)blockIdx.y * (N + 1) + j];
}
EXPORT(place_rows)

// Form f adds coefficients[e] * row rows[e] of the slab for offsets[f] <= e < offsets[f+1], and constants[f] to the body.
// Grid (ceil((N+1)/256), forms), 256 threads.
KERNEL __launch_bounds__(256) linear_forms(const u64 *__restrict__ slab, const i32 *__restrict__ offsets, const i32 *__restrict__ rows,
                                           const i64 *__restrict__ coefficients, const u64 *__restrict__ constants, u64 *__restrict__ result) {
  const int j = blockIdx.x * 256 + threadIdx.x, f = blockIdx.y;
  if (j > N) return;
  u64 sum = j == N ? constants[f] : 0;
  for (int e = offsets[f]; e < offsets[f + 1]; e++) sum += (u64)coefficients[e] * slab[(u64)rows[e] * (N + 1) + j];
  result[(u64)f * (N + 1) + j] = sum;
}
EXPORT(linear_forms)

// The keyswitch is a product of small integers: digits (count, K) times the key (K, n+1), K = N * KS_LEVEL, which matrix
// units do exactly. Words of the key become 8 planes of signed bytes, b_0 + 256 b_1 + ... modulo 2^64; the sums of a plane
// fit into 32 bits and are put together at the end. Both factors lie in memory as the units take them: a tile of 16 rows or
// 8 columns by K_STEP digits is one 16-byte load of every lane.
constexpr int K = N * KS_LEVEL, K_STEP = 32, K_STEPS = K / K_STEP, PLANES = 8, ROWS = 16, COLUMNS = 8;
static_assert(K % K_STEP == 0 && KS_BASE_LOG <= 7 && (i64)K << (KS_BASE_LOG - 1 + 7) < (i64)1 << 31, "sums must fit");

// Four digits of a row from number k on, least significant first within a word, as bytes of one register.
DEVICE u32 four_digits(const u64 *__restrict__ words, u32 k) {
  u32 result = 0, word = k / KS_LEVEL, level = k % KS_LEVEL;
  u64 s = 0;
  UNROLL for (u32 j = 0; j < 4; j++) {
    if (j == 0 || level == 0) s = (((words[word] >> (63 - KS_BASE_LOG * KS_LEVEL)) + 1) >> 1) & (((u64)1 << (KS_BASE_LOG * KS_LEVEL)) - 1);
    u32 byte = 0;
    UNROLL for (u32 l = 0; l < KS_LEVEL; l++) {
      if (l > level || (j > 0 && l < level)) continue;  // the first of the four may lie in the middle of its word
      const u64 d = s & (((u64)1 << KS_BASE_LOG) - 1);
      s >>= KS_BASE_LOG;
      const u64 carry = (((d - 1) | s) & d) >> (KS_BASE_LOG - 1);
      s += carry;
      byte = (u32)d - ((u32)carry << KS_BASE_LOG);
    }
    result |= (byte & 255) << (8 * j);
    if (++level == KS_LEVEL) { level = 0; word++; }
  }
  return result;
}

// source (count, N+1) to digits (tiles, K_STEPS, 32). Grid (K_STEPS/8, tiles), 256 threads: a step for each warp.
KERNEL __launch_bounds__(256) decompose(const u64 *__restrict__ source, uint4 *__restrict__ digits, int count) {
  const u32 lane = threadIdx.x % WARP, step = blockIdx.x * 8 + threadIdx.x / WARP, row = blockIdx.y * ROWS + lane / 4;
  const u32 k = step * K_STEP + lane % 4 * 4, below = row + ROWS / 2;
  const u64 *words = source + (u64)row * (N + 1);
  uint4 fragment = {0, 0, 0, 0};
  if (row < count) fragment.x = four_digits(words, k), fragment.z = four_digits(words, k + K_STEP / 2);
  words += (u64)(ROWS / 2) * (N + 1);
  if (below < count) fragment.y = four_digits(words, k), fragment.w = four_digits(words, k + K_STEP / 2);
  digits[((u64)blockIdx.y * K_STEPS + step) * WARP + lane] = fragment;
}
EXPORT(decompose)

// key (N, KS_LEVEL, n+1), least significant digit first, to planes (groups, K_STEPS, PLANES/2, 32).
// Grid (K_STEPS/8, groups of 8 columns), 256 threads.
KERNEL __launch_bounds__(256) split_key(const u64 *__restrict__ key, uint4 *__restrict__ planes) {
  const u32 lane = threadIdx.x % WARP, step = blockIdx.x * 8 + threadIdx.x / WARP, column = blockIdx.y * COLUMNS + lane / 4;
  const u32 k = step * K_STEP + lane % 4 * 4;
  u64 words[8];
  UNROLL for (u32 j = 0; j < 8; j++) words[j] = column < SMALL ? key[(u64)(k + j % 4 + j / 4 * (K_STEP / 2)) * SMALL + column] : 0;
  UNROLL for (u32 pair = 0; pair < PLANES / 2; pair++) {
    u32 parts[4] = {0, 0, 0, 0};  // plane, then half of the step
    UNROLL for (u32 plane = 0; plane < 2; plane++) UNROLL for (u32 j = 0; j < 8; j++) {
      const u64 byte = words[j] & 255;
      words[j] = (words[j] >> 8) + (byte >> 7);
      parts[2 * plane + j / 4] |= (u32)byte << (8 * (j % 4));
    }
    planes[(((u64)blockIdx.y * K_STEPS + step) * (PLANES / 2) + pair) * WARP + lane] = {parts[0], parts[1], parts[2], parts[3]};
  }
}
EXPORT(split_key)

// result (count, n+1), zeroed before: body minus digits times key. A warp computes TILES*16 rows by 8 columns over a slice of
// the digits; slices are added by integer atomics. M of the 8 warps of a block have rows of their own.
// Grid (ceil(groups*M/8), ceil(tiles/(TILES*M)), slices), 256 threads.
template <int TILES, int M>
DEVICE void keyswitch_block(const u64 *__restrict__ source, const uint4 *__restrict__ digits, const uint4 *__restrict__ planes,
                            u64 *__restrict__ result, int count) {
  const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, group = blockIdx.x * (8 / M) + warp / M;
  const u32 first = (blockIdx.y * M + warp % M) * TILES, tiles = (count + ROWS - 1) / ROWS;
  if (group * COLUMNS >= SMALL || first >= tiles) return;
  const u32 each = (K_STEPS + gridDim.z - 1) / gridDim.z, begin = blockIdx.z * each;
  const u32 end = begin + each < K_STEPS ? begin + each : K_STEPS;
  const uint4 *a[TILES], *b = planes + ((u64)group * K_STEPS + begin) * (PLANES / 2) * WARP + lane;
  UNROLL for (int i = 0; i < TILES; i++)  // tiles that are not there repeat the last one
    a[i] = digits + ((u64)(first + i < tiles ? first + i : tiles - 1) * K_STEPS + begin) * WARP + lane;
  i32 sum[TILES][PLANES][4];
  UNROLL for (int i = 0; i < TILES; i++) UNROLL for (int p = 0; p < PLANES; p++) UNROLL for (int j = 0; j < 4; j++) sum[i][p][j] = 0;
  uint4 next_a[TILES], next_b[PLANES / 2];
  UNROLL for (int i = 0; i < TILES; i++) next_a[i] = *a[i];
  UNROLL for (int p = 0; p < PLANES / 2; p++) next_b[p] = __ldg(&b[p * WARP]);
  for (u32 step = begin; step < end; step++) {
    uint4 now_a[TILES], now_b[PLANES / 2];
    UNROLL for (int i = 0; i < TILES; i++) now_a[i] = next_a[i];
    UNROLL for (int p = 0; p < PLANES / 2; p++) now_b[p] = next_b[p];
    if (step + 1 < end) {
      b += PLANES / 2 * WARP;
      UNROLL for (int i = 0; i < TILES; i++) next_a[i] = *(a[i] += WARP);
      UNROLL for (int p = 0; p < PLANES / 2; p++) next_b[p] = __ldg(&b[p * WARP]);
    }
    UNROLL for (int p = 0; p < PLANES / 2; p++) UNROLL for (int i = 0; i < TILES; i++) {
      multiply_bytes(sum[i][2 * p], now_a[i], now_b[p].x, now_b[p].y);
      multiply_bytes(sum[i][2 * p + 1], now_a[i], now_b[p].z, now_b[p].w);
    }
  }
  UNROLL for (int i = 0; i < TILES; i++) UNROLL for (int j = 0; j < 4; j++) {
    const u32 row = (first + i) * ROWS + lane / 4 + j / 2 * (ROWS / 2), column = group * COLUMNS + lane % 4 * 2 + j % 2;
    if (row >= count || column >= SMALL) continue;
    u64 value = 0;
    UNROLL for (int p = PLANES - 1; p >= 0; p--) value = (value << 8) - (u64)(i64)sum[i][p][j];
    if (blockIdx.z == 0 && column == LWE_DIMENSION) value += source[(u64)row * (N + 1) + N];
    atomicAdd(&result[(u64)row * SMALL + column], value);
  }
}
#define KEYSWITCH_ARGUMENTS                                                                                             \
  const u64 *__restrict__ source, const uint4 *__restrict__ digits, const uint4 *__restrict__ planes, u64 *__restrict__ result, int count

KERNEL __launch_bounds__(256) keyswitch(KEYSWITCH_ARGUMENTS) { keyswitch_block<4, 2>(source, digits, planes, result, count); }
EXPORT(keyswitch)

// For few ciphertexts: the key is read once, by many more warps.
KERNEL __launch_bounds__(256) keyswitch_latency(KEYSWITCH_ARGUMENTS) { keyswitch_block<1, 1>(source, digits, planes, result, count); }
EXPORT(keyswitch_latency)

// small (count, n+1) to rows first and on of switched (.., n+1), in [0, 2N). Grid count, 32 threads.
DEVICE u64 rounded(u64 x) { return ((x >> (63 - LOG_2N)) + 1) >> 1; }
KERNEL __launch_bounds__(WARP) modulus_switch(const u64 *__restrict__ small, u16 *__restrict__ switched, int first) {
  const int lane = threadIdx.x;
  const u64 *from = small + (u64)blockIdx.x * SMALL;
  u16 *to = switched + ((u64)first + blockIdx.x) * SMALL;
  i64 halves = 0, lost = 0;
  for (int i = lane; i < LWE_DIMENSION; i += WARP) {
    const u64 r = rounded(from[i]);
    const i64 error = (i64)((r << (64 - LOG_2N)) - from[i]), half = error / 2;
    halves += half;
    lost += 2 * half - error;
    to[i] = (u16)(r & (2 * N - 1));
  }
  UNROLL for (int d = WARP / 2; d; d >>= 1) {
    halves += __shfl_xor_sync(0xffffffffu, halves, d);
    lost += __shfl_xor_sync(0xffffffffu, lost, d);
  }
  if (lane) return;
  u64 body = from[LWE_DIMENSION];
  if (CENTERED_MEAN) body += (u64)halves - (u64)(lost / 2) - ((u64)1 << (63 - LOG_2N));
  to[LWE_DIMENSION] = (u16)(rounded(body) & (2 * N - 1));
}
EXPORT(modulus_switch)
