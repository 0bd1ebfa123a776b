// Embedding lookups: rows of tables, read in whatever format they are stored, pooled per bag, straight into their places.
//   sum, mean   OUT[d] = Σ weight_k · value(id_k, d)  (mean: / the number of ids that are there), max, or the rows themselves (sequences).
// Formats as `src/model/table.rs` defines them: f32, f16, bf16, and codes of 8, 4 or 2 bits with value = code · scale + bias, rounded once.
// NO_ROW is absent: it adds nothing and is not counted; its place in a sequence is zero. So is any other id that the table does not have, but
// the batch is marked for the host (`report_unknown_id`): rows are checked before they come into a slot.
//
// Reads of tables are random reads of memory that is in no cache: what counts is how many are under way. So all lookups of a scope are one step,
// and a thread works on a chunk: up to 8 numbers of one row, 4 to 16 bytes. Chunks of a row belong to neighbouring threads, rows of the
// features of a tile row to the next ones; every thread asks for the chunks of UNROLL ids before it uses the first.
//   gather_rows  one id or a sequence: an item per row of the tile, feature, id and chunk
//   pool_bags    an item per row of the tile, feature and chunk; bags of 16 ids and more are shared out among SPLIT groups of lanes, whose sums
//                are added at the end. Ids are read one round ahead, those of the next bag behind the last round of this one.
//   table_rows   the same for ids that the graph computes; there an id that does not exist gives NaN
// Calls of one step follow each other without a barrier; FROM is the thread that begins, so that a call takes the threads that the one
// before it left idle.
// Rows lie STRIDE bytes apart, a multiple of 4 (`DeviceTable` in src/engine/cuda/program.rs); offsets are 64 bits.
// Bytes per row of the tile: Σ over ids of the row's bytes, in sectors of 32; FLOPs: 1 to 2 per number. Bound by memory: a 16-bit row of 16
// numbers is one sector, so 26 such lookups are 832 bytes.
// On an H200 (4.8 TB/s) dlrm-dcnv2's 214 bf16 rows of 256 bytes take 11.6 ns or more, dlrm-kaggle's 26 of 64 bytes 0.38 ns; not yet run on hardware.
#pragma once
#include "tile.cuh"

enum RowFormat { ROWS_F32, ROWS_F16, ROWS_BF16, ROWS_CODED };
enum PoolKind { POOL_SUM, POOL_MEAN, POOL_MAX };

// How a table keeps rows of D numbers of B bits; of coded rows: at which bytes codes and scale begin, and whether scale and bias are f16.
template <RowFormat F, int B, int D, int S, int CODES_AT = 0, int SCALE_AT = 0, bool HALF_HEADER = false>
struct TableRows {
    static constexpr RowFormat FORMAT = F;
    static constexpr int BITS = B, DIM = D, STRIDE = S, CODES = CODES_AT, SCALE = SCALE_AT;
    static constexpr bool HALF = HALF_HEADER;
    // Bytes that one load may read.
    static constexpr int WIDTH = (S | CODES_AT) % 16 == 0 ? 16 : (S | CODES_AT) % 8 == 0 ? 8 : 4;
    static_assert(S % 4 == 0 && CODES_AT % 4 == 0, "rows are whole words");
};

// COUNT numbers of a row as they are stored, with what decodes them.
template <class ROWS, int COUNT>
struct Chunk {
    static constexpr int BITS = COUNT * ROWS::BITS;
    static constexpr int WORDS = BITS < 32 ? 1 : BITS / 32;
    static constexpr int PER_ROW = (ROWS::DIM + COUNT - 1) / COUNT;
    static constexpr int WIDTH = ROWS::WIDTH < WORDS * 4 ? ROWS::WIDTH : WORDS * 4;
    static constexpr int LAST_BYTE = ROWS::CODES + (PER_ROW * BITS + 31) / 32 * 4;
    static constexpr bool CODED = ROWS::FORMAT == ROWS_CODED;
    static constexpr int HEADER_SHIFT = ROWS::SCALE % 4 * 8;
    static constexpr int HEADER_WORDS = (ROWS::HALF ? 1 : 2) + (HEADER_SHIFT > 0 ? 1 : 0);

    uint32_t words[WORDS];
    uint32_t header[HEADER_WORDS];

    // Asks for chunk `at` of a row, if that is there; else the numbers are anything finite. Nothing outside the row's STRIDE bytes is read.
    DEV void load(const uint8_t* row, int at, bool there) {
#pragma unroll
        for (int word = 0; word < WORDS; word++) {
            words[word] = 0;
        }
#pragma unroll
        for (int word = 0; word < HEADER_WORDS; word++) {
            header[word] = 0;
        }
        if (!there) {
            return;
        }
        const int first = ROWS::CODES + (BITS < 32 ? at * BITS / 32 * 4 : at * (BITS / 8));
#pragma unroll
        for (int word = 0; word < WORDS; word += WIDTH / 4) {
            int byte = first + word * 4;
            if (LAST_BYTE > ROWS::STRIDE) {
                // Of the last chunk, what is behind the row holds no number: read another part.
                byte = byte + WIDTH <= ROWS::STRIDE ? byte : 0;
            }
            if (WIDTH == 16) {
                const uint4 read = load_nc16(row + byte);
                words[word] = read.x;
                words[(word + 1) % WORDS] = read.y;
                words[(word + 2) % WORDS] = read.z;
                words[(word + 3) % WORDS] = read.w;
            } else if (WIDTH == 8) {
                const uint2 read = load_nc8(row + byte);
                words[word] = read.x;
                words[(word + 1) % WORDS] = read.y;
            } else {
                words[word] = load_nc4(row + byte);
            }
        }
        if (CODED) {
#pragma unroll
            for (int word = 0; word < HEADER_WORDS; word++) {
                header[word] = load_nc4(row + ROWS::SCALE / 4 * 4 + word * 4);
            }
        }
    }

    // Scale (0) or bias (1), in f32.
    DEV float header_word(int at) const {
        constexpr int UP = (32 - HEADER_SHIFT) % 32;
        const int word = ROWS::HALF ? 0 : at;
        uint32_t bits = header[word] >> HEADER_SHIFT;
        if (HEADER_SHIFT > 0) {
            bits |= header[(word + 1) % HEADER_WORDS] << UP;
        }
        if (ROWS::HALF) {
            return at == 0 ? f16_lo(bits) : f16_hi(bits);
        }
        return bits_f32(bits);
    }

    // The numbers of chunk `at`. What the last chunk has beyond the row's numbers is anything.
    DEV void decode(int at, float (&numbers)[COUNT]) const {
        const float scale = CODED ? header_word(0) : 0.0f, bias = CODED ? header_word(1) : 0.0f;
        const int shift = BITS < 32 ? at * BITS % 32 : 0;
#pragma unroll
        for (int e = 0; e < COUNT; e++) {
            const int bit = e * ROWS::BITS;
            const uint32_t word = BITS < 32 ? words[0] >> shift : words[bit / 32 % WORDS];
            if (ROWS::FORMAT == ROWS_F32) {
                numbers[e] = bits_f32(word);
            } else if (ROWS::FORMAT == ROWS_F16) {
                numbers[e] = bit % 32 == 0 ? f16_lo(word) : f16_hi(word);
            } else if (ROWS::FORMAT == ROWS_BF16) {
                numbers[e] = bit % 32 == 0 ? bf16_lo(word) : bf16_hi(word);
            } else {
                numbers[e] = fma_((float)(word >> bit % 32 & ((1u << ROWS::BITS % 32) - 1)), scale, bias);
            }
        }
    }
};

// Writes the first `live` of COUNT numbers; `out` is aligned for ALIGN bytes, a power of two. EXACT: all are live.
template <int COUNT, int ALIGN, bool EXACT>
DEV void store_numbers(float* out, const float (&numbers)[COUNT], int live) {
    if (!EXACT || ALIGN < 8 || COUNT < 2) {
#pragma unroll
        for (int e = 0; e < COUNT; e++) {
            if (EXACT || e < live) {
                out[e] = numbers[e];
            }
        }
    } else if (ALIGN < 16 || COUNT < 4) {
#pragma unroll
        for (int e = 0; e < COUNT; e += 2) {
            *(float2*)(out + e) = make_float2(numbers[e], numbers[(e + 1) % COUNT]);
        }
    } else {
        // Of 8 numbers, half of the lanes write the second part first: the eight lanes that write at once then reach all banks of shared memory.
        const bool swap = COUNT == 8 && (lane() & 4) != 0;
#pragma unroll
        for (int part = 0; part < COUNT; part += 4) {
            const int other = COUNT - 4 - part;
            float4 four;
            four.x = swap ? numbers[other] : numbers[part];
            four.y = swap ? numbers[(other + 1) % COUNT] : numbers[(part + 1) % COUNT];
            four.z = swap ? numbers[(other + 2) % COUNT] : numbers[(part + 2) % COUNT];
            four.w = swap ? numbers[(other + 3) % COUNT] : numbers[(part + 3) % COUNT];
            *(float4*)(out + (swap ? other : part)) = four;
        }
    }
}

// The same in 16 bits.
template <int COUNT, int ALIGN, bool EXACT>
DEV void store_numbers(Bf16* out, const float (&numbers)[COUNT], int live) {
    if (!EXACT || ALIGN < 4 || COUNT < 2) {
#pragma unroll
        for (int e = 0; e < COUNT; e++) {
            if (EXACT || e < live) {
                out[e] = numbers[e];
            }
        }
        return;
    }
    uint32_t pairs[(COUNT + 1) / 2];
#pragma unroll
    for (int e = 0; e < COUNT; e += 2) {
        pairs[e / 2] = pack_bf16(numbers[e], numbers[(e + 1) % COUNT]);
    }
    constexpr int WORDS = ALIGN / 4 < COUNT / 2 ? ALIGN / 4 : COUNT / 2, PAIRS = (COUNT + 1) / 2;
#pragma unroll
    for (int e = 0; e < PAIRS; e += WORDS) {
        uint32_t* to = (uint32_t*)out + e;
        if (WORDS == 4) {
            *(uint4*)to = make_uint4(pairs[e], pairs[(e + 1) % PAIRS], pairs[(e + 2) % PAIRS], pairs[(e + 3) % PAIRS]);
        } else if (WORDS == 2) {
            *(uint2*)to = make_uint2(pairs[e], pairs[(e + 1) % PAIRS]);
        } else {
            *to = pairs[e];
        }
    }
}

// One lookup, as the weights keep it.
struct Lookup {
    uint32_t table;  // which of `Job::tables`
    uint32_t rows;   // ids at or above do not exist
    uint32_t bag;    // which bag of a row; its first id, if all rows have the same number of ids
    uint32_t ids;    // of every bag, if that is fixed
    DEV static Lookup at(const Block& b, int64_t list, int feature) {
        const uint4 words = load_nc16(b.job.weights + list + feature * 16);
        return Lookup{words.x, words.y, words.z, words.w};
    }
    // Row 0.
    DEV const uint8_t* base(const Block& b) const {
        const uint2 words = load_nc8(b.job.tables + table);
        return (const uint8_t*)((uint64_t)words.y << 32 | words.x);
    }
};

// Ids of lookups of one scope. MAP: whose rows; STRIDE: ids per row if that is always the same, else 0, and each of BAGS bags has a start.
// FIXED: every bag has as many ids as its lookup says.
template <bool OF_CANDIDATES, class MAP, int STRIDE, int BAGS, bool FIXED, bool HAS_WEIGHTS>
struct BagIds {
    static constexpr bool WEIGHTED = HAS_WEIGHTS;
    DEV static const InputRows& inputs(const Block& b) { return OF_CANDIDATES ? b.job.candidates : b.job.contexts; }
    // Where the bag's ids begin, and how many they are.
    DEV static uint2 bag(const Block& b, const Lookup& lookup, int r) {
        const size_t row = (size_t)MAP::of(b, r);
        if (STRIDE > 0) {
            return make_uint2((uint32_t)(row * STRIDE) + lookup.bag, lookup.ids);
        }
        const uint32_t* starts = inputs(b).starts + row * BAGS + lookup.bag;
        const uint32_t first = load_nc4(starts);
        return make_uint2(first, FIXED ? lookup.ids : load_nc4(starts + 1) - first);
    }
    DEV static uint32_t id(const Block& b, uint2 bag, int k) {
        return k < (int)bag.y ? load_nc4(inputs(b).ids + bag.x + k) : NO_ROW;
    }
    DEV static float weight(const Block& b, uint2 bag, int k) {
        return WEIGHTED && k < (int)bag.y ? bits_f32(load_nc4(inputs(b).weights + bag.x + k)) : 1.0f;
    }
};

// Whether the table has such a row.
DEV bool is_row(const Block& b, uint32_t id, uint32_t rows) {
    if (id >= rows && id != NO_ROW) {
        report_unknown_id(b.job);
    }
    return id < rows;
}

// The number of this thread if thread FROM counts as the first one.
template <int FROM>
DEV int thread_from() {
    return (int)((thread_x() + THREADS - FROM) % THREADS);
}

// FEATURES lookups of one id, or of LEN ids one behind the other with zeros behind the last.
template <class ROWS, class IDS, class OUTS, int FEATURES, int LEN, int COUNT, int ALIGN, int UNROLL, int FROM, int64_t LIST>
DEV void gather_rows(const Block& b) {
    constexpr int CHUNKS = Chunk<ROWS, COUNT>::PER_ROW, BAG = LEN * CHUNKS, ITEMS = FEATURES * BAG;
    constexpr bool EXACT = ROWS::DIM % COUNT == 0;
    const int items = b.rows * ITEMS;
    for (int first = thread_from<FROM>(); first < items; first += THREADS * UNROLL) {
        Lookup lookups[UNROLL];
        const uint8_t* bases[UNROLL];
        uint2 bags[UNROLL];
        uint32_t ids[UNROLL];
        float weights[UNROLL];
        Chunk<ROWS, COUNT> chunks[UNROLL];
        // Threads without an item of their own repeat the last one, and do not write.
        const auto item = [&](int u) { return min_(first + u * THREADS, items - 1); };
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            lookups[u] = Lookup::at(b, LIST, item(u) % ITEMS / BAG);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            bases[u] = lookups[u].base(b);
            bags[u] = IDS::bag(b, lookups[u], item(u) / ITEMS);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int k = item(u) % BAG / CHUNKS;
            ids[u] = IDS::id(b, bags[u], k);
            weights[u] = IDS::weight(b, bags[u], k);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            chunks[u].load(bases[u] + (uint64_t)ids[u] * ROWS::STRIDE, item(u) % CHUNKS, is_row(b, ids[u], lookups[u].rows));
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int i = first + u * THREADS, chunk = item(u) % CHUNKS;
            float numbers[COUNT];
            chunks[u].decode(chunk, numbers);
#pragma unroll
            for (int e = 0; e < COUNT; e++) {
                const float number = IDS::WEIGHTED ? numbers[e] * weights[u] : numbers[e];
                numbers[e] = ids[u] < lookups[u].rows ? number : 0.0f;
            }
            if (i < items) {
                auto* out = OUTS::at(b, i / ITEMS, i % ITEMS / BAG) + i % BAG / CHUNKS * ROWS::DIM + chunk * COUNT;
                store_numbers<COUNT, ALIGN, EXACT>(out, numbers, ROWS::DIM - chunk * COUNT);
            }
        }
    }
}

// FEATURES lookups of bags.
template <class ROWS, class IDS, class OUTS, PoolKind POOL, int FEATURES, int COUNT, int ALIGN, int SPLIT, int UNROLL, int FROM, int64_t LIST>
DEV void pool_bags(const Block& b) {
    constexpr int CHUNKS = Chunk<ROWS, COUNT>::PER_ROW;
    // Lanes that exchange sums lie in groups of a power of two.
    constexpr int LANES = SPLIT == 1 ? CHUNKS : CHUNKS > 8 ? 16 : CHUNKS > 4 ? 8 : CHUNKS > 2 ? 4 : CHUNKS;
    constexpr int GROUP = LANES * SPLIT, ITEMS = FEATURES * GROUP;
    static_assert(SPLIT == 1 || (CHUNKS <= 16 && 32 % GROUP == 0), "lanes of a bag lie in one warp");
    const int items = b.rows * ITEMS;
    // Whole warps go on, so that lanes can exchange sums.
    const int end = SPLIT == 1 ? items : (items + 31) / 32 * 32;
    int i = thread_from<FROM>();
    if (i >= end) {
        return;
    }

    Lookup next_lookup;
    const uint8_t* next_base;
    uint2 next_bag;
    uint32_t ids[UNROLL];
    float weights[UNROLL];
    const auto find = [&](int at) {
        const int known = at < items ? at : 0;
        next_lookup = Lookup::at(b, LIST, known % ITEMS / GROUP);
        next_base = next_lookup.base(b);
        next_bag = IDS::bag(b, next_lookup, known / ITEMS);
        if (at >= items || at % LANES >= CHUNKS) {
            next_bag.y = 0;
        }
    };
    const auto ask = [&](uint2 from, int k) {
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            ids[u] = IDS::id(b, from, k + u * SPLIT);
            weights[u] = IDS::weight(b, from, k + u * SPLIT);
        }
    };
    find(i);
    ask(next_bag, i % GROUP / LANES);
    for (; i < end; i += THREADS) {
        const int chunk = i % LANES;
        const Lookup lookup = next_lookup;
        const uint8_t* base = next_base;
        const uint2 bag = next_bag;
        if (i + THREADS < end) {
            find(i + THREADS);
        } else {
            next_bag.y = 0;
        }
        float sums[COUNT];
        uint32_t counted = 0;
#pragma unroll
        for (int e = 0; e < COUNT; e++) {
            sums[e] = POOL == POOL_MAX ? bits_f32(0xff800000u) : 0.0f;
        }
        int k = i % GROUP / LANES;
        bool more;
        do {
            Chunk<ROWS, COUNT> chunks[UNROLL];
            bool there[UNROLL];
            float factors[UNROLL];
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                there[u] = is_row(b, ids[u], lookup.rows);
                chunks[u].load(base + (uint64_t)ids[u] * ROWS::STRIDE, chunk % CHUNKS, there[u]);
                factors[u] = there[u] ? weights[u] : 0.0f;
                counted += there[u] ? 1 : 0;
            }
            k += SPLIT * UNROLL;
            more = k < (int)bag.y;
            ask(more ? bag : next_bag, more ? k : i % GROUP / LANES);
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                float numbers[COUNT];
                chunks[u].decode(chunk, numbers);
#pragma unroll
                for (int e = 0; e < COUNT; e++) {
                    if (POOL == POOL_MAX) {
                        sums[e] = there[u] && numbers[e] > sums[e] ? numbers[e] : sums[e];
                    } else {
                        sums[e] = fma_(numbers[e], factors[u], sums[e]);
                    }
                }
            }
        } while (more);
        if (SPLIT > 1) {
            sync_warp();
#pragma unroll
            for (int mask = LANES; mask < GROUP; mask *= 2) {
                counted += shfl_xor(counted, mask);
#pragma unroll
                for (int e = 0; e < COUNT; e++) {
                    const float other = shfl_xor(sums[e], mask);
                    sums[e] = POOL != POOL_MAX ? sums[e] + other : other > sums[e] ? other : sums[e];
                }
            }
        }
        if (i < items && i % GROUP < CHUNKS) {
#pragma unroll
            for (int e = 0; e < COUNT; e++) {
                if (POOL == POOL_MEAN && counted > 1) {
                    sums[e] = sums[e] / (float)counted;
                }
                if (POOL == POOL_MAX && counted == 0) {
                    sums[e] = 0.0f;
                }
            }
            auto* out = OUTS::at(b, i / ITEMS, i % ITEMS / GROUP) + chunk * COUNT;
            store_numbers<COUNT, ALIGN, ROWS::DIM % COUNT == 0>(out, sums, ROWS::DIM - chunk * COUNT);
        }
    }
}

// OUT[n] = row INDEX[n] of table TABLE, which has TABLE_ROWS rows; NaN where there is no such row.
template <class ROWS, class INDEX, class OUT, int N, int COUNT, int ALIGN, int UNROLL, int TABLE, uint32_t TABLE_ROWS>
DEV void table_rows(const Block& b) {
    constexpr int CHUNKS = Chunk<ROWS, COUNT>::PER_ROW, ITEMS = N * CHUNKS;
    const uint8_t* table = b.job.tables[TABLE];
    const int items = b.rows * ITEMS;
    for (int first = (int)thread_x(); first < items; first += THREADS * UNROLL) {
        bool there[UNROLL];
        Chunk<ROWS, COUNT> chunks[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int i = min_(first + u * THREADS, items - 1);
            const int64_t id = INDEX::row(b, i / ITEMS)[i % ITEMS / CHUNKS];
            there[u] = id >= 0 && id < (int64_t)TABLE_ROWS;
            chunks[u].load(table + (uint64_t)id * ROWS::STRIDE, i % CHUNKS, there[u]);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int i = first + u * THREADS, chunk = i % CHUNKS;
            float numbers[COUNT];
            chunks[u].decode(chunk, numbers);
#pragma unroll
            for (int e = 0; e < COUNT; e++) {
                numbers[e] = there[u] ? numbers[e] : bits_f32(0x7fc00000u);
            }
            if (i < items) {
                float* out = OUT::row(b, i / ITEMS) + i % ITEMS / CHUNKS * ROWS::DIM + chunk * COUNT;
                store_numbers<COUNT, ALIGN, ROWS::DIM % COUNT == 0>(out, numbers, ROWS::DIM - chunk * COUNT);
            }
        }
    }
}
