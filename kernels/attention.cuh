// Scaled dot-product attention: OUT[q][v] = softmax over keys (Q[q] · K[key] * scale, masked) · V[key][v], per row and head.
// Source: Vaswani et al. 2017, arXiv:1706.03762.
//
// Queries, keys and values lie anywhere in their values: HEAD::q(e), k(e), v(e), out(e) and mask(e) give the first elements of head e of HEADS;
// from row to row are Q_STEP, K_STEP, V_STEP, OUT_STEP elements. HIDING says what a mask's element [q * MASK_ROW + key * MASK_KEY] does.
// An item is one row, head and block of QUERIES queries; LANES neighbouring lanes share it. Scores: a lane per key, each starting at another
// element of the width (four at once if steps allow it: IN_QUADS), so that keys in the same bank of shared memory do not meet; they stay in ROOM ([256 / LANES][QUERIES][KEYS] f32).
// Softmax: the lanes together, the largest score first. Sums: a lane per column of V and part of the keys; the parts are added at the end.
// Keys of weight 0 take no part, whatever their values are, unless NAN_WITHOUT_KEYS; then a query without keys gives NaN, else zeros.
// FLOPs: 2 * KEYS * (WIDTH + VALUES) per query and head, and an exponential per score; bytes: keys and values ceil(queries / QUERIES) times.
// 4 heads of 16 over 21: 644,951 FLOPs with the layer before, 5.5 KB a row, 1.9 ns on an H200, bound by arithmetic in f32; not yet run on hardware.
#pragma once
#include "operands.cuh"

enum Hiding { HIDES_NOTHING, ADDED, ZERO_HIDES, OTHERS_HIDE };

// The least power of two from n on, at most `most`.
DEV constexpr int lanes_for(int n, int most) { return most > 1 && n <= most / 2 ? lanes_for(n, most / 2) : most; }

template <class Q, class K, class V, class MASK, class OUT, class ROOM, class HEAD, int HEADS, int COUNT, int KEYS, int WIDTH, int VALUES,
          int OUT_STEP, int Q_STEP, int K_STEP, int V_STEP, int HIDING, int MASK_ROW, int MASK_KEY, bool CAUSAL, bool NAN_WITHOUT_KEYS,
          bool IN_QUADS, int QUERIES, int LANES>
DEV void attention(const Block& b, float scale, float hidden) {
    constexpr int BLOCKS = (COUNT + QUERIES - 1) / QUERIES;
    constexpr int COLUMNS = lanes_for(VALUES, LANES), PARTS = LANES / COLUMNS;
    constexpr bool QUADS = IN_QUADS && Rows<Q>::ALIGN >= 16 && Rows<K>::ALIGN >= 16;
    constexpr int STEP = QUADS ? 4 : 1;
    const float lowest = bits_f32(0xff800000u);
    float* room = (float*)ROOM::row(b, 0);
    share_out<LANES>(b.rows * HEADS * BLOCKS, [&](int item, int part, int slot, bool live) {
        const int first = item % BLOCKS * QUERIES, e = item / BLOCKS % HEADS, r = item / (BLOCKS * HEADS);
        float* weights = room + slot * QUERIES * KEYS;
        float most[QUERIES], factors[QUERIES];
        bool lost[QUERIES];

        // ---- scores ----
        const auto* q = Q::row(b, r) + HEAD::q(e);
        const auto* k = K::row(b, r) + HEAD::k(e);
        const auto* mask = MASK::row(b, r) + (HIDING == HIDES_NOTHING ? 0 : HEAD::mask(e));
        int queries[QUERIES];
#pragma unroll
        for (int i = 0; i < QUERIES; i++) {
            queries[i] = min_(first + i, COUNT - 1);
            most[i] = lowest;
            lost[i] = false;
        }
        for (int key = part; key < KEYS; key += LANES) {
            float sums[QUERIES] = {};
            int at = WIDTH > 0 ? part * STEP % WIDTH : 0;
            for (int turn = 0; turn < WIDTH; turn += STEP) {
                if constexpr (QUADS) {
                    const float4 x = *(const float4*)(k + key * K_STEP + at);
#pragma unroll
                    for (int i = 0; i < QUERIES; i++) {
                        const float4 y = *(const float4*)(q + queries[i] * Q_STEP + at);
                        sums[i] = fma_(y.w, x.w, fma_(y.z, x.z, fma_(y.y, x.y, fma_(y.x, x.x, sums[i]))));
                    }
                } else {
                    const float x = k[key * K_STEP + at];
#pragma unroll
                    for (int i = 0; i < QUERIES; i++) {
                        sums[i] = fma_(q[queries[i] * Q_STEP + at], x, sums[i]);
                    }
                }
                at = at + STEP == WIDTH ? 0 : at + STEP;
            }
#pragma unroll
            for (int i = 0; i < QUERIES; i++) {
                float score = sums[i] * scale;
                if (HIDING == ADDED) {
                    score += (float)mask[queries[i] * MASK_ROW + key * MASK_KEY];
                } else if (HIDING != HIDES_NOTHING) {
                    const bool is_zero = mask[queries[i] * MASK_ROW + key * MASK_KEY] == 0;
                    score = is_zero == (HIDING == ZERO_HIDES) ? hidden : score;
                }
                score = CAUSAL && key > queries[i] ? lowest : score;
                weights[i * KEYS + key] = score;
                // A NaN is no maximum, but makes the sum one.
                most[i] = score > most[i] ? score : most[i];
                lost[i] = lost[i] || is_nan(score);
            }
        }

        // ---- softmax ----
#pragma unroll
        for (int i = 0; i < QUERIES; i++) {
#pragma unroll
            for (int mask = LANES / 2; mask > 0; mask /= 2) {
                const float other = shfl_xor(most[i], (uint32_t)mask);
                most[i] = other > most[i] ? other : most[i];
            }
            const bool is_lost = NAN_WITHOUT_KEYS || sum_lanes<LANES>(lost[i] ? 1.0f : 0.0f) > 0.0f;
            const bool has_keys = most[i] > lowest;
            float sum = 0.0f;
            for (int key = part; key < KEYS; key += LANES) {
                const float score = weights[i * KEYS + key];
                const float weight = has_keys ? exp_(score - most[i]) : is_lost ? bits_f32(0x7fc00000u) : 0.0f;
                weights[i * KEYS + key] = weight;
                sum += weight;
            }
            sum = sum_lanes<LANES>(sum);
            factors[i] = has_keys ? 1.0f / sum : 1.0f;
        }
        sync_warp();

        // ---- sums ----
        const auto* v = V::row(b, r) + HEAD::v(e);
        auto* out = OUT::row(b, r) + HEAD::out(e);
        for (int start = 0; start < VALUES; start += COLUMNS) {
            const int column = start + part % COLUMNS;
            float sums[QUERIES] = {};
            if (column < VALUES) {
                for (int key = part / COLUMNS; key < KEYS; key += PARTS) {
                    const float x = v[key * V_STEP + column];
#pragma unroll
                    for (int i = 0; i < QUERIES; i++) {
                        const float weight = weights[i * KEYS + key];
                        if (NAN_WITHOUT_KEYS || weight != 0.0f) {
                            sums[i] = fma_(weight, x, sums[i]);
                        }
                    }
                }
            }
#pragma unroll
            for (int i = 0; i < QUERIES; i++) {
#pragma unroll
                for (int mask = LANES / 2; mask >= COLUMNS; mask /= 2) {
                    sums[i] += shfl_xor(sums[i], (uint32_t)mask);
                }
                if (live && part < COLUMNS && column < VALUES && first + i < COUNT) {
                    out[(first + i) * OUT_STEP + column] = sums[i] * factors[i];
                }
            }
        }
        sync_warp();
    });
}
