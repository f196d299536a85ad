// What the producer says: values, events, reports and breakers.
#include <boost/json.hpp>
#include <utility>

#include "common/codec.h"
#include "common/log.h"
#include "producer/core.h"

namespace sigmacast::producer {
namespace {

namespace json = boost::json;

constexpr std::string_view kEngine = "engine";  // The hop that failed, as reports name it.

json::value time_or_null(const std::optional<Now>& time) {
    return time ? json::value(to_rfc3339(time->wall)) : json::value();
}

Message value_message(std::string topic, std::string key, std::string poll, Bytes data,
                      const std::optional<AsOf>& as_of) {
    Message message;
    message.kind = Kind::kValue;
    message.topic = std::move(topic);
    message.key = std::move(key);
    message.poll = std::move(poll);
    message.age.quality = Quality::kLive;
    message.age.as_of = as_of;
    message.data = std::move(data);
    return message;
}

Bytes pack(const json::object& data) {
    return std::make_shared<const std::string>(to_msgpack(data));
}

}  // namespace

void Producer::publish_answer(std::size_t index, const Mapped& mapped,
                              const std::vector<Bytes>& changed, Now now) {
    Poll& poll = polls_[index];
    note_keys(index, mapped, now);
    poll.status.as_of = AsOf{now.wall, now.mono};
    poll.reported_keys.reset();
    poll.complete = mapped.complete;
    if (mapped.keyed) {
        poll.reported_keys.emplace();
    }
    for (std::size_t i = 0; i < mapped.values.size(); ++i) {
        const MappedValue& value = mapped.values[i];
        if (mapped.keyed) {
            poll.reported_keys->push_back(value.key);
        }
        if (!changed[i]) {
            continue;
        }
        differ_.update(poll.settings.topic, value.key, value.data, poll.settings.ignore);
        const auto seq =
            origin_.push(value_message(poll.settings.topic, value.key, poll.settings.name,
                                       changed[i], poll.status.as_of),
                         now);
        poll.newest_seq = seq.value_or(poll.newest_seq);
    }
    if (mapped.values.size() == 1) {  // After the state that they lead to.
        publish_lifecycle(
            lifecycle_.take(poll.settings.name, poll.settings.topic, mapped.values[0].data), now);
    }
    if (poll.status.failures > 0) {
        log_info("poll answers again",
                 {{"poll", poll.settings.name}, {"failures", poll.status.failures}});
    }
    poll.retry_unsupported.reset();
    poll.status.ok = true;
    poll.status.unsupported = false;
    poll.status.code.clear();
    poll.status.message.clear();
    poll.status.failures = 0;
    publish_report(poll, std::nullopt, now);
}

void Producer::publish_failure(Poll& poll, const Outcome& outcome, Now now) {
    const bool transport = outcome.verdict == Verdict::kTransport;
    poll.retry_unsupported.reset();
    poll.status.ok = false;
    poll.status.unsupported = false;
    poll.status.code = transport ? "RPC_DISCONNECT" : poll.settings.error_code;
    poll.status.message = outcome.text;
    ++poll.status.failures;
    if (poll.status.failures == 1) {
        log_warn("poll fails", {{"poll", poll.settings.name},
                                {"code", poll.status.code},
                                {"error", poll.status.message}});
    }
    publish_rpc_error(poll, now);
    publish_report(poll, next_try(poll, now), now);
}

void Producer::publish_unsupported(Poll& poll, Now now) {
    poll.status.ok = false;
    poll.status.unsupported = true;
    poll.status.code = "METHOD_NOT_FOUND";
    poll.status.message = "the engine has no method " + poll.settings.method;
    poll.status.failures = 0;
    std::optional<Wall> retry_at = next_try(poll, now);
    if (poll.retry_unsupported && now.mono < *poll.retry_unsupported) {
        retry_at = now.wall + elapsed(now.mono, *poll.retry_unsupported);
    }
    publish_report(poll, retry_at, now);
}

void Producer::publish_not_made(Poll& poll, const Breaker& breaker, Now now) {
    poll.status.ok = false;
    poll.status.unsupported = false;
    poll.status.code = "CIRCUIT_BREAKER_OPEN";
    poll.status.message = "breaker " + breaker.name() + " is open: " + breaker.last_error();
    publish_report(poll, next_try(poll, now), now);
}

/// When this poll will be made next: at the breaker's time where one is open, else as scheduled.
std::optional<Wall> Producer::next_try(const Poll& poll, Now now) const {
    if (poll.breaker.retry_at()) {
        return poll.breaker.retry_at()->wall;
    }
    if (transport_.retry_at()) {
        return transport_.retry_at()->wall;
    }
    return now.wall + elapsed(now.mono, poll.start);
}

void Producer::publish_report(Poll& poll, std::optional<Wall> retry_at, Now now) {
    poll.status.ended_once = true;
    Report report;
    report.poll = poll.settings.name;
    report.topic = poll.settings.topic;
    report.ok = poll.status.ok;
    report.as_of = poll.status.as_of;
    report.code = poll.status.code;
    report.source = poll.status.ok ? "" : kEngine;
    report.message = poll.status.message;
    report.failures = poll.status.failures;
    report.retry_at = retry_at;
    report.unsupported = poll.status.unsupported;
    report.keys = poll.reported_keys;  // They belong to as_of, and are repeated with it.
    report.complete = poll.complete;
    if (poll.newest_seq > 0) {
        // Also where nothing changed, or the poll failed: as_of is repeated, and a report that
        // overtakes a lost value would make the one before it look as fresh.
        report.after.push_back({poll.settings.topic, poll.newest_seq});
    }
    report.interval = poll.settings.interval;
    report.deadline = poll.settings.deadline;
    Message message;
    message.kind = Kind::kReport;
    message.topic = report_topic(poll.settings.name);
    message.poll = poll.settings.name;
    message.detail = std::move(report);
    (void)origin_.push(std::move(message), now);
}

void Producer::publish_final(const std::string& topic, const std::string& poll,
                             const std::string& key, const json::object& data, const AsOf& as_of,
                             Now now) {
    Message message = value_message(topic, key, poll, pack(data), as_of);
    message.final = true;
    differ_.forget(topic, key);
    if (const auto seq = origin_.push(std::move(message), now)) {
        told_[{topic, key}] = *seq;
    }
    std::erase_if(told_, [&](const auto& entry) {
        return entry.second <= origin_.durable(entry.first.first);
    });
}

void Producer::publish_lifecycle(std::vector<LifecycleEvent> events, Now now) {
    for (LifecycleEvent& event : events) {
        event.data["timestamp"] = unix_seconds(now.wall);
        publish_event(std::string(event.topic), event.data, now);
    }
}

void Producer::publish_event(const std::string& topic, const json::object& data, Now now) {
    Message message;
    message.kind = Kind::kEvent;
    message.topic = topic;
    message.age.quality = Quality::kLive;
    message.age.as_of = AsOf{now.wall, now.mono};
    message.data = pack(data);
    if (!origin_.push(std::move(message), now) && origin_.state() != Origin::State::kConflict) {
        (void)origin_.lose(topic);  // The broker writes a gap in its place.
    }
}

void Producer::publish_rpc_error(Poll& poll, Now now) {
    const bool due = poll.status.failures == 1 || !poll.last_rpc_error ||
                     elapsed(*poll.last_rpc_error, now.mono) >= settings_.rpc_error_interval;
    if (!due) {
        return;
    }
    poll.last_rpc_error = now.mono;
    json::object data;
    data["reason"] = "rpc_disconnect";
    // The poll's own code, also where the engine is away: this is what the original's clients look
    // for.
    data["error_code"] = poll.settings.error_code;
    data["consecutive_failures"] = poll.status.failures;
    data["poll"] = poll.settings.name;
    data["message"] = poll.status.message;
    data["timestamp"] = unix_seconds(now.wall);
    publish_event("rpc_error", data, now);
}

void Producer::publish_breaker(const Breaker& breaker, Now now) {
    json::object data;
    data["name"] = breaker.name();
    data["state"] = to_string(breaker.state());
    data["consecutive_failures"] = breaker.failures();
    data["opened_at"] = time_or_null(breaker.opened_at());
    data["retry_at"] = time_or_null(breaker.retry_at());
    data["last_error"] =
        breaker.last_error().empty() ? json::value() : json::value(breaker.last_error());
    if (differ_.update(std::string(kBreakerTopic), breaker.name(), data, {})) {
        (void)origin_.push(value_message(std::string(kBreakerTopic), breaker.name(), "", pack(data),
                                         AsOf{now.wall, now.mono}),
                           now);
    }
}

/// To be called after each call into a breaker: publishes what has changed.
void Producer::on_transition(const Breaker& breaker, std::optional<Breaker::Transition> transition,
                             Now now) {
    publish_breaker(breaker, now);
    if (!transition) {
        return;
    }
    if (&breaker == &transport_) {
        probe_waits_ = false;
        next_health_.reset();
        if (transition->to == BreakerState::kOpen && settings_.health_interval > Millis{0}) {
            next_health_ = now.mono + settings_.health_interval;
        }
    }
    const std::string state(to_string(transition->to));
    log_info("breaker is " + state, {{"breaker", breaker.name()},
                                     {"failures", breaker.failures()},
                                     {"error", breaker.last_error()}});
    json::object data;
    data["breaker"] = breaker.name();
    data["failures"] = breaker.failures();
    data["retry_at"] = time_or_null(breaker.retry_at());
    data["reason"] = transition->to == BreakerState::kClosed ? "" : breaker.last_error();
    data["timestamp"] = unix_seconds(now.wall);
    publish_event("circuit_breaker." + state, data, now);
}

}  // namespace sigmacast::producer
