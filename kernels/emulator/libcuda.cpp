// Stand-in libcuda: the driver's interface as far as a host of kernels needs it, over `Device`.
#include "device.h"
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

using namespace emu;

#define API extern "C" __attribute__((visibility("default"))) int
typedef unsigned long long Address;

static std::atomic<bool> initialised{false};
static char context_of_device;
static thread_local void* current_context;

// What every call begins with: faults that were asked for, errors that stay, a context on this thread.
static int enter(const char* name, bool needs_context) {
    if (on_device_thread()) {
        return NOT_PERMITTED; // a host function may not call the driver
    }
    if (!initialised) {
        return NOT_INITIALIZED;
    }
    Device& device = Device::get();
    std::unique_lock<std::mutex> lock(device.mutex);
    if (needs_context && !current_context) {
        return INVALID_CONTEXT;
    }
    if (needs_context && device.sticky != SUCCESS) {
        device.let_finish(lock); // memory that is given up now is not touched any more
        return device.sticky;
    }
    return device.planned(name);
}

// What a capture forbids this thread breaks that capture: one of mode "global" (0) forbids it to all threads, "thread local" (1) to the thread that
// began it, "relaxed" (2) to none.
static bool forbidden_by_capture(Device& device) {
    bool forbidden = false;
    for (Stream* stream : device.streams) {
        bool own = stream->capture_thread == std::this_thread::get_id();
        if (stream->began_capture && (stream->capture_mode == 0 || (stream->capture_mode == 1 && own))) {
            stream->capture_broken = true;
            forbidden = true;
        }
    }
    return forbidden;
}

#define ENTER(needs_context)                                       \
    if (int refused = enter(__func__, needs_context)) {            \
        return refused;                                            \
    }                                                              \
    Device& device = Device::get();                                \
    std::unique_lock<std::mutex> lock(device.mutex);               \
    (void)device

// For calls that wait for the device, use its default stream or take memory.
#define ENTER_OUTSIDE_CAPTURES()                                   \
    ENTER(true);                                                   \
    if (forbidden_by_capture(device)) {                            \
        return CAPTURE_UNSUPPORTED;                                \
    }

static void* as_pointer(Address address) { return (void*)(uintptr_t)address; }

// ---- the emulator's own ----

// Plans faults: "cuGraphLaunch:3:719,kernel:candidates:1:700".
API emu_fail(const char* plan) {
    Device& device = Device::get();
    std::lock_guard<std::mutex> lock(device.mutex);
    device.plan_faults(plan);
    return SUCCESS;
}

// Forgets an error that stays, errors that are planned, and what was registered.
API emu_reset() {
    Device& device = Device::get();
    std::unique_lock<std::mutex> lock(device.mutex);
    device.reset(lock);
    device.registered.clear();
    return SUCCESS;
}

// Memory, registrations, streams, modules and graphs that were not given back.
API emu_held() {
    Device& device = Device::get();
    std::lock_guard<std::mutex> lock(device.mutex);
    return (int)(device.device_memory.size() + device.host_memory.size() + device.registered.size() + device.streams.size()) + device.objects;
}

// For the stand-in of a library: an operation of a stream, or of the graph that it captures. `run` gives a code; `drop` frees what it is given.
API emu_enqueue(void* handle, int (*run)(void*), void* data, void (*drop)(void*)) {
    std::shared_ptr<void> kept(data, drop);
    if (int refused = enter("cublasLtMatmul", true)) {
        return refused;
    }
    Device& device = Device::get();
    std::unique_lock<std::mutex> lock(device.mutex);
    Stream* stream = device.stream(handle);
    if (!stream) {
        return INVALID_HANDLE;
    }
    Operation operation = {nullptr, [kept, run] { return run(kept.get()); }};
    if (stream->capture) {
        stream->capture->nodes.push_back(std::move(operation));
    } else {
        device.push(stream, std::move(operation));
    }
    return SUCCESS;
}

// The code that is planned for this call of `name`.
API emu_planned(const char* name) {
    Device& device = Device::get();
    std::lock_guard<std::mutex> lock(device.mutex);
    return device.planned(name);
}

// Whether a kernel may touch the memory.
API emu_touchable(const void* memory, size_t bytes) {
    Device& device = Device::get();
    std::lock_guard<std::mutex> lock(device.mutex);
    return device.holds(memory, bytes);
}

// Copies the text of the last fault of a kernel; returns its length.
API emu_fault(char* text, int bytes) {
    Device& device = Device::get();
    std::lock_guard<std::mutex> lock(device.mutex);
    return snprintf(text, (size_t)bytes, "%s", device.fault.c_str());
}

// ---- driver, device, context ----

API cuInit(unsigned) {
    const char* devices = getenv("EMU_DEVICES");
    if (devices && atoi(devices) == 0) {
        return NO_DEVICE;
    }
    Device::get();
    initialised = true;
    return SUCCESS;
}
API cuDriverGetVersion(int* version) {
    *version = 12090;
    return SUCCESS;
}
API cuDeviceGetCount(int* count) {
    ENTER(false);
    *count = 1;
    return SUCCESS;
}
API cuDeviceGet(int* device_number, int ordinal) {
    ENTER(false);
    *device_number = ordinal;
    return ordinal == 0 ? SUCCESS : INVALID_DEVICE;
}
API cuDeviceGetName(char* name, int bytes, int) {
    ENTER(false);
    snprintf(name, (size_t)bytes, "gavel emulator");
    return SUCCESS;
}
API cuDeviceGetUuid_v2(char* uuid, int) {
    ENTER(false);
    memcpy(uuid, "gavel emulator\0", 16);
    return SUCCESS;
}
API cuDeviceTotalMem_v2(size_t* bytes, int) {
    ENTER(false);
    *bytes = device.total_bytes;
    return SUCCESS;
}
API cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
    ENTER(true);
    *free_bytes = device.total_bytes - device.used_bytes;
    *total = device.total_bytes;
    return SUCCESS;
}

static int shared_per_multiprocessor(int capability) {
    if (capability >= 90 && capability < 120) {
        return 228 * 1024;
    }
    return capability == 80 || capability == 87 ? 164 * 1024 : 100 * 1024;
}

API cuDeviceGetAttribute(int* value, int attribute, int) {
    ENTER(false);
    int shared = shared_per_multiprocessor(device.capability);
    static const std::map<int, int> fixed = {
        {1, 1024},                                                 // threads of a block
        {2, 1024}, {3, 1024}, {4, 64},                             // along each axis
        {5, 0x7fffffff}, {6, 65535}, {7, 65535},                   // blocks of a grid
        {8, 48 * 1024}, {9, 64 * 1024},                            // shared memory of a block, constant memory
        {10, 32}, {12, 65536}, {39, 2048}, {82, 65536}, {106, 32}, // warp, registers; of a multiprocessor: threads, registers, blocks
        {13, 1000000}, {36, 1000000}, {37, 64}, {38, 4 << 20},     // clocks in kHz, memory's bus in bits, L2
        {15, 1}, {31, 1}, {40, 2},                                 // what runs at once
        {16, 4},                                                   // multiprocessors
        {19, 1}, {41, 1}, {91, 1}, {99, 1},                        // host memory that the device sees, at the same addresses
        {78, 1},                                                   // priorities
        {111, 1024},                                               // shared memory that each block takes beside its own
    };
    auto found = fixed.find(attribute);
    *value = found == fixed.end() ? 0 : found->second;
    switch (attribute) {
    case 75: *value = device.capability / 10; break;
    case 76: *value = device.capability % 10; break;
    case 81: *value = shared; break;
    case 97: *value = shared - 1024; break;
    }
    return SUCCESS;
}
API cuDevicePrimaryCtxRetain(void** context, int) {
    ENTER(false);
    *context = &context_of_device;
    return SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(int) {
    ENTER(false);
    return SUCCESS;
}
API cuDevicePrimaryCtxSetFlags_v2(int, unsigned) {
    ENTER(false);
    return SUCCESS;
}
API cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
    ENTER(false);
    *flags = 0;
    *active = 1;
    return SUCCESS;
}
API cuCtxGetCurrent(void** context) {
    *context = current_context;
    return SUCCESS;
}
API cuCtxSetCurrent(void* context) {
    ENTER(false);
    if (context && context != &context_of_device) {
        return INVALID_CONTEXT;
    }
    current_context = context;
    return SUCCESS;
}
API cuCtxGetDevice(int* number) {
    ENTER(true);
    *number = 0;
    return SUCCESS;
}
API cuCtxSetFlags(unsigned) {
    ENTER(true);
    return SUCCESS;
}
API cuCtxSetLimit(int, size_t) {
    ENTER(true);
    return SUCCESS;
}
API cuCtxGetLimit(size_t* value, int) {
    ENTER(true);
    *value = 0;
    return SUCCESS;
}
API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    ENTER(true);
    *least = 0;
    *greatest = -5;
    return SUCCESS;
}
API cuCtxSynchronize() {
    ENTER_OUTSIDE_CAPTURES();
    return device.wait_for_all(lock);
}
API cuGetErrorName(int code, const char** name) {
    static const std::map<int, const char*> names = {
        {0, "CUDA_SUCCESS"},
        {1, "CUDA_ERROR_INVALID_VALUE"},
        {2, "CUDA_ERROR_OUT_OF_MEMORY"},
        {3, "CUDA_ERROR_NOT_INITIALIZED"},
        {100, "CUDA_ERROR_NO_DEVICE"},
        {101, "CUDA_ERROR_INVALID_DEVICE"},
        {200, "CUDA_ERROR_INVALID_IMAGE"},
        {201, "CUDA_ERROR_INVALID_CONTEXT"},
        {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
        {400, "CUDA_ERROR_INVALID_HANDLE"},
        {401, "CUDA_ERROR_ILLEGAL_STATE"},
        {500, "CUDA_ERROR_NOT_FOUND"},
        {600, "CUDA_ERROR_NOT_READY"},
        {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
        {712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"},
        {713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED"},
        {719, "CUDA_ERROR_LAUNCH_FAILED"},
        {800, "CUDA_ERROR_NOT_PERMITTED"},
        {801, "CUDA_ERROR_NOT_SUPPORTED"},
        {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
        {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
        {999, "CUDA_ERROR_UNKNOWN"},
    };
    auto found = names.find(code);
    *name = found == names.end() ? nullptr : found->second;
    return found == names.end() ? INVALID_VALUE : SUCCESS;
}
// For a failed kernel, what it did wrong.
API cuGetErrorString(int code, const char** text) {
    Device& device = Device::get();
    std::lock_guard<std::mutex> lock(device.mutex);
    static thread_local std::string kept;
    if (code == device.sticky && !device.fault.empty()) {
        kept = device.fault;
        *text = kept.c_str();
        return SUCCESS;
    }
    return cuGetErrorName(code, text);
}

// ---- streams and events ----

API cuStreamCreate(void** handle, unsigned flags) {
    ENTER(true);
    auto* stream = new Stream();
    stream->blocking = (flags & 1) == 0;
    device.streams.insert(stream);
    *handle = stream;
    return SUCCESS;
}
API cuStreamCreateWithPriority(void** handle, unsigned flags, int) { return cuStreamCreate(handle, flags); }

#define STREAM(name, handle)                          \
    Stream* name = device.stream(handle);             \
    if (!name) {                                      \
        return INVALID_HANDLE;                        \
    }

// Waits for nothing: what is in the stream still runs.
API cuStreamDestroy_v2(void* handle) {
    ENTER(true);
    STREAM(stream, handle);
    if (stream == &device.null_stream) {
        return INVALID_HANDLE;
    }
    device.orphan(stream);
    return SUCCESS;
}
API cuStreamSynchronize(void* handle) {
    ENTER(true);
    STREAM(stream, handle);
    if (stream->capture) {
        return CAPTURE_UNSUPPORTED;
    }
    return device.wait_for(lock, stream);
}
API cuStreamQuery(void* handle) {
    ENTER(true);
    STREAM(stream, handle);
    if (stream->capture) {
        return CAPTURE_UNSUPPORTED;
    }
    device.let_run_a_little();
    return quiet(stream) ? SUCCESS : NOT_READY;
}

#define EVENT(name, handle)                           \
    auto* name = (Event*)handle;                      \
    if (!device.events.count(name)) {                 \
        return INVALID_HANDLE;                        \
    }

API cuEventCreate(void** handle, unsigned flags) {
    ENTER(true);
    auto* event = new Event();
    event->timed = (flags & 2) == 0;
    device.events.insert(event);
    *handle = event;
    return SUCCESS;
}
// Operations that name the event keep it alive: it is given back when nothing runs.
API cuEventDestroy_v2(void* handle) {
    ENTER(true);
    EVENT(event, handle);
    device.events.erase(event);
    return SUCCESS; // a few bytes stay: queued operations may name it
}
API cuEventRecord(void* handle, void* stream_handle) {
    ENTER(true);
    EVENT(event, handle);
    STREAM(stream, stream_handle);
    if (stream->capture) {
        event->in_capture = stream->capture;
        return SUCCESS;
    }
    event->in_capture = nullptr;
    uint64_t number = ++event->recorded;
    device.push(stream, {nullptr, [&device, event, number] {
                             std::lock_guard<std::mutex> held(device.mutex);
                             event->reached = event->reached < number ? number : event->reached;
                             event->time = std::chrono::steady_clock::now();
                             return (int)SUCCESS;
                         }});
    return SUCCESS;
}
API cuEventRecordWithFlags(void* event, void* stream, unsigned) { return cuEventRecord(event, stream); }
API cuEventQuery(void* handle) {
    ENTER(true);
    EVENT(event, handle);
    device.let_run_a_little();
    return event->reached >= event->recorded ? SUCCESS : NOT_READY;
}
API cuEventSynchronize(void* handle) {
    ENTER(true);
    EVENT(event, handle);
    uint64_t number = event->recorded;
    return device.wait(lock, [=] { return event->reached >= number; });
}
API cuEventElapsedTime(float* milliseconds, void* from, void* to) {
    ENTER(true);
    EVENT(first, from);
    EVENT(second, to);
    if (!first->timed || !second->timed || first->recorded == 0 || second->recorded == 0) {
        return INVALID_HANDLE;
    }
    if (first->reached < first->recorded || second->reached < second->recorded) {
        return NOT_READY;
    }
    *milliseconds = std::chrono::duration<float, std::milli>(second->time - first->time).count();
    return SUCCESS;
}
API cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) { return cuEventElapsedTime(milliseconds, from, to); }
API cuStreamWaitEvent(void* stream_handle, void* handle, unsigned) {
    ENTER(true);
    STREAM(stream, stream_handle);
    EVENT(event, handle);
    if (event->in_capture) { // this stream joins the capture; nodes run in the order of their capture
        if (stream->capture && stream->capture != event->in_capture) {
            return INVALID_VALUE;
        }
        stream->capture = event->in_capture;
        return SUCCESS;
    }
    uint64_t number = event->recorded;
    Operation waits = {[=] { return event->reached >= number; }, nullptr};
    if (stream->capture) {
        return CAPTURE_UNSUPPORTED;
    }
    device.push(stream, waits);
    return SUCCESS;
}

// Into the stream, or into the graph that it captures.
static int add(Device& device, Stream* stream, std::function<int()> run) {
    if (stream->capture) {
        stream->capture->nodes.push_back({nullptr, std::move(run)});
    } else {
        device.push(stream, {nullptr, std::move(run)});
    }
    return SUCCESS;
}

API cuLaunchHostFunc(void* handle, void (*function)(void*), void* data) {
    ENTER(true);
    STREAM(stream, handle);
    return add(device, stream, [=] {
        function(data);
        return (int)SUCCESS;
    });
}

// ---- memory ----

API cuMemAlloc_v2(Address* address, size_t bytes) {
    ENTER_OUTSIDE_CAPTURES();
    void* memory = nullptr;
    int code = device.allocate(&memory, bytes, false);
    *address = (Address)(uintptr_t)memory;
    return code;
}
// The driver waits for the device here, but says so nowhere: whoever still uses the memory finds it poisoned.
API cuMemFree_v2(Address address) {
    ENTER_OUTSIDE_CAPTURES();
    if (address == 0) {
        return SUCCESS;
    }
    return device.release(as_pointer(address), false);
}
API cuMemAllocAsync(Address* address, size_t bytes, void*) { return cuMemAlloc_v2(address, bytes); }
API cuMemFreeAsync(Address address, void* handle) {
    ENTER(true);
    STREAM(stream, handle);
    device.push(stream, {nullptr, [&device, address] {
                             std::lock_guard<std::mutex> held(device.mutex);
                             return device.release(as_pointer(address), false);
                         }});
    return SUCCESS;
}
API cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
    ENTER_OUTSIDE_CAPTURES();
    return device.allocate(memory, bytes, true);
}
API cuMemFreeHost(void* memory) {
    ENTER_OUTSIDE_CAPTURES();
    return device.release(memory, true);
}
API cuMemHostRegister_v2(void* memory, size_t bytes, unsigned) {
    ENTER_OUTSIDE_CAPTURES();
    if (!memory || bytes == 0) {
        return INVALID_VALUE;
    }
    auto after = device.registered.lower_bound((uintptr_t)memory);
    bool overlaps_next = after != device.registered.end() && after->first < (uintptr_t)memory + bytes;
    bool overlaps_last = after != device.registered.begin() && std::prev(after)->first + std::prev(after)->second > (uintptr_t)memory;
    if (overlaps_next || overlaps_last) {
        return HOST_MEMORY_ALREADY_REGISTERED;
    }
    device.registered[(uintptr_t)memory] = bytes;
    return SUCCESS;
}
API cuMemHostUnregister(void* memory) {
    ENTER_OUTSIDE_CAPTURES();
    if (!device.registered.count((uintptr_t)memory)) {
        return HOST_MEMORY_NOT_REGISTERED;
    }
    device.registered.erase((uintptr_t)memory);
    return SUCCESS;
}
API cuMemHostGetDevicePointer_v2(Address* address, void* memory, unsigned) {
    ENTER(true);
    if (!device.pinned(memory, 1)) {
        return INVALID_VALUE;
    }
    *address = (Address)(uintptr_t)memory;
    return SUCCESS;
}
API cuMemHostGetFlags(unsigned* flags, void* memory) {
    ENTER(true);
    *flags = 2;
    return device.pinned(memory, 1) ? SUCCESS : INVALID_VALUE;
}

// A copy looks when it runs: by then memory may have been given back, or is no longer registered.
static std::function<int()> copying(Device& device, void* to, const void* from, size_t bytes, bool to_device, bool from_device) {
    return [=, &device] {
        {
            std::lock_guard<std::mutex> held(device.mutex);
            if ((to_device && !device.holds(to, bytes)) || (from_device && !device.holds(from, bytes))) {
                device.fault = "a copy of memory that was given back";
                return (int)ILLEGAL_ADDRESS;
            }
        }
        memmove(to, from, bytes);
        return (int)SUCCESS;
    };
}

static std::function<int()> filling(Device& device, void* to, size_t bytes, std::function<void()> fill) {
    return [=, &device] {
        {
            std::lock_guard<std::mutex> held(device.mutex);
            if (!device.holds(to, bytes)) {
                device.fault = "filling memory that was given back";
                return (int)ILLEGAL_ADDRESS;
            }
        }
        fill();
        return (int)SUCCESS;
    };
}

// Memory that is not pinned is read before the call returns.
static std::function<int()> copying_from_host(Device& device, void* to, const void* from, size_t bytes, bool capture) {
    bool pinned = device.pinned(from, bytes);
    if (pinned || capture) {
        return copying(device, to, from, bytes, true, pinned);
    }
    auto bytes_now = std::make_shared<std::string>((const char*)from, bytes);
    auto copy = copying(device, to, bytes_now->data(), bytes, true, false);
    return [bytes_now, copy] { return copy(); };
}

API cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void* handle) {
    ENTER(true);
    STREAM(stream, handle);
    if (!device.holds(as_pointer(to), bytes)) {
        return INVALID_VALUE;
    }
    return add(device, stream, copying_from_host(device, as_pointer(to), from, bytes, stream->capture != nullptr));
}
API cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void* handle) {
    ENTER(true);
    STREAM(stream, handle);
    if (!device.holds(as_pointer(from), bytes)) {
        return INVALID_VALUE;
    }
    bool pinned = device.pinned(to, bytes);
    int code = add(device, stream, copying(device, to, as_pointer(from), bytes, pinned, true));
    if (pinned || stream->capture) {
        return code;
    }
    // Memory that is not pinned is written before the call returns.
    return device.wait_for(lock, stream);
}
API cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void* handle) {
    ENTER(true);
    STREAM(stream, handle);
    if (!device.holds(as_pointer(to), bytes) || !device.holds(as_pointer(from), bytes)) {
        return INVALID_VALUE;
    }
    return add(device, stream, copying(device, as_pointer(to), as_pointer(from), bytes, true, true));
}
API cuMemcpyAsync(Address to, Address from, size_t bytes, void* handle) {
    ENTER(true);
    STREAM(stream, handle);
    return add(device, stream, copying(device, as_pointer(to), as_pointer(from), bytes, false, false));
}

static std::function<int()> filling_bytes(Device& device, Address to, unsigned char value, size_t bytes) {
    return filling(device, as_pointer(to), bytes, [=] { memset(as_pointer(to), value, bytes); });
}
static std::function<int()> filling_words(Device& device, Address to, unsigned value, size_t count) {
    return filling(device, as_pointer(to), count * 4, [=] { std::fill_n((unsigned*)as_pointer(to), count, value); });
}

API cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void* handle) {
    ENTER(true);
    STREAM(stream, handle);
    if (!device.holds(as_pointer(to), bytes)) {
        return INVALID_VALUE;
    }
    return add(device, stream, filling_bytes(device, to, value, bytes));
}
API cuMemsetD32Async(Address to, unsigned value, size_t count, void* handle) {
    ENTER(true);
    STREAM(stream, handle);
    if (to % 4 != 0 || !device.holds(as_pointer(to), count * 4)) {
        return INVALID_VALUE;
    }
    return add(device, stream, filling_words(device, to, value, count));
}

// The calls without a stream: on the default one, for which streams made as "non-blocking" do not wait. Some return before they are done, and then
// they are done late. Source: CUDA Driver API, "API synchronization behavior" and "Stream synchronization behavior".
static int on_default_stream(Device& device, std::unique_lock<std::mutex>& lock, std::function<int()> run, bool waits) {
    if (waits) {
        device.push(&device.null_stream, {nullptr, std::move(run)});
        return device.wait_for(lock, &device.null_stream);
    }
    device.push_late({nullptr, std::move(run)});
    return SUCCESS;
}
// From pinned memory until it is done; else until the source was read.
API cuMemcpyHtoD_v2(Address to, const void* from, size_t bytes) {
    ENTER_OUTSIDE_CAPTURES();
    if (!device.holds(as_pointer(to), bytes)) {
        return INVALID_VALUE;
    }
    bool waits = device.pinned(from, bytes);
    return on_default_stream(device, lock, copying_from_host(device, as_pointer(to), from, bytes, false), waits);
}
API cuMemcpyDtoH_v2(void* to, Address from, size_t bytes) {
    ENTER_OUTSIDE_CAPTURES();
    if (!device.holds(as_pointer(from), bytes)) {
        return INVALID_VALUE;
    }
    return on_default_stream(device, lock, copying(device, to, as_pointer(from), bytes, false, true), true);
}
API cuMemcpyDtoD_v2(Address to, Address from, size_t bytes) {
    ENTER_OUTSIDE_CAPTURES();
    if (!device.holds(as_pointer(to), bytes) || !device.holds(as_pointer(from), bytes)) {
        return INVALID_VALUE;
    }
    return on_default_stream(device, lock, copying(device, as_pointer(to), as_pointer(from), bytes, true, true), false);
}
// Device memory is filled behind the host's back.
API cuMemsetD8_v2(Address to, unsigned char value, size_t bytes) {
    ENTER_OUTSIDE_CAPTURES();
    if (!device.holds(as_pointer(to), bytes)) {
        return INVALID_VALUE;
    }
    return on_default_stream(device, lock, filling_bytes(device, to, value, bytes), device.pinned(as_pointer(to), bytes));
}
API cuMemsetD32_v2(Address to, unsigned value, size_t count) {
    ENTER_OUTSIDE_CAPTURES();
    if (to % 4 != 0 || !device.holds(as_pointer(to), count * 4)) {
        return INVALID_VALUE;
    }
    return on_default_stream(device, lock, filling_words(device, to, value, count), device.pinned(as_pointer(to), count * 4));
}

// ---- modules and launches ----

// The length of an image: its section headers come last.
static size_t image_bytes(const void* image) {
    auto* header = (const Elf64_Ehdr*)image;
    bool known = memcmp(header->e_ident, ELFMAG, SELFMAG) == 0 && header->e_machine == EM_CUDA && header->e_shoff != 0;
    return known ? header->e_shoff + size_t(header->e_shnum) * header->e_shentsize : 0;
}

// Whether code for `architecture` ("sm_80", "sm_90a") runs on a device of this capability.
static bool runs_on(const char* architecture, int capability) {
    int number = 0;
    char suffix = 0;
    sscanf(architecture, "sm_%d%c", &number, &suffix);
    return suffix ? number == capability : number / 10 == capability / 10 && number <= capability;
}

API cuModuleLoadData(void** handle, const void* image) {
    ENTER_OUTSIDE_CAPTURES();
    size_t bytes = image_bytes(image);
    if (bytes == 0) {
        return INVALID_IMAGE;
    }
    int file = memfd_create("kernels", MFD_CLOEXEC);
    std::string code((const char*)image, bytes);
    ((Elf64_Ehdr*)code.data())->e_machine = EM_X86_64; // what it is, for the loader
    if (file < 0 || write(file, code.data(), bytes) != (ssize_t)bytes) {
        return OUT_OF_MEMORY;
    }
    std::string path = "/proc/self/fd/" + std::to_string(file);
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "emulator: %s\n", dlerror());
        close(file);
        return INVALID_IMAGE;
    }
    auto* architecture = (const char* const*)dlsym(library, "emu_architecture");
    if (!architecture || !runs_on(*architecture, device.capability)) {
        dlclose(library);
        close(file);
        return NO_BINARY_FOR_GPU;
    }
    *handle = new Module{library, file};
    device.objects++;
    return SUCCESS;
}
API cuModuleLoadDataEx(void** handle, const void* image, unsigned, void*, void*) { return cuModuleLoadData(handle, image); }
API cuModuleUnload(void* handle) {
    ENTER_OUTSIDE_CAPTURES();
    device.wait_for_all(lock);
    auto* module = (Module*)handle;
    dlclose(module->library);
    close(module->file);
    delete module;
    device.objects--;
    return SUCCESS;
}
API cuModuleGetFunction(void** handle, void* module, const char* name) {
    ENTER(true);
    auto* kernel = (const Kernel*)dlsym(((Module*)module)->library, (std::string("emu_kernel_") + name).c_str());
    if (!kernel) {
        return NOT_FOUND;
    }
    *handle = new Function{kernel, name, 48 * 1024}; // as long as the process: nothing gives functions back
    return SUCCESS;
}
API cuFuncSetAttribute(void* handle, int attribute, int value) {
    ENTER(true);
    if (attribute == 8) {
        if (value < 0 || value > shared_per_multiprocessor(device.capability) - 1024) {
            return INVALID_VALUE;
        }
        ((Function*)handle)->max_dynamic_shared = (uint32_t)value;
    }
    return SUCCESS;
}
API cuFuncGetAttribute(int* value, int attribute, void* handle) {
    ENTER(true);
    auto* function = (Function*)handle;
    switch (attribute) {
    case 0: *value = (int)function->kernel->max_threads; break;
    case 4: *value = 64; break; // registers
    case 8: *value = (int)function->max_dynamic_shared; break;
    default: *value = 0;
    }
    return SUCCESS;
}
API cuFuncSetCacheConfig(void*, int) {
    ENTER(true);
    return SUCCESS;
}
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* handle, int threads, size_t shared_bytes) {
    ENTER(true);
    auto* function = (Function*)handle;
    if (threads <= 0 || (uint32_t)threads > function->kernel->max_threads || shared_bytes > function->max_dynamic_shared) {
        *blocks = 0;
        return threads <= 0 ? INVALID_VALUE : SUCCESS;
    }
    int by_threads = 2048 / threads, by_shared = (int)((size_t)shared_per_multiprocessor(device.capability) / (shared_bytes + 1024));
    *blocks = by_threads < by_shared ? by_threads : by_shared;
    *blocks = *blocks > 32 ? 32 : *blocks;
    return SUCCESS;
}
API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* handle, int threads, size_t shared_bytes, unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, handle, threads, shared_bytes);
}
API cuLaunchKernel(void* handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared_bytes,
                   void* stream_handle, void** arguments, void** extra) {
    ENTER(true);
    STREAM(stream, stream_handle);
    auto* function = (Function*)handle;
    unsigned long threads = (unsigned long)bx * by * bz;
    bool fits = gx != 0 && gy != 0 && gz != 0 && gx <= 0x7fffffff && gy <= 65535 && gz <= 65535 && threads != 0;
    if (!fits || threads > function->kernel->max_threads || shared_bytes > function->max_dynamic_shared || extra) {
        return INVALID_VALUE;
    }
    KernelCall call = {function, {gx, gy, gz}, {bx, by, bz}, shared_bytes, {}};
    for (uint32_t i = 0; i < function->kernel->arguments; i++) {
        auto* from = (const unsigned char*)arguments[i];
        call.arguments.emplace_back(from, from + function->kernel->bytes[i]);
    }
    return add(device, stream, [&device, call] { return device.run_kernel(call); });
}

// ---- graphs ----

API cuStreamBeginCapture_v2(void* handle, int mode) {
    ENTER(true);
    STREAM(stream, handle);
    if (stream == &device.null_stream || stream->capture) {
        return stream->capture ? ILLEGAL_STATE : CAPTURE_UNSUPPORTED;
    }
    stream->capture = new Graph();
    stream->began_capture = true;
    stream->capture_mode = mode;
    stream->capture_thread = std::this_thread::get_id();
    return SUCCESS;
}
API cuStreamEndCapture(void* handle, void** graph) {
    ENTER(true);
    STREAM(stream, handle);
    if (!stream->began_capture) {
        return ILLEGAL_STATE;
    }
    Graph* captured = stream->capture;
    for (Stream* other : device.streams) {
        other->capture = other->capture == captured ? nullptr : other->capture;
    }
    for (Event* event : device.events) {
        event->in_capture = event->in_capture == captured ? nullptr : event->in_capture;
    }
    stream->began_capture = false;
    if (stream->capture_broken) {
        stream->capture_broken = false;
        delete captured;
        *graph = nullptr;
        return CAPTURE_INVALIDATED;
    }
    device.objects++;
    *graph = captured;
    return SUCCESS;
}
API cuStreamIsCapturing(void* handle, int* status) {
    ENTER(true);
    STREAM(stream, handle);
    *status = stream->capture ? 1 : 0;
    return SUCCESS;
}
API cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long) {
    ENTER(true);
    auto made = std::make_shared<GraphExec>(GraphExec{((Graph*)graph)->nodes});
    device.execs[made.get()] = made;
    device.objects++;
    *exec = made.get();
    return SUCCESS;
}
API cuGraphGetNodes(void* graph, void**, size_t* count) {
    ENTER(true);
    *count = ((Graph*)graph)->nodes.size();
    return SUCCESS;
}
API cuGraphUpload(void*, void*) {
    ENTER(true);
    return SUCCESS;
}
API cuGraphLaunch(void* handle, void* stream_handle) {
    ENTER(true);
    STREAM(stream, stream_handle);
    auto known = device.execs.find((GraphExec*)handle);
    if (known == device.execs.end()) {
        return INVALID_HANDLE;
    }
    if (stream->capture) {
        return CAPTURE_UNSUPPORTED;
    }
    std::shared_ptr<GraphExec> exec = known->second;
    uint64_t number = ++exec->launched;
    device.push(stream, {[=] { return exec->finished == number - 1; }, nullptr});
    for (const Operation& node : exec->nodes) {
        device.push(stream, node);
    }
    device.push(stream, {nullptr, [&device, exec] {
                             std::lock_guard<std::mutex> held(device.mutex);
                             exec->finished++;
                             return (int)SUCCESS;
                         }});
    return SUCCESS;
}
API cuGraphDestroy(void* graph) {
    ENTER(true);
    delete (Graph*)graph;
    device.objects--;
    return SUCCESS;
}
// Waits for nothing: what was launched still runs.
API cuGraphExecDestroy(void* exec) {
    ENTER(true);
    if (device.execs.erase((GraphExec*)exec) == 0) {
        return INVALID_HANDLE;
    }
    device.objects--;
    return SUCCESS;
}
