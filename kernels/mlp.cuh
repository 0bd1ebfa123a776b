// Dense layers of a tile: OUT[p][n] = activation(X[p][K] · W[K][N] + bias (+ addend)), for the p = rows * INNER rows of a product.
//
// f32: a thread holds 4 rows x 4 columns of sums; neighbouring threads take neighbouring columns, so a warp reads 512 bytes of W at once and
// shares the rows of X. Layers of fewer than 8 columns are scalar products, a warp each.
// Weights: W [K][N padded to 4], zeros behind N; bias [N padded to 8]. Addend: [N] per row, or [INNER][N], or none.
// Bytes per tile: K * N * 4 of weights from the L2; FLOPs: 2 * K * N per row. In shared memory otherwise.
#pragma once
#include "tile.cuh"

enum Activation { IDENTITY, RELU, SIGMOID };

template <int ACTIVATION>
DEV float activate(float x) {
    if (ACTIVATION == RELU) {
        return x < 0.0f ? 0.0f : x;
    }
    return ACTIVATION == SIGMOID ? 1.0f / (1.0f + exp_(-x)) : x;
}

template <class X, class OUT, class ADDEND, class ROOM, int TILE, int K, int N, int INNER, int ADDEND_INNER, int ACTIVATION, int64_t WEIGHTS, int64_t BIAS>
DEV void linear_f32(const Block& b) {
    constexpr int PADDED = (N + 3) / 4 * 4;
    const float* weights = (const float*)(b.job.weights + WEIGHTS);
    const float* bias = (const float*)(b.job.weights + BIAS);
    const int products = b.rows * INNER;
    const auto add = [&](int p, int n) {
        if (Same<ADDEND, None>::value) {
            return 0.0f;
        }
        return (float)ADDEND::row(b, p / INNER)[(ADDEND_INNER > 1 ? p % INNER * N : 0) + n];
    };
    if (N < 8) {
        for (int i = (int)warp(); i < products * N; i += WARPS) {
            const int p = i / N, n = i % N;
            const float* x = X::row(b, p / INNER) + p % INNER * K;
            float sum = 0.0f;
            for (int k = (int)lane(); k < K; k += 32) {
                sum = fma_(x[k], weights[k * PADDED + n], sum);
            }
            for (int mask = 16; mask > 0; mask /= 2) {
                sum += shfl_xor(sum, mask);
            }
            if (lane() == 0) {
                OUT::row(b, p / INNER)[p % INNER * N + n] = activate<ACTIVATION>(sum + bias[n] + add(p, n));
            }
        }
        return;
    }
    constexpr int ROWS = 4, STRIPS = PADDED / 4;
    for (int i = (int)thread_x(); i < (products + ROWS - 1) / ROWS * STRIPS; i += THREADS) {
        const int p0 = i / STRIPS * ROWS, n0 = i % STRIPS * 4;
        const float* x[ROWS];
        float sums[ROWS][4];
#pragma unroll
        for (int m = 0; m < ROWS; m++) {
            const int p = p0 + m < products ? p0 + m : p0;
            x[m] = X::row(b, p / INNER) + p % INNER * K;
            sums[m][0] = sums[m][1] = sums[m][2] = sums[m][3] = 0.0f;
        }
#pragma unroll 4
        for (int k = 0; k < K; k++) {
            const uint4 w = load_nc16(weights + (size_t)k * PADDED + n0);
#pragma unroll
            for (int m = 0; m < ROWS; m++) {
                const float value = x[m][k];
                sums[m][0] = fma_(value, bits_f32(w.x), sums[m][0]);
                sums[m][1] = fma_(value, bits_f32(w.y), sums[m][1]);
                sums[m][2] = fma_(value, bits_f32(w.z), sums[m][2]);
                sums[m][3] = fma_(value, bits_f32(w.w), sums[m][3]);
            }
        }
#pragma unroll
        for (int m = 0; m < ROWS; m++) {
            const int p = p0 + m;
            if (p < products) {
                float* out = OUT::row(b, p / INNER) + p % INNER * N;
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    if (n0 + n < N) {
                        out[n0 + n] = activate<ACTIVATION>(sums[m][n] + bias[n0 + n] + add(p, n0 + n));
                    }
                }
            }
        }
    }
}
