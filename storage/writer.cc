#include "storage/writer.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "common/log.h"

namespace sigmacast::storage {
namespace {

// Looks for rows past their retention this often; then slice after slice until none is left,
// commits in between.
constexpr std::chrono::seconds kTrimInterval{10};

}  // namespace

struct Writer::Impl {
    Impl(std::unique_ptr<Store> opened, TrimLimits trim_limits,
         std::function<void(CommitOutcome)> callback, std::function<void(Damage)> damage)
        : store(std::move(opened)),
          limits(trim_limits),
          on_committed(std::move(callback)),
          on_damage(std::move(damage)) {}

    void run() {
        while (auto batch = wait()) {
            if (*batch) {
                commit(**batch);
            }
            if (std::chrono::steady_clock::now() >= next_trim && !trim_slice()) {
                next_trim = std::chrono::steady_clock::now() + kTrimInterval;
            }
            if (store->wal_pages() >= kCheckpointPages) {
                checkpoint();
            }
        }
        store->mark_clean();
        checkpoint();
    }

    void checkpoint() {
        const auto done = store->checkpoint();
        if (!done) {
            ++checkpoints_failed;
            if (!std::exchange(checkpoint_fails, true)) {
                log_error("the write-ahead log grows: it cannot be copied into the database",
                          {{"error", done.error().message}});
            }
            tell_damage(done.error());
        } else if (std::exchange(checkpoint_fails, false)) {
            log_info("the write-ahead log can be copied again");
        }
    }

    void tell_damage(const Error& error) {
        if ((error.code == Errc::kCorrupt || error.code == Errc::kConflict) &&
            !std::exchange(damage_told, true)) {
            on_damage({error.message, false});
        }
    }

    /// A batch, or a null one when it is time to trim; nullopt when it is time to end.
    std::optional<std::shared_ptr<const Batch>> wait() {
        std::unique_lock lock(mutex);
        wake.wait_until(lock, next_trim, [this] { return pending != nullptr || stopping; });
        if (pending == nullptr && stopping) {
            return std::nullopt;
        }
        return std::exchange(pending, nullptr);
    }

    void commit(const Batch& batch) {
        const auto started = std::chrono::steady_clock::now();
        auto result = store->commit(batch);
        const auto took =
            std::chrono::duration_cast<Micros>(std::chrono::steady_clock::now() - started);
        if (!result && result.error().code == Errc::kFull) {
            next_trim = started;  // The next try finds room only if retention makes some.
        }
        const bool committed = result.has_value();
        on_committed({std::move(result), took});
        if (committed && limits.retain_bytes > 0) {
            keep_size(batch.rows.size());
        }
    }

    /// Beyond its size the log loses rows as fast as it gets them, not at the next turn only: a
    /// slice for each commit, more where one commit was larger than a slice.
    void keep_size(std::size_t rows) {
        for (std::size_t removed = 0; removed <= rows; removed += kTrimRowsMax) {
            const auto bytes = store->bytes();
            if (!bytes || *bytes <= limits.retain_bytes || !trim_slice()) {
                return;
            }
        }
    }

    /// True: there may be more.
    bool trim_slice() {
        const auto trimmed = store->trim(system_now(), limits);
        if (!trimmed) {
            if (trimmed.error().code != Errc::kFull) {  // Who commits has said so.
                log_warn("retention could not remove old rows",
                         {{"error", trimmed.error().message}});
            }
            tell_damage(trimmed.error());
            return false;
        }
        if (!store->damage().empty() && !std::exchange(rows_told, true)) {
            on_damage({store->damage(), true});
        }
        rows_trimmed += *trimmed;
        if (const auto now = store->bytes()) {
            database_bytes = *now;
        }
        return *trimmed > 0;
    }

    const std::unique_ptr<Store> store;
    const TrimLimits limits;
    const std::function<void(CommitOutcome)> on_committed;
    const std::function<void(Damage)> on_damage;
    bool damage_told = false;
    bool rows_told = false;
    bool checkpoint_fails = false;

    std::chrono::steady_clock::time_point next_trim = std::chrono::steady_clock::now();

    std::atomic<std::uint64_t> database_bytes{0};
    std::atomic<std::uint64_t> rows_trimmed{0};
    std::atomic<std::uint64_t> checkpoints_failed{0};

    std::mutex mutex;  // Guards the two below.
    std::condition_variable wake;
    std::shared_ptr<const Batch> pending;
    bool stopping = false;

    std::thread thread;
};

Writer::Writer(std::unique_ptr<Store> store, TrimLimits limits,
               std::function<void(CommitOutcome)> on_committed,
               std::function<void(Damage)> on_damage)
    : impl_(std::make_unique<Impl>(std::move(store), limits, std::move(on_committed),
                                   std::move(on_damage))) {
    impl_->thread = std::thread([impl = impl_.get()] { impl->run(); });
}

Writer::~Writer() {
    stop();
}

void Writer::submit(std::shared_ptr<const Batch> batch) {
    {
        const std::lock_guard lock(impl_->mutex);
        impl_->pending = std::move(batch);
    }
    impl_->wake.notify_one();
}

void Writer::stop() {
    {
        const std::lock_guard lock(impl_->mutex);
        impl_->stopping = true;
    }
    impl_->wake.notify_one();
    if (impl_->thread.joinable()) {
        impl_->thread.join();
    }
}

std::uint64_t Writer::database_bytes() const {
    return impl_->database_bytes;
}

std::uint64_t Writer::rows_trimmed() const {
    return impl_->rows_trimmed;
}

std::uint64_t Writer::checkpoints_failed() const {
    return impl_->checkpoints_failed;
}

}  // namespace sigmacast::storage
