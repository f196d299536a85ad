#include "producer/breaker.h"

#include <utility>

namespace sigmacast::producer {

std::string_view to_string(BreakerState state) {
    switch (state) {
        case BreakerState::kClosed:
            return "closed";
        case BreakerState::kOpen:
            return "open";
        case BreakerState::kHalfOpen:
            break;
    }
    return "half_open";
}

bool Breaker::may_call(Mono now) const {
    return state_ == BreakerState::kClosed ||
           (state_ == BreakerState::kOpen && now >= retry_at_->mono);
}

std::optional<Breaker::Transition> Breaker::on_call(Now) {
    if (state_ != BreakerState::kOpen) {
        return std::nullopt;
    }
    retry_at_.reset();
    return move_to(BreakerState::kHalfOpen);
}

std::optional<Breaker::Transition> Breaker::on_success() {
    failures_ = 0;
    if (state_ == BreakerState::kClosed) {
        return std::nullopt;
    }
    opened_at_.reset();
    retry_at_.reset();
    return move_to(BreakerState::kClosed);
}

std::optional<Breaker::Transition> Breaker::on_failure(Now now, std::string error, bool probe) {
    if (state_ == BreakerState::kOpen || (state_ == BreakerState::kHalfOpen && !probe)) {
        return std::nullopt;  // Of a call that was under way when the breaker opened.
    }
    ++failures_;
    last_error_ = std::move(error);
    if (state_ == BreakerState::kClosed && failures_ < settings_.failures) {
        return std::nullopt;
    }
    open(now);
    return move_to(BreakerState::kOpen);
}

void Breaker::allow_probe_now(Now now) {
    if (state_ == BreakerState::kOpen && now.mono < retry_at_->mono) {
        retry_at_ = now;
    }
}

Breaker::Transition Breaker::move_to(BreakerState state) {
    return {std::exchange(state_, state), state};
}

void Breaker::open(Now now) {
    if (!opened_at_) {
        opened_at_ = now;
    }
    retry_at_ = Now{now.mono + settings_.reset, now.wall + settings_.reset};
}

bool FailureRounds::on_failure(const std::string& poll, Millis interval, Mono now) {
    const bool same_round =
        !round_.empty() && !round_.contains(poll) && elapsed(started_, now) < interval;
    if (!same_round) {
        round_.clear();
        started_ = now;
    }
    round_.insert(poll);
    return !same_round;
}

}  // namespace sigmacast::producer
