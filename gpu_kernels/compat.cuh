// One source, two compilers: NVRTC for a device, g++ (with COPROC_EMULATION and emulation.h before this) for the CPU.
// What keeps both equal to the bit: no contraction (--fmad=false, -ffp-contract=off), every fused step written as FMA,
// integer atomics only. No CUDA header is included; the files are joined into one text in the order of source.py.
#ifdef COPROC_EMULATION
#define SHARED_MEMORY(name) unsigned char *name = emulation::shared_memory()
#define UNROLL _Pragma("GCC unroll 64")
#define FMA(a, b, c) __builtin_fma(a, b, c)
#define EXPORT(kernel) EMULATION_EXPORT(kernel)
#else
extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];
#define SHARED_MEMORY(name) unsigned char *name = dynamic_shared_memory
#define UNROLL _Pragma("unroll")
#define FMA(a, b, c) __fma_rn(a, b, c)
#define EXPORT(kernel)
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
    !defined(KS_LEVEL) || !defined(CENTERED_MEAN) || !defined(CIPHERTEXTS_PER_BLOCK) || !defined(LATENCY_THREADS)
#error "the host defines every parameter"
#endif
__device__ constexpr int log2_of(int x) { return x <= 1 ? 0 : 1 + log2_of(x / 2); }
constexpr int N = POLYNOMIAL_SIZE, LOG_2N = log2_of(2 * N), H = N / 2, LOG_H = log2_of(H), SMALL = LWE_DIMENSION + 1;
constexpr int WARP = 32;
static_assert(H >= 256 && H <= 1024 && (1 << LOG_H) == H, "N must be 512, 1024 or 2048");
