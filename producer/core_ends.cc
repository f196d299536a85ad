// Keys that end: a complete list that lacks a key starts a follow-up, whose answer is the key's
// last value.
#include <algorithm>
#include <boost/json.hpp>
#include <utility>

#include "common/codec.h"
#include "common/log.h"
#include "producer/core.h"

namespace sigmacast::producer {
namespace {

namespace json = boost::json;

constexpr std::string_view kFollowUpMethod = "compression.queue.status";

json::object from_msgpack(const Bytes& data) {
    std::string text;
    if (!data || !append_json(text, *data)) {
        return {};
    }
    Result<json::value> value = parse_json(text);
    return value && value->is_object() ? std::move(value->get_object()) : json::object();
}

json::object unknown_end() {
    return {{"status", "unknown"}};
}

}  // namespace

void Producer::note_keys(std::size_t index, const Mapped& mapped, Now now) {
    Poll& poll = polls_[index];
    if (!has_ends(poll.settings)) {
        return;
    }
    std::set<std::string> listed;
    for (const MappedValue& value : mapped.values) {
        if (!value.key.empty()) {  // The summary never ends.
            listed.insert(value.key);
            endings_.erase({index, value.key});
            inherited_.erase({poll.settings.topic, value.key});
            told_.erase({poll.settings.topic, value.key});
        }
    }
    std::set<std::string> before = std::exchange(poll.live_keys, std::move(listed));
    if (mapped.complete) {
        for (const std::string& key : before) {
            if (!poll.live_keys.contains(key)) {
                key_missing(index, key, now);
            }
        }
    } else if (before.size() + poll.live_keys.size() <= kKeysMax) {
        poll.live_keys.merge(before);
    }
}

void Producer::key_missing(std::size_t index, const std::string& key, Now now) {
    const EndingId id{index, key};
    Ending ending;
    ending.last_known = take_last_known(polls_[index].settings.topic, key);
    ending.next_try = now.mono;
    const bool room = endings_.size() < kEndsMax;
    endings_.emplace(id, std::move(ending));
    if (!room) {
        log_warn("too many ends at once; this one is told without asking",
                 {{"poll", polls_[index].settings.name}, {"key", key}});
        tell_end(id, nullptr, now);
    }
}

json::object Producer::take_last_known(const std::string& topic, const std::string& key) {
    if (const json::object* last = differ_.last(topic, key)) {
        return *last;
    }
    const auto inherited = inherited_.find({topic, key});
    if (inherited == inherited_.end()) {
        return {};
    }
    json::object data = from_msgpack(inherited->second);
    inherited_.erase(inherited);
    return data;
}

/// Keys that the broker holds, from before this start: those that the next complete list lacks have
/// ended, and the breakers of polls that are configured no more. Other state is what the first
/// answer is compared with.
void Producer::take_over(const std::vector<protocol::LiveKey>& keys, Now now) {
    for (const protocol::LiveKey& key : keys) {
        if (key.topic == kBreakerTopic && key.poll.empty()) {
            end_breaker(key, now);
        }
        for (std::size_t index = 0; index < polls_.size(); ++index) {
            Poll& poll = polls_[index];
            const std::pair<std::string, std::string> name{key.topic, key.key};
            if (poll.settings.name != key.poll || poll.settings.topic != key.topic) {
                continue;
            }
            if (!has_ends(poll.settings)) {
                inherit(poll.settings, key, now);
                continue;
            }
            if (key.key.empty() || told_.contains(name) || endings_.contains({index, key.key}) ||
                poll.live_keys.size() >= kKeysMax) {
                continue;
            }
            if (poll.live_keys.insert(key.key).second) {
                inherited_[name] = key.data;
            }
        }
    }
}

void Producer::inherit(const PollSettings& poll, const protocol::LiveKey& key, Now now) {
    if (key.data && key.key == poll.key) {
        publish_lifecycle(lifecycle_.inherit(poll.name, poll.topic, from_msgpack(key.data)), now);
    }
}

void Producer::end_breaker(const protocol::LiveKey& key, Now now) {
    const auto all = breakers();
    const bool ours = std::any_of(
        all.begin(), all.end(), [&](const Breaker* breaker) { return breaker->name() == key.key; });
    if (!ours && !told_.contains({key.topic, key.key})) {
        publish_final(key.topic, "", key.key, from_msgpack(key.data), AsOf{now.wall, now.mono},
                      now);
    }
}

void Producer::follow_up(Now now) {
    if (transport_.state() != BreakerState::kClosed) {
        return;
    }
    for (auto& [id, ending] : endings_) {
        if (follow_ups_in_flight_ >= kFollowUpsInFlight) {
            return;
        }
        if (ending.in_flight || now.mono < ending.next_try) {
            continue;
        }
        Pending pending;
        pending.purpose = Purpose::kFollowUp;
        pending.poll = id.first;
        pending.key = id.second;
        pending.started = now;
        pending.deadline = now.mono + polls_[id.first].settings.deadline;
        ending.in_flight = true;
        ++follow_ups_in_flight_;
        send_call(std::move(pending), kFollowUpMethod,
                  json::serialize(json::object{{"job_id", id.second}}));
    }
}

std::optional<Mono> Producer::next_follow_up() const {
    if (transport_.state() != BreakerState::kClosed ||
        follow_ups_in_flight_ >= kFollowUpsInFlight) {
        return std::nullopt;
    }
    std::optional<Mono> earliest;
    for (const auto& [id, ending] : endings_) {
        if (!ending.in_flight && (!earliest || ending.next_try < *earliest)) {
            earliest = ending.next_try;
        }
    }
    return earliest;
}

void Producer::finish_follow_up(const Pending& pending, const Outcome& outcome, Now now) {
    --follow_ups_in_flight_;
    const EndingId id{pending.poll, pending.key};
    const auto it = endings_.find(id);
    if (it == endings_.end() || !it->second.in_flight) {
        return;  // The key has come back in a list.
    }
    Ending& ending = it->second;
    Poll& poll = polls_[pending.poll];
    ending.in_flight = false;
    if (outcome.ok() && outcome.value.is_object()) {
        const json::object& answer = outcome.value.get_object();
        if (still_runs(answer)) {
            // It was between two lists. The next one that lacks it asks again.
            differ_.update(poll.settings.topic, pending.key, ending.last_known, {});
            poll.live_keys.insert(pending.key);
            endings_.erase(it);
            return;
        }
        tell_end(id, &answer, now);
        return;
    }
    const bool gone =
        outcome.verdict == Verdict::kNotFound || outcome.verdict == Verdict::kUnsupported;
    if (gone || ++ending.tries >= kFollowUpTries) {
        tell_end(id, nullptr, now);
    } else {
        ending.next_try = now.mono + poll.settings.interval;
    }
}

/// The one last value of a key. An end that is not known is as old as the last list.
void Producer::tell_end(const EndingId& id, const json::object* answer, Now now) {
    const auto it = endings_.find(id);
    json::object data =
        job_end(std::move(it->second.last_known), answer != nullptr ? *answer : unknown_end());
    endings_.erase(it);
    data["job_id"] = id.second;
    const AsOf asked{now.wall, now.mono};
    const PollSettings& settings = polls_[id.first].settings;
    publish_final(settings.topic, settings.name, id.second, data,
                  answer != nullptr ? asked : polls_[id.first].status.as_of.value_or(asked), now);
}

}  // namespace sigmacast::producer
