// The pairwise term of a factorisation machine: OUT[i] = (Σ_f x[f][i])² - Σ_f x[f][i]², which is twice the sum of all pairs' products.
// Source: Rendle 2010, doi:10.1109/ICDM.2010.127, lemma 3.1.
//
// f32. x [COUNT fields][LINES]; SUMS [2][LINES], or None: Σ x and Σ x² of further fields, computed before. Thread mapping: `lines.cuh`, a line per
// element of the result, whose neighbours are other lines. Bytes per row: COUNT * LINES * 4 of the tile's memory; FLOPs: 3 * COUNT * LINES.
// 27 fields of 16: 1,344 FLOPs and 1.8 KB a row, 0.38 ns on an H200, bound by reading the fields from tables; not yet run on hardware.
#pragma once
#include "lines.cuh"

template <class X, class SUMS, class OUT, class L>
DEV void fm(const Block& b) {
    each_line<L>(b, [&](int r, int line, bool live) {
        const float* x = X::row(b, r) + L::start(line);
        float sum = 0.0f, squares = 0.0f;
#pragma unroll 4
        for (int e = L::part(); e < L::COUNT; e += L::PARTS) {
            const float value = x[L::at(e)];
            sum += value;
            squares = fma_(value, value, squares);
        }
        sum = sum_lanes<L>(sum);
        squares = sum_lanes<L>(squares);
        if (live && L::part() == 0) {
            if (!Same<SUMS, None>::value) {
                const float* before = SUMS::row(b, r);
                sum += before[line];
                squares += before[L::LINES + line];
            }
            OUT::row(b, r)[line] = sum * sum - squares;
        }
    });
}
