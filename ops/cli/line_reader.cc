#include "ops/cli/line_reader.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>

namespace sigmacast::cli {

// Runs on: its own thread, but for taken() and stop(). The mutex guards `waiting` and `stopping`,
// which both sides use.
struct LineReader::Impl : std::enable_shared_from_this<LineReader::Impl> {
    Impl(Loop& on, int from, std::size_t most) : loop(on), descriptor(from), bytes_max(most) {}
    ~Impl() {
        if (wake >= 0) {
            close(wake);
        }
    }

    void run() {
        std::array<char, 65'536> block{};
        while (readable()) {
            const ssize_t size = read(descriptor, block.data(), block.size());
            if (size < 0 && errno == EINTR) {
                continue;
            }
            if (size <= 0) {
                break;
            }
            take({block.data(), static_cast<std::size_t>(size)});
            if (!flush()) {
                return;
            }
        }
        if (!partial.text.empty() || partial.too_long) {
            end_line();
        }
        if (flush()) {
            loop.post([self = shared_from_this()] { self->tell_end(); });
        }
    }

    bool readable() {
        std::array<pollfd, 2> wait{{{descriptor, POLLIN, 0}, {wake, POLLIN, 0}}};
        while (poll(wait.data(), wait.size(), -1) < 0) {
            if (errno != EINTR) {
                return false;
            }
        }
        return wait[1].revents == 0;
    }

    void take(std::string_view bytes) {
        for (;;) {
            const std::size_t end = bytes.find('\n');
            const std::string_view piece = bytes.substr(0, end);
            const std::size_t room = bytes_max - partial.text.size();
            partial.text += piece.substr(0, room);
            partial.too_long = partial.too_long || piece.size() > room;
            if (end == std::string_view::npos) {
                return;
            }
            end_line();
            bytes.remove_prefix(end + 1);
        }
    }

    void end_line() {
        partial.number = ++number;
        if (partial.text.ends_with('\r')) {
            partial.text.pop_back();
        }
        batch.push_back(std::exchange(partial, {}));
    }

    /// Hands over what is there, waiting for room. False: the owner is gone.
    bool flush() {
        while (!batch.empty()) {
            {
                std::unique_lock lock(mutex);
                room_made.wait(lock, [this] { return stopping || waiting < kBatchesMax; });
                if (stopping) {
                    return false;
                }
                ++waiting;
            }
            const auto end =
                batch.begin() + static_cast<std::ptrdiff_t>(std::min(batch.size(), kBatchLinesMax));
            std::vector<Line> part(std::make_move_iterator(batch.begin()),
                                   std::make_move_iterator(end));
            batch.erase(batch.begin(), end);
            loop.post([self = shared_from_this(), part = std::move(part)]() mutable {
                self->tell(std::move(part));
            });
        }
        const std::lock_guard lock(mutex);
        return !stopping;
    }

    // On the loop; after stop() the functions are gone.
    void tell(std::vector<Line> lines) {
        if (on_lines) {
            on_lines(std::move(lines));
        }
    }
    void tell_end() {
        if (on_end) {
            on_end();
        }
    }

    void taken() {
        {
            const std::lock_guard lock(mutex);
            --waiting;
        }
        room_made.notify_one();
    }

    void stop() {
        on_lines = nullptr;
        on_end = nullptr;
        {
            const std::lock_guard lock(mutex);
            stopping = true;
        }
        room_made.notify_one();
        const std::uint64_t one = 1;
        (void)!write(wake, &one, sizeof one);
        thread.join();
    }

    Loop& loop;
    const int descriptor;
    const std::size_t bytes_max;
    const int wake = eventfd(0, EFD_CLOEXEC);
    std::function<void(std::vector<Line>)> on_lines;  // The loop's.
    std::function<void()> on_end;                     // The loop's.
    std::thread thread;

    Line partial;  // The thread's.
    std::vector<Line> batch;
    std::uint64_t number = 0;

    std::mutex mutex;
    std::condition_variable room_made;
    std::size_t waiting = 0;
    bool stopping = false;
};

LineReader::LineReader(Loop& loop, int descriptor, std::size_t bytes_max,
                       std::function<void(std::vector<Line>)> on_lines,
                       std::function<void()> on_end)
    : impl_(std::make_shared<Impl>(loop, descriptor, bytes_max)) {
    impl_->on_lines = std::move(on_lines);
    impl_->on_end = std::move(on_end);
    impl_->thread = std::thread([impl = impl_] { impl->run(); });
}

LineReader::~LineReader() {
    impl_->stop();
}

void LineReader::taken() {
    impl_->taken();
}

}  // namespace sigmacast::cli
