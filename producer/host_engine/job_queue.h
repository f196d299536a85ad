// The jobs of our engine's compression: who waits, who runs, how they ended, and the engine's
// answers about them with the recorded engine's names and units. Pure: no thread, no file, no
// clock; compression.h brings those. Not thread safe.
//
//     submit -> pending --take()--> running --finish()--> completed, failed
//                  `----- cancel() ---'------------------> cancelled
//
// A job that is cancelled has ended at once; whoever works on it learns from advance() or commit()
// that it has, and its finish() changes nothing. After commit() a job can be cancelled no more.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"
#include "common/time.h"
#include "producer/host_engine/compressor.h"

namespace sigmacast::host_engine {

inline constexpr std::size_t kPendingMax = 1'000;  // Beyond it a submit is refused.
inline constexpr std::size_t kEndedMax = 1'000;    // Beyond it the oldest end is forgotten.

enum class Priority { kLow, kNormal, kHigh, kCritical };
std::optional<Priority> parse_priority(std::string_view text);

class JobQueue {
 public:
    struct Task {
        std::string id;
        std::string path;
    };

    /// The answer of compression.queue.submit. Errors: kFull.
    Result<boost::json::object> submit(const std::string& id, const std::string& path,
                                       Priority priority, Now now);
    /// The oldest of the most urgent; it runs from now on.
    std::optional<Task> take(Now now);
    /// The oldest pending job that nobody has looked at; sized() tells what was found. While it
    /// still waits it then has a size, or fails; once it runs, whoever works on it knows better.
    std::optional<Task> take_unsized();
    void sized(const std::string& id, const Result<std::uint64_t>& bytes, Now now);

    /// False: it has ended, and whoever works on it should stop.
    bool advance(const std::string& id, const Progress& progress);
    /// As advance(); after true it cannot be cancelled.
    bool commit(const std::string& id);
    void finish(const std::string& id, const Result<Progress>& result, Now now);

    /// Whether it is cancelled by this call. Errors: kNotFound.
    Result<bool> cancel(const std::string& id, Now now);
    /// Of all that wait or run; what works on them has to be told by advance().
    void cancel_all(Now now);

    /// The answers of the engine's methods.
    [[nodiscard]] boost::json::object list(bool include_pending, std::size_t limit, Now now) const;
    [[nodiscard]] Result<boost::json::object> status(const std::string& id, Now now) const;
    [[nodiscard]] boost::json::object totals(std::size_t workers) const;
    [[nodiscard]] boost::json::object stats() const;

 private:
    enum class State { kPending, kRunning, kCompleted, kFailed, kCancelled };
    struct Job {
        std::string id;
        std::string path;
        Priority priority = Priority::kNormal;
        State state = State::kPending;
        bool sized = false;
        bool committed = false;
        Progress progress = {};
        Wall created = {};
        std::optional<Wall> started = {};
        std::optional<Wall> ended = {};
        Mono started_mono = {};
        Micros took{0};  // Once it has ended.
        std::string error = {};
    };
    using Jobs = std::map<std::uint64_t, Job>;  // By the order of their submits.

    [[nodiscard]] static bool is_open(const Job& job);
    [[nodiscard]] const Job* find(const std::string& id) const;
    Job* find_open(const std::string& id);
    void end(const std::string& id, State state, Now now);
    [[nodiscard]] std::size_t count(State state) const;
    static const char* name_of(State state);
    static void put_figures(const Job& job, Now now, boost::json::object& into);
    [[nodiscard]] static boost::json::object row(const Job& job, Now now);

    Jobs jobs_;
    std::map<std::string, std::uint64_t, std::less<>> numbers_;
    std::deque<std::string> ended_;  // Oldest first.
    std::uint64_t submitted_ = 0;
    // Since the start, of jobs that are forgotten, too.
    std::uint64_t completed_ = 0;
    std::uint64_t failed_ = 0;
    std::uint64_t cancelled_ = 0;
    std::uint64_t bytes_read_ = 0;
    std::uint64_t bytes_written_ = 0;
};

}  // namespace sigmacast::host_engine
