// With hopper.cuh the only header with PTX and the only one that knows of the emulator. Kernels say here what they need of a GPU; two
// compilers read it:
//   NVRTC (no CUDA header is needed or included) and g++ -DEMU (kernels/emulator: the same wrappers on fibers).
// Every wrapper is a function of one warp or one thread; collectives take all 32 lanes of a warp, converged.
#pragma once
#if defined(EMU)
#include "emulated.h"
#else

typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
static_assert(sizeof(void*) == 8, "64-bit only");

// A device function; a kernel of at most so many threads a block; a kernel of several arguments for the emulator, after its body.
#define DEV __device__ __forceinline__
// One block per multiprocessor is asked for: without that number ptxas keeps to so few registers that it puts loads off until they are used.
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads, 1)
#define KERNEL_EXPORT(name)
// Numbers at namespace scope, known when compiling and indexed at run time.
#define DEV_CONST static constexpr __device__
// The block's dynamic shared memory.
#define DYN_SMEM(name) extern __shared__ __align__(128) uint8_t name[]
#define DYN_SMEM_ALIGNED(name, bytes) extern __shared__ __align__(bytes) uint8_t name[]

// ---- where this thread is ----

DEV uint32_t thread_x() { return threadIdx.x; }
DEV uint32_t threads_x() { return blockDim.x; }
DEV uint32_t block_x() { return blockIdx.x; }
DEV uint32_t block_y() { return blockIdx.y; }
DEV uint32_t blocks_x() { return gridDim.x; }
DEV uint32_t blocks_y() { return gridDim.y; }
DEV uint32_t lane() { return threadIdx.x & 31; }
DEV uint32_t warp() { return threadIdx.x >> 5; }

// ---- barriers ----

DEV void sync_block() { __syncthreads(); }
DEV void sync_warp() { __syncwarp(); }

// Waits for `threads` threads of the block (whole warps) at barrier `id`, 1 to 15.
DEV void sync_named(uint32_t id, uint32_t threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// Stops the kernel with an error: this cannot happen.
DEV void unreachable_trap() { asm volatile("trap;"); }

// ---- warps ----

DEV float shfl_xor(float v, uint32_t mask) { return __shfl_xor_sync(0xffffffffu, v, (int)mask); }
DEV uint32_t shfl_xor(uint32_t v, uint32_t mask) { return __shfl_xor_sync(0xffffffffu, v, (int)mask); }
DEV float shfl_idx(float v, uint32_t from) { return __shfl_sync(0xffffffffu, v, (int)from); }
DEV uint32_t shfl_idx(uint32_t v, uint32_t from) { return __shfl_sync(0xffffffffu, v, (int)from); }
// Lanes that would read past 31 keep their own value.
DEV float shfl_down(float v, uint32_t by) { return __shfl_down_sync(0xffffffffu, v, by); }
DEV uint32_t shfl_down(uint32_t v, uint32_t by) { return __shfl_down_sync(0xffffffffu, v, by); }
DEV uint32_t ballot(bool p) { return __ballot_sync(0xffffffffu, p); }
DEV bool any(bool p) { return __any_sync(0xffffffffu, p); }
DEV bool all(bool p) { return __all_sync(0xffffffffu, p); }

// ---- bits ----

DEV uint32_t f32_bits(float f) { return __float_as_uint(f); }
DEV float bits_f32(uint32_t u) { return __uint_as_float(u); }
DEV uint32_t popc(uint32_t u) { return (uint32_t)__popc((int)u); }

// ---- 16-bit floats: rounded to nearest, ties to even ----

DEV uint16_t f32_to_bf16(float f) {
    uint16_t r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(f));
    return r;
}
// `lo` into bits 0 to 15.
DEV uint32_t pack_bf16(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
DEV uint16_t f32_to_f16(float f) {
    uint16_t r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(f));
    return r;
}
DEV float f16_to_f32(uint16_t h) {
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(h));
    return r;
}
DEV uint32_t pack_f16(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
// The 10 mantissa bits that tf32 products see: rounded to nearest, ties away from zero.
DEV uint32_t f32_to_tf32(float f) {
    uint32_t r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(f));
    return r;
}

// ---- asynchronous copies, global to shared; addresses on a boundary of their size ----

DEV uint32_t smem_u32(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

DEV void cp_async16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(smem_u32(to)), "l"(from) : "memory");
}
DEV void cp_async8(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(smem_u32(to)), "l"(from) : "memory");
}
DEV void cp_async4(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(smem_u32(to)), "l"(from) : "memory");
}
// The same with only the first `bytes` read, the rest filled with zeros; with 0, `from` is not read but must be an address all the same.
DEV void cp_async16(void* to, const void* from, uint32_t bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_u32(to)), "l"(from), "r"(bytes) : "memory");
}
DEV void cp_async8(void* to, const void* from, uint32_t bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(smem_u32(to)), "l"(from), "r"(bytes) : "memory");
}
DEV void cp_async4(void* to, const void* from, uint32_t bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(smem_u32(to)), "l"(from), "r"(bytes) : "memory");
}
DEV void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `LEFT` of this thread's committed groups are under way. Other threads see the copies after a barrier.
template <int LEFT> DEV void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }

// ---- matrices ----

// 8x8 tiles of 16-bit elements: lane i gives the address of row i % 8 of tile i / 8, on a boundary of 16 bytes. Lane l is given elements
// 2 (l % 4) and the next of row l / 4 of each tile; with `_trans`, of column l / 4.
DEV void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_u32(row)));
}
DEV void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(smem_u32(row)));
}
DEV void ldmatrix_x1(uint32_t (&r)[1], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(smem_u32(row)));
}
DEV void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_u32(row)));
}
DEV void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(smem_u32(row)));
}

// d[16x8] += a[16x16] b[16x8], f32 sums. With g = lane / 4, t = lane % 4, pairs of elements k and k + 1 in a register (k in the low half):
//   a: {row g, k 2t} {row g + 8, k 2t} {row g, k 2t + 8} {row g + 8, k 2t + 8};  b: {k 2t, column g} {k 2t + 8, column g};
//   d: (g, 2t) (g, 2t + 1) (g + 8, 2t) (g + 8, 2t + 1).
DEV void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEV void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// d[16x8] += a[16x8] b[8x8] of tf32. a: (g, t) (g + 8, t) (g, t + 4) (g + 8, t + 4); b: (k t, column g) (k t + 4, column g); d as above.
DEV void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- global memory ----

// Memory that nothing writes while the kernel runs, on a boundary of the size; `streaming`: read once, first to leave the caches.
DEV uint4 load_nc16(const void* p) {
    uint4 v;
    asm("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
DEV uint2 load_nc8(const void* p) {
    uint2 v;
    asm("ld.global.nc.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}
DEV uint32_t load_nc4(const void* p) {
    uint32_t v;
    asm("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
DEV uint4 load_streaming16(const void* p) {
    uint4 v;
    asm volatile("ld.global.cs.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
    return v;
}
DEV uint2 load_streaming8(const void* p) {
    uint2 v;
    asm volatile("ld.global.cs.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p) : "memory");
    return v;
}
DEV uint32_t load_streaming4(const void* p) {
    uint32_t v;
    asm volatile("ld.global.cs.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
DEV void prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// Both return what was there before; for all blocks of the device, in no order with other memory: see the fences.
DEV uint32_t atomic_add(uint32_t* p, uint32_t v) { return atomicAdd(p, v); }
DEV uint32_t atomic_or(uint32_t* p, uint32_t v) { return atomicOr(p, v); }

DEV void fence_device() { __threadfence(); }
DEV void fence_system() { __threadfence_system(); }
DEV void st_release_sys(uint32_t* p, uint32_t v) { asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
DEV uint32_t ld_acquire_sys(const uint32_t* p) {
    uint32_t v;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

// ---- f32 functions, the accurate ones ----

DEV float exp_(float x) { return expf(x); }
DEV float expm1_(float x) { return expm1f(x); }
DEV float log_(float x) { return logf(x); }
DEV float log1p_(float x) { return log1pf(x); }
DEV float tanh_(float x) { return tanhf(x); }
DEV float sqrt_(float x) { return sqrtf(x); }
DEV float rsqrt_(float x) { return rsqrtf(x); }
DEV float pow_(float x, float y) { return powf(x, y); }
DEV float erf_(float x) { return erff(x); }
DEV float fmod_(float x, float y) { return fmodf(x, y); }
DEV float sin_(float x) { return sinf(x); }
DEV float cos_(float x) { return cosf(x); }
DEV float floor_(float x) { return floorf(x); }
DEV float ceil_(float x) { return ceilf(x); }
DEV float trunc_(float x) { return truncf(x); }
DEV float round_even_(float x) { return rintf(x); }
DEV float abs_(float x) { return fabsf(x); }
DEV float fma_(float a, float b, float c) { return fmaf(a, b, c); }
#endif

// ---- the same text for both ----

DEV bool is_nan(float x) { return x != x; }

// The first where neither is smaller (larger): with a NaN in it, the first.
template <class T> DEV T min_(T a, T b) { return b < a ? b : a; }
template <class T> DEV T max_(T a, T b) { return a < b ? b : a; }

DEV float bf16_to_f32(uint16_t b) { return bits_f32((uint32_t)b << 16); }
// Elements of a packed pair.
DEV float bf16_lo(uint32_t pair) { return bits_f32(pair << 16); }
DEV float bf16_hi(uint32_t pair) { return bits_f32(pair & 0xffff0000u); }
DEV float f16_lo(uint32_t pair) { return f16_to_f32((uint16_t)pair); }
DEV float f16_hi(uint32_t pair) { return f16_to_f32((uint16_t)(pair >> 16)); }
