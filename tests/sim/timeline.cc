#include "tests/sim/timeline.h"

#include <cstdio>

namespace sigmacast::sim {
namespace {

constexpr std::size_t kWaitingMax = 2'000;  // Messages in front of a frozen process.

}  // namespace

void Timeline::at(Mono when, Task task) {
    tasks_.push({std::max(when, mono_), ++order_, std::move(task)});
}

void Timeline::run_until(Mono end) {
    while (!tasks_.empty() && tasks_.top().when <= end) {
        if (order_ > kTasksMax) {
            throw Violation("P8", "the system does not come to rest");
        }
        const Task task = std::move(const_cast<Entry&>(tasks_.top()).task);  // NOLINT
        mono_ = tasks_.top().when;
        tasks_.pop();
        task();
    }
    mono_ = end;
}

Millis Timeline::between(Millis low, Millis high) {
    return Millis{static_cast<Millis::rep>(random.between(
        static_cast<std::uint64_t>(low.count()), static_cast<std::uint64_t>(high.count())))};
}

Mono Timeline::when(Wall wall) const {
    for (auto it = walls_.rbegin(); it != walls_.rend(); ++it) {
        const Mono when{wall.time_since_epoch() - it->second};
        if (when >= std::chrono::time_point_cast<Millis>(it->first) && when <= mono_) {
            return when;
        }
    }
    return {};
}

void Timeline::say(const std::string& who, const std::string& what) const {
    const double seconds = static_cast<double>((mono_ - Mono{Seconds{1000}}).count()) / 1'000'000.0;
    std::printf("%10.6f %-12s %s\n", seconds, who.c_str(), what.c_str());
}

void Process::input(Timeline::Task task, bool bounded) {
    if (!alive_) {
        return;
    }
    if (frozen_) {
        if (!bounded || waiting_.size() < kWaitingMax) {
            waiting_.push_back(std::move(task));
        }
        return;
    }
    task();
    if (alive_) {
        arm();
    }
}

void Process::later(Micros span, Timeline::Task task) {
    time_.after(span, [this, life = life_, task = std::move(task)] {
        if (life == life_) {
            input(task);
        }
    });
}

void Process::start() {
    alive_ = true;
    frozen_ = false;
    ++life_;
    armed_ = Mono::max();
    on_start();
    arm();
}

void Process::kill() {
    if (alive_) {
        alive_ = false;
        frozen_ = false;
        waiting_.clear();
        ++life_;
        on_kill();
    }
}

void Process::freeze() {
    frozen_ = alive_;
}

/// What waits is read, and what is due is done, in either order.
void Process::thaw() {
    if (!frozen_) {
        return;
    }
    frozen_ = false;
    thawed_at_ = time_.mono();
    if (time_.chance(50) && core_deadline() <= time_.mono()) {
        on_timer();
    }
    const std::uint64_t life = life_;
    std::deque<Timeline::Task> waiting = std::move(waiting_);
    waiting_.clear();
    for (const Timeline::Task& task : waiting) {
        if (life != life_) {
            return;
        }
        task();
    }
    arm();
}

void Process::arm() {
    const Mono when = core_deadline();
    if (when >= armed_ || when == Mono::max()) {
        return;
    }
    armed_ = std::max(when, time_.mono());
    time_.at(armed_, [this, life = life_, at = armed_] {
        if (life == life_ && armed_ == at) {
            armed_ = Mono::max();
            input([this, life] { fire(life); });
        }
    });
}

void Process::fire(std::uint64_t life) {
    if (life == life_ && core_deadline() <= time_.mono()) {
        on_timer();
    }
}

}  // namespace sigmacast::sim
