// The thread that commits. It takes one batch at a time, calls back when that is durable (or
// refused), and uses the time between batches for retention and checkpoints: the one writing
// connection does both.
//
//     Writer writer(std::move(store), limits, [&](Result<Committed> r) { loop.post(...); });
//     writer.submit(batch);   // the next one only after the callback
//     writer.stop();          // finishes what was submitted, checkpoints, ends the thread
//
// submit() and stop() belong to one thread, the owner's. The callback runs on the writer's thread
// and must not block.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "storage/store.h"

namespace sigmacast::storage {

/// Pages in the WAL after which it is copied into the database and truncated: 4 MiB.
inline constexpr int kCheckpointPages = 1000;

/// Damage that was met between commits.
struct Damage {
    std::string what;
    /// Single rows, which readers get gaps for. Else SQLite cannot use the file, and no later try
    /// will succeed.
    bool rows_only = false;
};

struct CommitOutcome {
    Result<Committed> result;
    Micros took{0};
};

class Writer {
 public:
    /// `on_damage` is called as on_committed is, once for each kind.
    Writer(
        std::unique_ptr<Store> store, TrimLimits limits,
        std::function<void(CommitOutcome)> on_committed,
        std::function<void(Damage)> on_damage = [](const Damage&) {});
    ~Writer();
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;

    void submit(std::shared_ptr<const Batch> batch);
    /// Idempotent.
    void stop();

    /// From any thread.
    [[nodiscard]] std::uint64_t database_bytes() const;
    [[nodiscard]] std::uint64_t rows_trimmed() const;
    /// Checkpoints that failed: the write-ahead log grows until one succeeds.
    [[nodiscard]] std::uint64_t checkpoints_failed() const;

 private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace sigmacast::storage
