// Dot products of pairs of vectors: OUT[i] = V[a_i] · V[b_i], for pairs in any order. Source: Naumov et al. 2019, arXiv:1906.00091 (DLRM).
//
// f32: a thread per pair and row. VECTORS::at gives where vector v of row r lies, of whichever value it is a part.
// Pairs: [PAIRS] of two u8 or u16 indices packed as a | b << 16, in the weights. FLOPs: 2 * DIM per pair; bytes: shared memory alone.
#pragma once
#include "tile.cuh"

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
