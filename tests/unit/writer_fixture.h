// For tests of what is stored: events to commit, and the answers of a Writer as a queue.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "storage/writer.h"

namespace sigmacast::storage {

class Rows {
 public:
    /// The next events of one stream, of so many bytes each.
    std::shared_ptr<const Batch> batch(std::size_t events, std::size_t bytes = 1) {
        auto batch = std::make_shared<Batch>();
        batch->now = now;
        for (std::size_t i = 0; i < events; ++i) {
            Message& message = batch->rows.emplace_back();
            message.kind = Kind::kEvent;
            message.origin = "nas";
            message.topic = "e";
            message.seq = message.pos = ++pos_;
            message.at = now.wall;
            message.data = std::make_shared<const std::string>(bytes, 'x');
        }
        return batch;
    }

    Now now = system_now();

 private:
    std::uint64_t pos_ = 0;
};

class Outcomes {
 public:
    /// On the writer's thread.
    void add(CommitOutcome outcome) {
        const std::lock_guard lock(mutex_);
        outcomes_.push_back(std::move(outcome));
        ++count_;
        more_.notify_one();
    }
    /// Waits for the next one, ten seconds at most.
    CommitOutcome next() {
        std::unique_lock lock(mutex_);
        if (!more_.wait_for(lock, std::chrono::seconds{10},
                            [this] { return !outcomes_.empty(); })) {
            ADD_FAILURE() << "a batch was not answered";
            return {Error{Errc::kTimeout, "no answer"}};
        }
        CommitOutcome outcome = std::move(outcomes_.front());
        outcomes_.pop_front();
        return outcome;
    }
    std::size_t count() {
        const std::lock_guard lock(mutex_);
        return count_;
    }

 private:
    std::mutex mutex_;
    std::condition_variable more_;
    std::deque<CommitOutcome> outcomes_;
    std::size_t count_ = 0;
};

}  // namespace sigmacast::storage
