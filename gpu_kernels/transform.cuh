// The transform of ARITHMETIC.md by T threads for one polynomial, H/T complex points in the registers of each.
// Levels run in passes: as many as the registers hold bits of the index. Before the next pass the points change owners
// through shared memory. Each thread gets its own column of the table as `twiddles`. Who owns a point never changes what is computed on it.
template <int T> struct Layout {
  static constexpr int REGISTERS = H / T, LOG_R = log2_of(REGISTERS);
  // A register number covers the bits [shift, shift + LOG_R) of the index in this pass.
  __device__ static constexpr int shift(int pass) { return LOG_H - (pass + 1) * LOG_R > 0 ? LOG_H - (pass + 1) * LOG_R : 0; }
  __device__ static constexpr int bit(int level) { return LOG_H - 1 - level - shift(level / LOG_R); }
  __device__ static constexpr int blocks(int level) { return REGISTERS >> (bit(level) + 1); }
  // Twiddles of the first pass are constants; those of later ones differ between threads and have a table in reading order.
  __device__ static constexpr int rows(int level) { return level < LOG_R ? 0 : blocks(level) > 1 ? blocks(level) / 2 : 1; }
  __device__ static constexpr int first_row(int level) { return level == 0 ? 0 : first_row(level - 1) + rows(level - 1); }
  static constexpr int TWIDDLES = first_row(LOG_H) * T;
  static constexpr int PADDED = H + (H >> LOG_R);  // one element of padding a row: no bank conflicts
  // Point r of thread t is point 0 of it plus a constant, which loads and stores take as part of the address.
  DEVICE static u32 index(int pass, u32 t) {
    const int s = shift(pass);
    return ((t >> s) << (s + LOG_R)) | (t & ((1u << s) - 1));
  }
  DEVICE static u32 padded(u32 index) { return index + (index >> LOG_R); }
  DEVICE static constexpr int offset(int pass, int r) { return (r << shift(pass)) + ((r << shift(pass)) >> LOG_R); }
  DEVICE static void wait(u32 group) {
    if constexpr (T == WARP) __syncwarp(); else BARRIER(1 + group, T);
  }
  // The level is a template argument: as a plain one, the recursion of first_row would be run by every thread, each time.
  template <int LEVEL> DEVICE static double2 twiddle(const double2 *mine, int block) {
    if constexpr (LEVEL < LOG_R) return first_twiddles[(1 << LEVEL) + block];
    constexpr int row = first_row(LEVEL);
    return mine[(row + block / 2) * T];
  }
  // Where the key keeps the points of a thread, each WARP after the one before: in the order that 32 threads read them.
  DEVICE static u32 place(u32 t) {
    const u32 point = t * REGISTERS;
    return (point % (H / WARP)) * WARP + point / (H / WARP);
  }
  DEVICE static void copy_twiddles(double2 *to, const double2 *from, u32 thread, u32 threads) {
    for (u32 i = thread; i < TWIDDLES; i += threads) to[i] = from[i];
  }
};

DEVICE void butterfly(double2 &a, double2 &b, double re, double im) {
  const double p = FMA(-im, b.y, FMA(re, b.x, a.x)), q = FMA(im, b.x, FMA(re, b.y, a.y));
  b.x = FMA(2.0, a.x, -p); b.y = FMA(2.0, a.y, -q);
  a.x = p; a.y = q;
}

DEVICE void inverse_butterfly(double2 &a, double2 &b, double re, double im) {
  const double x = a.x - b.x, y = a.y - b.y;
  a.x = a.x + b.x; a.y = a.y + b.y;
  b.x = FMA(im, y, re * x); b.y = FMA(-im, x, re * y);
}

template <int T, int FROM, int TO> DEVICE void change_owners(double2 (&z)[H / T], double2 *exchange, u32 t, u32 group) {
  using L = Layout<T>;
  double2 *to = exchange + L::padded(L::index(FROM, t)), *from = exchange + L::padded(L::index(TO, t));
  L::wait(group);
  UNROLL for (int r = 0; r < L::REGISTERS; r++) to[L::offset(FROM, r)] = z[r];
  L::wait(group);
  UNROLL for (int r = 0; r < L::REGISTERS; r++) z[r] = from[L::offset(TO, r)];
}

// Levels are template arguments: every index into z is then a constant, and z stays in registers. The twiddle of an odd
// block is i times its left neighbour's, so that one load serves two blocks.
template <int T, int LEVEL = 0> DEVICE void forward(double2 (&z)[H / T], double2 *exchange, const double2 *twiddles, u32 t, u32 group) {
  using L = Layout<T>;
  if constexpr (LEVEL < LOG_H) {
    constexpr int pass = LEVEL / L::LOG_R, step = 1 << L::bit(LEVEL), blocks = L::blocks(LEVEL);
    if constexpr (LEVEL > 0 && LEVEL % L::LOG_R == 0) change_owners<T, pass - 1, pass>(z, exchange, t, group);
    UNROLL for (int pair = 0; pair < (blocks + 1) / 2; pair++) {
      const double2 w = L::template twiddle<LEVEL>(twiddles, 2 * pair);
      UNROLL for (int j = 0; j < step; j++) butterfly(z[4 * pair * step + j], z[(4 * pair + 1) * step + j], w.x, w.y);
      if constexpr (blocks > 1)
        UNROLL for (int j = 0; j < step; j++) butterfly(z[(4 * pair + 2) * step + j], z[(4 * pair + 3) * step + j], -w.y, w.x);
    }
    forward<T, LEVEL + 1>(z, exchange, twiddles, t, group);
  }
}

template <int T, int LEVEL = LOG_H - 1> DEVICE void inverse(double2 (&z)[H / T], double2 *exchange, const double2 *twiddles, u32 t, u32 group) {
  using L = Layout<T>;
  if constexpr (LEVEL >= 0) {
    constexpr int pass = LEVEL / L::LOG_R, step = 1 << L::bit(LEVEL), blocks = L::blocks(LEVEL);
    UNROLL for (int pair = 0; pair < (blocks + 1) / 2; pair++) {
      const double2 w = L::template twiddle<LEVEL>(twiddles, 2 * pair);
      UNROLL for (int j = 0; j < step; j++) inverse_butterfly(z[4 * pair * step + j], z[(4 * pair + 1) * step + j], w.x, w.y);
      if constexpr (blocks > 1)
        UNROLL for (int j = 0; j < step; j++) inverse_butterfly(z[(4 * pair + 2) * step + j], z[(4 * pair + 3) * step + j], -w.y, w.x);
    }
    if constexpr (LEVEL > 0 && LEVEL % L::LOG_R == 0) change_owners<T, pass, pass - 1>(z, exchange, t, group);
    inverse<T, LEVEL - 1>(z, exchange, twiddles, t, group);
  }
}
