#include "producer/host_engine/compression.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>

#include "common/log.h"
#include "common/random.h"
#include "common/time.h"
#include "producer/host_engine/compressor.h"
#include "producer/host_engine/job_queue.h"

namespace sigmacast::host_engine {
namespace json = boost::json;
namespace {

constexpr std::int64_t kListMax = 1'000;     // Rows of one list.
constexpr std::int64_t kListDefault = 50;    // As the producer asks.
constexpr std::size_t kShownBytesMax = 200;  // Of what a client sent, in our messages.
constexpr int kNiceness = 10;                // Figures and heartbeats come before compression.

std::string shown(std::string_view text) {
    return std::string(text.substr(0, kShownBytesMax));
}

/// The text of a member; `otherwise` where it is missing or null.
std::string text_of(const json::object& params, std::string_view name, std::string otherwise) {
    const json::value* value = params.if_contains(name);
    if (value == nullptr || value->is_null()) {
        return otherwise;
    }
    if (!value->is_string()) {
        throw InvalidParams(std::string(name) + " is not a text");
    }
    return std::string(value->get_string());
}

bool flag_of(const json::object& params, std::string_view name, bool otherwise) {
    const json::value* value = params.if_contains(name);
    if (value == nullptr || value->is_null()) {
        return otherwise;
    }
    if (!value->is_bool()) {
        throw InvalidParams(std::string(name) + " is neither true nor false");
    }
    return value->get_bool();
}

std::size_t limit_of(const json::object& params) {
    const json::value* value = params.if_contains("limit");
    if (value == nullptr || value->is_null()) {
        return kListDefault;
    }
    if (!value->is_int64() || value->get_int64() < 0) {
        throw InvalidParams("limit is not a whole number from 0 to " + std::to_string(kListMax));
    }
    return static_cast<std::size_t>(std::min(value->get_int64(), kListMax));
}

std::string job_of(const json::object& params) {
    std::string id = text_of(params, "job_id", {});
    if (id.empty()) {
        throw InvalidParams("job_id required: compression.queue.submit answers with it");
    }
    return id;
}

template <class T>
T value_of(Result<T> result) {
    if (!result) {
        throw std::runtime_error(result.error().message);
    }
    return std::move(*result);
}

/// What a thread of ours begins with. Signals are the loop's; a blocked SIGXFSZ makes a limit on
/// the size of files an error of write() instead of the end of the engine.
void settle_thread() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNiceness);
}

}  // namespace

struct Compression::Impl {
    explicit Impl(CompressionOptions given)
        : options(std::move(given)),
          folders(options.folders),
          compress{.level = options.level, .state_folder = options.state_folder} {}

    json::value submit(const json::object& params);
    void look();
    void work();
    Result<std::uint64_t> size_of(const std::string& path) const;
    Result<Progress> compress_one(const JobQueue::Task& task);
    /// Waits for what `take` finds; nothing once it is time to stop.
    std::optional<JobQueue::Task> wait_for(
        const std::function<std::optional<JobQueue::Task>()>& take);

    const CompressionOptions options;
    const Folders folders;
    const CompressOptions compress;
    std::vector<std::thread> threads;  // The loop's.
    Random random = Random::from_system();

    std::mutex mutex;
    std::condition_variable changed;
    JobQueue queue;         // Guarded by mutex.
    bool stopping = false;  // The same.
    bool tidy = false;      // The same: leftovers are removed, files may be made.
};

json::value Compression::Impl::submit(const json::object& params) {
    const std::string type = text_of(params, "type", "compress_file");
    if (type != "compress_file") {
        throw InvalidParams("Invalid job type: " + shown(type) +
                            ". This engine knows compress_file");
    }
    const std::string path = text_of(params, "source_path", {});
    if (path.empty()) {
        throw InvalidParams("source_path required for file operations");
    }
    if (!text_of(params, "dest_path", {}).empty()) {
        throw InvalidParams("dest_path cannot be chosen: the output is source_path with .zst");
    }
    const std::string urgency = text_of(params, "priority", "normal");
    const auto priority = parse_priority(urgency);
    if (!priority) {
        throw InvalidParams("Invalid priority: " + shown(urgency) +
                            ". There are low, normal, high and critical");
    }
    const Result<std::string> plain = folders.check(path);
    if (!plain) {
        throw InvalidParams(plain.error().message);
    }
    const std::lock_guard lock(mutex);
    json::object answer = value_of(queue.submit(random.uuid(), *plain, *priority, system_now()));
    changed.notify_all();
    return answer;
}

std::optional<JobQueue::Task> Compression::Impl::wait_for(
    const std::function<std::optional<JobQueue::Task>()>& take) {
    std::unique_lock lock(mutex);
    std::optional<JobQueue::Task> task;
    changed.wait(lock, [&] { return stopping || (tidy && (task = take())); });
    return stopping ? std::nullopt : task;
}

Result<std::uint64_t> Compression::Impl::size_of(const std::string& path) const {
    const Result<Place> place = folders.open_parent(path);
    const Result<Descriptor> file = place ? open_regular(*place, path) : place.error();
    if (!file) {
        return file.error();
    }
    struct stat facts{};
    if (::fstat(file->get(), &facts) != 0) {
        return Error{Errc::kUnavailable, "'" + path + "' cannot be read: " + errno_text(errno)};
    }
    return static_cast<std::uint64_t>(facts.st_size);
}

/// Runs on: the thread that looks.
void Compression::Impl::look() {
    settle_thread();
    remove_leftovers(folders, options.state_folder);
    {
        const std::lock_guard lock(mutex);
        tidy = true;
    }
    changed.notify_all();
    while (const auto task = wait_for([this] { return queue.take_unsized(); })) {
        const Result<std::uint64_t> size = size_of(task->path);
        const std::lock_guard lock(mutex);
        queue.sized(task->id, size, system_now());
    }
}

Result<Progress> Compression::Impl::compress_one(const JobQueue::Task& task) {
    const CompressCalls calls{.advanced =
                                  [&](const Progress& progress) {
                                      const std::lock_guard lock(mutex);
                                      return queue.advance(task.id, progress);
                                  },
                              .may_appear =
                                  [&] {
                                      const std::lock_guard lock(mutex);
                                      return queue.commit(task.id);
                                  }};
    try {
        return compress_file(folders, task.path, compress, calls);
    } catch (const std::exception& problem) {  // No memory.
        return Error{Errc::kInternal, problem.what()};
    }
}

/// Runs on: a worker.
void Compression::Impl::work() {
    settle_thread();
    while (const auto task = wait_for([this] { return queue.take(system_now()); })) {
        const Result<Progress> result = compress_one(*task);
        const std::lock_guard lock(mutex);
        queue.finish(task->id, result, system_now());
    }
}

Compression::Compression(CompressionOptions options)
    : impl_(std::make_unique<Impl>(std::move(options))) {}

Compression::~Compression() {
    stop();
}

void Compression::start() {
    impl_->threads.emplace_back([this] { impl_->look(); });
    for (std::size_t i = 0; i < impl_->options.workers; ++i) {
        impl_->threads.emplace_back([this] { impl_->work(); });
    }
}

void Compression::stop() {
    {
        const std::lock_guard lock(impl_->mutex);
        impl_->stopping = true;
        impl_->queue.cancel_all(system_now());
    }
    impl_->changed.notify_all();
    for (std::thread& thread : impl_->threads) {
        thread.join();
    }
    impl_->threads.clear();
}

Methods Compression::methods() {
    Impl& impl = *impl_;
    return {
        {"compression.queue.submit",
         [&impl](const json::object& params) { return impl.submit(params); }},
        {"compression.queue.running",
         [&impl](const json::object& params) -> json::value {
             const bool pending = flag_of(params, "include_pending", true);
             const std::size_t limit = limit_of(params);
             const std::lock_guard lock(impl.mutex);
             return impl.queue.list(pending, limit, system_now());
         }},
        {"compression.queue.status",
         [&impl](const json::object& params) -> json::value {
             const std::string id = text_of(params, "job_id", {});
             const std::lock_guard lock(impl.mutex);
             return id.empty() ? impl.queue.totals(impl.options.workers)
                               : value_of(impl.queue.status(id, system_now()));
         }},
        {"compression.queue.cancel",
         [&impl](const json::object& params) -> json::value {
             const std::string id = job_of(params);
             const std::lock_guard lock(impl.mutex);
             const bool cancelled = value_of(impl.queue.cancel(id, system_now()));
             return json::object{{"job_id", id}, {"cancelled", cancelled}};
         }},
        {"compression.stats",
         [&impl](const json::object&) -> json::value {
             const std::lock_guard lock(impl.mutex);
             return impl.queue.stats();
         }},
    };
}

}  // namespace sigmacast::host_engine
