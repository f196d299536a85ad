#include "common/loop.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <csignal>
#include <utility>
#include <vector>

namespace sigmacast {
namespace asio = boost::asio;

namespace {

// Asio's steady clock stands still while the machine is suspended and ours does not: a longer wait
// is cut into slices of this length, so that a timer is at most this late after a resume.
constexpr Micros kSliceMax = Seconds(60);

constexpr std::size_t kDescriptorsAtOnce = 256;

}  // namespace

struct Loop::Impl {
    asio::io_context context{1};
    asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
    asio::signal_set signals{context};
    asio::signal_set hangups{context};
    std::function<void()> on_hangup;
    std::size_t reserved = 0;  // Descriptors.

    void wait_for_hangup() {
        hangups.async_wait([this](const boost::system::error_code& error, int) {
            if (!error) {
                on_hangup();
                wait_for_hangup();
            }
        });
    }
};

Loop::Loop() : impl_(std::make_unique<Impl>()) {}
Loop::~Loop() = default;

void Loop::run() {
    impl_->context.run();
    impl_->context.restart();
}

void Loop::stop() {
    impl_->context.stop();
}

void Loop::post(std::function<void()> work) {
    asio::post(impl_->context, std::move(work));
}

void Loop::on_terminate(std::function<void()> handler) {
    impl_->signals.add(SIGINT);
    impl_->signals.add(SIGTERM);
    impl_->signals.async_wait([this, handler = std::move(handler)](
                                  const boost::system::error_code& error, int) {
        if (error) {
            return;
        }
        impl_->signals.clear();  // Back to the default action: a second signal ends the process.
        handler();
    });
}

void Loop::on_hangup(std::function<void()> handler) {
    impl_->on_hangup = std::move(handler);
    impl_->hangups.add(SIGHUP);
    impl_->wait_for_hangup();
}

void Loop::reserve_descriptors(std::size_t count) {
    while (impl_->reserved < count) {
        impl_->reserved += kDescriptorsAtOnce;
        std::vector<asio::posix::stream_descriptor> together;
        while (together.size() < kDescriptorsAtOnce) {
            const int fd = ::eventfd(0, EFD_CLOEXEC);
            if (fd < 0) {
                return;  // So near the limit the rest is made one by one.
            }
            together.emplace_back(impl_->context, fd);
        }
    }
}

asio::io_context& Loop::context() {
    return impl_->context;
}

struct Timer::Impl : std::enable_shared_from_this<Timer::Impl> {
    Impl(asio::io_context& context, std::function<void()> what)
        : timer(context), fire(std::move(what)) {}

    void wait() {
        const auto left = std::clamp(*when - BootClock::now(), Micros(0), kSliceMax);
        timer.expires_after(left);
        timer.async_wait([self = shared_from_this(),
                          mine = turn](const boost::system::error_code&) { self->on_wake(mine); });
    }

    // A wake that was already queued when the timer was set again or cancelled has an old turn.
    void on_wake(std::uint64_t mine) {
        if (mine != turn) {
            return;
        }
        if (BootClock::now() < *when) {
            return wait();
        }
        ++turn;
        when.reset();
        fire();
    }

    asio::steady_timer timer;
    std::function<void()> fire;
    std::optional<Mono> when;  // Unset: nothing is waited for.
    std::uint64_t turn = 0;
};

Timer::Timer(Loop& loop, std::function<void()> fire)
    : impl_(std::make_shared<Impl>(loop.context(), std::move(fire))) {}

Timer::~Timer() {
    set(std::nullopt);
}

void Timer::set(std::optional<Mono> when) {
    if (when == impl_->when) {
        return;  // A wake that is queued already keeps its place, however often this is repeated.
    }
    ++impl_->turn;
    impl_->when = when;
    if (when) {
        impl_->wait();
    } else {
        impl_->timer.cancel();
    }
}

}  // namespace sigmacast
