// Windows over up to three axes: convolutions and pools. Padding is never read.
//
// conv: OUT [OUTER][GROUPS * OUTPUTS][positions] = BIAS + sum over INPUTS and taps of weight * X [OUTER][GROUPS * INPUTS][elements], as far as
// the taps lie inside. A thread holds 4 outputs of one group at POINTS positions, which lie ceil(positions / POINTS) apart: neighbouring threads
// take neighbouring positions, and share the weights that they read.
// Weights: [GROUPS][taps][INPUTS][OUTPUTS padded to 4], zeros behind OUTPUTS; BIAS [GROUPS][OUTPUTS padded to 4].
// FLOPs: 2 * INPUTS * taps per output; bytes: X ceil(OUTPUTS / 4) times, weights from the L1 or L2.
//
// pool: OUT [OUTER][positions] of X [OUTER][elements], a thread per element of the result.
// A convolution of 3 over 50 x 32 to 32: 308,703 FLOPs and 6.6 KB a row, 4.6 ns on an H200, bound by arithmetic in f32; not yet run on hardware.
#pragma once
#include "tile.cuh"

// One axis of a window: elements and positions; then elements of the window, the step from position to position, the distance between two
// elements of the window, and what is padded in front.
template <int SIZE_, int POSITIONS_, int KERNEL_, int STRIDE_, int DILATION_, int PAD_>
struct Axis {
    static constexpr int SIZE = SIZE_, POSITIONS = POSITIONS_, KERNEL = KERNEL_, STRIDE = STRIDE_, DILATION = DILATION_, PAD = PAD_;
    // Where element `tap` lies at `position`: inside if it is one of 0 .. SIZE.
    DEV static int source(int position, int tap) { return position * STRIDE + tap * DILATION - PAD; }
    DEV static bool inside(int source) {
        constexpr bool ALWAYS = PAD == 0 && (POSITIONS - 1) * STRIDE + (KERNEL - 1) * DILATION < SIZE;
        return ALWAYS || (source >= 0 && source < SIZE);
    }
};

template <class A_, class B_, class C_>
struct Window {
    using A = A_;
    using B = B_;
    using C = C_;
    static constexpr int ELEMENTS = A::SIZE * B::SIZE * C::SIZE;
    static constexpr int POSITIONS = A::POSITIONS * B::POSITIONS * C::POSITIONS;
    static constexpr int TAPS = A::KERNEL * B::KERNEL * C::KERNEL;

    // The element under a tap at a position; -1 where that is padding.
    DEV static int element(int position, int tap) {
        const int a = A::source(position / (B::POSITIONS * C::POSITIONS), tap / (B::KERNEL * C::KERNEL));
        const int b = B::source(position / C::POSITIONS % B::POSITIONS, tap / C::KERNEL % B::KERNEL);
        const int c = C::source(position % C::POSITIONS, tap % C::KERNEL);
        return A::inside(a) && B::inside(b) && C::inside(c) ? (a * B::SIZE + b) * C::SIZE + c : -1;
    }
};

template <class X, class OUT, class WINDOW, int OUTER, int GROUPS, int INPUTS, int OUTPUTS, int POINTS, int64_t WEIGHTS, int64_t BIAS>
DEV void conv(const Block& b) {
    constexpr int STRIPS = (OUTPUTS + 3) / 4, ACROSS = (WINDOW::POSITIONS + POINTS - 1) / POINTS;
    for (int item = (int)thread_x(); item < b.rows * OUTER * GROUPS * STRIPS * ACROSS; item += THREADS) {
        const int point = item % ACROSS, strip = item / ACROSS % STRIPS, group = item / (ACROSS * STRIPS) % GROUPS;
        const int outer = item / (ACROSS * STRIPS * GROUPS) % OUTER, r = item / (ACROSS * STRIPS * GROUPS * OUTER);
        const auto* x = X::row(b, r) + (outer * GROUPS + group) * INPUTS * WINDOW::ELEMENTS;
        const float* weights = (const float*)(b.job.weights + WEIGHTS) + (size_t)group * WINDOW::TAPS * INPUTS * STRIPS * 4 + strip * 4;
        const float4 bias = load_f32x4((const float*)(b.job.weights + BIAS) + (group * STRIPS + strip) * 4);
        float sums[POINTS][4];
#pragma unroll
        for (int i = 0; i < POINTS; i++) {
            sums[i][0] = bias.x;
            sums[i][1] = bias.y;
            sums[i][2] = bias.z;
            sums[i][3] = bias.w;
        }
#pragma unroll 1
        for (int tap = 0; tap < WINDOW::TAPS; tap++) {
            int elements[POINTS];
#pragma unroll
            for (int i = 0; i < POINTS; i++) {
                elements[i] = WINDOW::element(min_(point + i * ACROSS, WINDOW::POSITIONS - 1), tap);
            }
#pragma unroll 2
            for (int input = 0; input < INPUTS; input++) {
                const float4 w = load_f32x4(weights);
                weights += STRIPS * 4;
#pragma unroll
                for (int i = 0; i < POINTS; i++) {
                    if (elements[i] >= 0) {
                        const float value = x[input * WINDOW::ELEMENTS + elements[i]];
                        sums[i][0] = fma_(w.x, value, sums[i][0]);
                        sums[i][1] = fma_(w.y, value, sums[i][1]);
                        sums[i][2] = fma_(w.z, value, sums[i][2]);
                        sums[i][3] = fma_(w.w, value, sums[i][3]);
                    }
                }
            }
        }
        auto* out = OUT::row(b, r) + ((outer * GROUPS + group) * OUTPUTS + strip * 4) * WINDOW::POSITIONS;
#pragma unroll
        for (int i = 0; i < POINTS; i++) {
            const int position = point + i * ACROSS;
#pragma unroll
            for (int n = 0; n < 4; n++) {
                if (position < WINDOW::POSITIONS && strip * 4 + n < OUTPUTS) {
                    out[n * WINDOW::POSITIONS + position] = sums[i][n];
                }
            }
        }
    }
}

// The largest element, NaN if there is one; the sum of the elements inside, divided by the window's elements or by their number.
enum PoolFn { MAX_POOL, MEAN_OF_ALL, MEAN_OF_INSIDE };

template <class X, class OUT, class WINDOW, int OUTER, int FUNCTION>
DEV void pool(const Block& b) {
    for (int item = (int)thread_x(); item < b.rows * OUTER * WINDOW::POSITIONS; item += THREADS) {
        const int position = item % WINDOW::POSITIONS, outer = item / WINDOW::POSITIONS % OUTER, r = item / (WINDOW::POSITIONS * OUTER);
        const auto* x = X::row(b, r) + outer * WINDOW::ELEMENTS;
        float value = FUNCTION == MAX_POOL ? bits_f32(0xff800000u) : 0.0f;
        int count = 0;
#pragma unroll 1
        for (int tap = 0; tap < WINDOW::TAPS; tap++) {
            const int element = WINDOW::element(position, tap);
            if (element >= 0) {
                const float other = x[element];
                value = FUNCTION != MAX_POOL ? value + other : value > other || is_nan(value) ? value : other;
                count++;
            }
        }
        if (FUNCTION != MAX_POOL) {
            value /= (float)(FUNCTION == MEAN_OF_ALL ? WINDOW::TAPS : count);
        }
        OUT::row(b, r)[outer * WINDOW::POSITIONS + position] = value;
    }
}
