#include "producer/core.h"

#include <algorithm>
#include <boost/json.hpp>
#include <utility>

#include "common/codec.h"
#include "common/log.h"

namespace sigmacast::producer {
namespace {

constexpr Millis kHealthDeadline{3000};

std::vector<protocol::DeclaredPoll> declared(const std::vector<PollSettings>& polls) {
    std::vector<protocol::DeclaredPoll> list;
    for (const PollSettings& poll : polls) {
        list.push_back({poll.name, poll.topic, poll.interval, poll.deadline});
    }
    return list;
}

void take_earlier(Mono& earliest, const std::optional<Mono>& other) {
    if (other) {
        earliest = std::min(earliest, *other);
    }
}

Outcome no_answer(Millis waited) {
    return {.verdict = Verdict::kTransport,
            .value = nullptr,
            .timeout = true,
            .text = "no answer within " + format_duration(waited)};
}

std::string_view result_name(Verdict verdict) {
    switch (verdict) {
        case Verdict::kValue:
            return "ok";
        case Verdict::kUnsupported:
            return "unsupported";
        case Verdict::kTransport:
            return "transport";
        case Verdict::kNotFound:
        case Verdict::kOwn:
            break;
    }
    return "own";
}

}  // namespace

Producer::Poll::Poll(PollSettings poll_settings, BreakerSettings breaker_settings)
    : settings(std::move(poll_settings)), breaker(settings.name, breaker_settings) {
    status.name = settings.name;
    status.topic = settings.topic;
}

Producer::Producer(ProducerOptions options, Io& io, Random random)
    : settings_(std::move(options.settings)),
      io_(io),
      random_(random),
      origin_({.name = std::move(options.origin),
               .instance = std::move(options.instance),
               .epoch = options.epoch,
               .polls = declared(settings_.polls),
               .limits = {},
               .every = Millis{1000}},
              *this),
      transport_(std::string(kTransportBreaker), settings_.transport_breaker),
      answered_at_(settings_.polls.size()) {
    polls_.reserve(settings_.polls.size());
    for (const PollSettings& poll : settings_.polls) {
        polls_.emplace_back(poll, settings_.poll_breaker);
    }
}

void Producer::start(Now now) {
    origin_.start(now);
    for (const Breaker* breaker : breakers()) {
        publish_breaker(*breaker, now);
    }
    for (Poll& poll : polls_) {
        poll.due = now.mono;
        poll.start = now.mono;
    }
    on_timer(now);
}

void Producer::on_timer(Now now) {
    origin_.on_timer(now);
    if (origin_.state() == Origin::State::kConflict) {
        return;
    }
    expire_calls(now);
    for (std::size_t index = 0; index < polls_.size(); ++index) {
        if (now.mono >= polls_[index].start) {
            poll_due(index, now);
        }
    }
    probe_if_allowed(now);
    follow_up(now);
    check_health(now);
}

Mono Producer::deadline() const {
    if (origin_.state() == Origin::State::kConflict) {
        return Mono::max();
    }
    Mono earliest = origin_.deadline();
    for (const Poll& poll : polls_) {
        earliest = std::min(earliest, poll.start);
        if (poll.breaker.retry_at() && !poll.in_flight &&
            transport_.state() == BreakerState::kClosed) {
            earliest = std::min(earliest, poll.breaker.retry_at()->mono);
        }
    }
    for (const auto& [id, pending] : pending_) {
        earliest = std::min(earliest, pending.deadline);
    }
    if (transport_.retry_at() && !probe_waits_) {
        earliest = std::min(earliest, transport_.retry_at()->mono);
    }
    take_earlier(earliest, next_health_);
    take_earlier(earliest, next_follow_up());
    return earliest;
}

void Producer::on_reply(std::uint64_t id, const Result<http::Response>& reply, Now now) {
    const auto it = pending_.find(id);
    if (it == pending_.end() || origin_.state() == Origin::State::kConflict) {
        return;
    }
    const Pending pending = std::move(it->second);
    pending_.erase(it);
    // An answer that waited in front of a frozen process is no newer than the deadline it missed.
    const bool late = now.mono >= pending.deadline;
    finish(pending,
           late ? no_answer(elapsed(pending.started.mono, pending.deadline)) : judge(reply, id),
           now);
}

void Producer::on_protocol(const protocol::Any& message, Now now) {
    if (const auto keys = origin_.on_protocol(message, now)) {
        take_over(*keys, now);
    }
}

std::vector<const Breaker*> Producer::breakers() const {
    std::vector<const Breaker*> list{&transport_};
    for (const Poll& poll : polls_) {
        list.push_back(&poll.breaker);
    }
    return list;
}

std::vector<PollStatus> Producer::polls() const {
    std::vector<PollStatus> list;
    for (const Poll& poll : polls_) {
        list.push_back(poll.status);
    }
    return list;
}

bool Producer::ready() const {
    return origin_.state() != Origin::State::kConflict &&
           std::all_of(polls_.begin(), polls_.end(),
                       [](const Poll& poll) { return poll.status.ended_once; });
}

void Producer::poll_due(std::size_t index, Now now) {
    Poll& poll = polls_[index];
    // From the schedule, not from the answer; what was missed while the machine slept is not made
    // up for.
    const auto missed = (now.mono - poll.due) / poll.settings.interval;
    poll.due += poll.settings.interval * (missed + 1);
    poll.start = poll.due + random_.upto(std::min(settings_.jitter, poll.settings.interval / 2));
    if (poll.in_flight) {
        return;
    }
    const Breaker* shut = !transport_.may_call(now.mono)     ? &transport_
                          : !poll.breaker.may_call(now.mono) ? &poll.breaker
                                                             : nullptr;
    const bool waits = poll.retry_unsupported && now.mono < *poll.retry_unsupported;
    if (waits || (shut != nullptr && poll.status.unsupported)) {
        publish_unsupported(poll, now);  // Nobody has heard anything else since.
    } else if (shut != nullptr) {
        publish_not_made(poll, *shut, now);
    } else {
        make_call(index, now);
    }
}

bool Producer::may_call(const Poll& poll, Now now) const {
    return !poll.in_flight && poll.breaker.may_call(now.mono) &&
           !(poll.retry_unsupported && now.mono < *poll.retry_unsupported);
}

/// Where a breaker's time has come, its probe goes out now, and not only when the poll is next due.
void Producer::probe_if_allowed(Now now) {
    if (transport_.state() == BreakerState::kOpen && transport_.may_call(now.mono) &&
        !probe_waits_) {
        probe_waits_ = true;
        for (std::size_t tried = 0; tried < polls_.size() && probe_waits_; ++tried) {
            const std::size_t index = (next_probe_ + tried) % polls_.size();
            if (may_call(polls_[index], now)) {
                make_call(index, now);
            }
        }
    }
    if (transport_.state() != BreakerState::kClosed) {
        return;
    }
    for (std::size_t index = 0; index < polls_.size(); ++index) {
        if (polls_[index].breaker.state() == BreakerState::kOpen && may_call(polls_[index], now)) {
            make_call(index, now);
        }
    }
}

void Producer::make_call(std::size_t index, Now now) {
    Poll& poll = polls_[index];
    Pending pending;
    pending.poll = index;
    pending.started = now;
    pending.deadline = now.mono + poll.settings.deadline;
    pending.probes_transport = transport_.state() == BreakerState::kOpen;
    pending.probes_poll = poll.breaker.state() == BreakerState::kOpen;
    if (pending.probes_transport) {
        next_probe_ = (index + 1) % polls_.size();
        probe_waits_ = false;
    }
    on_transition(transport_, transport_.on_call(now), now);
    on_transition(poll.breaker, poll.breaker.on_call(now), now);
    poll.in_flight = next_call_;
    send_call(std::move(pending), poll.settings.method, poll.settings.params);
}

/// The engine is back: nobody waits for the schedule.
void Producer::call_all_but(std::size_t index, Now now) {
    for (std::size_t other = 0; other < polls_.size(); ++other) {
        if (other != index && may_call(polls_[other], now)) {
            make_call(other, now);
        }
    }
}

void Producer::send_call(Pending pending, std::string_view method, std::string_view params) {
    const std::uint64_t id = next_call_++;
    const Mono deadline = pending.deadline;
    pending_.emplace(id, std::move(pending));
    io_.call({.id = id, .body = rpc_request(id, method, params), .deadline = deadline});
}

void Producer::expire_calls(Now now) {
    std::vector<Pending> expired;
    for (auto it = pending_.begin(); it != pending_.end();) {
        if (now.mono >= it->second.deadline) {
            expired.push_back(std::move(it->second));
            it = pending_.erase(it);
        } else {
            ++it;
        }
    }
    for (const Pending& pending : expired) {
        finish(pending, no_answer(elapsed(pending.started.mono, pending.deadline)), now);
    }
}

void Producer::finish(const Pending& pending, Outcome outcome, Now now) {
    switch (pending.purpose) {
        case Purpose::kPoll:
            finish_poll(pending, std::move(outcome), now);
            break;
        case Purpose::kFollowUp:
            finish_follow_up(pending, outcome, now);
            break;
        case Purpose::kHealth:
            finish_health(outcome, now);
            break;
    }
}

void Producer::finish_poll(const Pending& pending, Outcome outcome, Now now) {
    Poll& poll = polls_[pending.poll];
    const bool engine_was_away = transport_.state() != BreakerState::kClosed;
    poll.in_flight.reset();
    if (outcome.verdict != Verdict::kTransport) {
        count_answer(pending.poll, now);
    }
    if (outcome.ok()) {
        outcome = take_value(pending.poll, std::move(outcome), now);
    }
    io_.on_poll_ended(poll.settings.name, result_name(outcome.verdict),
                      elapsed(pending.started.mono, now.mono));
    if (outcome.verdict == Verdict::kUnsupported) {
        on_transition(poll.breaker, poll.breaker.on_success(), now);
        poll.retry_unsupported = now.mono + settings_.unsupported_retry;
        if (!poll.status.unsupported) {
            log_info("the engine does not support this poll; it will be tried again",
                     {{"poll", poll.settings.name},
                      {"method", poll.settings.method},
                      {"every", format_duration(settings_.unsupported_retry)}});
        }
        publish_unsupported(poll, now);
    } else if (!outcome.ok()) {
        count_failure(pending, outcome, now);
        publish_failure(poll, outcome, now);
    }
    poll.failed_call.reset();
    if (!outcome.ok() && outcome.verdict != Verdict::kUnsupported) {
        poll.failed_call = pending.started.mono;
    }
    if (engine_was_away && transport_.state() == BreakerState::kClosed) {
        call_all_but(pending.poll, now);
    }
}

/// Publishes what the answer says. An answer that cannot be used comes back as the poll's own
/// failure, and nothing of it has been published.
Outcome Producer::take_value(std::size_t index, Outcome outcome, Now now) {
    Poll& poll = polls_[index];
    const auto unusable = [](std::string text) {
        return Outcome{
            .verdict = Verdict::kOwn, .value = nullptr, .timeout = false, .text = std::move(text)};
    };
    Result<Mapped> mapped = map_answer(poll.settings, outcome.value, now);
    if (!mapped) {
        return unusable("the engine's answer cannot be used: " + mapped.error().message);
    }
    if (mapped->values.size() == 1) {
        lifecycle_.keep_unlisted(poll.settings.name, poll.settings.topic, mapped->values[0].data);
    }
    std::vector<Bytes> changed;
    for (const MappedValue& value : mapped->values) {
        const boost::json::object* last = differ_.last(poll.settings.topic, value.key);
        if (last != nullptr && same_value(*last, value.data, poll.settings.ignore)) {
            changed.push_back(nullptr);
            continue;
        }
        auto bytes = std::make_shared<const std::string>(to_msgpack(value.data));
        const Result<> fits = check_map(*bytes);
        if (!fits) {
            return unusable("the value of key '" + value.key +
                            "' cannot be sent: " + fits.error().message);
        }
        changed.push_back(std::move(bytes));
    }
    on_transition(poll.breaker, poll.breaker.on_success(), now);
    publish_answer(index, *mapped, changed, now);
    return outcome;
}

/// Whatever the engine said: it was reached.
void Producer::count_answer(std::size_t index, Now now) {
    answered_at_[index] = now.mono;
    rounds_.on_success();
    on_transition(transport_, transport_.on_success(), now);
}

/// A failure counts once, in one of the two breakers; a probe's failure in each that it was the
/// probe of.
void Producer::count_failure(const Pending& pending, const Outcome& outcome, Now now) {
    Poll& poll = polls_[pending.poll];
    // While the engine answers others, it is this method that fails.
    const Mono since = poll.failed_call.value_or(pending.started.mono);
    const bool own =
        outcome.verdict != Verdict::kTransport || another_answered_since(pending.poll, since);
    if (own || pending.probes_poll) {
        on_transition(poll.breaker, poll.breaker.on_failure(now, outcome.text, pending.probes_poll),
                      now);
    }
    if (outcome.verdict != Verdict::kTransport || (own && !pending.probes_transport)) {
        return;
    }
    const bool counts = rounds_.on_failure(poll.settings.name, poll.settings.interval, now.mono);
    if (counts || pending.probes_transport) {
        on_transition(transport_,
                      transport_.on_failure(now, outcome.text, pending.probes_transport), now);
    }
}

bool Producer::another_answered_since(std::size_t index, Mono since) const {
    for (std::size_t other = 0; other < answered_at_.size(); ++other) {
        if (other != index && answered_at_[other] && *answered_at_[other] > since) {
            return true;
        }
    }
    return false;
}

void Producer::check_health(Now now) {
    if (!next_health_ || now.mono < *next_health_) {
        return;
    }
    next_health_ = now.mono + settings_.health_interval;
    const bool under_way = std::any_of(pending_.begin(), pending_.end(), [](const auto& entry) {
        return entry.second.purpose == Purpose::kHealth;
    });
    if (under_way) {
        return;
    }
    Pending pending;
    pending.purpose = Purpose::kHealth;
    pending.started = now;
    pending.deadline = now.mono + std::min(kHealthDeadline, settings_.health_interval);
    send_call(std::move(pending), "health.check", "");
}

void Producer::finish_health(const Outcome& outcome, Now now) {
    // An engine that does not know health.check has answered, too.
    if (transport_.state() != BreakerState::kOpen ||
        (!outcome.ok() && outcome.verdict != Verdict::kUnsupported)) {
        return;
    }
    transport_.allow_probe_now(now);
    probe_waits_ = false;
    probe_if_allowed(now);
}

}  // namespace sigmacast::producer
