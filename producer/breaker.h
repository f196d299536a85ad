// A circuit breaker (promise P7): closed until `failures` calls in a row have failed, then open for
// `reset`, then half-open: exactly one probe goes out, its success closes the breaker, its failure
// opens it again. allow_probe_now() ends the waiting early; it is for a sign of life from elsewhere
// (health.check).
//
//     if (breaker.may_call(now.mono)) { breaker.on_call(now); ... breaker.on_success(now); }
//
// FailureRounds is the transport breaker's other half: eight polls that fail in one blip are one
// failure. Pure: no clock, no I/O. Each call that can change the state returns what changed, for
// the caller to publish.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "common/settings.h"
#include "common/time.h"

namespace sigmacast::producer {

enum class BreakerState : std::uint8_t { kClosed, kOpen, kHalfOpen };
/// closed, open, half_open
std::string_view to_string(BreakerState state);

class Breaker {
 public:
    struct Transition {
        BreakerState from;
        BreakerState to;
    };

    Breaker(std::string name, BreakerSettings settings)
        : name_(std::move(name)), settings_(settings) {}

    /// Whether a call may be made: the breaker is closed, or the next call would be the probe.
    [[nodiscard]] bool may_call(Mono now) const;
    /// A call is made now. Where the breaker is open this is the probe: half-open until it has
    /// ended.
    std::optional<Transition> on_call(Now now);
    /// Closes, whatever the state: an answer is an answer.
    std::optional<Transition> on_success();
    /// `probe`: the call that failed was the probe. Other failures count while closed, and say
    /// nothing new afterwards.
    std::optional<Transition> on_failure(Now now, std::string error, bool probe);
    /// Lets the probe go at once. Only where the breaker is open.
    void allow_probe_now(Now now);

    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] BreakerState state() const { return state_; }
    /// Consecutive ones.
    [[nodiscard]] std::uint32_t failures() const { return failures_; }
    /// Since when it has not been closed; nullopt while it is.
    [[nodiscard]] const std::optional<Now>& opened_at() const { return opened_at_; }
    /// When the probe may go; nullopt unless open.
    [[nodiscard]] const std::optional<Now>& retry_at() const { return retry_at_; }
    /// Of the newest failure; kept after closing, empty when there was none.
    [[nodiscard]] const std::string& last_error() const { return last_error_; }

 private:
    Transition move_to(BreakerState state);
    void open(Now now);

    std::string name_;
    BreakerSettings settings_;
    BreakerState state_ = BreakerState::kClosed;
    std::uint32_t failures_ = 0;
    std::optional<Now> opened_at_;
    std::optional<Now> retry_at_;
    std::string last_error_;
};

/// Groups the failures of several polls so that each counts at most once in its interval: a failure
/// opens a round, which takes in the other polls' failures until one of them fails again or its
/// interval has passed.
class FailureRounds {
 public:
    /// Whether this failure is the first of a round, and so one to count.
    bool on_failure(const std::string& poll, Millis interval, Mono now);
    void on_success() { round_.clear(); }

 private:
    std::set<std::string> round_;  // Bounded by the number of polls.
    Mono started_{};
};

}  // namespace sigmacast::producer
