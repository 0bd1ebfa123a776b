// Products of two matrices that are both computed per row: OUT[m][n] = A[m][k] · B[k][n], per row and index of BATCHES, which broadcast.
//
// BATCH: struct with out(e), a(e), b(e): the first elements of the matrices of batch e. A lies as [M][K], or [K][M] if TURNED_A; B as [K][N], or
// [N][K] if TURNED_B.
// LANES neighbouring lanes compute TM x TN elements together, each a part of k; rows and columns of an item lie ceil(M / TM) and ceil(N / TN)
// apart, so that neighbouring items read neighbouring columns. Where B's columns would lie in the same bank of shared memory, each item
// starts at another k.
// FLOPs: 2 * M * N * K per row and batch; bytes: what the views lie in, each element of A and B ceil(N / TN) and ceil(M / TM) times.
// 20 x 16 x 8, then 20 x 8 x 4: 6,719 FLOPs and 2.0 KB a row, 0.43 ns on an H200, bound by reading tables; not yet run on hardware.
#pragma once
#include "tile.cuh"

template <class A, class B, class OUT, class BATCH, int BATCHES, int M, int N, int K, bool TURNED_A, bool TURNED_B, int TM, int TN, int LANES>
DEV void matmul(const Block& b) {
    constexpr int DOWN = (M + TM - 1) / TM, ACROSS = (N + TN - 1) / TN;
    constexpr bool STAGGERS = TURNED_B && LANES == 1 && K % 2 == 0;
    share_out<LANES>(b.rows * BATCHES * DOWN * ACROSS, [&](int item, int part, int, bool live) {
        const int column = item % ACROSS, row = item / ACROSS % DOWN;
        const int e = item / (ACROSS * DOWN) % BATCHES, r = item / (ACROSS * DOWN * BATCHES);
        const auto* left = A::row(b, r) + BATCH::a(e);
        const auto* right = B::row(b, r) + BATCH::b(e);
        int at_left[TM], at_right[TN];
        float sums[TM][TN];
#pragma unroll
        for (int i = 0; i < TM; i++) {
            const int m = min_(row + i * DOWN, M - 1);
            at_left[i] = TURNED_A ? m : m * K;
#pragma unroll
            for (int j = 0; j < TN; j++) {
                sums[i][j] = 0.0f;
            }
        }
#pragma unroll
        for (int j = 0; j < TN; j++) {
            const int n = min_(column + j * ACROSS, N - 1);
            at_right[j] = TURNED_B ? n * K : n;
        }
        int k = STAGGERS ? column % (K > 0 ? K : 1) : part;
        for (int turn = part; turn < K; turn += LANES) {
            float x[TM], y[TN];
#pragma unroll
            for (int i = 0; i < TM; i++) {
                x[i] = left[at_left[i] + (TURNED_A ? k * M : k)];
            }
#pragma unroll
            for (int j = 0; j < TN; j++) {
                y[j] = right[at_right[j] + (TURNED_B ? k : k * N)];
            }
#pragma unroll
            for (int i = 0; i < TM; i++) {
#pragma unroll
                for (int j = 0; j < TN; j++) {
                    sums[i][j] = fma_(x[i], y[j], sums[i][j]);
                }
            }
            k += LANES;
            if (STAGGERS && k == K) {
                k = 0;
            }
        }
        auto* out = OUT::row(b, r) + BATCH::out(e);
#pragma unroll
        for (int i = 0; i < TM; i++) {
#pragma unroll
            for (int j = 0; j < TN; j++) {
                const float sum = sum_lanes<LANES>(sums[i][j]);
                const int m = row + i * DOWN, n = column + j * ACROSS;
                if (live && part == 0 && m < M && n < N) {
                    out[m * N + n] = sum;
                }
            }
        }
    });
}
