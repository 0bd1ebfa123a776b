// What rt.cuh is under g++: a CUDA thread is a fiber, and all that a wrapper needs lies at the top of the fiber's own stack.
#pragma once
#include <stddef.h>
#include <stdint.h>

#if !defined(__x86_64__)
#error "the emulator switches fibers on x86-64 only"
#endif

struct uint2 {
    uint32_t x, y;
} __attribute__((aligned(8)));
struct uint4 {
    uint32_t x, y, z, w;
} __attribute__((aligned(16)));
struct int2 {
    int32_t x, y;
} __attribute__((aligned(8)));
struct int4 {
    int32_t x, y, z, w;
} __attribute__((aligned(16)));
struct float2 {
    float x, y;
} __attribute__((aligned(8)));
struct float4 {
    float x, y, z, w;
} __attribute__((aligned(16)));
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline int2 make_int2(int32_t x, int32_t y) { return {x, y}; }
inline int4 make_int4(int32_t x, int32_t y, int32_t z, int32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emu {

struct Thread;

// What a collective exchanges: two sets, used by turns, so that a lane may arrive at the next one while others still read.
struct Exchange {
    unsigned char values[2][32][16];
    // Operands of a product, by row and by column.
    float a[2][16][16] __attribute__((aligned(16))), b[2][8][16] __attribute__((aligned(16)));
};

// The emulator's side, in libcuda. `file` and `line` say where in the kernel a thread waits.
struct Services {
    void (*meet_block)(Thread*, uint32_t barrier, uint32_t threads, const char* file, uint32_t line);
    void (*meet_warp)(Thread*, const char* file, uint32_t line);
    void (*pass)(Thread*);
    void (*copy)(Thread*, void* to, const void* from, uint32_t bytes, uint32_t source_bytes, const char* file, uint32_t line);
    void (*commit)(Thread*);
    void (*settle)(Thread*, uint32_t groups_left);
    void (*fault)(Thread*, const char* why, const char* file, uint32_t line);
};

// One thread of the kernel. The first part is for the wrappers, the second for the scheduler.
struct Thread {
    const Services* services;
    uint32_t thread[3], threads[3], block[3], blocks[3];
    uint32_t linear;
    uint32_t turn;
    Exchange* exchange;
    uint8_t* shared;

    void* stack_pointer;
    void* worker;
    uint32_t state, barrier, line;
    const char* file;
};

// Stacks lie on boundaries of their size; their tops are staggered by the number of the stack, or all of them would share cache lines.
constexpr uintptr_t STACK_BYTES = 128 * 1024;
constexpr uintptr_t STAGGERS = 64, STAGGER_BYTES = 256;

inline Thread* at(uintptr_t stack) {
    uintptr_t number = stack / STACK_BYTES;
    uintptr_t top = (number + 1) * STACK_BYTES - number % STAGGERS * STAGGER_BYTES;
    return (Thread*)((top - sizeof(Thread)) & ~(uintptr_t)63);
}

inline Thread* self() {
    uintptr_t pointer;
    asm("movq %%rsp, %0" : "=r"(pointer));
    return at(pointer);
}

template <class T> inline T read(const void* from) {
    T value;
    __builtin_memcpy(&value, from, sizeof(T));
    return value;
}

// Gives `mine` to the warp; what the others gave is at values[turn][lane] until the collective after the next.
template <class T> inline const unsigned char (*exchange(const T& mine, const char* file, uint32_t line))[16] {
    static_assert(sizeof(T) <= 16, "fits a lane's place");
    Thread* t = self();
    unsigned char(*values)[16] = t->exchange->values[t->turn];
    t->turn ^= 1;
    __builtin_memcpy(values[t->linear % 32], &mine, sizeof(T));
    t->services->meet_warp(t, file, line);
    return values;
}

inline void aligned(const void* p, uint32_t bytes, const char* why, const char* file, uint32_t line) {
    if ((uintptr_t)p % bytes != 0) {
        self()->services->fault(self(), why, file, line);
    }
}

// How a kernel is found by name and called: the address of `emu_kernel_<name>`.
struct Kernel {
    void (*call)(void** arguments);
    uint32_t max_threads, arguments;
    uint32_t bytes[64];
};

template <int... I> struct Indices {};

template <auto function, class... A, int... I> void call(void** arguments, Indices<I...>) {
    function(*(A*)arguments[I]...);
}

template <auto function, class... A> constexpr Kernel describe(void (*)(A...), uint32_t max_threads) {
    static_assert(sizeof...(A) <= 64, "arguments of a kernel");
    return {[](void** arguments) { call<function, A...>(arguments, Indices<__integer_pack(sizeof...(A))...>{}); },
            max_threads,
            sizeof...(A),
            {sizeof(A)...}};
}

} // namespace emu

// The place of the call, as a default argument of the wrappers.
#define EMU_SITE const char *file = __builtin_FILE(), uint32_t line = __builtin_LINE()

#define DEV inline
#define KERNEL(threads)                                                                         \
    static_assert((threads) % 32 == 0 && (threads) > 0 && (threads) <= 1024, "whole warps");    \
    void
#define EMU_EXPORT(name, function, max_threads)                                                     \
    extern "C" {                                                                                    \
    extern const emu::Kernel emu_kernel_##name __attribute__((visibility("default")));              \
    const emu::Kernel emu_kernel_##name = emu::describe<&function>(&function, max_threads);         \
    }
#define KERNEL_EXPORT(name) EMU_EXPORT(name, name, 1024)
#define DEV_CONST static constexpr
#define DYN_SMEM(name) uint8_t* const name = emu::self()->shared
#define DYN_SMEM_ALIGNED(name, bytes) uint8_t* const name = emu::self()->shared

DEV uint32_t thread_x() { return emu::self()->thread[0]; }
DEV uint32_t threads_x() { return emu::self()->threads[0]; }
DEV uint32_t block_x() { return emu::self()->block[0]; }
DEV uint32_t block_y() { return emu::self()->block[1]; }
DEV uint32_t blocks_x() { return emu::self()->blocks[0]; }
DEV uint32_t blocks_y() { return emu::self()->blocks[1]; }
DEV uint32_t lane() { return thread_x() & 31; }
DEV uint32_t warp() { return thread_x() >> 5; }

DEV void sync_block(EMU_SITE) {
    emu::Thread* t = emu::self();
    t->services->meet_block(t, 0, t->threads[0] * t->threads[1] * t->threads[2], file, line);
}
DEV void sync_named(uint32_t id, uint32_t threads, EMU_SITE) {
    emu::Thread* t = emu::self();
    if (id == 0 || id > 15 || threads == 0 || threads % 32 != 0) {
        t->services->fault(t, "a named barrier is 1 to 15 and for whole warps", file, line);
    }
    t->services->meet_block(t, id, threads, file, line);
}
DEV void sync_warp(EMU_SITE) {
    emu::Thread* t = emu::self();
    t->services->meet_warp(t, file, line);
}
DEV void unreachable_trap(EMU_SITE) { emu::self()->services->fault(emu::self(), "reached what cannot be reached (trap)", file, line); }

DEV float shfl_xor(float v, uint32_t mask, EMU_SITE) {
    return emu::read<float>(emu::exchange(v, file, line)[(emu::self()->linear ^ mask) % 32]);
}
DEV uint32_t shfl_xor(uint32_t v, uint32_t mask, EMU_SITE) {
    return emu::read<uint32_t>(emu::exchange(v, file, line)[(emu::self()->linear ^ mask) % 32]);
}
DEV float shfl_idx(float v, uint32_t from, EMU_SITE) { return emu::read<float>(emu::exchange(v, file, line)[from % 32]); }
DEV uint32_t shfl_idx(uint32_t v, uint32_t from, EMU_SITE) { return emu::read<uint32_t>(emu::exchange(v, file, line)[from % 32]); }
DEV float shfl_down(float v, uint32_t by, EMU_SITE) {
    uint32_t from = emu::self()->linear % 32 + by;
    auto values = emu::exchange(v, file, line);
    return from < 32 ? emu::read<float>(values[from]) : v;
}
DEV uint32_t shfl_down(uint32_t v, uint32_t by, EMU_SITE) {
    uint32_t from = emu::self()->linear % 32 + by;
    auto values = emu::exchange(v, file, line);
    return from < 32 ? emu::read<uint32_t>(values[from]) : v;
}
DEV uint32_t ballot(bool p, EMU_SITE) {
    auto values = emu::exchange((uint32_t)p, file, line);
    uint32_t bits = 0;
    for (uint32_t i = 0; i < 32; i++) {
        bits |= emu::read<uint32_t>(values[i]) << i;
    }
    return bits;
}
DEV bool any(bool p, EMU_SITE) { return ballot(p, file, line) != 0; }
DEV bool all(bool p, EMU_SITE) { return ballot(p, file, line) == 0xffffffffu; }

DEV uint32_t f32_bits(float f) { return emu::read<uint32_t>(&f); }
DEV float bits_f32(uint32_t u) { return emu::read<float>(&u); }
DEV uint32_t popc(uint32_t u) { return (uint32_t)__builtin_popcount(u); }

DEV uint16_t f32_to_bf16(float f) {
    uint32_t u = f32_bits(f);
    return f != f ? 0x7fff : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
DEV uint32_t pack_bf16(float lo, float hi) { return f32_to_bf16(lo) | (uint32_t)f32_to_bf16(hi) << 16; }
DEV float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 31) {
        return bits_f32(mantissa != 0 ? 0x7fffffffu : sign | 0x7f800000u);
    }
    if (exponent == 0) {
        float magnitude = (float)mantissa * 0x1p-24f;
        return sign != 0 ? -magnitude : magnitude;
    }
    return bits_f32(sign | (exponent + 112) << 23 | mantissa << 13);
}
DEV uint16_t f32_to_f16(float f) {
    uint32_t u = f32_bits(f), sign = u >> 16 & 0x8000;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) {
        return 0x7fff;
    }
    if (u >= 0x477ff000u) { // rounds to 65536 or more
        return (uint16_t)(sign | 0x7c00);
    }
    if (u < 0x38800000u) { // below 2^-14: in units of 2^-24
        return (uint16_t)(sign | (uint32_t)__builtin_rintf(bits_f32(u) * 0x1p24f));
    }
    return (uint16_t)(sign | (u - 0x38000000u + 0xfff + (u >> 13 & 1)) >> 13);
}
DEV uint32_t pack_f16(float lo, float hi) { return f32_to_f16(lo) | (uint32_t)f32_to_f16(hi) << 16; }
DEV uint32_t f32_to_tf32(float f) { return f != f ? 0x7fffffffu : (f32_bits(f) + 0x1000) & ~0x1fffu; }

#define EMU_COPY(bytes)                                                                                    \
    DEV void cp_async##bytes(void* to, const void* from, EMU_SITE) {                                       \
        emu::self()->services->copy(emu::self(), to, from, bytes, bytes, file, line);                      \
    }                                                                                                      \
    DEV void cp_async##bytes(void* to, const void* from, uint32_t source_bytes, EMU_SITE) {                \
        emu::self()->services->copy(emu::self(), to, from, bytes, source_bytes, file, line);               \
    }
EMU_COPY(16)
EMU_COPY(8)
EMU_COPY(4)
#undef EMU_COPY
DEV void cp_async_commit() { emu::self()->services->commit(emu::self()); }
template <int LEFT> DEV void cp_async_wait() { emu::self()->services->settle(emu::self(), LEFT); }

namespace emu {
template <int TILES> inline void ldmatrix(uint32_t (&r)[TILES], const void* row, bool transposed, const char* file, uint32_t line) {
    uint32_t l = self()->linear % 32;
    if (l < 8 * TILES) {
        aligned(row, 16, "ldmatrix: a row's address is not on a boundary of 16 bytes", file, line);
    }
    auto rows = exchange(row, file, line);
    for (int tile = 0; tile < TILES; tile++) {
        if (transposed) {
            uint16_t low = ((const uint16_t*)read<const void*>(rows[8 * tile + l % 4 * 2]))[l / 4];
            uint16_t high = ((const uint16_t*)read<const void*>(rows[8 * tile + l % 4 * 2 + 1]))[l / 4];
            r[tile] = low | (uint32_t)high << 16;
        } else {
            r[tile] = ((const uint32_t*)read<const void*>(rows[8 * tile + l / 4]))[l % 4];
        }
    }
}
} // namespace emu
DEV void ldmatrix_x4(uint32_t (&r)[4], const void* row, EMU_SITE) { emu::ldmatrix(r, row, false, file, line); }
DEV void ldmatrix_x2(uint32_t (&r)[2], const void* row, EMU_SITE) { emu::ldmatrix(r, row, false, file, line); }
DEV void ldmatrix_x1(uint32_t (&r)[1], const void* row, EMU_SITE) { emu::ldmatrix(r, row, false, file, line); }
DEV void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, EMU_SITE) { emu::ldmatrix(r, row, true, file, line); }
DEV void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row, EMU_SITE) { emu::ldmatrix(r, row, true, file, line); }

namespace emu {
typedef float Four __attribute__((vector_size(16)));

// The four elements of a lane, from the operands that all lanes have spread out.
template <uint32_t DEPTH> inline void add_products(float (&d)[4], const float (*a)[16], const float (*b)[16], uint32_t l) {
    for (uint32_t e = 0; e < 4; e++) {
        const Four* row = (const Four*)a[l / 4 + e / 2 * 8];
        const Four* column = (const Four*)b[l % 4 * 2 + e % 2];
        Four sum = row[0] * column[0];
        for (uint32_t k = 1; k < DEPTH / 4; k++) {
            sum += row[k] * column[k];
        }
        d[e] += (sum[0] + sum[2]) + (sum[1] + sum[3]);
    }
}

// Products of 16-bit elements: register i of `a` holds row g (+ 8 if i is odd), k 2t (+ 8 from i = 2 on).
template <class Low, class High>
inline void mma16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Low low, High high, const char* file, uint32_t line) {
    Thread* thread = self();
    uint32_t l = thread->linear % 32, turn = thread->turn;
    float(*as)[16] = thread->exchange->a[turn];
    float(*bs)[16] = thread->exchange->b[turn];
    for (uint32_t i = 0; i < 4; i++) {
        float* to = as[l / 4 + i % 2 * 8] + l % 4 * 2 + i / 2 * 8;
        to[0] = low(a[i]);
        to[1] = high(a[i]);
    }
    for (uint32_t i = 0; i < 2; i++) {
        float* to = bs[l / 4] + l % 4 * 2 + i * 8;
        to[0] = low(b[i]);
        to[1] = high(b[i]);
    }
    thread->turn ^= 1;
    thread->services->meet_warp(thread, file, line);
    add_products<16>(d, as, bs, l);
}
} // namespace emu
DEV void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMU_SITE) {
    auto low = [](uint32_t v) { return bits_f32(v << 16); };
    auto high = [](uint32_t v) { return bits_f32(v & 0xffff0000u); };
    emu::mma16(d, a, b, low, high, file, line);
}
DEV void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMU_SITE) {
    auto low = [](uint32_t v) { return f16_to_f32((uint16_t)v); };
    auto high = [](uint32_t v) { return f16_to_f32((uint16_t)(v >> 16)); };
    emu::mma16(d, a, b, low, high, file, line);
}
DEV void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMU_SITE) {
    emu::Thread* thread = emu::self();
    uint32_t l = thread->linear % 32, turn = thread->turn;
    float(*as)[16] = thread->exchange->a[turn];
    float(*bs)[16] = thread->exchange->b[turn];
    for (uint32_t i = 0; i < 4; i++) {
        as[l / 4 + i % 2 * 8][l % 4 + i / 2 * 4] = bits_f32(a[i] & ~0x1fffu); // the hardware looks at no more bits
    }
    for (uint32_t i = 0; i < 2; i++) {
        bs[l / 4][l % 4 + i * 4] = bits_f32(b[i] & ~0x1fffu);
    }
    thread->turn ^= 1;
    thread->services->meet_warp(thread, file, line);
    emu::add_products<8>(d, as, bs, l);
}

#define EMU_LOAD(type, bytes)                                                                                     \
    DEV type load_nc##bytes(const void* p, EMU_SITE) {                                                            \
        emu::aligned(p, bytes, "load_nc: the address is not on a boundary of its size", file, line);              \
        return *(const type*)p;                                                                                   \
    }                                                                                                             \
    DEV type load_streaming##bytes(const void* p, EMU_SITE) {                                                     \
        emu::aligned(p, bytes, "load_streaming: the address is not on a boundary of its size", file, line);       \
        return *(const type*)p;                                                                                   \
    }
EMU_LOAD(uint4, 16)
EMU_LOAD(uint2, 8)
EMU_LOAD(uint32_t, 4)
#undef EMU_LOAD
DEV void prefetch_l2(const void* p) { __builtin_prefetch(p); }
DEV uint32_t atomic_add(uint32_t* p, uint32_t v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
DEV uint32_t atomic_or(uint32_t* p, uint32_t v) { return __atomic_fetch_or(p, v, __ATOMIC_RELAXED); }
DEV void fence_device() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
DEV void fence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
DEV void st_release_sys(uint32_t* p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
// Whoever polls lets others run in between.
DEV uint32_t ld_acquire_sys(const uint32_t* p) {
    emu::self()->services->pass(emu::self());
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

DEV float exp_(float x) { return __builtin_expf(x); }
DEV float expm1_(float x) { return __builtin_expm1f(x); }
DEV float log_(float x) { return __builtin_logf(x); }
DEV float log1p_(float x) { return __builtin_log1pf(x); }
DEV float tanh_(float x) { return __builtin_tanhf(x); }
DEV float sqrt_(float x) { return __builtin_sqrtf(x); }
DEV float rsqrt_(float x) { return 1.0f / __builtin_sqrtf(x); }
DEV float pow_(float x, float y) { return __builtin_powf(x, y); }
DEV float erf_(float x) { return __builtin_erff(x); }
DEV float fmod_(float x, float y) { return __builtin_fmodf(x, y); }
DEV float sin_(float x) { return __builtin_sinf(x); }
DEV float cos_(float x) { return __builtin_cosf(x); }
DEV float floor_(float x) { return __builtin_floorf(x); }
DEV float ceil_(float x) { return __builtin_ceilf(x); }
DEV float trunc_(float x) { return __builtin_truncf(x); }
DEV float round_even_(float x) { return __builtin_rintf(x); }
DEV float abs_(float x) { return __builtin_fabsf(x); }
DEV float fma_(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
