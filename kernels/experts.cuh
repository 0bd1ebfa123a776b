// Mixtures: OUT[d] = Σ_v g[v] · V_v[d], the vectors wherever they were computed: experts under a gate, positions of a history under their weights.
// Source of the mixture of experts: Ma et al. 2018 (MMoE), KDD.
//
// f32. GATE [COUNT]; SOFTMAX: g is its softmax, which is all NaN where the gate has NaN or +inf, or nothing but -inf. VECTORS::at gives vector v of
// row r: COUNT is at most 64, and the loop over it is unrolled, so that each place is known when compiling.
// Thread mapping: a group of LANES (8 to 32) takes COLUMNS columns a lane; it holds the gate a weight a lane, and hands each round by shuffles.
// Bytes per row: COUNT * DIM * 4 of the tile's memory; FLOPs: 2 * COUNT * DIM, and an exponential per weight for each strip of LANES * COLUMNS.
// 4 of 64 with their layers: 134,231 FLOPs and 1.1 KB a row, 0.23 ns on an H200 by memory, 0.38 by weights from the L2; not yet run on hardware.
#pragma once
#include "lines.cuh"

template <class GATE, class VECTORS, class OUT, int COUNT, int DIM, bool SOFTMAX, int LANES, int COLUMNS>
DEV void mix(const Block& b) {
    constexpr int STRIP = LANES * COLUMNS, STRIPS = (DIM + STRIP - 1) / STRIP, HELD = (COUNT + LANES - 1) / LANES;
    using Strips = Lines<STRIPS, STRIP, LANES, true>;
    each_line<Strips>(b, [&](int r, int strip, bool live) {
        const float* gate = GATE::row(b, r);
        float weights[HELD];
        float factor = 1.0f;
        if (SOFTMAX) {
            float most = bits_f32(0xff800000u);
#pragma unroll
            for (int h = 0; h < HELD; h++) {
                const int v = h * LANES + Strips::part();
                weights[h] = v < COUNT ? gate[v] : bits_f32(0xff800000u);
                most = weights[h] > most ? weights[h] : most;
            }
            most = max_lanes<Strips>(most);
            float sum = 0.0f;
#pragma unroll
            for (int h = 0; h < HELD; h++) {
                weights[h] = exp_(weights[h] - most);
                sum += weights[h];
            }
            factor = 1.0f / sum_lanes<Strips>(sum);
        }
        const int first = strip * STRIP + Strips::part();
        float sums[COLUMNS];
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            sums[c] = 0.0f;
        }
#pragma unroll
        for (int v = 0; v < COUNT; v++) {
            const float weight = SOFTMAX ? shfl_idx(weights[v / LANES], Strips::lane_of(v % LANES)) : gate[v];
            const float* vector = VECTORS::at(b, r, v);
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const int d = first + c * LANES;
                if (d < DIM) {
                    sums[c] = fma_(weight, vector[d], sums[c]);
                }
            }
        }
        if (live) {
            float* out = OUT::row(b, r);
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                if (first + c * LANES < DIM) {
                    out[first + c * LANES] = sums[c] * factor;
                }
            }
        }
    });
}
