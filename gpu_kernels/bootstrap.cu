// Fourier conversion of the key, and blind rotation with sample extraction.

// source: polynomials of N words; spectra: H points each. Grid polynomials, 32 threads, one exchange buffer.
KERNEL __launch_bounds__(WARP) transform_key(const u64 *__restrict__ source, double2 *__restrict__ spectra, const double2 *__restrict__ table) {
  SHARED_MEMORY(memory);
  using L = Layout<WARP>;
  const u32 t = threadIdx.x;
  double2 *twiddles = (double2 *)memory;
  L::copy_twiddles(twiddles, table, t, WARP);
  const u64 *from = source + (u64)blockIdx.x * N;
  const double scale = 1.0 / 4294967296.0 / H;
  double2 z[L::REGISTERS];
  UNROLL for (int r = 0; r < L::REGISTERS; r++) {
    z[r].x = __ll2double_rn((i64)from[t + r * WARP]) * scale;
    z[r].y = __ll2double_rn((i64)from[t + r * WARP + H]) * scale;
  }
  forward<WARP>(z, twiddles + L::TWIDDLES, twiddles + t, t, 0);
  UNROLL for (int r = 0; r < L::REGISTERS; r++) spectra[(u64)blockIdx.x * H + L::place(t) + r * WARP] = z[r];
}
EXPORT(transform_key)

DEVICE u32 rotated(const u32 *polynomial, u32 index) {  // coefficient of a polynomial modulo X^N + 1, index modulo 2N
  const u32 word = polynomial[index & (N - 1)];
  return index & N ? 0u - word : word;
}

// The conversion units, else idle, do what additions of large constants would do on the busiest ones. Both are exact:
// the sum of a coefficient comes in units of 2^-32 of a turn, and is below 2^63 units by 48 standard deviations.
DEVICE double digit(u32 change) { return __int2double_rn((i32)(change + (1u << (31 - PBS_BASE_LOG))) >> (32 - PBS_BASE_LOG)); }
DEVICE u32 torus(double units) { return (u32)__double2ll_rn(units); }

// Points r of the key in both rows, for the column that key points to.
DEVICE void load_key(double2 (&k)[2], const double2 *key, int r) {
  UNROLL for (int row = 0; row < 2; row++) k[row] = __ldg(&key[2 * row * H + r * WARP]);
}

// Both spectra times the key, row 0 (the mask's) first; z is the spectrum of row P, the other one comes from memory.
// The first points of the key are there already.
template <int T, int P, int AHEAD>
DEVICE void external_product(double2 (&z)[H / T], const double2 *other, const double2 *key, const double2 (&ahead)[AHEAD][2]) {
  UNROLL for (int r = 0; r < H / T; r++) {
    double2 k[2];
    if (r < AHEAD) k[0] = ahead[r][0], k[1] = ahead[r][1]; else load_key(k, key, r);
    const double2 a = z[r], b = other[r * T], x0 = P ? b : a, x1 = P ? a : b;
    z[r].x = FMA(-x1.y, k[1].y, FMA(x1.x, k[1].x, FMA(-x0.y, k[0].y, x0.x * k[0].x)));
    z[r].y = FMA(x1.y, k[1].x, FMA(x1.x, k[1].y, FMA(x0.y, k[0].x, x0.x * k[0].y)));
  }
}

// switched (rows, n+1); key (n, in, out, H); polynomials (tables, N); bootstrap i reads row form[i] with table[i], and its
// outputs are offsets[i] <= o < offsets[i+1]: coefficient[o] of the result plus added[o], to row rows[o] of the slab.
// T threads a polynomial, 2 polynomials a ciphertext, C ciphertexts a block, which share the key's lines in the cache.
// The key's first AHEAD points of a thread are asked for before the wait for the other spectrum; where these are all
// points, at the beginning of the step.
template <int T, int C, int AHEAD>
DEVICE void bootstrap_block(const u16 *switched, const i32 *form, const i32 *table, const u32 *polynomials, const double2 *key,
                            const double2 *twiddle_table, const i32 *offsets, const i32 *coefficient, const u64 *added,
                            const i32 *rows, u64 *slab, int count) {
  SHARED_MEMORY(memory);
  using L = Layout<T>;
  const u32 t = threadIdx.x % T, group = threadIdx.x / T, p = group & 1, pair = 1 + 2 * C + (group >> 1);
  int number = blockIdx.x * C + (group >> 1);
  const bool live = number < count;
  if (!live) number = count - 1;  // computes along: barriers need it
  double2 *twiddles = (double2 *)memory, *exchange = twiddles + L::TWIDDLES, *mine = exchange + group * L::PADDED;
  u32 *accumulator = (u32 *)(exchange + 2 * C * L::PADDED) + group * N;
  u16 *rotations = (u16 *)(exchange + 2 * C * L::PADDED) + 4 * C * N + (group >> 1) * SMALL;
  const u16 *from = switched + (u64)form[number] * SMALL;
  const u32 *polynomial = polynomials + (u64)table[number] * N, body = from[LWE_DIMENSION];
  for (u32 j = t; j < N; j += T) accumulator[j] = p ? rotated(polynomial, j + body) : 0u;
  for (u32 j = t + p * T; j < SMALL; j += 2 * T) rotations[j] = from[j];
  L::copy_twiddles(twiddles, twiddle_table, threadIdx.x, 2 * T * C);
  __syncthreads();
  const double2 *other = exchange + (group ^ 1) * L::PADDED + t;
  double2 *spectrum = mine + t;
  u32 *own = accumulator + t;
  twiddles += t;
  key += p * H + L::place(t);
  for (const double2 *end = key + (u64)LWE_DIMENSION * 4 * H; key != end; key += 4 * H) {
    const u32 back = t - *rotations++;
    double2 z[L::REGISTERS], ahead[AHEAD][2];
    const auto look_ahead = [&] {
      UNROLL for (int r = 0; r < AHEAD; r++) UNROLL for (int row = 0; row < 2; row++) ahead[r][row] = load_now(&key[2 * row * H + r * WARP]);
    };
    if (AHEAD == L::REGISTERS) look_ahead();
    UNROLL for (int r = 0; r < L::REGISTERS; r++) {
      z[r].x = digit(rotated(accumulator, back + r * T) - own[r * T]);
      z[r].y = digit(rotated(accumulator, back + r * T + H) - own[r * T + H]);
    }
    forward<T>(z, mine, twiddles, t, group);
    L::wait(group);
    UNROLL for (int r = 0; r < L::REGISTERS; r++) spectrum[r * T] = z[r];
    if (AHEAD != L::REGISTERS) look_ahead();
    BARRIER(pair, 2 * T);
    if (p == 0) external_product<T, 0, AHEAD>(z, other, key, ahead);
    else external_product<T, 1, AHEAD>(z, other, key, ahead);
    BARRIER(pair, 2 * T);
    inverse<T>(z, mine, twiddles, t, group);
    UNROLL for (int r = 0; r < L::REGISTERS; r++) {
      own[r * T] += torus(z[r].x);
      own[r * T + H] += torus(z[r].y);
    }
    L::wait(group);
  }
  if (!live) return;
  for (int o = offsets[number]; o < offsets[number + 1]; o++) {
    u64 *to = slab + (u64)rows[o] * (N + 1);
    const u32 s = coefficient[o];
    if (p == 0) for (u32 j = t; j < N; j += T) to[j] = (u64)(j <= s ? accumulator[s - j] : 0u - accumulator[N + s - j]) << 32;
    else if (t == 0) to[N] = ((u64)accumulator[s] << 32) + added[o];
  }
}

#define BOOTSTRAP_ARGUMENTS                                                                                             \
  const u16 *__restrict__ switched, const i32 *__restrict__ form, const i32 *__restrict__ table, const u32 *__restrict__ polynomials, \
      const double2 *__restrict__ key, const double2 *__restrict__ twiddle_table, const i32 *__restrict__ offsets,      \
      const i32 *__restrict__ coefficient, const u64 *__restrict__ added, const i32 *__restrict__ rows, u64 *__restrict__ slab, int count
#define BOOTSTRAP_VALUES \
  switched, form, table, polynomials, key, twiddle_table, offsets, coefficient, added, rows, slab, count

// How far ahead leaves all values in registers and was fastest where it could be tried.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1000
constexpr int THROUGHPUT_AHEAD = 4;
#else
constexpr int THROUGHPUT_AHEAD = 1;
#endif

// Grid ceil(count/C), 64*C threads: the one for full devices, all points of a polynomial in the registers of one warp.
KERNEL __launch_bounds__(2 * WARP *CIPHERTEXTS_PER_BLOCK, 4 / CIPHERTEXTS_PER_BLOCK) bootstrap(BOOTSTRAP_ARGUMENTS) {
  bootstrap_block<WARP, CIPHERTEXTS_PER_BLOCK, THROUGHPUT_AHEAD>(BOOTSTRAP_VALUES);
}
EXPORT(bootstrap)

// Grid count, 2*LATENCY_THREADS threads: the one for few ciphertexts, more threads on each, the key long before its use.
KERNEL __launch_bounds__(2 * LATENCY_THREADS, 2) bootstrap_latency(BOOTSTRAP_ARGUMENTS) {
  bootstrap_block<LATENCY_THREADS, 1, H / LATENCY_THREADS>(BOOTSTRAP_VALUES);
}
EXPORT(bootstrap_latency)
