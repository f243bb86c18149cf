// A C++ program that uses nothing but mooncake.h: move-only owners around the
// handles, exceptions instead of codes, and eight threads that share two engines,
// each with batches of its own. Exits 0, or prints what went wrong.
#include "mooncake.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

class Error : public std::runtime_error {
  public:
    Error(const char *call, int status)
        : std::runtime_error(std::string(call) + ": " + mc_status_name(status) + ": " +
                             mc_last_error()),
          status(status) {}
    const int status;
};

void check(int status, const char *call) {
    if (status != MC_OK)
        throw Error(call, status);
}

void expect(bool condition, const std::string &what) {
    if (!condition)
        throw std::runtime_error(what);
}

// Handle owns an integer that close gives back.
template <int (*close)(uint64_t)> class Handle {
  public:
    Handle() = default;
    explicit Handle(uint64_t value) : value_(value) {}
    Handle(Handle &&other) noexcept : value_(std::exchange(other.value_, 0)) {}
    Handle &operator=(Handle &&other) noexcept {
        std::swap(value_, other.value_);
        return *this;
    }
    Handle(const Handle &) = delete;
    Handle &operator=(const Handle &) = delete;
    ~Handle() {
        if (value_ != 0 && close(value_) != MC_OK)
            std::fprintf(stderr, "closing: %s\n", mc_last_error());
    }
    uint64_t get() const { return value_; }

  private:
    uint64_t value_ = 0;
};

using Memory = Handle<mc_deregister>;

uint64_t address_of(const void *p) { return reinterpret_cast<uintptr_t>(p); }

class Batch {
  public:
    explicit Batch(uint64_t value) : handle_(value) {}

    mc_batch_status_t wait(int64_t timeout_ms) const {
        mc_batch_status_t status{};
        check(mc_wait(handle_.get(), timeout_ms, &status), "mc_wait");
        return status;
    }

  private:
    Handle<mc_batch_close> handle_;
};

struct Blocks {
    std::vector<uint64_t> local, remote, length;
};

class Segment {
  public:
    explicit Segment(uint64_t value) : handle_(value) {}

    Batch submit(uint32_t op, const Blocks &blocks) const {
        mc_batch_t out = 0;
        check(mc_submit(handle_.get(), op, blocks.local.data(), blocks.remote.data(),
                        blocks.length.data(), blocks.length.size(), 0, &out),
              "mc_submit");
        return Batch(out);
    }

  private:
    Handle<mc_segment_close> handle_;
};

class Engine {
  public:
    explicit Engine(const std::string &name) {
        mc_engine_t out = 0;
        check(mc_engine_open(name.c_str(), nullptr, &out), "mc_engine_open");
        handle_ = Handle<mc_engine_close>(out);
    }

    std::string session() const {
        uint64_t length = 0;
        if (int status = mc_engine_session(handle_.get(), nullptr, 0, &length); status != MC_EFULL)
            check(status, "mc_engine_session");
        std::string text(length + 1, '\0');
        check(mc_engine_session(handle_.get(), text.data(), text.size(), &length),
              "mc_engine_session");
        text.resize(length);
        return text;
    }

    Memory add(const std::vector<uint8_t> &bytes) const {
        mc_memory_t out = 0;
        check(mc_register(handle_.get(), address_of(bytes.data()), bytes.size(), nullptr, &out),
              "mc_register");
        return Memory(out);
    }

    Segment open(const std::string &peer) const {
        mc_segment_t out = 0;
        check(mc_segment_open(handle_.get(), peer.c_str(), &out), "mc_segment_open");
        return Segment(out);
    }

    mc_engine_stats_t stats() const {
        mc_engine_stats_t out{};
        check(mc_engine_stats(handle_.get(), &out), "mc_engine_stats");
        return out;
    }

  private:
    Handle<mc_engine_close> handle_;
};

constexpr int threads = 8, rounds = 25;
constexpr size_t page = 1000, pages = 128;

// One thread's traffic: every round writes its pages in a new order to new places,
// reads them back and compares, and fails on purpose once.
void traffic(const Engine &engine, const Engine &peer, const Segment &segment, unsigned seed) {
    std::vector<uint8_t> source(page * pages), destination(page * pages), back(page * pages);
    Memory source_memory = engine.add(source), back_memory = engine.add(back);
    Memory destination_memory = peer.add(destination);
    std::mt19937 random(seed);
    std::vector<size_t> order(pages);
    std::iota(order.begin(), order.end(), 0);
    for (int round = 0; round < rounds; round++) {
        std::generate(source.begin(), source.end(), [&] { return uint8_t(random()); });
        std::shuffle(order.begin(), order.end(), random);
        Blocks write, read;
        for (size_t i = 0; i < pages; i++) {
            write.local.push_back(address_of(&source[i * page]));
            write.remote.push_back(address_of(&destination[order[i] * page]));
            write.length.push_back(page);
            read.local.push_back(address_of(&back[i * page]));
        }
        read.remote = write.remote, read.length = write.length;

        auto status = segment.submit(MC_WRITE, write).wait(-1);
        expect(status.state == MC_BATCH_DONE && status.bytes_done == page * pages, "write");
        for (size_t i = 0; i < pages; i++)
            expect(std::memcmp(&source[i * page], &destination[order[i] * page], page) == 0,
                   "page " + std::to_string(i) + " differs");
        segment.submit(MC_READ, read).wait(30000);
        expect(back == source, "pages differ after reading back");

        // A block that reaches past the end; the text is this thread's own.
        Blocks bad{{write.local[0]}, {address_of(&destination[0]) + 1}, {page * pages + seed}};
        try {
            segment.submit(MC_WRITE, bad);
            expect(false, "a bad block was accepted");
        } catch (const Error &error) {
            expect(error.status == MC_EADDR, error.what());
            expect(std::strstr(error.what(), std::to_string(page * pages + seed).c_str()) != nullptr,
                   std::string("the length is not in: ") + error.what());
        }
    }
}

void run() {
    Engine engine("127.0.0.1"), peer("localhost");
    Segment segment = engine.open(peer.session());
    std::atomic<int> failed = 0;
    std::vector<std::thread> running;
    for (int i = 0; i < threads; i++)
        running.emplace_back([&, i] {
            try {
                traffic(engine, peer, segment, unsigned(i + 1));
            } catch (const std::exception &error) {
                std::fprintf(stderr, "thread %d: %s\n", i, error.what());
                failed++;
            }
        });
    for (auto &thread : running)
        thread.join();
    expect(failed == 0, std::to_string(failed) + " threads failed");

    const auto stats = engine.stats();
    constexpr uint64_t bytes = uint64_t(threads) * rounds * pages * page;
    expect(stats.batches == 2u * threads * rounds, "batches " + std::to_string(stats.batches));
    expect(stats.bytes_written == bytes && stats.bytes_read == bytes, "bytes");
    expect(stats.batches_open == 0 && stats.batches_failed == 0, "batches are left");
    expect(stats.memories == 0 && peer.stats().memories == 0, "memories are left");
}

} // namespace

int main() {
    try {
        run();
    } catch (const std::exception &error) {
        std::fprintf(stderr, "smoke.cpp: %s\n", error.what());
        return 1;
    }
    std::puts("smoke.cpp: ok");
    return 0;
}
