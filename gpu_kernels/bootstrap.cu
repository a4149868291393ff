// Fourier conversion of the key, and blind rotation with sample extraction.

// source: polynomials of N words; spectra: H points each. Grid polynomials, 32 threads, one exchange buffer.
KERNEL __launch_bounds__(WARP) transform_key(const u64 *__restrict__ source, double2 *__restrict__ spectra, const double2 *__restrict__ table) {
  SHARED_MEMORY(memory);
  using L = Layout<WARP>;
  const int t = threadIdx.x;
  const u64 *from = source + (u64)blockIdx.x * N;
  const double scale = 1.0 / 18446744073709551616.0 / H;
  double2 z[L::REGISTERS];
  UNROLL for (int r = 0; r < L::REGISTERS; r++) {
    const int j = L::index(0, t, r);
    z[r].x = __ll2double_rn((i64)from[j]) * scale;
    z[r].y = __ll2double_rn((i64)from[j + H]) * scale;
  }
  forward<WARP>(z, (double2 *)memory, table, t);
  UNROLL for (int r = 0; r < L::REGISTERS; r++) spectra[(u64)blockIdx.x * H + L::place(t, r)] = z[r];
}
EXPORT(transform_key)

DEVICE u32 rotated(const u32 *polynomial, u32 index) {  // coefficient of a polynomial modulo X^N + 1, index modulo 2N
  const u32 word = polynomial[index & (N - 1)];
  return index & N ? 0u - word : word;
}
DEVICE double digit(u32 change) {  // exact: 2^52 + 2^31 is added to the word as bits, and taken off as a number
  const i32 value = (i32)(change + (1u << (31 - PBS_BASE_LOG))) >> (32 - PBS_BASE_LOG);
  return __hiloint2double(0x43300000, value ^ (i32)0x80000000) - 4503601774854144.0;
}
DEVICE u32 torus(double t) {
  const double rounding = 6755399441055744.0;  // 1.5 * 2^52
  const double fraction = t - ((t + rounding) - rounding);
  return (u32)__double2loint(fraction + 1572864.0);  // 1.5 * 2^20
}

// Both spectra times the key, row 0 (the mask's) first.
template <int T, bool MINE_FIRST>
DEVICE void external_product(double2 (&z)[H / T], const double2 *other, const double2 *key_mine, const double2 *key_other, int t) {
  using L = Layout<T>;
  UNROLL for (int r = 0; r < L::REGISTERS; r++) {
    const double2 a = z[r], b = other[r * T + t], ka = __ldg(&key_mine[L::place(t, r)]), kb = __ldg(&key_other[L::place(t, r)]);
    const double2 x0 = MINE_FIRST ? a : b, x1 = MINE_FIRST ? b : a, k0 = MINE_FIRST ? ka : kb, k1 = MINE_FIRST ? kb : ka;
    z[r].x = FMA(-x1.y, k1.y, FMA(x1.x, k1.x, FMA(-x0.y, k0.y, x0.x * k0.x)));
    z[r].y = FMA(x1.y, k1.x, FMA(x1.x, k1.y, FMA(x0.y, k0.x, x0.x * k0.y)));
  }
}

// switched (rows, n+1); key (n, in, out, H); polynomials (tables, N); bootstrap i reads row form[i] with table[i], and its
// outputs are offsets[i] <= o < offsets[i+1]: coefficient[o] of the result plus added[o], to row rows[o] of the slab.
// T threads a polynomial, 2 polynomials a ciphertext, C ciphertexts a block, which share the key's lines in the cache.
// The same table comes under two names: one name makes ptxas keep twiddles across transforms, and spill.
template <int T, int C>
DEVICE void bootstrap_block(const u16 *switched, const i32 *form, const i32 *table, const u32 *polynomials, const double2 *key,
                            const double2 *forward_table, const double2 *inverse_table, const i32 *offsets,
                            const i32 *coefficient, const u64 *added, const i32 *rows, u64 *slab, int count) {
  SHARED_MEMORY(memory);
  using L = Layout<T>;
  const int t = threadIdx.x % T, group = threadIdx.x / T, p = group & 1;
  int number = blockIdx.x * C + (group >> 1);
  const bool live = number < count;
  if (!live) number = count - 1;  // computes along: barriers need it
  double2 *mine = (double2 *)memory + group * L::PADDED, *other = (double2 *)memory + (group ^ 1) * L::PADDED;
  u32 *accumulator = (u32 *)((double2 *)memory + 2 * C * L::PADDED) + group * N;
  const u16 *rotations = switched + (u64)form[number] * SMALL;
  const u32 body = rotations[LWE_DIMENSION];
  const u32 *polynomial = polynomials + (u64)table[number] * N;
  for (int j = t; j < N; j += T) accumulator[j] = p ? rotated(polynomial, j + body) : 0u;
  for (int step = 0; step < LWE_DIMENSION; step++) {
    const u32 rotation = rotations[step];
    double2 z[L::REGISTERS];
    L::wait();
    UNROLL for (int r = 0; r < L::REGISTERS; r++) {
      const u32 j = L::index(0, t, r);
      z[r].x = digit(rotated(accumulator, j - rotation) - accumulator[j]);
      z[r].y = digit(rotated(accumulator, j + H - rotation) - accumulator[j + H]);
    }
    forward<T>(z, mine, forward_table, t);
    L::wait();
    UNROLL for (int r = 0; r < L::REGISTERS; r++) mine[r * T + t] = z[r];
    __syncthreads();
    const double2 *key_mine = key + (((u64)step * 2 + p) * 2 + p) * H, *key_other = key + (((u64)step * 2 + (p ^ 1)) * 2 + p) * H;
    if (p == 0) external_product<T, true>(z, other, key_mine, key_other, t);
    else external_product<T, false>(z, other, key_mine, key_other, t);
    __syncthreads();
    inverse<T>(z, mine, inverse_table, t);
    UNROLL for (int r = 0; r < L::REGISTERS; r++) {
      const int j = L::index(0, t, r);
      accumulator[j] += torus(z[r].x);
      accumulator[j + H] += torus(z[r].y);
    }
  }
  L::wait();
  if (!live) return;
  for (int o = offsets[number]; o < offsets[number + 1]; o++) {
    u64 *to = slab + (u64)rows[o] * (N + 1);
    const int s = coefficient[o];
    if (p == 0) for (int j = t; j < N; j += T) to[j] = (u64)(j <= s ? accumulator[s - j] : 0u - accumulator[N + s - j]) << 32;
    else if (t == 0) to[N] = ((u64)accumulator[s] << 32) + added[o];
  }
}

#define BOOTSTRAP_ARGUMENTS                                                                                             \
  const u16 *__restrict__ switched, const i32 *__restrict__ form, const i32 *__restrict__ table, const u32 *__restrict__ polynomials, \
      const double2 *__restrict__ key, const double2 *__restrict__ forward_table, const double2 *__restrict__ inverse_table, \
      const i32 *__restrict__ offsets, const i32 *__restrict__ coefficient, const u64 *__restrict__ added,             \
      const i32 *__restrict__ rows, u64 *__restrict__ slab, int count
#define BOOTSTRAP_VALUES \
  switched, form, table, polynomials, key, forward_table, inverse_table, offsets, coefficient, added, rows, slab, count

// Grid ceil(count/C), 64*C threads: the one for full devices, all points of a polynomial in the registers of one warp.
KERNEL __launch_bounds__(2 * WARP *CIPHERTEXTS_PER_BLOCK, 4 / CIPHERTEXTS_PER_BLOCK) bootstrap(BOOTSTRAP_ARGUMENTS) {
  bootstrap_block<WARP, CIPHERTEXTS_PER_BLOCK>(BOOTSTRAP_VALUES);
}
EXPORT(bootstrap)

// Grid count, 2*LATENCY_THREADS threads: the one for few ciphertexts, more threads on each.
KERNEL __launch_bounds__(2 * LATENCY_THREADS) bootstrap_latency(BOOTSTRAP_ARGUMENTS) {
  bootstrap_block<LATENCY_THREADS, 1>(BOOTSTRAP_VALUES);
}
EXPORT(bootstrap_latency)
