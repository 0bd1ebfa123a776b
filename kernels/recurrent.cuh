// Recurrent layers with gates: all rows of a tile take a step together. The inputs' part of all gates is a linear layer before this; here is
// what depends on the state. Source: Cho et al. 2014, arXiv:1406.1078; with attention: Zhou et al. 2019, arXiv:1809.03672.
//
// GATES [STEPS][3 * HIDDEN] in the order r, z, n; FIRST [HIDDEN] or None; LENGTH i64 [1] or None; ATTENTION [STEPS] or None; OUT all states
// [STEPS][HIDDEN], zeros where no step is taken, or the last one. A thread holds the three gates of ROWS rows and one state: neighbouring threads
// take neighbouring states, so that weights are read 512 bytes at once; rows of the state are shared by the warp.
// Weights: [ceil(HIDDEN / 4)][3 gates][HIDDEN][4 states that are read], zeros behind HIDDEN; BIAS [HIDDEN] of n's part of the state.
// STATE: room of [2][PADDED] f32 per row: the state of this turn and of the next one by turns, so that a turn has one barrier (where r scales the
// state itself: the state, and the state scaled; a turn has two). Z: room of [HIDDEN] for gate z then, else None.
// Bytes per tile and step: 12 * HIDDEN^2 of weights from the L1 or L2, ceil(rows / ROWS) times; FLOPs: 6 * HIDDEN^2 per row and step.
// 64 states over 20 x 32: 761,663 FLOPs and 2.6 KB a row, 7.6 ns on an H200, bound by arithmetic in f32; not yet run on hardware.
#pragma once
#include "tile.cuh"

enum GruKind { GRU, AGRU, AUGRU };


template <int KIND>
DEV float next_state(float state, float z, float n, float attention) {
    if (KIND == AGRU) {
        return fma_(attention, n, (1.0f - attention) * state);
    }
    if (KIND == AUGRU) {
        const float share = attention * z;
        return fma_(share, n, (1.0f - share) * state);
    }
    return fma_(z, state, (1.0f - z) * n);
}

// Steps that row r takes.
template <class LENGTH, int STEPS>
DEV int steps_taken(const Block& b, int r) {
    if constexpr (Same<LENGTH, None>::value) {
        return STEPS;
    } else {
        const int64_t length = LENGTH::row(b, r)[0];
        return length < 0 ? 0 : length > STEPS ? STEPS : (int)length;
    }
}

// Adds the products of GATES gates from GATE on for ROWS rows from `row` on, given the part SOURCE of their rooms, to `sums`.
template <class STATE, int HIDDEN, int ROWS, int GATE, int GATES>
DEV void add_gates(const Block& b, int row, int j, int source, const float* weights, float (&sums)[ROWS][GATES]) {
    const float* states[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        states[i] = STATE::row(b, min_(row + i, b.rows - 1)) + source;
    }
#pragma unroll 2
    for (int k = 0; k < (HIDDEN + 3) / 4; k++) {
        float4 w[GATES];
#pragma unroll
        for (int g = 0; g < GATES; g++) {
            w[g] = load_f32x4(weights + ((k * 3 + GATE + g) * HIDDEN + j) * 4);
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const float4 h = *(const float4*)(states[i] + k * 4);
#pragma unroll
            for (int g = 0; g < GATES; g++) {
                sums[i][g] = fma_(h.x, w[g].x, sums[i][g]);
                sums[i][g] = fma_(h.y, w[g].y, sums[i][g]);
                sums[i][g] = fma_(h.z, w[g].z, sums[i][g]);
                sums[i][g] = fma_(h.w, w[g].w, sums[i][g]);
            }
        }
    }
}

template <class GATES, class FIRST, class LENGTH, class ATTENTION, class OUT, class STATE, class Z, int STEPS, int HIDDEN, int KIND, bool REVERSE,
          bool LAST, bool RESET_AFTER, int ROWS, int64_t WEIGHTS, int64_t BIAS>
DEV void gru(const Block& b) {
    constexpr int PADDED = (HIDDEN + 3) / 4 * 4;
    const float* weights = (const float*)(b.job.weights + WEIGHTS);
    const float* bias = (const float*)(b.job.weights + BIAS);
    const int items = (b.rows + ROWS - 1) / ROWS * HIDDEN;

    // ---- first state ----
    int turns = 0;
    for (int r = 0; r < b.rows; r++) {
        turns = max_(turns, steps_taken<LENGTH, STEPS>(b, r));
    }
    for (int i = (int)thread_x(); i < b.rows * 2 * PADDED; i += THREADS) {
        const int r = i / (2 * PADDED), e = i % (2 * PADDED);
        float state = 0.0f;
        if constexpr (!Same<FIRST, None>::value) {
            state = e < HIDDEN ? FIRST::row(b, r)[e] : 0.0f;
        }
        STATE::row(b, r)[e] = state;
    }
    sync_block();

    // ---- steps: rows whose steps are all taken keep their state ----
    int now = 0;
    for (int turn = 0; turn < turns; turn++) {
        // Where row r reads its inputs in this turn; -1 if it has taken all its steps, or is none.
        const auto step = [&](int r) {
            const int taken = r < b.rows ? steps_taken<LENGTH, STEPS>(b, r) : 0;
            return turn >= taken ? -1 : REVERSE ? taken - 1 - turn : turn;
        };
        const auto share = [&](int r, int at) {
            if constexpr (Same<ATTENTION, None>::value) {
                return 0.0f;
            } else {
                return ATTENTION::row(b, r)[at];
            }
        };
        if constexpr (RESET_AFTER) {
            const int next = PADDED - now;
            for (int item = (int)thread_x(); item < items; item += THREADS) {
                const int row = item / HIDDEN * ROWS, j = item % HIDDEN;
                float sums[ROWS][3] = {};
                add_gates<STATE, HIDDEN, ROWS, 0, 3>(b, row, j, now, weights, sums);
#pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    const int r = row + i, at = step(r);
                    if (r >= b.rows) {
                        continue;
                    }
                    float* state = STATE::row(b, r) + j;
                    float value = state[now];
                    if (at >= 0) {
                        const auto* inputs = GATES::row(b, r) + at * 3 * HIDDEN + j;
                        const float reset = sigmoid_f32(sums[i][0] + inputs[0]);
                        const float z = sigmoid_f32(sums[i][1] + inputs[HIDDEN]);
                        const float n = tanh_(fma_(reset, sums[i][2] + bias[j], inputs[2 * HIDDEN]));
                        value = next_state<KIND>(value, z, n, share(r, at));
                        if (!LAST) {
                            OUT::row(b, r)[at * HIDDEN + j] = value;
                        }
                    }
                    state[next] = value;
                }
            }
            now = next;
        } else {
            for (int item = (int)thread_x(); item < items; item += THREADS) {
                const int row = item / HIDDEN * ROWS, j = item % HIDDEN;
                float sums[ROWS][2] = {};
                add_gates<STATE, HIDDEN, ROWS, 0, 2>(b, row, j, 0, weights, sums);
#pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    const int r = row + i, at = step(r);
                    if (at >= 0) {
                        float* state = STATE::row(b, r) + j;
                        const auto* inputs = GATES::row(b, r) + at * 3 * HIDDEN + j;
                        state[PADDED] = state[0] * sigmoid_f32(sums[i][0] + inputs[0]);
                        Z::row(b, r)[j] = sigmoid_f32(sums[i][1] + inputs[HIDDEN]);
                    }
                }
            }
            sync_block();
            for (int item = (int)thread_x(); item < items; item += THREADS) {
                const int row = item / HIDDEN * ROWS, j = item % HIDDEN;
                float sums[ROWS][1] = {};
                add_gates<STATE, HIDDEN, ROWS, 2, 1>(b, row, j, PADDED, weights, sums);
#pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    const int r = row + i, at = step(r);
                    if (at >= 0) {
                        float* state = STATE::row(b, r) + j;
                        const float n = tanh_(sums[i][0] + GATES::row(b, r)[(at * 3 + 2) * HIDDEN + j]);
                        state[0] = next_state<KIND>(state[0], Z::row(b, r)[j], n, share(r, at));
                        if (!LAST) {
                            OUT::row(b, r)[at * HIDDEN + j] = state[0];
                        }
                    }
                }
            }
        }
        sync_block();
    }

    // ---- the last state, or zeros where no step was taken ----
    constexpr int COUNT = LAST ? HIDDEN : STEPS * HIDDEN;
    for (int i = (int)thread_x(); i < b.rows * COUNT; i += THREADS) {
        const int r = i / COUNT, e = i % COUNT;
        if (LAST) {
            OUT::row(b, r)[e] = STATE::row(b, r)[now + e];
        } else if (e >= steps_taken<LENGTH, STEPS>(b, r) * HIDDEN) {
            OUT::row(b, r)[e] = 0.0f;
        }
    }
}
