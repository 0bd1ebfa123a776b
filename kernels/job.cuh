// What every kernel is given. `src/engine/cuda/job.rs` mirrors these structs byte by byte.
#pragma once
#include "rt.cuh"

// Counts of one batch, written by the host into mapped memory before the launch.
struct Header {
    uint32_t rows;      // candidates
    uint32_t contexts;  // requests
    uint32_t sequence;  // what to write to *job.done when the scores are there
    uint32_t reserved;
};

// Rows of one scope, as `batch::Slot` lays them out.
struct InputRows {
    const float* dense;      // [rows][dense width]
    const uint32_t* ids;     // table rows or NO_ROW, grouped by row, then bag
    const uint32_t* starts;  // [rows * bags + 1], or null where every row has the same number of ids
    const float* weights;    // parallel to ids, or null
    const int64_t* ints;     // [rows][integer width]
};

struct Job {
    const Header* header;
    InputRows contexts, candidates;
    const uint32_t* row_context;   // [rows]: the context of each candidate
    const uint8_t* weights;        // packed weights and constants of the model
    const uint8_t* const* tables;  // one pointer per table of the program
    uint8_t* kept;                 // [contexts][kept bytes]
    uint8_t* work;                 // values between kernels, each [work_rows][its bytes]
    uint64_t work_rows;            // rows that `work` has room for
    uint8_t* scratch;              // [blocks][scratch bytes of the kernel]
    float* scores;                 // [rows][outputs]
    uint32_t* blocks_done;         // device memory: blocks of the last kernel that are through; starts at 0
    uint32_t* done;                // mapped memory: sequence numbers of the last batch whose scores are there, and of the last with an unknown id
};

constexpr uint32_t NO_ROW = 0xffffffffu;

// An id of the batch that no row of its table has and that does not say so: whoever filled the slot went wrong, or memory did. The scores of the
// batch are not to be used. Every thread that finds one writes the same word, which the host reads behind `done`.
DEV void report_unknown_id(const Job& job) { *(volatile uint32_t*)(job.done + 1) = job.header->sequence; }
