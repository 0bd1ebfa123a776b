// What a device can do at best: what launches, flags, memory and multiply-adds take when nothing else is in the way. `benches/gpu` runs them;
// no model uses them. Each kernel takes one `Probe` and uses the fields that its comment names.
#include "rt.cuh"
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#include "hopper.cuh"
#endif

struct Probe {
    const uint8_t* from;    // read: a boundary of 256 bytes
    uint8_t* to;            // written
    uint32_t* flag;         // mapped host memory: written by `raise` and `answer`
    const uint32_t* asked;  // mapped host memory: read by `answer`
    uint64_t count;         // how many of what the kernel is about
    uint64_t rows;          // rows of a table
    uint32_t value;
    uint32_t seed;
};

constexpr int THREADS = 256;

// 32 bits that depend on every bit of `x`: the finaliser of MurmurHash3 (public domain, A. Appleby), applied to both halves.
DEV uint32_t mix(uint64_t x) {
    uint32_t h = (uint32_t)x ^ (uint32_t)(x >> 32) * 0x9e3779b1u;
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    return h ^ h >> 16;
}

DEV uint64_t thread_of_grid() { return (uint64_t)block_x() * threads_x() + thread_x(); }
DEV uint64_t threads_of_grid() { return (uint64_t)blocks_x() * threads_x(); }

// Has the compiler keep what was read: true so seldom that nothing is written.
DEV void keep(const Probe& p, uint32_t sum) {
    if (sum == 0x9d2c5681u && p.value == 0xffffffffu) {
        *(uint32_t*)p.to = sum;
    }
}

DEV uint32_t fold(uint4 v) { return v.x ^ v.y ^ v.z ^ v.w; }

KERNEL(32) nothing(Probe) {}

// Writes `value` to `flag` when everything before it in the stream is done.
KERNEL(32) raise(Probe p) {
    if (thread_x() == 0) {
        st_release_sys(p.flag, p.value);
    }
}

// Stays on the device: answers `count` questions, numbered from 1, each when it is asked. Gives up after 2^22 looks without one.
KERNEL(32) answer(Probe p) {
    if (thread_x() != 0) {
        return;
    }
    for (uint32_t number = 1; number <= (uint32_t)p.count; number++) {
        for (uint32_t looks = 0; ld_acquire_sys(p.asked) != number; looks++) {
            if (looks == 1u << 22) {
                return;
            }
        }
        st_release_sys(p.flag, number);
    }
}

// Reads `count` units of 16 bytes at `from` one after the other, `value` times over; four reads of a thread are under way at once.
KERNEL(THREADS) read_stream(Probe p) {
    uint32_t sum = 0;
    const uint64_t stride = threads_of_grid();
    for (uint32_t round = 0; round < p.value; round++) {
        uint64_t i = thread_of_grid();
        for (; i + 3 * stride < p.count; i += 4 * stride) {
            uint4 v[4];
#pragma unroll
            for (int u = 0; u < 4; u++) {
                v[u] = load_streaming16(p.from + 16 * (i + u * stride));
            }
#pragma unroll
            for (int u = 0; u < 4; u++) {
                sum ^= fold(v[u]);
            }
        }
        for (; i < p.count; i += stride) {
            sum ^= fold(load_streaming16(p.from + 16 * i));
        }
    }
    keep(p, sum);
}

// The same through the read-only path and left in the caches: for what fits into them.
KERNEL(THREADS) read_cached(Probe p) {
    uint32_t sum = 0;
    const uint64_t stride = threads_of_grid();
    for (uint32_t round = 0; round < p.value; round++) {
        // Another place each round, so that a round is not served by the multiprocessor's own cache.
        const uint64_t shift = (uint64_t)round * THREADS * 7;
        for (uint64_t i = thread_of_grid(); i < p.count; i += stride) {
            uint64_t at = i + shift;
            at = at >= p.count ? at % p.count : at;
            sum ^= fold(load_nc16(p.from + 16 * at));
        }
    }
    keep(p, sum);
}

// Reads `count` random rows of a table of `rows` rows; as many lanes as a row has units of 16 bytes share it, each with four rows under way.
template <int ROW_BYTES>
DEV void gather(const Probe& p) {
    constexpr int LANES = ROW_BYTES / 16;
    const uint64_t at = thread_of_grid() / LANES, stride = threads_of_grid() / LANES;
    const uint32_t part = 16 * (thread_x() % LANES);
    uint32_t sum = 0;
    for (uint64_t i = at; i < p.count; i += 4 * stride) {
        uint4 v[4];
#pragma unroll
        for (int u = 0; u < 4; u++) {
            const uint64_t k = i + u * stride;
            const uint64_t row = (uint64_t)mix(k ^ (uint64_t)p.seed << 32) * p.rows >> 32;
            v[u] = k < p.count ? load_nc16(p.from + row * ROW_BYTES + part) : uint4{0, 0, 0, 0};
        }
#pragma unroll
        for (int u = 0; u < 4; u++) {
            sum ^= fold(v[u]);
        }
    }
    keep(p, sum);
}
KERNEL(THREADS) gather_32(Probe p) { gather<32>(p); }
KERNEL(THREADS) gather_64(Probe p) { gather<64>(p); }
KERNEL(THREADS) gather_128(Probe p) { gather<128>(p); }
KERNEL(THREADS) gather_256(Probe p) { gather<256>(p); }

// Fills `count` words of 4 bytes at `to` with numbers between -1/16 and 1/16 that depend on `seed` and their place; `value` is their format: 0 for
// f32, 1 for pairs of bf16, 2 for pairs of f16.
KERNEL(THREADS) fill(Probe p) {
    for (uint64_t i = thread_of_grid(); i < p.count; i += threads_of_grid()) {
        const uint32_t h = mix(i ^ (uint64_t)p.seed << 32);
        const float first = (float)(int32_t)h * (1.0f / 34359738368.0f);
        const float second = (float)(int32_t)(h << 16) * (1.0f / 34359738368.0f);
        uint32_t word = f32_bits(first);
        if (p.value == 1) {
            word = pack_bf16(first, second);
        } else if (p.value == 2) {
            word = pack_f16(first, second);
        }
        ((uint32_t*)p.to)[i] = word;
    }
}

// `count` times 8 products of 16x8x16 in bf16 a warp, from registers: 8 x 4096 operations each.
KERNEL(THREADS) multiply_bf16(Probe p) {
    float d[8][4] = {};
    const uint32_t start = 0x3f803f80u + (thread_x() & 7);
    const uint32_t a[4] = {start, start + 1, start + 2, start + 3}, b[2] = {start + 4, start + 5};
    for (uint64_t i = 0; i < p.count; i++) {
#pragma unroll
        for (int u = 0; u < 8; u++) {
            mma_bf16(d[u], a, b);
        }
    }
    uint32_t sum = 0;
#pragma unroll
    for (int u = 0; u < 8; u++) {
        sum ^= f32_bits(d[u][0]) ^ f32_bits(d[u][1]) ^ f32_bits(d[u][2]) ^ f32_bits(d[u][3]);
    }
    keep(p, sum);
}

// `count` times 4 products of 64x256x16 in bf16 a warpgroup, from shared memory: 4 x 524,288 operations each. Only sm_90a has them; elsewhere this
// does nothing. Takes 10 KiB of shared memory.
KERNEL(THREADS) multiply_warpgroups(Probe p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    DYN_SMEM(memory);
    for (uint32_t i = thread_x(); i < (2048 + 8192) / 4; i += THREADS) {
        ((uint32_t*)memory)[i] = 0x3f803f80u + (i & 7);
    }
    fence_async();
    sync_block();
    const uint64_t a = unswizzled(memory, 128, 256), b = unswizzled(memory + 2048, 128, 256);
    float d[128] = {};
    hold(d);
    for (uint64_t i = 0; i < p.count; i++) {
        products_begin();
#pragma unroll
        for (int u = 0; u < 4; u++) {
            wgmma(d, a, b, 1);
        }
        products_commit();
    }
    products_wait<0>();
    hold(d);
    uint32_t sum = 0;
#pragma unroll
    for (int u = 0; u < 128; u++) {
        sum ^= f32_bits(d[u]);
    }
    keep(p, sum);
#endif
}

// `count` times 16 multiply-adds in f32 a thread, from registers.
KERNEL(THREADS) multiply_f32(Probe p) {
    float d[16];
#pragma unroll
    for (int u = 0; u < 16; u++) {
        d[u] = (float)(thread_x() + u);
    }
    const float factor = 1.0f - (float)p.seed * 1e-9f, addend = (float)p.seed * 1e-6f;
    for (uint64_t i = 0; i < p.count; i++) {
#pragma unroll
        for (int u = 0; u < 16; u++) {
            d[u] = fma_(d[u], factor, addend);
        }
    }
    uint32_t sum = 0;
#pragma unroll
    for (int u = 0; u < 16; u++) {
        sum ^= f32_bits(d[u]);
    }
    keep(p, sum);
}
