// How the store behaves with much in it: the start with a log of so many events, and commits while
// retention keeps the file at its size, against commits while nothing is removed. Prints a table.
//
//     sigmacast-bench-storage --events 1000000
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <filesystem>
#include <mutex>

#include "common/log.h"
#include "storage/store.h"
#include "storage/writer.h"
#include "tests/unit/temp_folder.h"

namespace sigmacast::storage {
namespace {

using Clock = std::chrono::steady_clock;
constexpr TrimLimits kKeepAll{Seconds{1'000'000}, Seconds{1'000'000}, 0};
constexpr std::size_t kStreams = 8;

double ms_since(Clock::time_point began) {
    return std::chrono::duration<double, std::milli>(Clock::now() - began).count();
}

class Feed {
 public:
    std::shared_ptr<const Batch> batch(std::size_t events) {
        auto batch = std::make_shared<Batch>();
        batch->now = system_now();
        for (std::size_t i = 0; i < events; ++i) {
            Message& row = batch->rows.emplace_back();
            row.kind = Kind::kEvent;
            row.origin = "nas";
            row.topic = "topic." + std::to_string(pos_ % kStreams);
            row.seq = ++seq_[pos_ % kStreams];
            row.pos = ++pos_;
            row.at = batch->now.wall;
            row.data = data_;
        }
        return batch;
    }

 private:
    std::uint64_t pos_ = 0;
    std::array<std::uint64_t, kStreams> seq_{};
    Bytes data_ = std::make_shared<const std::string>(std::string("\x81\xa1v\xd9\xc8", 5) +
                                                      std::string(200, 'x'));
};

double opening(const std::string& path) {
    const auto began = Clock::now();
    auto store = Store::open(path, system_now());
    const double took = ms_since(began);
    if (!store || !(*store)->repairs().empty()) {
        std::puts("the database is not as it should be");
        std::exit(1);
    }
    return took;
}

void starts(std::size_t events) {
    const TempFolder folder;
    const std::string path = folder.file("s.db");
    Feed feed;
    {
        auto store = Store::open(path, system_now()).value();
        for (std::size_t left = events; left > 0; left -= std::min<std::size_t>(left, 1000)) {
            store->commit(*feed.batch(std::min<std::size_t>(left, 1000))).value();
            if (store->wal_pages() >= kCheckpointPages) {
                store->checkpoint().value();
            }
        }
    }
    const double unclean = opening(path);
    auto store = Store::open(path, system_now()).value();
    const auto began = Clock::now();
    const bool right = store->check_all().value();
    const double all = ms_since(began);
    store->mark_clean();
    store.reset();
    const double clean = opening(path);
    std::printf(
        "%zu events, %.0f MiB: start after a clean stop %.0f ms, after a kill %.0f ms; the "
        "whole chain %.0f ms (%s)\n",
        events, static_cast<double>(std::filesystem::file_size(path)) / 1048576, clean, unclean,
        all, right ? "right" : "WRONG");
}

/// Commits one batch after the other, and prints how long they took to be answered.
void commits(const char* name, TrimLimits limits, std::size_t batches, std::size_t events) {
    const TempFolder folder;
    const std::string path = folder.file("s.db");
    std::mutex mutex;
    std::condition_variable answered;
    bool waiting = false;
    Writer writer(Store::open(path, system_now()).value(), limits, [&](const CommitOutcome& done) {
        if (!done.result) {
            std::puts(done.result.error().message.c_str());
            std::exit(1);
        }
        const std::lock_guard lock(mutex);
        waiting = false;
        answered.notify_one();
    });
    Feed feed;
    std::vector<double> took;
    std::uintmax_t largest = 0;
    const auto began = Clock::now();
    for (std::size_t i = 0; i < batches; ++i) {
        const auto batch = feed.batch(events);
        const auto submitted = Clock::now();
        std::unique_lock lock(mutex);
        waiting = true;
        writer.submit(batch);
        answered.wait(lock, [&] { return !waiting; });
        if (i >= batches / 2) {  // Once it has its size.
            took.push_back(ms_since(submitted));
            largest = std::max(largest, std::filesystem::file_size(path));
        }
    }
    const double all = ms_since(began);
    writer.stop();
    std::sort(took.begin(), took.end());
    const auto at = [&took](double part) {
        return took[static_cast<std::size_t>(part * static_cast<double>(took.size() - 1))];
    };
    std::printf(
        "%s, batches of %zu: %.0f events/s, commit p50 %.2f, p99 %.2f, max %.2f ms, file at "
        "most %.1f MiB, %llu rows trimmed\n",
        name, events, static_cast<double>(batches * events) * 1000 / all, at(0.5), at(0.99), at(1),
        static_cast<double>(largest) / 1048576,
        static_cast<unsigned long long>(writer.rows_trimmed()));
}

}  // namespace
}  // namespace sigmacast::storage

int main(int argc, char** argv) {
    std::size_t events = 1'000'000;
    std::uint64_t retain = 64;
    CLI::App app{"Measures the store."};
    app.add_option("--events", events, "In the log at the start")->capture_default_str();
    app.add_option("--retain", retain, "MiB that retention keeps")->capture_default_str();
    CLI11_PARSE(app, argc, argv);
    using namespace sigmacast::storage;
    sigmacast::log_start("bench", "error");
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    starts(events);
    TrimLimits trimming = kKeepAll;
    trimming.retain_bytes = retain << 20;
    for (const std::size_t size : {std::size_t{10}, std::size_t{1000}}) {
        const std::size_t batches = 600'000 / size / (size == 10 ? 4 : 1);
        commits("nothing is removed", kKeepAll, batches, size);
        trimming.retain_bytes = (size == 10 ? retain / 4 : retain) << 20;
        commits(("retain_bytes " + std::to_string(trimming.retain_bytes >> 20) + " MiB").c_str(),
                trimming, batches, size);
    }
    return 0;
}
