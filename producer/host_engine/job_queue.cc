#include "producer/host_engine/job_queue.h"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <chrono>
#include <functional>
#include <utility>
#include <vector>

namespace sigmacast::host_engine {
namespace json = boost::json;
namespace {

constexpr const char* kJobType = "compress_file";
constexpr std::array kPriorities{"low", "normal", "high", "critical"};

const char* name_of_priority(Priority priority) {
    return kPriorities[static_cast<std::size_t>(priority)];
}

/// As the original writes it: "2026-11-20T23:58:32.412590", in UTC.
std::string timestamp(Wall wall) {
    std::string text = to_rfc3339(wall);
    text.pop_back();
    return text + "000";
}

json::value timestamp(const std::optional<Wall>& wall) {
    return wall ? json::value(timestamp(*wall)) : json::value();
}

double seconds(Micros duration) {
    return static_cast<double>(duration.count()) / 1e6;
}

double ratio(std::uint64_t read, std::uint64_t written) {
    return read == 0 || written == 0 ? 1.0
                                     : static_cast<double>(read) / static_cast<double>(written);
}

}  // namespace

std::optional<Priority> parse_priority(std::string_view text) {
    const auto found = std::find(kPriorities.begin(), kPriorities.end(), text);
    return found == kPriorities.end()
               ? std::nullopt
               : std::optional(static_cast<Priority>(found - kPriorities.begin()));
}

const char* JobQueue::name_of(State state) {
    switch (state) {
        case State::kPending:
            return "pending";
        case State::kRunning:
            return "running";
        case State::kCompleted:
            return "completed";
        case State::kFailed:
            return "failed";
        case State::kCancelled:
            break;
    }
    return "cancelled";
}

bool JobQueue::is_open(const Job& job) {
    return job.state == State::kPending || job.state == State::kRunning;
}

const JobQueue::Job* JobQueue::find(const std::string& id) const {
    const auto number = numbers_.find(id);
    return number == numbers_.end() ? nullptr : &jobs_.at(number->second);
}

JobQueue::Job* JobQueue::find_open(const std::string& id) {
    const auto number = numbers_.find(id);
    Job* job = number == numbers_.end() ? nullptr : &jobs_.at(number->second);
    return job != nullptr && is_open(*job) ? job : nullptr;
}

std::size_t JobQueue::count(State state) const {
    return static_cast<std::size_t>(
        std::count_if(jobs_.begin(), jobs_.end(),
                      [&](const auto& entry) { return entry.second.state == state; }));
}

Result<json::object> JobQueue::submit(const std::string& id, const std::string& path,
                                      Priority priority, Now now) {
    if (count(State::kPending) >= kPendingMax) {
        return Error{Errc::kFull, "The queue is full: " + std::to_string(kPendingMax) +
                                      " jobs wait. Submit again when some have ended"};
    }
    Job job{.id = id, .path = path, .priority = priority, .created = now.wall};
    json::object answer{{"job_id", id},
                        {"status", name_of(job.state)},
                        {"priority", name_of_priority(priority)},
                        {"job_type", kJobType},
                        {"created_at", timestamp(now.wall)}};
    numbers_.emplace(id, submitted_);
    jobs_.emplace(submitted_++, std::move(job));
    return answer;
}

std::optional<JobQueue::Task> JobQueue::take(Now now) {
    Job* best = nullptr;
    for (auto& [number, job] : jobs_) {
        if (job.state == State::kPending && (best == nullptr || job.priority > best->priority)) {
            best = &job;
        }
    }
    if (best == nullptr) {
        return std::nullopt;
    }
    best->state = State::kRunning;
    best->sized = true;
    best->started = now.wall;
    best->started_mono = now.mono;
    return Task{best->id, best->path};
}

std::optional<JobQueue::Task> JobQueue::take_unsized() {
    for (auto& [number, job] : jobs_) {
        if (job.state == State::kPending && !job.sized) {
            job.sized = true;
            return Task{job.id, job.path};
        }
    }
    return std::nullopt;
}

void JobQueue::sized(const std::string& id, const Result<std::uint64_t>& bytes, Now now) {
    Job* job = find_open(id);
    if (job == nullptr || job->state != State::kPending) {
        return;
    }
    if (bytes) {
        job->progress.bytes_total = *bytes;
    } else {
        finish(id, bytes.error(), now);
    }
}

bool JobQueue::advance(const std::string& id, const Progress& progress) {
    Job* job = find_open(id);
    if (job == nullptr) {
        return false;
    }
    job->progress = progress;
    return true;
}

bool JobQueue::commit(const std::string& id) {
    Job* job = find_open(id);
    if (job != nullptr) {
        job->committed = true;
    }
    return job != nullptr;
}

void JobQueue::finish(const std::string& id, const Result<Progress>& result, Now now) {
    Job* job = find_open(id);
    if (job == nullptr) {
        return;
    }
    if (!result) {
        job->error = result.error().message;
        ++failed_;
        return end(id, State::kFailed, now);
    }
    job->progress = *result;
    ++completed_;
    bytes_read_ += result->bytes_read;
    bytes_written_ += result->bytes_written;
    end(id, State::kCompleted, now);
}

void JobQueue::end(const std::string& id, State state, Now now) {
    Job& job = *find_open(id);
    job.state = state;
    job.ended = now.wall;
    job.took = job.started && now.mono > job.started_mono ? now.mono - job.started_mono : Micros{0};
    ended_.push_back(id);
    if (ended_.size() > kEndedMax) {
        const auto oldest = numbers_.find(ended_.front());
        jobs_.erase(oldest->second);
        numbers_.erase(oldest);
        ended_.pop_front();
    }
}

Result<bool> JobQueue::cancel(const std::string& id, Now now) {
    const Job* job = find(id);
    if (job == nullptr) {
        return Error{Errc::kNotFound, "Job not found: " + id};
    }
    if (!is_open(*job) || job->committed) {
        return false;
    }
    ++cancelled_;
    end(id, State::kCancelled, now);
    return true;
}

void JobQueue::cancel_all(Now now) {
    std::vector<std::string> open;
    for (const auto& [number, job] : jobs_) {
        if (is_open(job)) {
            open.push_back(job.id);
        }
    }
    for (const std::string& id : open) {
        (void)cancel(id, now);
    }
}

/// progress, phase, bytes, ratio and times, in the order of the recorded rows.
void JobQueue::put_figures(const Job& job, Now now, json::object& into) {
    const Progress& done = job.progress;
    const bool all = job.state == State::kCompleted;
    const double total = static_cast<double>(done.bytes_total);
    const double read = static_cast<double>(done.bytes_read);
    const Micros took = job.state != State::kRunning  ? job.took
                        : now.mono > job.started_mono ? now.mono - job.started_mono
                                                      : Micros{0};
    const double elapsed = seconds(took);
    into["progress"] = all ? 100.0 : done.bytes_total == 0 ? 0.0 : read / total * 100.0;
    into["phase"] = job.state == State::kRunning ? "compressing" : name_of(job.state);
    into["bytes_processed"] = done.bytes_read;
    into["bytes_total"] = done.bytes_total;
    into["current_ratio"] = ratio(done.bytes_read, done.bytes_written);
    into["elapsed_seconds"] = elapsed;
    into["eta_seconds"] = job.state != State::kRunning || done.bytes_read == 0
                              ? 0.0
                              : elapsed * (total - read) / read;
}

json::object JobQueue::row(const Job& job, Now now) {
    json::object row{{"job_id", job.id},
                     {"status", name_of(job.state)},
                     {"job_type", kJobType},
                     {"priority", name_of_priority(job.priority)}};
    put_figures(job, now, row);
    row["input_path"] = job.path;
    row["output_path"] = output_path_of(job.path);
    row["created_at"] = timestamp(job.created);
    row["started_at"] = timestamp(job.started);
    row["user_id"] = nullptr;
    row["tags"] = json::object{};
    return row;
}

/// First those that run, then those that wait; of each the newest first, as recorded.
json::object JobQueue::list(bool include_pending, std::size_t limit, Now now) const {
    json::array rows;
    for (const State state : {State::kRunning, State::kPending}) {
        for (auto it = jobs_.rbegin(); it != jobs_.rend(); ++it) {
            const bool wanted = state == State::kRunning || include_pending;
            if (wanted && it->second.state == state && rows.size() < limit) {
                rows.push_back(row(it->second, now));
            }
        }
    }
    return {{"jobs", std::move(rows)},
            {"total_running", count(State::kRunning)},
            {"total_pending", count(State::kPending)},
            {"total_jobs", submitted_}};
}

Result<json::object> JobQueue::status(const std::string& id, Now now) const {
    const Job* job = find(id);
    if (job == nullptr) {
        return Error{Errc::kNotFound, "Job not found: " + id};
    }
    json::object figures;
    put_figures(*job, now, figures);
    json::object answer{{"job_id", job->id},
                        {"status", name_of(job->state)},
                        {"priority", name_of_priority(job->priority)},
                        {"job_type", kJobType},
                        {"progress", figures.at("progress")},
                        {"created_at", timestamp(job->created)},
                        {"started_at", timestamp(job->started)},
                        {"completed_at", timestamp(job->ended)},
                        {"error", job->error.empty() ? json::value() : json::value(job->error)}};
    // The recorded answer ends here. With the rest the last event of a job has its last figures.
    for (const auto& [name, value] : figures) {
        answer.emplace(name, value);
    }
    answer["input_path"] = job->path;
    answer["output_path"] = output_path_of(job->path);
    return answer;
}

json::object JobQueue::totals(std::size_t workers) const {
    const std::size_t pending = count(State::kPending);
    return {{"total_jobs", submitted_}, {"pending", pending},   {"running", count(State::kRunning)},
            {"completed", completed_},  {"failed", failed_},    {"cancelled", cancelled_},
            {"workers", workers},       {"queue_size", pending}};
}

json::object JobQueue::stats() const {
    // A file that does not compress grows by a few bytes; that is no saving.
    const std::uint64_t saved = bytes_read_ > bytes_written_ ? bytes_read_ - bytes_written_ : 0;
    return {{"total_jobs", submitted_},
            {"completed_jobs", completed_},
            {"failed_jobs", failed_},
            {"bytes_processed", bytes_read_},
            {"bytes_saved", saved},
            {"average_ratio", completed_ == 0 ? 0.0 : ratio(bytes_read_, bytes_written_)},
            {"most_used_algorithm", completed_ == 0 ? "none" : "zstd"}};
}

}  // namespace sigmacast::host_engine
