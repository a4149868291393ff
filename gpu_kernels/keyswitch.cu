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

// source (count, N+1), key (N, KS_LEVEL, n+1), least significant digit first; result (count, n+1), zeroed before.
// A block computes 64 ciphertexts by 64 columns over a slice of the rows; slices are added by integer atomics.
// Grid (ceil((n+1)/64), ceil(count/64), slices), 256 threads, KEYSWITCH_BYTES of shared memory.
constexpr int TILE = 64, WORDS_AT_ONCE = 4, KEY_ROWS = WORDS_AT_ONCE * KS_LEVEL;
KERNEL __launch_bounds__(256) keyswitch(const u64 *__restrict__ source, const u64 *__restrict__ key, u64 *__restrict__ result, int count) {
  SHARED_MEMORY(memory);
  u64 *part = (u64 *)memory;                             // [KEY_ROWS][TILE]
  i32 *digits = (i32 *)(memory + KEY_ROWS * TILE * 8);   // [KEY_ROWS][TILE + 1]
  const int t = threadIdx.x, x = t & 15, y = t >> 4, first = blockIdx.y * TILE, column = blockIdx.x * TILE;
  u64 sum[4][4];
  UNROLL for (int i = 0; i < 4; i++) UNROLL for (int j = 0; j < 4; j++) sum[i][j] = 0;
  const int steps = N / WORDS_AT_ONCE, each = (steps + gridDim.z - 1) / gridDim.z;
  const int begin = blockIdx.z * each, end = begin + each < steps ? begin + each : steps;
  for (int step = begin; step < end; step++) {
    for (int e = t; e < TILE * WORDS_AT_ONCE; e += 256) {
      const int m = e / WORDS_AT_ONCE, i = e % WORDS_AT_ONCE;
      const u64 a = first + m < count ? source[(u64)(first + m) * (N + 1) + step * WORDS_AT_ONCE + i] : 0;
      u64 s = ((a >> (63 - KS_BASE_LOG * KS_LEVEL)) + 1) >> 1;
      s &= ((u64)1 << (KS_BASE_LOG * KS_LEVEL)) - 1;
      UNROLL for (int level = 0; level < KS_LEVEL; level++) {
        const u64 d = s & (((u64)1 << KS_BASE_LOG) - 1);
        s >>= KS_BASE_LOG;
        const u64 carry = (((d - 1) | s) & d) >> (KS_BASE_LOG - 1);
        s += carry;
        digits[(i * KS_LEVEL + level) * (TILE + 1) + m] = (i32)d - ((i32)carry << KS_BASE_LOG);
      }
    }
    for (int e = t; e < KEY_ROWS * TILE; e += 256) {
      const int row = e / TILE, j = column + e % TILE;
      part[e] = j < SMALL ? key[(u64)(step * KEY_ROWS + row) * SMALL + j] : 0;
    }
    __syncthreads();
    for (int row = 0; row < KEY_ROWS; row++) {
      i64 d[4];
      u64 k[4];
      UNROLL for (int i = 0; i < 4; i++) d[i] = digits[row * (TILE + 1) + y * 4 + i];
      UNROLL for (int j = 0; j < 4; j++) k[j] = part[row * TILE + x + 16 * j];
      UNROLL for (int i = 0; i < 4; i++) UNROLL for (int j = 0; j < 4; j++) sum[i][j] += (u64)d[i] * k[j];
    }
    __syncthreads();
  }
  UNROLL for (int i = 0; i < 4; i++) UNROLL for (int j = 0; j < 4; j++) {
    const int m = first + y * 4 + i, c = column + x + 16 * j;
    if (m >= count || c >= SMALL) continue;
    u64 value = 0 - sum[i][j];
    if (blockIdx.z == 0 && c == LWE_DIMENSION) value += source[(u64)m * (N + 1) + N];
    atomicAdd(&result[(u64)m * SMALL + c], value);
  }
}
EXPORT(keyswitch)

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
