#include "device.h"
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace emu {

static thread_local bool device_thread = false;

// How many of the longest delays an operation of the default stream is late that the host did not wait for.
constexpr uint64_t LATE = 400;

bool on_device_thread() { return device_thread; }

bool is_sticky(int code) {
    switch (code) {
    case 214: // uncorrectable memory
    case 700: // illegal address
    case 702: // timeout
    case 710: // assertion
    case 714: // stack
    case 715: // illegal instruction
    case 716: // misaligned address
    case 717: // address space
    case 718: // program counter
    case 719: // launch failed
        return true;
    default:
        return false;
    }
}

static uint64_t number(const char* variable, uint64_t otherwise) {
    const char* text = getenv(variable);
    return text && *text ? strtoull(text, nullptr, 10) : otherwise;
}

static void poison(void* memory, size_t bytes) {
    auto* to = (unsigned char*)memory;
    for (size_t i = 0; i < bytes; i++) {
        to[i] = i % 2 ? 0x7f : 0xff;
    }
}

Device& Device::get() {
    static Device* device = new Device(); // never destroyed: its thread may outlive main
    return *device;
}

Device::Device() : random{0} {
    const char* text = getenv("EMU_CAPABILITY");
    int major = 8, minor = 0;
    if (text) {
        sscanf(text, "%d.%d", &major, &minor);
    }
    capability = major * 10 + minor;
    total_bytes = number("EMU_MEMORY_MB", 4096) << 20;
    seed = number("EMU_SEED", 1);
    random.state = seed;
    workers = number("EMU_WORKERS", std::thread::hardware_concurrency() > 1 ? 2 : 1);
    lazy = number("EMU_LAZY", 0) != 0;
    max_delay_us = (uint32_t)number("EMU_DELAY_US", 50);
    if (const char* faults = getenv("EMU_FAIL")) {
        plan_faults(faults);
    }
    std::thread([this] { serve(); }).detach();
}

void Device::plan_faults(const char* text) {
    if (!*text) {
        plans.clear();
    }
    std::string all = text;
    for (size_t from = 0; from < all.size();) {
        size_t to = all.find(',', from);
        std::string one = all.substr(from, to == std::string::npos ? to : to - from);
        from = to == std::string::npos ? all.size() : to + 1;
        size_t code = one.rfind(':'), nth = code == std::string::npos || code == 0 ? code : one.rfind(':', code - 1);
        if (nth == std::string::npos || nth == 0) {
            fprintf(stderr, "emulator: \"%s\" is not NAME:nth:code\n", one.c_str());
            continue;
        }
        uint64_t countdown = strtoull(one.c_str() + nth + 1, nullptr, 10);
        plans[one.substr(0, nth)].push_back({countdown, atoi(one.c_str() + code + 1)});
    }
}

int Device::planned(const std::string& name) {
    auto found = plans.find(name);
    int code = SUCCESS;
    if (found != plans.end()) {
        for (Planned& plan : found->second) {
            if (plan.countdown != 0 && --plan.countdown == 0) {
                code = plan.code;
            }
        }
    }
    if (is_sticky(code)) {
        sticky = code;
        fault = "planned fault of " + name;
    }
    return code;
}

void Device::push(Stream* stream, Operation operation) {
    // The default stream and those that are not "non-blocking" wait for each other.
    std::vector<std::pair<std::shared_ptr<uint64_t>, uint64_t>> before;
    if (stream->blocking) {
        before.emplace_back(null_stream.done, null_stream.pushed);
    } else if (stream == &null_stream) {
        for (Stream* other : streams) {
            if (other->blocking) {
                before.emplace_back(other->done, other->pushed);
            }
        }
    }
    if (!before.empty()) {
        auto ready = std::move(operation.ready);
        operation.ready = [before, ready] {
            for (const auto& [done, pushed] : before) {
                if (*done < pushed) {
                    return false;
                }
            }
            return !ready || ready();
        };
    }
    stream->pushed++;
    stream->queue.push_back(std::move(operation));
    work.notify_all();
}

void Device::push_late(Operation operation) {
    operation.not_before = Clock::now() + std::chrono::microseconds(LATE * max_delay_us);
    push(&null_stream, std::move(operation));
}

std::vector<Stream*> Device::all_streams() const {
    std::vector<Stream*> all = {const_cast<Stream*>(&null_stream)};
    all.insert(all.end(), streams.begin(), streams.end());
    all.insert(all.end(), orphans.begin(), orphans.end());
    return all;
}

bool Device::idle() const {
    for (const Stream* stream : all_streams()) {
        if (!quiet(stream)) {
            return false;
        }
    }
    return true;
}

bool Device::busy() const {
    for (const Stream* stream : all_streams()) {
        if (stream->busy) {
            return true;
        }
    }
    return false;
}

void Device::drop_queues() {
    for (Stream* stream : all_streams()) {
        *stream->done += stream->queue.size();
        stream->queue.clear();
    }
}

void Device::orphan(Stream* stream) {
    streams.erase(stream);
    orphans.insert(stream);
    bury();
}

// Gives back what only waited for operations to end.
void Device::bury() {
    for (auto at = orphans.begin(); at != orphans.end();) {
        Stream* stream = *at;
        if (quiet(stream)) {
            at = orphans.erase(at);
            delete stream;
        } else {
            ++at;
        }
    }
    if (!given_back.empty() && idle()) {
        for (void* memory : given_back) {
            free(memory);
        }
        given_back.clear();
    }
}

Stream* Device::stream(void* handle) {
    if ((uintptr_t)handle <= 2) {
        return &null_stream; // the default streams
    }
    auto* stream = (Stream*)handle;
    return streams.count(stream) ? stream : nullptr;
}

int Device::wait(std::unique_lock<std::mutex>& lock, const std::function<bool()>& done) {
    waiting++;
    work.notify_all();
    changed.wait(lock, [&] { return sticky != SUCCESS || done(); });
    waiting--;
    let_finish(lock);
    return sticky;
}

int Device::wait_for(std::unique_lock<std::mutex>& lock, Stream* stream) {
    stream->wanted++;
    int code = wait(lock, [&] { return quiet(stream); });
    stream->wanted--;
    return code;
}

int Device::wait_for_all(std::unique_lock<std::mutex>& lock) {
    null_stream.wanted++;
    int code = wait(lock, [&] { return idle(); });
    null_stream.wanted--;
    return code;
}

void Device::let_finish(std::unique_lock<std::mutex>& lock) {
    if (sticky != SUCCESS) {
        changed.wait_for(lock, std::chrono::milliseconds(200), [&] { return !busy(); });
    }
}

void Device::reset(std::unique_lock<std::mutex>& lock) {
    drop_queues();
    if (!changed.wait_for(lock, std::chrono::seconds(5), [&] { return !busy(); })) {
        fprintf(stderr, "emulator: an operation runs on across a reset: a kernel that waits for the host?\n");
    }
    sticky = SUCCESS;
    fault.clear();
    plans.clear();
    for (Event* event : events) {
        event->reached = event->recorded;
    }
    for (auto& [_, exec] : execs) {
        exec->finished = exec->launched;
    }
}

void Device::let_run_a_little() {
    credits++;
    work.notify_all();
}

// Runs one operation of a stream drawn at random; false if there is none that can run.
bool Device::step(std::unique_lock<std::mutex>& lock) {
    std::vector<Stream*> able;
    for (Stream* stream : all_streams()) {
        if (stream->queue.empty() || stream->busy) {
            continue;
        }
        const Operation& next = stream->queue.front();
        bool due = stream->wanted != 0 || next.not_before <= Clock::now();
        if (due && (!next.ready || next.ready())) {
            able.push_back(stream);
        }
    }
    if (able.empty()) {
        return false;
    }
    Stream* stream = able[random.below((uint32_t)able.size())];
    Operation operation = std::move(stream->queue.front());
    stream->queue.pop_front();
    stream->busy = true;
    uint32_t delay = max_delay_us != 0 && random.below(4) == 0 ? random.below(max_delay_us) : 0;
    lock.unlock();
    if (delay != 0) {
        std::this_thread::sleep_for(std::chrono::microseconds(delay));
    }
    int code = operation.run ? operation.run() : (int)SUCCESS;
    lock.lock();
    stream->busy = false;
    ++*stream->done;
    bury();
    if (code != SUCCESS && sticky == SUCCESS) {
        sticky = code;
    }
    return true;
}

void Device::serve() {
    device_thread = true;
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
        if (sticky != SUCCESS) {
            drop_queues(); // what was asked for before is lost
        }
        bool may = !lazy || waiting != 0 || credits != 0;
        if (may && step(lock)) {
            credits -= credits != 0;
            changed.notify_all();
            continue;
        }
        credits = 0;
        changed.notify_all();
        bool late = !null_stream.queue.empty() && null_stream.queue.front().not_before > Clock::now();
        if (late) {
            work.wait_until(lock, null_stream.queue.front().not_before);
        } else {
            work.wait(lock);
        }
    }
}

int Device::run_kernel(const KernelCall& call) {
    Grid grid;
    grid.kernel = call.function->kernel;
    grid.name = call.function->name;
    memcpy(grid.blocks, call.blocks, sizeof grid.blocks);
    memcpy(grid.threads, call.threads, sizeof grid.threads);
    grid.shared_bytes = call.shared_bytes;
    std::vector<void*> arguments;
    for (const auto& argument : call.arguments) {
        arguments.push_back((void*)argument.data());
    }
    grid.arguments = arguments.data();
    grid.workers = workers == 0 ? 1 : workers;
    {
        std::lock_guard<std::mutex> lock(mutex);
        if (int code = planned("kernel:" + grid.name)) {
            return code;
        }
        grid.seed = seed == 0 ? 0 : seed * 1000003 + ++kernels_run;
    }
    bool illegal = false;
    std::string why = run(grid, illegal);
    if (why.empty()) {
        return SUCCESS;
    }
    fprintf(stderr, "emulator: %s\n", why.c_str());
    std::lock_guard<std::mutex> lock(mutex);
    fault = why;
    return illegal ? ILLEGAL_ADDRESS : LAUNCH_FAILED;
}

int Device::allocate(void** memory, size_t bytes, bool on_host) {
    if (bytes == 0) {
        return INVALID_VALUE;
    }
    if (!on_host && bytes > total_bytes - used_bytes) {
        return OUT_OF_MEMORY;
    }
    // Of the exact size: an address sanitizer sees what lies outside.
    if (posix_memalign(memory, on_host ? 4096 : 256, bytes) != 0) {
        return OUT_OF_MEMORY;
    }
    poison(*memory, bytes);
    (on_host ? host_memory : device_memory)[(uintptr_t)*memory] = bytes;
    used_bytes += on_host ? 0 : bytes;
    return SUCCESS;
}

int Device::release(void* memory, bool on_host) {
    auto& known = on_host ? host_memory : device_memory;
    auto found = known.find((uintptr_t)memory);
    if (found == known.end()) {
        return INVALID_VALUE;
    }
    poison(memory, found->second); // whoever still works on it sees that
    used_bytes -= on_host ? 0 : found->second;
    known.erase(found);
    given_back.push_back(memory);
    bury();
    return SUCCESS;
}

static bool inside(const std::map<uintptr_t, size_t>& ranges, const void* memory, size_t bytes) {
    auto after = ranges.upper_bound((uintptr_t)memory);
    if (after == ranges.begin()) {
        return false;
    }
    auto range = std::prev(after);
    size_t offset = (uintptr_t)memory - range->first;
    return offset <= range->second && bytes <= range->second - offset;
}

bool Device::pinned(const void* memory, size_t bytes) const {
    return inside(host_memory, memory, bytes) || inside(registered, memory, bytes);
}

bool Device::holds(const void* memory, size_t bytes) const { return inside(device_memory, memory, bytes) || pinned(memory, bytes); }

} // namespace emu
