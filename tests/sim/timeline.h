// Virtual time for the whole-system test: what happens when, in one thread, from one seed. Nothing
// here looks at a real clock or at an address, so the same seed gives the same run, always.
//
//     Timeline time(seed, trace);
//     time.after(Millis{5}, [&] { ... });
//     time.run_until(Mono{Seconds{30}});     // throws Violation where an invariant does not hold
//
// A Process is a program: what reaches it waits while it is frozen (SIGSTOP) and is lost with it
// when it is killed. Bounds: a run ends after kTasksMax tasks.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <queue>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "common/random.h"
#include "common/time.h"

namespace sigmacast::sim {

inline constexpr std::uint64_t kTasksMax = 3'000'000;

/// An invariant that did not hold. `promise` is P1 to P9 of common/PROMISES.md, or `converge`.
class Violation : public std::runtime_error {
 public:
    Violation(std::string promise, const std::string& what)
        : std::runtime_error(promise + ": " + what), promise_(std::move(promise)) {}
    [[nodiscard]] const std::string& promise() const { return promise_; }

 private:
    std::string promise_;
};

class Timeline {
 public:
    using Task = std::function<void()>;

    Timeline(std::uint64_t seed, bool trace) : random(seed), trace_(trace) {}

    [[nodiscard]] Now now() const {
        return {mono_, Wall{std::chrono::duration_cast<Millis>(mono_.time_since_epoch()) + wall_}};
    }
    [[nodiscard]] Mono mono() const { return mono_; }
    [[nodiscard]] Millis wall_offset() const { return wall_; }
    [[nodiscard]] Mono wall_jumped_at() const { return jumped_; }
    void jump_wall(Millis by) {
        wall_ += by;
        jumped_ = mono_;
        walls_.emplace_back(mono_, wall_);
    }
    /// When the wall clock showed that.
    [[nodiscard]] Mono when(Wall wall) const;

    void at(Mono when, Task task);
    void after(Micros span, Task task) { at(mono_ + span, std::move(task)); }
    void run_until(Mono end);

    /// `n` times of a hundred.
    bool chance(unsigned n) { return random.between(1, 100) <= n; }
    Millis between(Millis low, Millis high);
    Micros micros(std::uint64_t low, std::uint64_t high) {
        return Micros{static_cast<Micros::rep>(random.between(low, high))};
    }

    /// A number that is used once.
    [[nodiscard]] std::uint64_t unique() { return ++unique_; }

    /// A line of the trace. It is made only where it is wanted; its hash is always part of the
    /// run's, so what it holds must not depend on anything but the seed.
    void note(std::uint64_t hash) { hash_ = (hash_ ^ hash) * 0x100000001b3ULL; }
    void note(std::string_view text) { note(std::hash<std::string_view>{}(text)); }
    [[nodiscard]] bool tracing() const { return trace_; }
    void say(const std::string& who, const std::string& what) const;
    [[nodiscard]] std::uint64_t hash() const { return hash_; }
    [[nodiscard]] std::uint64_t tasks() const { return order_; }

    Random random;

 private:
    struct Entry {
        Mono when;
        std::uint64_t order = 0;
        Task task;
        bool operator<(const Entry& other) const {  // The earliest is on top.
            return when != other.when ? when > other.when : order > other.order;
        }
    };

    std::priority_queue<Entry> tasks_;
    Mono mono_{Seconds{1000}};
    Millis wall_{1'800'000'000'000};
    Mono jumped_{};
    std::vector<std::pair<Mono, Millis>> walls_{{Mono{}, wall_}};  // Since when which offset.
    std::uint64_t order_ = 0;
    std::uint64_t unique_ = 0;
    std::uint64_t hash_ = 0xcbf29ce484222325ULL;
    bool trace_;
};

/// What is written where tracing is on: SAY(time, "edge-1", "snapshot of " << n << " values").
#define SIM_SAY(time, who, what)            \
    do {                                    \
        if ((time).tracing()) {             \
            std::ostringstream text_;       \
            text_ << what; /* NOLINT */     \
            (time).say((who), text_.str()); \
        }                                   \
    } while (false)

class Process {
 public:
    Process(Timeline& time, std::string name) : time_(time), name_(std::move(name)) {}
    virtual ~Process() = default;
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;

    /// Runs now; when it is thawed, where it is frozen; never, where it is dead. `bounded`: it is a
    /// message, and beyond the high-water mark it is lost.
    void input(Timeline::Task task, bool bounded = false);
    /// The same later, for this life of the process alone.
    void later(Micros span, Timeline::Task task);

    void start();
    void kill();
    void freeze();
    void thaw();

    [[nodiscard]] bool alive() const { return alive_; }
    [[nodiscard]] bool frozen() const { return frozen_; }
    [[nodiscard]] bool well() const { return alive_ && !frozen_; }
    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] std::uint64_t life() const { return life_; }
    [[nodiscard]] Mono thawed_at() const { return thawed_at_; }

 protected:
    virtual void on_start() = 0;
    virtual void on_kill() = 0;
    /// When its core wants to be called, and that call.
    [[nodiscard]] virtual Mono core_deadline() const = 0;
    virtual void on_timer() = 0;
    /// To be called after each input.
    void arm();

    Timeline& time_;

 private:
    void fire(std::uint64_t life);

    std::string name_;
    bool alive_ = false;
    bool frozen_ = false;
    Mono thawed_at_{};
    std::uint64_t life_ = 0;
    std::deque<Timeline::Task> waiting_;
    Mono armed_ = Mono::max();
};

}  // namespace sigmacast::sim
