// Runs CUDA C++ on one core: every CUDA thread is a fiber, blocks follow one another.
// The order of threads between barriers is forward, reverse or random: a result that depends on it lacks a barrier.
// Dynamic shared memory is poisoned before each block (NaN as double) and has guard zones that are checked after it.
// A barrier that not all threads reach is reported as a deadlock. One launch at a time in a process: the host sees to it.
#include <sys/mman.h>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>
#ifndef __x86_64__
#error "fibers are switched by x86-64 code"
#endif
#define __global__
#define __constant__ static const
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
struct alignas(16) double2 { double x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };

namespace emulation {
struct Dim { unsigned x, y, z; };
struct Barrier { unsigned arrived = 0, round = 0; };
struct Fiber {
  void *stack_pointer = nullptr;
  char *stack = nullptr;
  bool done = true, waiting = false;
  const Barrier *barrier = nullptr;
  unsigned round = 0, shuffles = 0;
  Dim thread{};
};
constexpr size_t STACK = 256 * 1024, PAGE = 4096, GUARD = 4096, MOST_SHARED = 232448;
constexpr unsigned MOST_THREADS = 1024;
static Fiber fibers[MOST_THREADS];
static Fiber *current;
static void *host_pointer;
static Barrier block_barrier, warp_barriers[MOST_THREADS / 32], named_barriers[16];
static unsigned long long exchanged[MOST_THREADS / 32][2][32];
static unsigned threads;
static Dim block_index, block_size, grid_size;
alignas(16) static unsigned char shared_zone[GUARD + MOST_SHARED + GUARD];
static size_t shared_bytes;
static int order;
static uint64_t seed = 1;
static char message[256];
static void (*body)(void *);
static void *body_argument;

extern "C" void coproc_switch_fiber(void **save, void *to);
asm(R"(
.text
.globl coproc_switch_fiber
.hidden coproc_switch_fiber
.type coproc_switch_fiber,@function
coproc_switch_fiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

static inline unsigned char *shared_memory() { return shared_zone + GUARD; }
static inline unsigned number() { return (unsigned)(current - fibers); }
static void leave() { coproc_switch_fiber(&current->stack_pointer, host_pointer); }
static void start() {
  body(body_argument);
  current->done = true;
  leave();
  __builtin_trap();
}
static void wait(Barrier &barrier, unsigned expected) {
  if (++barrier.arrived == expected) {
    barrier.arrived = 0;
    barrier.round++;
    return;
  }
  current->barrier = &barrier;
  current->round = barrier.round;
  current->waiting = true;
  leave();
  current->waiting = false;
}
static void wait_named(unsigned name, unsigned expected) {
  if (name < 1 || name > 15) __builtin_trap();
  wait(named_barriers[name], expected);
}
static unsigned warp_size() {
  const unsigned rest = threads - number() / 32 * 32;
  return rest < 32 ? rest : 32;
}
static uint64_t random_word() {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed;
}
static bool guards_hold() {
  for (size_t i = 0; i < GUARD; i++)
    if (shared_zone[i] != 0xA5 || shared_zone[GUARD + shared_bytes + i] != 0xA5) return false;
  return true;
}
static int run_block() {
  memset(shared_zone, 0xA5, GUARD);
  memset(shared_zone + GUARD, 0xFF, shared_bytes);
  memset(shared_zone + GUARD + shared_bytes, 0xA5, GUARD);
  block_barrier = Barrier();
  for (auto &barrier : warp_barriers) barrier = Barrier();
  for (auto &barrier : named_barriers) barrier = Barrier();
  unsigned turns[MOST_THREADS];
  for (unsigned i = 0; i < threads; i++) {
    Fiber &fiber = fibers[i];
    if (!fiber.stack) {
      void *stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (stack == MAP_FAILED) {
        snprintf(message, sizeof message, "no memory for the stack of thread %u", i);
        return 3;
      }
      fiber.stack = (char *)stack;
      mprotect(fiber.stack, PAGE, PROT_NONE);
    }
    void **top = (void **)(fiber.stack + STACK - 64);
    *--top = nullptr;  // keeps the stack aligned as after a call
    *--top = (void *)start;
    for (int k = 0; k < 6; k++) *--top = nullptr;
    fiber.stack_pointer = top;
    fiber.done = fiber.waiting = false;
    fiber.shuffles = 0;
    fiber.thread = {i % block_size.x, i / block_size.x % block_size.y, i / (block_size.x * block_size.y)};
    turns[i] = order == 1 ? threads - 1 - i : i;
  }
  for (unsigned left = threads; left;) {
    if (order == 2)
      for (unsigned i = threads - 1; i > 0; i--) std::swap(turns[i], turns[random_word() % (i + 1)]);
    bool progress = false;
    for (unsigned k = 0; k < threads; k++) {
      Fiber &fiber = fibers[turns[k]];
      if (fiber.done || (fiber.waiting && fiber.barrier->round == fiber.round)) continue;
      progress = true;
      current = &fiber;
      coproc_switch_fiber(&host_pointer, fiber.stack_pointer);
      if (fiber.done) left--;
    }
    if (!progress) {
      snprintf(message, sizeof message, "deadlock: %u of %u threads wait at a barrier in block (%u, %u, %u)", left, threads,
               block_index.x, block_index.y, block_index.z);
      return 1;
    }
  }
  if (!guards_hold()) {
    snprintf(message, sizeof message, "block (%u, %u, %u) wrote outside its %zu bytes of shared memory", block_index.x,
             block_index.y, block_index.z, shared_bytes);
    return 2;
  }
  return 0;
}
template <class T> struct Plain { using type = T; };
template <class T> struct Plain<const T> { using type = T; };
template <class... A, size_t... I> void call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
  kernel(*(typename Plain<A>::type *)arguments[I]...);
}
template <class... A> int launch(void (*kernel)(A...), const unsigned *grid, const unsigned *block, size_t shared, void **arguments) {
  grid_size = {grid[0], grid[1], grid[2]};
  block_size = {block[0], block[1], block[2]};
  threads = block[0] * block[1] * block[2];
  message[0] = 0;
  if (threads == 0 || threads > MOST_THREADS || shared > MOST_SHARED || grid[1] > 65535 || grid[2] > 65535) {
    snprintf(message, sizeof message, "no device runs %u threads a block with %zu bytes of shared memory on a grid of (%u, %u, %u)",
             threads, shared, grid[0], grid[1], grid[2]);
    return 4;
  }
  shared_bytes = shared;
  struct Context { void (*kernel)(A...); void **arguments; } context{kernel, arguments};
  body_argument = &context;
  body = [](void *p) {
    auto *c = (Context *)p;
    call(c->kernel, c->arguments, std::index_sequence_for<A...>{});
  };
  for (unsigned z = 0; z < grid[2]; z++)
    for (unsigned y = 0; y < grid[1]; y++)
      for (unsigned x = 0; x < grid[0]; x++) {
        block_index = {x, y, z};
        if (int status = run_block()) return status;
      }
  return 0;
}
}  // namespace emulation

#define threadIdx (emulation::current->thread)
#define blockIdx emulation::block_index
#define blockDim emulation::block_size
#define gridDim emulation::grid_size
static inline void __syncthreads() { emulation::wait(emulation::block_barrier, emulation::threads); }
static inline void __syncwarp() { emulation::wait(emulation::warp_barriers[emulation::number() / 32], emulation::warp_size()); }
template <class T> static inline T __shfl_xor_sync(unsigned, T value, int mask) {
  static_assert(sizeof(T) <= 8, "shuffles move up to 8 bytes");
  using namespace emulation;
  const unsigned n = number();
  auto &slots = exchanged[n / 32][current->shuffles++ & 1];  // two sets: the next shuffle may overtake slow readers
  memcpy(&slots[n % 32], &value, sizeof value);
  __syncwarp();
  memcpy(&value, &slots[(n ^ mask) % 32], sizeof value);
  return value;
}
// Matrix units: registers of a warp as PTX lays them out for mma.m16n8k32 on signed bytes.
__attribute__((optimize("O3"))) static int dot(const signed char *a, const signed char *b) {
  int sum = 0;
  for (int k = 0; k < 32; k++) sum += a[k] * b[k];
  return sum;
}
static inline void multiply_bytes(int (&c)[4], uint4 a, unsigned b0, unsigned b1) {
  using namespace emulation;
  struct alignas(32) Factors { signed char rows[16][32], columns[8][32]; };
  static Factors exchange[MOST_THREADS / 32][2];
  const unsigned n = number(), lane = n % 32, row = lane / 4, place = lane % 4 * 4, column = lane % 4 * 2;
  Factors &all = exchange[n / 32][current->shuffles++ & 1];
  memcpy(&all.rows[row][place], &a.x, 4);
  memcpy(&all.rows[row + 8][place], &a.y, 4);
  memcpy(&all.rows[row][place + 16], &a.z, 4);
  memcpy(&all.rows[row + 8][place + 16], &a.w, 4);
  memcpy(&all.columns[row][place], &b0, 4);
  memcpy(&all.columns[row][place + 16], &b1, 4);
  __syncwarp();
  for (unsigned j = 0; j < 4; j++) c[j] += dot(all.rows[row + j / 2 * 8], all.columns[column + j % 2]);
}
template <class T> static inline T atomicAdd(T *place, T value) {
  const T before = *place;
  *place += value;
  return before;
}
template <class T> static inline T __ldg(const T *place) { return *place; }
static inline double2 load_now(const double2 *place) { return *place; }
static inline double __int2double_rn(int value) { return value; }
static inline long long __double2ll_rn(double value) {  // to nearest, ties to even: the processor's own rounding
  return __builtin_ia32_cvtsd2si64((double __attribute__((vector_size(16)))){value, 0});
}
static inline double __ll2double_rn(long long value) { return (double)value; }
extern "C" void emulation_order(int order, uint64_t seed) {
  emulation::order = order;
  emulation::seed = seed | 1;
}
extern "C" const char *emulation_message() { return emulation::message; }
#define EMULATION_EXPORT(kernel)                                                                                              \
  extern "C" int emulated_##kernel(const unsigned *grid, const unsigned *block, size_t shared, void **arguments) {          \
    return emulation::launch(kernel, grid, block, shared, arguments);                                                         \
  }
