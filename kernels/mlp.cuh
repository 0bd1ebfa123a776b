// Dense layers of a tile: OUT[p][n] = activation(X[p][K] · W[K][N] + bias (+ addend)), for the p = rows * INNER rows of a product.
//
// f32: a thread holds R rows x 4 columns of sums, R at most 8; groups of LANES neighbouring threads share the inputs of a narrow layer,
// four each in turn, and add up by shuffles. Threads of a warp that hold the same rows read the same elements of X, 16 bytes at once where
// rows allow it; those that hold neighbouring columns read W together, 512 bytes where LANES is 1, a chunk of four inputs ahead. Weights: W
// [K][N padded to 4], zeros behind N; bias [N padded to 8]. Addend: [N] per row, or [INNER][N], or none. Bytes per tile: 4 K N of weights
// from the L2 at about 64 a clock, again for each pass of the block over the rows (16 rows are one pass of 512 columns); FLOPs: 2 K N per
// row at 256 a clock: bound by arithmetic from 16 rows on, on an H200 (67 TFLOP/s) 8 ns per row and M weights. Registers (NVRTC 12.9,
// sm_90a, no spills): 38 to 107, so two blocks per SM. Results do not depend on a row's place, on the other rows, or on the size of the
// tile.
// 367-512-256-1 in f32: 640,004 FLOPs and 1.5 KB a row, 9.6 ns on an H200, bound by arithmetic; not yet run on hardware.
#pragma once
#include "operands.cuh"

enum Activation { IDENTITY, RELU, SIGMOID };

template <int ACTIVATION>
DEV float activate(float x) {
    if (ACTIVATION == RELU) {
        return x < 0.0f ? 0.0f : x;
    }
    return ACTIVATION == SIGMOID ? sigmoid_f32(x) : x;
}

// Elements n and n + 1 of row p of a product, as neighbours of a row of N; n is even. Rows and columns that do not exist are left out.
template <class OUT, int N, int INNER>
DEV void put_pair(const Block& b, int p, int n, float first, float second) {
    using Element = typename OUT::Element;
    constexpr int ALIGN = INNER > 1 ? boundary(Rows<OUT>::ALIGN | N * (int)sizeof(Element)) : Rows<OUT>::ALIGN;
    if (p >= b.rows * INNER || n >= N) {
        return;
    }
    Element* out = OUT::row(b, p / INNER) + p % INNER * N + n;
    if (N % 2 != 0 && n + 1 >= N) {
        out[0] = first;
    } else if constexpr (Same<Element, Bf16>::value && ALIGN >= 4) {
        *(uint32_t*)out = pack_bf16(first, second);
    } else if constexpr (Same<Element, float>::value && ALIGN >= 8) {
        *(float2*)out = make_float2(first, second);
    } else {
        out[0] = first;
        out[1] = second;
    }
}

// Columns n and n + 1 of row p of a product, from their sums.
template <class OUT, class ADDEND, int N, int INNER, int ADDEND_INNER, int ACTIVATION, int64_t BIAS>
DEV void store_pair(const Block& b, int p, int n, float first, float second) {
    if (p >= b.rows * INNER || n >= N) {
        return;
    }
    const uint2 bias = load_nc8(b.job.weights + BIAS + n * 4);
    first += bits_f32(bias.x);
    second += bits_f32(bias.y);
    if constexpr (!Same<ADDEND, None>::value) {
        const auto* addend = ADDEND::row(b, p / INNER) + (ADDEND_INNER > 1 ? p % INNER * N : 0) + n;
        first += (float)addend[0];
        second += n + 1 < N ? (float)addend[1] : 0.0f;
    }
    put_pair<OUT, N, INNER>(b, p, n, activate<ACTIVATION>(first), activate<ACTIVATION>(second));
}

DEV constexpr int at_most(int a, int b) { return a < b ? a : b; }
DEV constexpr int parts(int whole, int part) { return (whole + part - 1) / part; }
// Lanes that share the inputs of a product, so that a tile of 16 rows employs all threads; the same for all tiles.
DEV constexpr int input_lanes(int lanes, int items, int k) {
    return lanes < 32 && items * lanes * 2 <= THREADS && lanes * 32 <= k ? input_lanes(lanes * 2, items, k) : lanes;
}
// Rows of a thread: as many as leave no thread without.
DEV constexpr int thread_rows(int r, int rows, int threads_per_row) {
    return r == 1 || parts(rows, r) * threads_per_row >= THREADS ? r : thread_rows(r / 2, rows, threads_per_row);
}

DEV void multiply_add(float (&sums)[4], float x, const float4& w) {
    sums[0] = fma_(x, w.x, sums[0]);
    sums[1] = fma_(x, w.y, sums[1]);
    sums[2] = fma_(x, w.z, sums[2]);
    sums[3] = fma_(x, w.w, sums[3]);
}

// Elements k .. k + 3 of a row of f32 that starts on a boundary of ALIGN bytes; k is a multiple of 4.
template <int ALIGN>
DEV float4 load_row4(const float* x, int k) {
    if (ALIGN >= 16) {
        return *(const float4*)(x + k);
    }
    if (ALIGN >= 8) {
        const float2 first = *(const float2*)(x + k), second = *(const float2*)(x + k + 2);
        return make_float4(first.x, first.y, second.x, second.y);
    }
    return make_float4(x[k], x[k + 1], x[k + 2], x[k + 3]);
}

template <class X, class OUT, class ADDEND, class ROOM, int TILE, int K, int N, int INNER, int ADDEND_INNER, int ACTIVATION,
          int64_t WEIGHTS, int64_t BIAS>
DEV void linear_f32(const Block& b) {
    constexpr int STRIPS = parts(N, 4), PADDED = STRIPS * 4, QUADS = K / 4;
    constexpr int LANES = input_lanes(1, parts(16 * INNER, 4) * STRIPS, K);
    constexpr int R = thread_rows(8, TILE * INNER, STRIPS * LANES);
    constexpr int ALIGN = INNER > 1 ? boundary(Rows<X>::ALIGN | K * 4) : Rows<X>::ALIGN;
    const int part = (int)thread_x() % LANES;
    const int items = parts(b.rows * INNER, R) * STRIPS;
    const int last = (Rows<X>::IN_TILE ? TILE : b.rows) * INNER - 1;
#pragma unroll 1
    for (int first = 0; first < items; first += THREADS / LANES) {
        // All lanes of a warp take part in the shuffles.
        const int own = first + (int)thread_x() / LANES, item = own < items ? own : items - 1;
        const int p0 = item / STRIPS * R, n0 = item % STRIPS * 4;
        const float* weights = (const float*)(b.job.weights + WEIGHTS) + n0;
        const float* x[R];
        float sums[R][4] = {};
#pragma unroll
        for (int m = 0; m < R; m++) {
            const int p = p0 + m < last ? p0 + m : last;
            x[m] = X::row(b, p / INNER) + p % INNER * K;
        }
        float4 ahead[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            ahead[j] = load_f32x4(weights + (size_t)(part < QUADS ? part * 4 + j : 0) * PADDED);
        }
#pragma unroll 1
        for (int quad = part; quad < QUADS; quad += LANES) {
            float4 w[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                w[j] = ahead[j];
                ahead[j] = load_f32x4(weights + (size_t)(quad + LANES < QUADS ? (quad + LANES) * 4 + j : 0) * PADDED);
            }
#pragma unroll
            for (int m = 0; m < R; m++) {
                const float4 four = load_row4<ALIGN>(x[m], quad * 4);
                multiply_add(sums[m], four.x, w[0]);
                multiply_add(sums[m], four.y, w[1]);
                multiply_add(sums[m], four.z, w[2]);
                multiply_add(sums[m], four.w, w[3]);
            }
        }
        if (K % 4 != 0 && part == QUADS % LANES) {
#pragma unroll
            for (int k = QUADS * 4; k < K; k++) {
                const float4 w = load_f32x4(weights + (size_t)k * PADDED);
#pragma unroll
                for (int m = 0; m < R; m++) {
                    multiply_add(sums[m], x[m][k], w);
                }
            }
        }
#pragma unroll
        for (int m = 0; m < R; m++) {
#pragma unroll
            for (int n = 0; n < 4; n++) {
                sums[m][n] = sum_lanes<LANES>(sums[m][n]);
            }
            if (own < items && part == m % LANES) {
                store_pair<OUT, ADDEND, N, INNER, ADDEND_INNER, ACTIVATION, BIAS>(b, p0 + m, n0, sums[m][0], sums[m][1]);
                store_pair<OUT, ADDEND, N, INNER, ADDEND_INNER, ACTIVATION, BIAS>(b, p0 + m, n0 + 2, sums[m][2], sums[m][3]);
            }
        }
    }
}
