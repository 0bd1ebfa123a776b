// Dot products of pairs of vectors: OUT[i] = V[a_i] · V[b_i], for pairs in any order. Source: Naumov et al. 2019, arXiv:1906.00091 (DLRM).
//
// f32: a thread per pair and row. VECTORS::at gives where vector v of row r lies, of whichever value it is a part.
// Pairs: [PAIRS] of two u8 or u16 indices packed as a | b << 16, in the weights. FLOPs: 2 * DIM per pair; bytes: shared memory alone.
// 27 vectors of 16: 11,232 FLOPs and 1.7 KB of vectors a row, 0.38 ns on an H200, bound by tables; not yet run on hardware.
#pragma once
#include "operands.cuh"

template <class VECTORS, class OUT, int DIM, int PAIRS, int64_t LIST>
DEV void interaction_f32(const Block& b) {
    const uint32_t* pairs = (const uint32_t*)(b.job.weights + LIST);
    for (int i = (int)thread_x(); i < b.rows * PAIRS; i += THREADS) {
        const int r = i / PAIRS, pair = i % PAIRS;
        const uint32_t both = pairs[pair];
        const float* x = VECTORS::at(b, r, (int)(both & 0xffff));
        const float* y = VECTORS::at(b, r, (int)(both >> 16));
        float sum = 0.0f;
#pragma unroll 4
        for (int d = 0; d < DIM; d++) {
            sum = fma_(x[d], y[d], sum);
        }
        OUT::row(b, r)[pair] = sum;
    }
}

// Elements k .. k + 3 of a vector of DIM elements that starts on a boundary of ALIGN bytes, as pairs for tensor cores; zeros from DIM on.
struct Quad {
    uint2 high, low;
};
DEV Quad quad_of(Halves first, Halves second) { return Quad{make_uint2(first.high, second.high), make_uint2(first.low, second.low)}; }
template <int DIM, int ALIGN>
DEV Quad operand_quad(const float* x, int k) {
    if (DIM % 4 != 0 && k + 3 >= DIM) {
        return quad_of(operand_halves<DIM, 4, true>(x, k), operand_halves<DIM, 4, true>(x, k + 2));
    }
    if (ALIGN >= 16 && DIM % 4 == 0) {
        const float4 four = *(const float4*)(x + k);
        return quad_of(halves(four.x, four.y), halves(four.z, four.w));
    }
    return quad_of(operand_halves<DIM, ALIGN, false>(x, k), operand_halves<DIM, ALIGN, false>(x, k + 2));
}

// bf16: the pairs' dot products as parts of the Gram matrix of the vectors, on tensor cores, sums in f32. An element is
// the sum of two bf16 halves, and of the product of two of them all but low times low is computed: 16 bits of each element count.
//
// A warp computes a square of 32 x 32 products of a row: vectors 32 I .. and 32 J .. (I >= J), 8 tiles of 16 x 8 of which it leaves out those
// without a wanted pair. Every vector is loaded once for that, its elements in an order that suits the loads (lane t of four takes elements
// 16 step + 4 t .. + 3): a sum over elements knows no order, and rows and columns of the product are the same registers.
// HEADS [SQUARES] u32: I | J << 12 | tiles << 24, bit m * 4 + n for tile (m, n). PLACES [SQUARES][8 tiles][4][32 lanes] i32: where in OUT each
// product of a lane belongs, or -1. VECTORS::quad gives elements of vector v of row r.
// FLOPs: 3 * 2 * 32 * 32 * DIM per square and row at most; bytes per row: the vectors, once, and the products; places stay in registers.
template <class VECTORS, class OUT, int COUNT, int DIM, int SQUARES, int64_t HEADS, int64_t PLACES>
DEV void interaction_bf16(const Block& b) {
    const int g = (int)lane() / 4, t = (int)lane() % 4;
    int32_t places[8][4];
    uint32_t head = 0;
    for (int i = (int)warp(), known = -1; i < SQUARES * b.rows; i += WARPS) {
        const int square = i / b.rows, r = i % b.rows;
        if (square != known) {
            known = square;
            head = load_nc4(b.job.weights + HEADS + square * 4);
            const uint8_t* table = b.job.weights + PLACES + (size_t)square * 4096 + lane() * 4;
#pragma unroll
            for (int e = 0; e < 32; e++) {
                places[e / 4][e % 4] = (int32_t)load_nc4(table + e * 128);
            }
        }
        const int down = (int)(head & 0xfff) * 32, across = (int)(head >> 12 & 0xfff) * 32;
        float sums[8][4] = {};
#pragma unroll 2
        for (int step = 0; step < DIM; step += 16) {
            const int k = step + 4 * t;
            Quad rows[4], columns[4];
#pragma unroll
            for (int part = 0; part < 4; part++) {
                const int v = down + part * 8 + g;
                rows[part] = k < DIM && v < COUNT ? VECTORS::quad(b, r, v, k) : Quad{};
                columns[part] = rows[part];
            }
            if (down != across) {
#pragma unroll
                for (int part = 0; part < 4; part++) {
                    columns[part] = k < DIM ? VECTORS::quad(b, r, across + part * 8 + g, k) : Quad{};
                }
            }
            sync_warp();
#pragma unroll
            for (int tile = 0; tile < 8; tile++) {
                if (head >> (24 + tile) & 1) {
                    const int m = tile / 4 * 2, n = tile % 4;
                    const uint32_t a[4] = {rows[m].high.x, rows[m + 1].high.x, rows[m].high.y, rows[m + 1].high.y};
                    const uint32_t w[2] = {columns[n].high.x, columns[n].high.y};
                    const uint32_t a_low[4] = {rows[m].low.x, rows[m + 1].low.x, rows[m].low.y, rows[m + 1].low.y};
                    const uint32_t w_low[2] = {columns[n].low.x, columns[n].low.y};
                    mma_bf16(sums[tile], a_low, w);
                    mma_bf16(sums[tile], a, w_low);
                    mma_bf16(sums[tile], a, w);
                }
            }
        }
        auto* out = OUT::row(b, r);
#pragma unroll
        for (int e = 0; e < 32; e++) {
            if (places[e / 4][e % 4] >= 0) {
                out[places[e / 4][e % 4]] = sums[e / 4][e % 4];
            }
        }
    }
}
