// Tiles: how a block walks over rows, and where the values of its rows lie.
//
// A block takes `TILE` rows of one scope (contexts or candidates of the batch) through all steps of a kernel; between two steps all its threads
// meet. Every step is a function template over views: types that know where a value's rows are.
//   Shared, Scratch   rows of the tile, in shared memory or in the block's piece of device memory
//   Kept, KeptOf      rows of contexts: written by the contexts' kernel, read by it or, through the candidates' contexts, by the candidates'
//   Work              rows of the batch, between two kernels
//   Constant          one row for all
// Rows from `rows` on (of the last tile) hold anything and are computed where that is simpler; nothing reads them.
#pragma once
#include "job.cuh"

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

struct Block {
    const Job& job;
    uint8_t* shared;          // values of the tile
    uint8_t* scratch;         // values of the tile that did not fit there
    const uint32_t* context;  // [TILE]: the context of each row; row 0's for rows behind the last; null in the contexts' kernel
    int first;                // first row of the tile, within the batch
    int rows;                 // rows of the tile
};

// An element of 16 bits, rounded when it is stored.
struct Bf16 {
    uint16_t bits;
    DEV operator float() const { return bf16_to_f32(bits); }
    DEV Bf16& operator=(float value) {
        bits = f32_to_bf16(value);
        return *this;
    }
};

// Whose rows an input is read from, for row r of the tile.
struct OwnRows {
    static constexpr bool OF_CONTEXT = false;
    DEV static int of(const Block& b, int r) { return b.first + r; }
};
struct ContextRows {
    static constexpr bool OF_CONTEXT = true;
    DEV static int of(const Block& b, int r) { return (int)b.context[r]; }
};

template <class T, int OFFSET, int STRIDE>
struct Shared {
    using Element = T;
    static constexpr bool IS_SHARED = true;
    DEV static T* row(const Block& b, int r) { return (T*)(b.shared + OFFSET) + r * STRIDE; }
};
template <class T, int OFFSET, int STRIDE>
struct Scratch {
    using Element = T;
    static constexpr bool IS_SHARED = false;
    DEV static T* row(const Block& b, int r) { return (T*)(b.scratch + OFFSET) + r * STRIDE; }
};
template <class T, int OFFSET, int KEPT_BYTES>
struct Kept {
    using Element = T;
    static constexpr bool IS_SHARED = false;
    DEV static T* row(const Block& b, int r) { return (T*)(b.job.kept + (size_t)(b.first + r) * KEPT_BYTES + OFFSET); }
};
template <class T, int OFFSET, int KEPT_BYTES>
struct KeptOf {
    using Element = T;
    static constexpr bool IS_SHARED = false;
    DEV static const T* row(const Block& b, int r) { return (const T*)(b.job.kept + (size_t)b.context[r] * KEPT_BYTES + OFFSET); }
};
template <class T, int64_t ROW_OFFSET, int FIRST, int STRIDE>
struct Work {
    using Element = T;
    static constexpr bool IS_SHARED = false;
    DEV static T* row(const Block& b, int r) {
        return (T*)(b.job.work + ROW_OFFSET * b.job.work_rows) + (size_t)(b.first + r) * STRIDE + FIRST;
    }
};
template <class T, int64_t OFFSET>
struct Constant {
    using Element = T;
    static constexpr bool IS_SHARED = false;
    DEV static const T* row(const Block& b, int) { return (const T*)(b.job.weights + OFFSET); }
};
// No value: an operand that a step does without.
struct None {
    using Element = float;
    static constexpr bool IS_SHARED = false;
    DEV static const float* row(const Block&, int) { return nullptr; }
};

// 1 / (1 + e^-x), without overflow: far below 0 it is e^x.
DEV float sigmoid_f32(float x) {
    const float e = exp_(-abs_(x)), s = 1.0f / (1.0f + e);
    return x < 0.0f ? e * s : s;
}

template <class A, class B>
struct Same {
    static constexpr bool value = false;
};
template <class A>
struct Same<A, A> {
    static constexpr bool value = true;
};

// Four numbers of the model, on a boundary of 16 bytes.
DEV float4 load_f32x4(const float* p) {
    const uint4 bits = load_nc16(p);
    return make_float4(bits_f32(bits.x), bits_f32(bits.y), bits_f32(bits.z), bits_f32(bits.w));
}

// The work of a step in items, each of a group of LANES neighbouring lanes: calls run(item, lane of the group, slot of the group in the
// block, live). All lanes of a warp take part in every turn, so that groups may shuffle; those without an item see the last one, not live.
template <int LANES, class RUN>
DEV void share_out(int items, const RUN& run) {
    constexpr int PER_WARP = 32 / LANES;
    const int group = (int)lane() / LANES, slot = (int)warp() * PER_WARP + group;
    for (int first = (int)warp() * PER_WARP; first < items; first += WARPS * PER_WARP) {
        const int item = first + group;
        run(item < items ? item : items - 1, (int)lane() % LANES, slot, item < items);
    }
}

// The sum over a group of LANES lanes, for all of them.
template <int LANES>
DEV float sum_lanes(float x) {
#pragma unroll
    for (int mask = LANES / 2; mask > 0; mask /= 2) {
        x += shfl_xor(x, (uint32_t)mask);
    }
    return x;
}

// Takes the block's tiles through STEPS. Shared memory: [TILE] contexts, then the values.
template <class STEPS, int TILE, bool CANDIDATES, int SCRATCH_BYTES>
DEV void run_tiles(const Job& job, uint8_t* shared) {
    constexpr int HEAD = (TILE * 4 + 127) / 128 * 128;
    const int rows = (int)(CANDIDATES ? job.header->rows : job.header->contexts);
    uint32_t* context = (uint32_t*)shared;
    for (int tile = (int)block_x(); tile * TILE < rows; tile += (int)blocks_x()) {
        Block b{job, shared + HEAD, job.scratch + (size_t)block_x() * SCRATCH_BYTES, context, tile * TILE, 0};
        b.rows = rows - b.first < TILE ? rows - b.first : TILE;
        if (CANDIDATES) {
            for (int r = (int)thread_x(); r < TILE; r += THREADS) {
                context[r] = job.row_context[b.first + (r < b.rows ? r : 0)];
            }
            sync_block();
        }
        STEPS::run(b);
        sync_block();
    }
}

// The end of the last kernel: the last block to come here says that the batch is done.
DEV void finish(const Job& job) {
    sync_block();
    if (thread_x() == 0) {
        // After the barrier it covers what all threads of the block wrote.
        fence_system();
        const uint32_t blocks = (uint32_t)(blocks_x() * blocks_y());
        if (atomic_add(job.blocks_done, 1u) == blocks - 1) {
            *job.blocks_done = 0;
            fence_system();
            st_release_sys(job.done, job.header->sequence);
        }
    }
}

// Copies of one scope's dense columns [COLUMN, COLUMN + COUNT) into elements [AT, ..) of OUT.
template <class OUT, class ROWS, bool OF_CANDIDATES, int WIDTH, int COLUMN, int AT, int COUNT>
DEV void dense_columns(const Block& b) {
    const float* dense = OF_CANDIDATES ? b.job.candidates.dense : b.job.contexts.dense;
    for (int i = (int)thread_x(); i < b.rows * COUNT; i += THREADS) {
        const int r = i / COUNT, e = i % COUNT;
        OUT::row(b, r)[AT + e] = dense[(size_t)ROWS::of(b, r) * WIDTH + COLUMN + e];
    }
}

// One integer feature.
template <class OUT, class ROWS, bool OF_CANDIDATES, int WIDTH, int COLUMN, int COUNT>
DEV void integer_columns(const Block& b) {
    const int64_t* ints = OF_CANDIDATES ? b.job.candidates.ints : b.job.contexts.ints;
    for (int i = (int)thread_x(); i < b.rows * COUNT; i += THREADS) {
        const int r = i / COUNT, e = i % COUNT;
        OUT::row(b, r)[e] = ints[(size_t)ROWS::of(b, r) * WIDTH + COLUMN + e];
    }
}

// Where the ids of bag BAG of row `row` lie. STRIDE: ids per row if always the same number, else 0; then AT and COUNT are the bag's place.
template <bool OF_CANDIDATES, int BAGS, int BAG, int STRIDE, int AT, int COUNT>
struct Bag {
    uint32_t first, count;
    DEV static Bag of(const Block& b, int row) {
        if (STRIDE > 0) {
            return Bag{(uint32_t)row * STRIDE + AT, COUNT};
        }
        const uint32_t* starts = (OF_CANDIDATES ? b.job.candidates : b.job.contexts).starts + (size_t)row * BAGS + BAG;
        return Bag{starts[0], starts[1] - starts[0]};
    }
};

// Ids of a bag.
template <class OUT, class ROWS, class BAG>
DEV void bag_length(const Block& b) {
    for (int r = (int)thread_x(); r < b.rows; r += THREADS) {
        OUT::row(b, r)[0] = (int64_t)BAG::of(b, ROWS::of(b, r)).count;
    }
}

// One column of the answer.
template <class X, int OUTPUTS, int COLUMN>
DEV void write_score(const Block& b) {
    for (int r = (int)thread_x(); r < b.rows; r += THREADS) {
        b.job.scores[(size_t)(b.first + r) * OUTPUTS + COLUMN] = X::row(b, r)[0];
    }
}
