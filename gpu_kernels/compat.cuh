// One source, two compilers: NVRTC for a device, g++ (with COPROC_EMULATION and emulation.h before this) for the CPU.
// What keeps both equal to the bit: no contraction (--fmad=false, -ffp-contract=off), every fused step written as FMA,
// integer atomics only. No CUDA header is included; the files are joined into one text in the order of source.py.
#ifdef COPROC_EMULATION
#define SHARED_MEMORY(name) unsigned char *name = emulation::shared_memory()
#define UNROLL _Pragma("GCC unroll 64")
#define FMA(a, b, c) __builtin_fma(a, b, c)
#define EXPORT(kernel) EMULATION_EXPORT(kernel)
#define BARRIER(name, threads) emulation::wait_named(name, threads)
#else
extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];
#define SHARED_MEMORY(name) unsigned char *name = dynamic_shared_memory
#define UNROLL _Pragma("unroll")
#define FMA(a, b, c) __fma_rn(a, b, c)
#define EXPORT(kernel)
// Named barriers 1 to 15, each for a group of whole warps.
#define BARRIER(name, threads) asm volatile("bar.sync %0, %1;" ::"r"(name), "n"(threads) : "memory")
#endif
#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__ void
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;

// Parameters, all known at compile time so that loops unroll and registers are assigned.
#if !defined(LWE_DIMENSION) || !defined(POLYNOMIAL_SIZE) || !defined(PBS_BASE_LOG) || !defined(KS_BASE_LOG) || \
    !defined(KS_LEVEL) || !defined(CENTERED_MEAN) || !defined(CIPHERTEXTS_PER_BLOCK) || !defined(LATENCY_THREADS) || \
    !defined(FIRST_TWIDDLES)
#error "the host defines every parameter"
#endif
__device__ constexpr int log2_of(int x) { return x <= 1 ? 0 : 1 + log2_of(x / 2); }
constexpr int N = POLYNOMIAL_SIZE, LOG_2N = log2_of(2 * N), H = N / 2, LOG_H = log2_of(H), SMALL = LWE_DIMENSION + 1;
constexpr int WARP = 32;
static_assert(H >= 256 && H <= 1024 && (1 << LOG_H) == H, "N must be 512, 1024 or 2048");

// The factors of ARITHMETIC.md that all threads share, rows 1 to 31 of the table: operands of instructions, never loaded.
__constant__ double2 first_twiddles[WARP] = {FIRST_TWIDDLES};

#ifndef COPROC_EMULATION
// c (16 by 8) += a (16 by 32) times b (32 by 8), signed bytes and 32-bit sums; a warp's registers hold them as PTX says.
DEVICE void multiply_bytes(i32 (&c)[4], uint4 a, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}
// A load that stays where it stands in the program: the compiler puts others off until after barriers, to save registers.
DEVICE double2 load_now(const double2 *place) {
  double2 value;
  asm volatile("ld.global.v2.f64 {%0, %1}, [%2];" : "=d"(value.x), "=d"(value.y) : "l"(place) : "memory");
  return value;
}
#endif
