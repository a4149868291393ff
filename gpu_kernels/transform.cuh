// The transform of ARITHMETIC.md by T threads for one polynomial, H/T complex points in the registers of each.
// Levels run in passes: as many as the registers hold bits of the index. Before the next pass the points change owners
// through shared memory. Who owns a point never changes what is computed on it.
template <int T> struct Layout {
  static constexpr int REGISTERS = H / T, LOG_R = log2_of(REGISTERS), PASSES = (LOG_H + LOG_R - 1) / LOG_R;
  // A register number covers the bits [shift, shift + LOG_R) of the index in this pass.
  DEVICE static constexpr int shift(int pass) { return LOG_H - (pass + 1) * LOG_R > 0 ? LOG_H - (pass + 1) * LOG_R : 0; }
  DEVICE static constexpr int end(int pass) { return (pass + 1) * LOG_R < LOG_H ? (pass + 1) * LOG_R : LOG_H; }
  DEVICE static constexpr int bit(int level) { return LOG_H - 1 - level - shift(level / LOG_R); }
  DEVICE static constexpr int blocks(int level) { return REGISTERS >> (bit(level) + 1); }
  // Twiddles of later passes differ between threads and have a table of their own, in reading order.
  DEVICE static constexpr int rows(int level) { return level < LOG_R ? 0 : blocks(level) > 1 ? blocks(level) / 2 : 1; }
  __device__ static constexpr int first_row(int level) { return level == 0 ? 0 : first_row(level - 1) + rows(level - 1); }
  static constexpr int PADDED = H + (H >> LOG_R);  // one element of padding a row: no bank conflicts
  DEVICE static int index(int pass, int t, int r) {
    const int s = shift(pass);
    return ((t >> s) << (s + LOG_R)) | (r << s) | (t & ((1 << s) - 1));
  }
  DEVICE static int padded(int index) { return index + (index >> LOG_R); }
  DEVICE static void wait() {
    if (T == WARP) __syncwarp(); else __syncthreads();
  }
  DEVICE static double2 twiddle(const double2 *table, int level, int block, int t) {
    return __ldg(level < LOG_R ? &table[(1 << level) + block] : &table[H + (first_row(level) + block / 2) * T + t]);
  }
  // Where the key keeps a point: in the order that 32 threads read it, whoever asks.
  DEVICE static int place(int t, int r) {
    const int point = t * REGISTERS + r;
    return (point % (H / WARP)) * WARP + point / (H / WARP);
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

template <int T, int FROM, int TO> DEVICE void change_owners(double2 (&z)[H / T], double2 *exchange, int t) {
  using L = Layout<T>;
  L::wait();
  UNROLL for (int r = 0; r < L::REGISTERS; r++) exchange[L::padded(L::index(FROM, t, r))] = z[r];
  L::wait();
  UNROLL for (int r = 0; r < L::REGISTERS; r++) z[r] = exchange[L::padded(L::index(TO, t, r))];
}

// Levels are template arguments: every index into z is then a constant, and z stays in registers. The twiddle of an odd
// block is i times its left neighbour's, so that one load serves two blocks.
template <int T, int LEVEL = 0> DEVICE void forward(double2 (&z)[H / T], double2 *exchange, const double2 *table, int t) {
  using L = Layout<T>;
  if constexpr (LEVEL < LOG_H) {
    constexpr int pass = LEVEL / L::LOG_R, step = 1 << L::bit(LEVEL), blocks = L::blocks(LEVEL);
    if constexpr (LEVEL > 0 && LEVEL % L::LOG_R == 0) change_owners<T, pass - 1, pass>(z, exchange, t);
    UNROLL for (int pair = 0; pair < (blocks + 1) / 2; pair++) {
      const double2 w = L::twiddle(table, LEVEL, 2 * pair, t);
      UNROLL for (int j = 0; j < step; j++) butterfly(z[4 * pair * step + j], z[(4 * pair + 1) * step + j], w.x, w.y);
      if constexpr (blocks > 1)
        UNROLL for (int j = 0; j < step; j++) butterfly(z[(4 * pair + 2) * step + j], z[(4 * pair + 3) * step + j], -w.y, w.x);
    }
    forward<T, LEVEL + 1>(z, exchange, table, t);
  }
}

template <int T, int LEVEL = LOG_H - 1> DEVICE void inverse(double2 (&z)[H / T], double2 *exchange, const double2 *table, int t) {
  using L = Layout<T>;
  if constexpr (LEVEL >= 0) {
    constexpr int pass = LEVEL / L::LOG_R, step = 1 << L::bit(LEVEL), blocks = L::blocks(LEVEL);
    UNROLL for (int pair = 0; pair < (blocks + 1) / 2; pair++) {
      const double2 w = L::twiddle(table, LEVEL, 2 * pair, t);
      UNROLL for (int j = 0; j < step; j++) inverse_butterfly(z[4 * pair * step + j], z[(4 * pair + 1) * step + j], w.x, w.y);
      if constexpr (blocks > 1)
        UNROLL for (int j = 0; j < step; j++) inverse_butterfly(z[(4 * pair + 2) * step + j], z[(4 * pair + 3) * step + j], -w.y, w.x);
    }
    if constexpr (LEVEL > 0 && LEVEL % L::LOG_R == 0) change_owners<T, pass, pass - 1>(z, exchange, t);
    inverse<T, LEVEL - 1>(z, exchange, table, t);
  }
}
