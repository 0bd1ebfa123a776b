// Kernels that show what each wrapper of rt.cuh does, for tests/cuda_rt.rs: it compares with scalar code, on the emulator and on devices.
#include "rt.cuh"

// out[k][64]: what thread i of 64 sees of `values` with each exchange.
KERNEL(64) exchanges(const uint32_t* values, uint32_t* out) {
    uint32_t i = thread_x(), v = values[i];
    float f = bits_f32(v);
    out[0 * 64 + i] = shfl_xor(v, 1);
    out[1 * 64 + i] = shfl_xor(v, 21);
    out[2 * 64 + i] = f32_bits(shfl_xor(f, 16));
    out[3 * 64 + i] = shfl_idx(v, (i * 5 + 3) % 32);
    out[4 * 64 + i] = f32_bits(shfl_idx(f, 31));
    out[5 * 64 + i] = shfl_down(v, 3);
    out[6 * 64 + i] = f32_bits(shfl_down(f, 16));
    out[7 * 64 + i] = ballot(v % 3 == 0);
    out[8 * 64 + i] = any(v == values[0]);
    out[9 * 64 + i] = all(v >= values[32]);
    out[10 * 64 + i] = popc(v);
}

DEV_CONST uint32_t PRIMES[8] = {2, 3, 5, 7, 11, 13, 17, 19};
static_assert(PRIMES[3] == 7, "known when compiling");

// out[block][thread][8]: where it is.
KERNEL(64) places(uint32_t* out) {
    uint32_t block = block_y() * blocks_x() + block_x();
    uint32_t* to = out + (block * threads_x() + thread_x()) * 8;
    to[0] = thread_x();
    to[1] = threads_x();
    to[2] = block_x();
    to[3] = block_y();
    to[4] = blocks_x() * 100 + blocks_y();
    to[5] = lane();
    to[6] = warp();
    to[7] = PRIMES[thread_x() % 8];
}

// out[k][count]: conversions of each value.
KERNEL(256) conversions(const float* values, uint32_t* out, uint32_t count) {
    for (uint32_t i = block_x() * threads_x() + thread_x(); i < count; i += blocks_x() * threads_x()) {
        float v = values[i], next = values[(i + 1) % count];
        out[i] = f32_to_bf16(v);
        out[count + i] = pack_bf16(v, next);
        out[2 * count + i] = f32_to_f16(v);
        out[3 * count + i] = pack_f16(v, next);
        out[4 * count + i] = f32_to_tf32(v);
    }
}

// out[k][65536]: every 16-bit pattern as f32, twice from each half of a pair.
KERNEL(256) widenings(float* out) {
    for (uint32_t i = block_x() * threads_x() + thread_x(); i < 65536; i += blocks_x() * threads_x()) {
        uint32_t pair = i | (i ^ 1) << 16;
        out[i] = bf16_to_f32((uint16_t)i);
        out[65536 + i] = f16_to_f32((uint16_t)i);
        out[2 * 65536 + i] = bf16_lo(pair);
        out[3 * 65536 + (i ^ 1)] = bf16_hi(pair);
        out[4 * 65536 + i] = f16_lo(pair);
        out[5 * 65536 + (i ^ 1)] = f16_hi(pair);
    }
}

// out[k][count]: the functions, in the order of rt.cuh.
KERNEL(256) functions(const float* values, float* out, uint32_t count) {
    for (uint32_t i = block_x() * threads_x() + thread_x(); i < count; i += blocks_x() * threads_x()) {
        float v = values[i];
        float results[] = {
            exp_(v),   expm1_(v), log_(v),  log1p_(v), tanh_(v),  sqrt_(v),       rsqrt_(v), pow_(v, 1.7f), erf_(v),
            sin_(v),   cos_(v),   floor_(v), ceil_(v), trunc_(v), round_even_(v), abs_(v),   fma_(v, v, -1.0f),
            min_(v, 0.5f), max_(v, 0.5f),
        };
        for (uint32_t k = 0; k < sizeof results / sizeof results[0]; k++) {
            out[k * count + i] = results[k];
        }
    }
}

// out[bytes read][lane]: each size of copy with each number of bytes that it reads, 17 + 9 + 5 lines of 32 words of 4, 2 or 1 u32.
KERNEL(32) filled_copies(const uint8_t* from, uint32_t* out) {
    DYN_SMEM(memory);
    uint8_t* mine = memory + lane() * 16;
    for (uint32_t bytes = 0; bytes <= 16; bytes++) {
        cp_async16(mine, from + lane() * 16, bytes);
        cp_async_commit();
        cp_async_wait<0>();
        for (uint32_t word = 0; word < 4; word++) {
            out[bytes * 128 + lane() * 4 + word] = ((uint32_t*)mine)[word];
        }
    }
    out += 17 * 128;
    for (uint32_t bytes = 0; bytes <= 8; bytes++) {
        cp_async8(mine, from + lane() * 8, bytes);
        cp_async_commit();
        cp_async_wait<0>();
        out[bytes * 64 + lane() * 2] = ((uint32_t*)mine)[0];
        out[bytes * 64 + lane() * 2 + 1] = ((uint32_t*)mine)[1];
    }
    out += 9 * 64;
    for (uint32_t bytes = 0; bytes <= 4; bytes++) {
        cp_async4(mine, from + lane() * 4, bytes);
        cp_async_commit();
        cp_async_wait<0>();
        out[bytes * 32 + lane()] = ((uint32_t*)mine)[0];
    }
}

// out = in, in stages of 128 threads x 16 bytes through a ring of three; a thread reads what its neighbour copied.
KERNEL(128) ring(const uint8_t* in, uint8_t* out, uint32_t stages) {
    DYN_SMEM(memory);
    constexpr uint32_t STAGE = 128 * 16;
    for (uint32_t stage = 0; stage < 2; stage++) {
        if (stage < stages) {
            cp_async16(memory + stage * STAGE + thread_x() * 16, in + stage * STAGE + thread_x() * 16);
        }
        cp_async_commit();
    }
    for (uint32_t stage = 0; stage < stages; stage++) {
        cp_async_wait<1>();
        sync_block(); // the stage is there, and nobody reads the one before it
        if (stage + 2 < stages) {
            cp_async16(memory + (stage + 2) % 3 * STAGE + thread_x() * 16, in + (stage + 2) * STAGE + thread_x() * 16);
        }
        cp_async_commit();
        uint32_t other = (thread_x() + 1) % 128;
        *(uint4*)(out + stage * STAGE + other * 16) = *(const uint4*)(memory + stage % 3 * STAGE + other * 16);
    }
}

// out[12][32]: registers of x1, x2, x4, and of x2 and x4 transposed, minus one where both are the same tile; in: 32 rows of 8.
KERNEL(32) tiles(const uint16_t* in, uint32_t* out) {
    DYN_SMEM(memory);
    constexpr uint32_t ROW = 24; // 48 bytes: rows in other banks, and on boundaries of 16
    uint16_t* rows = (uint16_t*)memory;
    for (uint32_t k = 0; k < 8; k++) {
        rows[lane() * ROW + k] = in[lane() * 8 + k];
    }
    sync_warp();
    uint32_t one[1], two[2], four[4];
    ldmatrix_x1(one, rows + lane() % 8 * ROW);
    ldmatrix_x2(two, rows + lane() % 16 * ROW);
    ldmatrix_x4(four, rows + lane() * ROW);
    out[lane()] = one[0];
    out[32 + lane()] = two[0];
    out[64 + lane()] = two[1];
    for (uint32_t i = 0; i < 4; i++) {
        out[96 + i * 32 + lane()] = four[i];
    }
    ldmatrix_x2_trans(two, rows + lane() % 16 * ROW);
    ldmatrix_x4_trans(four, rows + lane() * ROW);
    out[224 + lane()] = two[0];
    out[256 + lane()] = two[1];
    for (uint32_t i = 0; i < 4; i++) {
        out[288 + i * 32 + lane()] = four[i];
    }
}

DEV void store_product(const float (&d)[4], float* out) {
    uint32_t g = lane() / 4, t = lane() % 4;
    out[g * 8 + 2 * t] = d[0];
    out[g * 8 + 2 * t + 1] = d[1];
    out[(g + 8) * 8 + 2 * t] = d[2];
    out[(g + 8) * 8 + 2 * t + 1] = d[3];
}

// out[16][8] = c[16][8] + a[16][16] b[8][16]^T; a and b are 16-bit, with k along the rows.
template <class Multiply> DEV void product16(const uint16_t* a, const uint16_t* b, const float* c, float* out, Multiply multiply) {
    uint32_t g = lane() / 4, t = lane() % 4;
    auto pair = [](const uint16_t* p) { return p[0] | (uint32_t)p[1] << 16; };
    uint32_t af[4] = {pair(a + g * 16 + 2 * t), pair(a + (g + 8) * 16 + 2 * t), pair(a + g * 16 + 2 * t + 8),
                      pair(a + (g + 8) * 16 + 2 * t + 8)};
    uint32_t bf[2] = {pair(b + g * 16 + 2 * t), pair(b + g * 16 + 2 * t + 8)};
    float d[4] = {c[g * 8 + 2 * t], c[g * 8 + 2 * t + 1], c[(g + 8) * 8 + 2 * t], c[(g + 8) * 8 + 2 * t + 1]};
    multiply(d, af, bf);
    store_product(d, out);
}

KERNEL(32) product_bf16(const uint16_t* a, const uint16_t* b, const float* c, float* out) {
    auto multiply = [](float(&d)[4], const uint32_t(&af)[4], const uint32_t(&bf)[2]) { mma_bf16(d, af, bf); };
    product16(a, b, c, out, multiply);
}

KERNEL(32) product_f16(const uint16_t* a, const uint16_t* b, const float* c, float* out) {
    auto multiply = [](float(&d)[4], const uint32_t(&af)[4], const uint32_t(&bf)[2]) { mma_f16(d, af, bf); };
    product16(a, b, c, out, multiply);
}

// out[16][8] = a[16][8] b[8][8]^T.
KERNEL(32) product_tf32(const float* a, const float* b, float* out) {
    uint32_t g = lane() / 4, t = lane() % 4;
    uint32_t af[4] = {f32_to_tf32(a[g * 8 + t]), f32_to_tf32(a[(g + 8) * 8 + t]), f32_to_tf32(a[g * 8 + t + 4]),
                      f32_to_tf32(a[(g + 8) * 8 + t + 4])};
    uint32_t bf[2] = {f32_to_tf32(b[g * 8 + t]), f32_to_tf32(b[g * 8 + t + 4])};
    float d[4] = {0, 0, 0, 0};
    mma_tf32(d, af, bf);
    store_product(d, out);
}

// out[i] = in[(i + 64) % 128] twice over, handed over at two named barriers by warps that never meet as a block.
KERNEL(128) named(const uint32_t* in, uint32_t* out) {
    DYN_SMEM(memory);
    uint32_t* values = (uint32_t*)memory;
    uint32_t half = warp() / 2, i = thread_x();
    values[i] = in[i];
    sync_named(1 + half, 64);
    out[i] = values[half * 64 + (i + 1) % 64];
    sync_named(3, 128);
    out[128 + i] = values[(i + 64) % 128];
}

// out[6][32]: loads of 16, 8 and 4 bytes of each kind, their words added up.
KERNEL(32) loads(const uint32_t* in, uint32_t* out) {
    uint4 a = load_nc16(in + lane() * 4), b = load_streaming16(in + lane() * 4);
    uint2 c = load_nc8(in + lane() * 2), d = load_streaming8(in + lane() * 2);
    prefetch_l2(in);
    out[lane()] = a.x + a.y * 3 + a.z * 5 + a.w * 7;
    out[32 + lane()] = b.x + b.y * 3 + b.z * 5 + b.w * 7;
    out[64 + lane()] = c.x + c.y * 3;
    out[96 + lane()] = d.x + d.y * 3;
    out[128 + lane()] = load_nc4(in + lane());
    out[160 + lane()] = load_streaming4(in + lane());
}

// Each block leaves the sum of its part; the last one adds them up and says so.
// done[0]: blocks through, done[1]: a mark of each, done[2]: the flag.
KERNEL(64) last_block(const uint32_t* in, uint32_t* parts, uint32_t* total, uint32_t* done, uint32_t count) {
    DYN_SMEM(memory);
    uint32_t* shared = (uint32_t*)memory;
    if (thread_x() == 0) {
        shared[0] = 0;
    }
    sync_block();
    for (uint32_t i = block_x() * threads_x() + thread_x(); i < count; i += blocks_x() * threads_x()) {
        atomic_add(shared, in[i]);
    }
    sync_block();
    if (thread_x() == 0) {
        parts[block_x()] = shared[0];
        atomic_or(done + 1, 1u << block_x());
        fence_device();
        shared[1] = atomic_add(done, 1);
    }
    sync_block();
    if (shared[1] != blocks_x() - 1 || thread_x() != 0) {
        return;
    }
    fence_device();
    uint32_t sum = 0;
    for (uint32_t block = 0; block < blocks_x(); block++) {
        sum += ((volatile uint32_t*)parts)[block];
    }
    *total = sum;
    fence_system();
    st_release_sys(done + 2, 1);
}

// Warp 1 polls for what warp 0 hands over.
KERNEL(64) handover(uint32_t* flag, uint32_t* box, uint32_t* out) {
    if (warp() == 0) {
        box[lane()] = lane() * 3 + 1;
        fence_system();
        sync_warp();
        if (lane() == 0) {
            st_release_sys(flag, 9);
        }
    } else {
        while (ld_acquire_sys(flag) != 9) {
        }
        sync_warp();
        out[lane()] = ((volatile uint32_t*)box)[31 - lane()];
    }
}

KERNEL(32) trapped(uint32_t* out) {
    if (out[0] == 1) {
        unreachable_trap();
    }
    out[0] = 2;
}
