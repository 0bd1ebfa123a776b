// Stand-in libcublasLt: the calls that a product of bf16 with bias needs, computed in the order of the stand-in driver's streams.
//
// It proposes three ways, which add up in different orders; the second and third want a workspace and write into it. Among the planned errors
// "cublasLtMatmul:nth:code" has a call refuse, "rows:20:nth:code" a question for ways to multiply 20 rows; "result:cublasLtMatmul:nth:1" has a call
// compute a wrong number, and "cublasLtGetVersion:nth:130100" makes another version of it.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#define API extern "C" __attribute__((visibility("default")))

extern "C" int emu_enqueue(void* stream, int (*run)(void*), void* data, void (*drop)(void*));
extern "C" int emu_planned(const char* name);
extern "C" int emu_touchable(const void* memory, size_t bytes);

// Codes of the library's interface, and of the driver's.
enum Status { SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum { ILLEGAL_ADDRESS = 700 };
enum Type { F32 = 0, BF16 = 14 };
enum { COMPUTE_32F = 68, TRANSPOSED = 1 };
enum Epilogue { DEFAULT = 1, BIAS = 4, RELU_BIAS = 6 };

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t stride;
};

struct Operation {
    int transposed_a = 0, transposed_b = 0;
    uint32_t epilogue = DEFAULT;
    const void* bias = nullptr;
};

struct Preference {
    uint64_t workspace_bytes = 0;
    uint32_t alignment[4] = {256, 256, 256, 256}; // of A, B, C, D
};

struct Algorithm {
    uint64_t number, rest[7];
};

struct Result {
    Algorithm algorithm;
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
};

struct Call {
    Operation operation;
    Layout a_layout, b_layout, d_layout;
    const uint16_t *a, *b;
    void *d, *workspace;
    size_t workspace_bytes;
    uint64_t way;
    bool wrong;
};

static const size_t WORKSPACES[] = {0, 256, 4096};

static float from_bf16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

static uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return value != value ? 0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static size_t bytes_of(const Layout& layout) {
    size_t elements = (size_t)(layout.columns - 1) * (size_t)layout.stride + layout.rows;
    return elements * (layout.type == BF16 ? 2 : 4);
}

// Column j of D: all of A's columns times column j of B.
static int multiply(void* data) {
    const Call& call = *(const Call*)data;
    const uint64_t k = call.a_layout.rows, n = call.a_layout.columns;
    bool touchable = emu_touchable(call.a, bytes_of(call.a_layout)) && emu_touchable(call.b, bytes_of(call.b_layout)) &&
                     emu_touchable(call.d, bytes_of(call.d_layout)) &&
                     (call.operation.epilogue == DEFAULT || emu_touchable(call.operation.bias, n * (call.d_layout.type == BF16 ? 2 : 4))) &&
                     (call.workspace_bytes == 0 || emu_touchable(call.workspace, call.workspace_bytes));
    if (!touchable) {
        return ILLEGAL_ADDRESS;
    }
    memset(call.workspace, 0x5a, call.workspace_bytes);
    for (uint64_t j = 0; j < call.b_layout.columns; j++) {
        const uint16_t* b = call.b + j * (uint64_t)call.b_layout.stride;
        for (uint64_t i = 0; i < n; i++) {
            const uint16_t* a = call.a + i * (uint64_t)call.a_layout.stride;
            float sums[4] = {};
            for (uint64_t at = 0; at < k; at++) {
                const uint64_t from = call.way == 0 ? at : k - 1 - at;
                sums[call.way == 2 ? at % 4 : 0] += from_bf16(a[from]) * from_bf16(b[from]);
            }
            float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
            if (call.operation.epilogue != DEFAULT) {
                sum += call.d_layout.type == BF16 ? from_bf16(((const uint16_t*)call.operation.bias)[i]) : ((const float*)call.operation.bias)[i];
            }
            if (call.operation.epilogue == RELU_BIAS) {
                sum = sum < 0 ? 0 : sum;
            }
            if (call.wrong && i == n - 1 && j == call.b_layout.columns - 1) {
                sum += 1;
            }
            const uint64_t to = j * (uint64_t)call.d_layout.stride + i;
            if (call.d_layout.type == BF16) {
                ((uint16_t*)call.d)[to] = to_bf16(sum);
            } else {
                ((float*)call.d)[to] = sum;
            }
        }
    }
    return 0;
}

// What this stand-in computes, of what the library does: A transposed, rows on boundaries of 16 bytes.
static bool supported(const Operation& operation, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
    auto aligned = [](const Layout& layout) { return layout.stride * (layout.type == BF16 ? 2 : 4) % 16 == 0 && layout.stride >= (int64_t)layout.rows; };
    bool types = a.type == BF16 && b.type == BF16 && c.type == d.type && (d.type == BF16 || d.type == F32);
    bool shapes = a.rows == b.rows && d.rows == a.columns && d.columns == b.columns && c.rows == d.rows && c.columns == d.columns;
    bool epilogue = operation.epilogue == DEFAULT || ((operation.epilogue == BIAS || operation.epilogue == RELU_BIAS) && operation.bias);
    return types && shapes && epilogue && operation.transposed_a == TRANSPOSED && operation.transposed_b == 0 && aligned(a) && aligned(b) && aligned(d);
}

// What is planned for a question about so many rows.
static int planned_for(const Layout& d) { return emu_planned(("rows:" + std::to_string(d.columns)).c_str()); }

API size_t cublasLtGetVersion() {
    int planned = emu_planned("cublasLtGetVersion");
    return planned != 0 ? (size_t)planned : 120901;
}
API int cublasLtCreate(void** handle) {
    *handle = malloc(1);
    return SUCCESS;
}
API int cublasLtDestroy(void* handle) {
    free(handle);
    return SUCCESS;
}
API int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    *layout = new Layout{type, rows, columns, stride};
    return SUCCESS;
}
API int cublasLtMatrixLayoutDestroy(Layout* layout) {
    delete layout;
    return SUCCESS;
}
API int cublasLtMatmulDescCreate(Operation** operation, int compute, int scale) {
    if (compute != COMPUTE_32F || scale != F32) {
        return NOT_SUPPORTED;
    }
    *operation = new Operation();
    return SUCCESS;
}
API int cublasLtMatmulDescDestroy(Operation* operation) {
    delete operation;
    return SUCCESS;
}
API int cublasLtMatmulDescSetAttribute(Operation* operation, int attribute, const void* value, size_t bytes) {
    switch (attribute) {
    case 3: memcpy(&operation->transposed_a, value, 4); return bytes == 4 ? SUCCESS : INVALID_VALUE;
    case 4: memcpy(&operation->transposed_b, value, 4); return bytes == 4 ? SUCCESS : INVALID_VALUE;
    case 7: memcpy(&operation->epilogue, value, 4); return bytes == 4 ? SUCCESS : INVALID_VALUE;
    case 8: memcpy(&operation->bias, value, 8); return bytes == 8 ? SUCCESS : INVALID_VALUE;
    default: return INVALID_VALUE;
    }
}
API int cublasLtMatmulPreferenceCreate(Preference** preference) {
    *preference = new Preference();
    return SUCCESS;
}
API int cublasLtMatmulPreferenceDestroy(Preference* preference) {
    delete preference;
    return SUCCESS;
}
API int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value, size_t bytes) {
    if (attribute == 1 && bytes == 8) {
        memcpy(&preference->workspace_bytes, value, 8);
        return SUCCESS;
    }
    if (attribute >= 5 && attribute <= 8 && bytes == 4) {
        memcpy(&preference->alignment[attribute - 5], value, 4);
        return SUCCESS;
    }
    return INVALID_VALUE;
}
API int cublasLtMatmulAlgoGetHeuristic(void*, Operation* operation, Layout* a, Layout* b, Layout* c, Layout* d, Preference* preference,
                                       int wanted, Result* results, int* count) {
    *count = 0;
    if (int refused = planned_for(*d)) {
        return refused;
    }
    if (!supported(*operation, *a, *b, *c, *d)) {
        return NOT_SUPPORTED;
    }
    for (uint64_t way = 0; way < 3 && *count < wanted; way++) {
        if (WORKSPACES[way] <= preference->workspace_bytes) {
            results[(*count)++] = Result{{way + 1, {}}, WORKSPACES[way], SUCCESS, 1.0f, {}};
        }
    }
    return SUCCESS;
}
API int cublasLtMatmulAlgoCheck(void*, Operation* operation, Layout* a, Layout* b, Layout* c, Layout* d, const Algorithm* algorithm,
                                Result* result) {
    if (int refused = planned_for(*d)) {
        return refused;
    }
    if (algorithm->number < 1 || algorithm->number > 3 || !supported(*operation, *a, *b, *c, *d)) {
        return NOT_SUPPORTED;
    }
    *result = Result{*algorithm, WORKSPACES[algorithm->number - 1], SUCCESS, 1.0f, {}};
    return SUCCESS;
}
API int cublasLtMatmul(void*, Operation* operation, const float* alpha, const void* a, Layout* a_layout, const void* b, Layout* b_layout,
                       const float* beta, const void* c, Layout* c_layout, void* d, Layout* d_layout, const Algorithm* algorithm,
                       void* workspace, size_t workspace_bytes, void* stream) {
    uintptr_t addresses = (uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d;
    bool known = algorithm->number >= 1 && algorithm->number <= 3;
    if (!known || *alpha != 1 || *beta != 0 || addresses % 16 != 0 || !supported(*operation, *a_layout, *b_layout, *c_layout, *d_layout)) {
        return NOT_SUPPORTED;
    }
    size_t wanted = WORKSPACES[algorithm->number - 1];
    if (workspace_bytes < wanted || (wanted != 0 && (uintptr_t)workspace % 16 != 0)) {
        return INVALID_VALUE;
    }
    bool wrong = emu_planned("result:cublasLtMatmul") != 0;
    auto* call = new Call{*operation, *a_layout, *b_layout, *d_layout, (const uint16_t*)a, (const uint16_t*)b, d, workspace, wanted,
                          algorithm->number - 1, wrong};
    return emu_enqueue(stream, multiply, call, [](void* data) { delete (Call*)data; }) == 0 ? SUCCESS : EXECUTION_FAILED;
}
