// A model in small, with all that a real one does between barriers; tests/planted_bugs.rs breaks it in every way that the emulator must
// notice.
//   score[row] = sigmoid(last . relu(W pool(row) + bias)), where pool is the sum of IDS table rows of WIDTH bf16; ids that do not exist are
//   absent.
// Tiles of 16 rows by 4 warps, products on tensor cores, weights through a ring of two stages.
#include "rt.cuh"

constexpr uint32_t IDS = 4, WIDTH = 64, UNITS = 64, ROWS = 16, STEP = 16;
constexpr uint32_t ROW = WIDTH + 8, WEIGHT_ROW = STEP + 8; // elements from row to row: no two rows of a tile in the same banks

DEV void load_weights(uint16_t* stage, const uint16_t* weights, uint32_t k) {
    for (uint32_t i = thread_x(); i < UNITS * STEP / 8; i += 128) {
        uint32_t unit = i % UNITS, part = i / UNITS;
        cp_async16(stage + unit * WEIGHT_ROW + part * 8, weights + unit * WIDTH + k + part * 8);
    }
    cp_async_commit();
}

KERNEL(128) tiny_model(const uint16_t* table, uint32_t table_rows, const uint32_t* ids, const uint16_t* weights, const float* bias,
                       const float* last, float* scores, uint32_t rows) {
    DYN_SMEM(memory);
    uint16_t* gathered = (uint16_t*)memory;                  // [ROWS * IDS][ROW]
    uint16_t* pooled = gathered + ROWS * IDS * ROW;          // [ROWS][ROW]
    uint16_t* stages = pooled + ROWS * ROW;                  // [2][UNITS][WEIGHT_ROW]
    float* sums = (float*)(stages + 2 * UNITS * WEIGHT_ROW); // [warp][ROWS]
    uint32_t* wanted = (uint32_t*)(sums + 4 * ROWS);         // [warp][16]
    for (uint32_t first = block_x() * ROWS; first < rows; first += blocks_x() * ROWS) {
        load_weights(stages, weights, 0);
        if (lane() < 16) {
            uint32_t row = first + warp() * 4 + lane() / IDS;
            wanted[warp() * 16 + lane()] = row < rows ? ids[row * IDS + lane() % IDS] : table_rows;
        }
        sync_warp(); // the warp's ids are there
        for (uint32_t i = lane(); i < 16 * (WIDTH / 8); i += 32) {
            uint32_t line = warp() * 16 + i / (WIDTH / 8), part = i % (WIDTH / 8), id = wanted[line];
            bool there = id < table_rows;
            cp_async16(gathered + line * ROW + part * 8, table + (there ? (uint64_t)id * WIDTH + part * 8 : 0), there ? 16 : 0);
        }
        cp_async_commit();
        cp_async_wait<0>();
        sync_block(); // all rows are gathered
        for (uint32_t i = thread_x(); i < ROWS * WIDTH / 2; i += 128) {
            uint32_t row = i / (WIDTH / 2), pair = i % (WIDTH / 2);
            float low = 0, high = 0;
            for (uint32_t k = 0; k < IDS; k++) {
                uint32_t v = ((const uint32_t*)(gathered + (row * IDS + k) * ROW))[pair];
                low += bf16_lo(v);
                high += bf16_hi(v);
            }
            ((uint32_t*)(pooled + row * ROW))[pair] = pack_bf16(low, high);
        }
        float d[2][4] = {};
        for (uint32_t k = 0; k < WIDTH; k += STEP) {
            uint16_t* stage = stages + k / STEP % 2 * UNITS * WEIGHT_ROW;
            if (k + STEP < WIDTH) {
                load_weights(stages + (k / STEP + 1) % 2 * UNITS * WEIGHT_ROW, weights, k + STEP);
                cp_async_wait<1>();
            } else {
                cp_async_wait<0>();
            }
            sync_block(); // the stage is there, and at first what is pooled
            uint32_t a[4], b[4];
            ldmatrix_x4(a, pooled + lane() % 16 * ROW + k + lane() / 16 * 8);
            ldmatrix_x4(b, stage + (warp() * 16 + lane() % 8 + lane() / 16 * 8) * WEIGHT_ROW + lane() / 8 % 2 * 8);
            mma_bf16(d[0], a, {b[0], b[1]});
            mma_bf16(d[1], a, {b[2], b[3]});
            sync_block(); // the stage may be filled again
        }
        float partial[2] = {0, 0};
        for (uint32_t e = 0; e < 8; e++) {
            uint32_t unit = warp() * 16 + e / 4 * 8 + lane() % 4 * 2 + e % 2;
            float v = d[e / 4][e % 4] + bias[unit];
            partial[e / 2 % 2] += (v > 0 ? v : 0) * last[unit];
        }
        for (uint32_t h = 0; h < 2; h++) {
            float sum = partial[h] + shfl_xor(partial[h], 1);
            sum += shfl_xor(sum, 2);
            if (lane() % 4 == 0) {
                sums[warp() * ROWS + lane() / 4 + h * 8] = sum;
            }
        }
        sync_block(); // all warps have summed
        if (thread_x() < ROWS && first + thread_x() < rows) {
            float z = 0;
            for (uint32_t w = 0; w < 4; w++) {
                z += sums[w * ROWS + thread_x()];
            }
            scores[first + thread_x()] = 1.0f / (1.0f + exp_(-z));
        }
    }
}
