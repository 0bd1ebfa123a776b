// Each line of elements brought to a common scale: softmax (Σ = 1), L2 norm (√Σ x² = 1), layer norm (mean 0, variance 1; source: Ba et al. 2016,
// arXiv:1607.06450).
//
// f32. Thread mapping: `lines.cuh`; a lane reads back only what it wrote itself, so that no barrier is needed within a line. Elements are read two or
// three times, from shared memory as a rule. FLOPs per element: softmax about 20, the others 3 to 6.
// Layer norm and softmax of 20 x 64: 16,639 FLOPs and 5.2 KB a row, 1.1 ns on an H200, bound by reading tables; not yet run on hardware.
#pragma once
#include "lines.cuh"

// OUT = exp(x - max) / Σ exp(x - max). A line that has NaN or +inf, or nothing but -inf, becomes NaN.
template <class X, class OUT, class L>
DEV void softmax(const Block& b) {
    each_line<L>(b, [&](int r, int line, bool live) {
        const float* x = X::row(b, r) + L::start(line);
        float* out = OUT::row(b, r) + L::start(line);
        float most = bits_f32(0xff800000u);
#pragma unroll 4
        for (int e = L::part(); e < L::COUNT; e += L::PARTS) {
            const float value = x[L::at(e)];
            most = value > most ? value : most;
        }
        most = max_lanes<L>(most);
        float sum = 0.0f;
#pragma unroll 4
        for (int e = L::part(); e < L::COUNT; e += L::PARTS) {
            const float power = exp_(x[L::at(e)] - most);
            sum += power;
            if (live) {
                out[L::at(e)] = power;
            }
        }
        sum = sum_lanes<L>(sum);
        if (live) {
#pragma unroll 4
            for (int e = L::part(); e < L::COUNT; e += L::PARTS) {
                out[L::at(e)] /= sum;
            }
        }
    });
}

// OUT = x / max(√Σ x², eps), eps given by its bits. NaN makes all of a line NaN.
template <class X, class OUT, class L, uint32_t EPS>
DEV void l2_norm(const Block& b) {
    each_line<L>(b, [&](int r, int line, bool live) {
        const float* x = X::row(b, r) + L::start(line);
        float* out = OUT::row(b, r) + L::start(line);
        float squares = 0.0f;
#pragma unroll 4
        for (int e = L::part(); e < L::COUNT; e += L::PARTS) {
            const float value = x[L::at(e)];
            squares = fma_(value, value, squares);
        }
        const float found = sqrt_(sum_lanes<L>(squares));
        const float norm = found < bits_f32(EPS) ? bits_f32(EPS) : found;
        if (live) {
#pragma unroll 4
            for (int e = L::part(); e < L::COUNT; e += L::PARTS) {
                out[L::at(e)] = x[L::at(e)] / norm;
            }
        }
    });
}

// OUT = (x - mean) / √(var + eps) · WEIGHT + BIAS, both [COUNT] or None; eps given by its bits. The differences are squared, not the elements:
// squares of large numbers would lose a small variance.
template <class X, class OUT, class L, class WEIGHT, class BIAS, uint32_t EPS>
DEV void layer_norm(const Block& b) {
    const float* weight = WEIGHT::row(b, 0);
    const float* bias = BIAS::row(b, 0);
    each_line<L>(b, [&](int r, int line, bool live) {
        const float* x = X::row(b, r) + L::start(line);
        float* out = OUT::row(b, r) + L::start(line);
        float sum = 0.0f;
#pragma unroll 4
        for (int e = L::part(); e < L::COUNT; e += L::PARTS) {
            sum += x[L::at(e)];
        }
        const float mean = sum_lanes<L>(sum) / (float)L::COUNT;
        float squares = 0.0f;
#pragma unroll 4
        for (int e = L::part(); e < L::COUNT; e += L::PARTS) {
            const float apart = x[L::at(e)] - mean;
            squares = fma_(apart, apart, squares);
        }
        const float scale = 1.0f / sqrt_(sum_lanes<L>(squares) / (float)L::COUNT + bits_f32(EPS));
        if (live) {
#pragma unroll 4
            for (int e = L::part(); e < L::COUNT; e += L::PARTS) {
                const float value = (x[L::at(e)] - mean) * scale;
                const float factor = Same<WEIGHT, None>::value ? 1.0f : weight[e];
                out[L::at(e)] = fma_(value, factor, Same<BIAS, None>::value ? 0.0f : bias[e]);
            }
        }
    });
}
