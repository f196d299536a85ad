#include "edge/cache.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "common/codec.h"

namespace sigmacast::edge {
namespace {

constexpr const char* kNotListed = "NOT_LISTED";

bool named(const std::vector<std::string>& keys, const std::string& key) {
    return keys.empty() || std::find(keys.begin(), keys.end(), key) != keys.end();
}

/// Quality and why, without the time.
void take_quality(Age& age, const Age& from) {
    age.quality = from.quality;
    age.reason = from.reason;
    age.source = from.source;
    age.retry_at = from.retry_at;
}

void take_quality(Value& value, const Age& from) {
    if (!value.outdated) {
        take_quality(value.age, from);
    }
}

void take_newer(Value& value, const std::optional<AsOf>& as_of) {
    Age& age = value.age;
    if (!value.outdated && as_of && (!age.as_of || age.as_of->mono < as_of->mono)) {
        age.as_of = as_of;
        age.uncertain = false;
    }
}

/// What a newer one that cannot be kept leaves: the last good value, and no report makes it young.
void outdate(Value& value, const char* reason) {
    value.outdated = true;
    value.age.quality = Quality::kStale;
    value.age.reason = reason;
    value.age.source = "edge";
    value.age.retry_at.reset();
}

std::size_t bytes_of(const Value& value) {
    return value.json->size() + (value.data ? value.data->size() : 0);
}

/// The keys that a report names; all where it names none. The report outlives it.
class Named {
 public:
    explicit Named(const Report& report) : all_(!report.keys) {
        if (report.keys) {
            keys_.insert(report.keys->begin(), report.keys->end());
        }
    }
    bool operator()(const std::string& key) const { return all_ || keys_.contains(key); }

 private:
    bool all_;
    std::set<std::string_view> keys_;
};

/// A key that a good list lacks is followed up, and its end is told in a moment; what lists do not
/// name for long (nobody answers the follow-up, or each is cut off before it) nobody vouches for.
/// (A poll that is not live says why itself, of all its keys.)
bool vouches(const Cache::Poll& poll, const Named& named, const Value& value) {
    if (named(value.key) || (!poll.is_state() && poll.state.age.quality != Quality::kLive)) {
        return true;
    }
    const Report& report = poll.state.report;
    return !poll.is_state() && value.age.as_of && report.as_of &&
           elapsed(value.age.as_of->mono, report.as_of->mono) <
               report.interval + Cache::kUnlistedMax;
}

/// By position where both have one. What is not logged has none: then by the time at which it was
/// made, and by that of the answer too, as a clock that was set back makes nothing older.
bool is_older(const Message& message, const Value& kept) {
    if (message.seq != 0 && kept.seq != 0 && message.epoch == kept.epoch) {
        return message.seq < kept.seq;
    }
    const bool answered_later =
        message.age.as_of && kept.age.as_of && message.age.as_of->mono >= kept.age.as_of->mono;
    return message.at < kept.at && !answered_later;
}

/// Each instance of a producer counts its reports from 1: two of the same number are told apart by
/// their answers.
bool is_newer(const PollState& state, const PollState& known) {
    const auto& as_of = state.report.as_of;
    const auto& before = known.report.as_of;
    return state.report_seq != known.report_seq ||
           (as_of && (!before || as_of->wall != before->wall));
}

}  // namespace

const Stream* Cache::stream(std::string_view origin, std::string_view topic) {
    std::pair<std::string, std::string> name{origin, topic};
    const auto it = streams_.find(name);
    if (it != streams_.end()) {
        return it->second.get();
    }
    if (streams_.size() >= kStreamsMax) {
        return nullptr;
    }
    auto made = std::make_unique<Stream>(Stream{name.first, name.second});
    topic_names_.insert(name.second);
    return streams_.emplace(std::move(name), std::move(made)).first->second.get();
}

const Stream* Cache::find_stream(std::string_view origin, std::string_view topic) const {
    const auto it = streams_.find(std::pair<std::string, std::string>{origin, topic});
    return it == streams_.end() ? nullptr : it->second.get();
}

Result<std::shared_ptr<Value>> Cache::make_value(const Message& message) {
    const Stream* of = stream(message.origin, message.topic);
    if (!of) {
        return Error{Errc::kFull, "more than " + std::to_string(kStreamsMax) +
                                      " streams: " + message.topic + " is not served"};
    }
    std::string json;
    if (message.data) {
        if (const auto written = append_json(json, *message.data); !written) {
            return written.error().within(message.topic + " of " + message.origin);
        }
    }
    const bool data = json.starts_with('{');
    if (!data) {
        json = "{}";
    }
    if (has_member(json, {"timestamp"})) {
        json = without_members(json, {"timestamp"});
    }
    auto value = std::make_shared<Value>();
    value->kind = message.kind;
    value->stream = of;
    value->key = message.key;
    value->poll = message.poll;
    value->epoch = message.epoch;
    value->seq = message.seq;
    value->pos = message.pos;
    value->age = message.age;
    value->final = message.final;
    value->durable = message.durable;
    value->at = message.at;
    value->reserved =
        message.kind == Kind::kValue && has_member(json, {"stale", "error_code", "last_update"});
    value->data = data ? message.data : nullptr;
    value->json = std::make_shared<const std::string>(std::move(json));
    if (value->age.quality == Quality::kInitial) {
        value->age.quality = Quality::kLive;  // A value is live when it arrives.
    }
    return value;
}

Result<std::shared_ptr<const Value>> Cache::put(const Message& message) {
    const bool state = message.kind == Kind::kValue;
    Value* before = state ? entry(message.origin, message.topic, message.key) : nullptr;
    if (before && is_older(message, *before)) {
        return std::shared_ptr<const Value>();
    }
    auto made = make_value(message);
    if (!made) {
        if (before) {
            outdate(*before, "NOT_ENCODABLE");
        }
        return made.error();
    }
    std::shared_ptr<Value> value = std::move(made.value());
    if (!state) {
        return std::shared_ptr<const Value>(std::move(value));
    }
    set_pos(message.pos);
    value->slot = before ? before->slot : next_slot_++;
    if (value->final) {
        erase(*value->stream, value->key);
    } else {
        keep(value);
    }
    const auto known = poll_index_.find({message.origin, value->poll});
    Poll* poll = known != poll_index_.end() ? known->second : nullptr;
    if (!poll && !value->poll.empty()) {  // Neither report nor head has named it yet.
        PollState first;
        first.origin = message.origin;
        first.report.poll = value->poll;
        first.report.topic = message.topic;
        first.age = value->age;
        poll = make_poll(std::move(first));
    }
    if (poll) {
        Age& age = poll->state.age;
        if (age.quality == Quality::kInitial || age.quality == Quality::kDown) {
            age = value->age;  // It never had a value; its report says so, too, if it arrives.
        }
    }
    return std::shared_ptr<const Value>(std::move(value));
}

void Cache::keep(std::shared_ptr<Value> value) {
    Entries& entries = topics_[value->stream->topic][value->stream->origin];
    auto& place = entries[value->key];
    const std::size_t before = place ? bytes_of(*place) : 0;
    const std::size_t bytes = bytes_of(*value);
    const bool room = (place || entries_ < kEntriesMax) && bytes_ - before + bytes <= bytes_max_;
    if (!room) {
        ++not_kept_;
        if (place) {
            outdate(*place, "EDGE_FULL");
        } else {
            entries.erase(value->key);
        }
        return;
    }
    entries_ += place ? 0u : 1u;
    bytes_ += bytes;
    bytes_ -= before;
    place = std::move(value);
}

void Cache::erase(const Stream& of, const std::string& key) {
    const auto topic = topics_.find(of.topic);
    if (topic == topics_.end()) {
        return;
    }
    const auto origin = topic->second.find(of.origin);
    if (origin == topic->second.end()) {
        return;
    }
    const auto entry = origin->second.find(key);
    if (entry == origin->second.end()) {
        return;
    }
    bytes_ -= bytes_of(*entry->second);
    --entries_;
    origin->second.erase(entry);
}

const Cache::Entries* Cache::find(std::string_view origin, std::string_view topic) const {
    const auto of = topics_.find(topic);
    if (of == topics_.end()) {
        return nullptr;
    }
    const auto entries = of->second.find(origin);
    return entries == of->second.end() ? nullptr : &entries->second;
}

const Value* Cache::find(std::string_view origin, std::string_view topic,
                         std::string_view key) const {
    return entry(origin, topic, key);
}

Value* Cache::entry(std::string_view origin, std::string_view topic, std::string_view key) const {
    const Entries* entries = find(origin, topic);
    if (!entries) {
        return nullptr;
    }
    const auto found = entries->find(std::string(key));
    return found == entries->end() ? nullptr : found->second.get();
}

const Cache::Poll* Cache::find_poll(std::string_view origin, std::string_view poll) const {
    const auto known = poll_index_.find({std::string(origin), std::string(poll)});
    return known == poll_index_.end() ? nullptr : known->second;
}

Cache::TransitionChange Cache::transition(const Message& message) {
    set_pos(message.pos);
    TransitionChange change;
    const auto known = poll_index_.find({message.origin, message.poll});
    const Poll* poll = known == poll_index_.end() ? nullptr : known->second;
    if (poll) {
        take_quality(known->second->state.age, message.age);
    }
    change.poll = poll;
    const Entries* entries = find(message.origin, message.topic);
    if (!entries) {
        return change;
    }
    const bool is_state = is_state_poll(message.poll);
    const Report none;
    const Named listed(poll ? poll->state.report : none);
    for (const auto& [key, value] : *entries) {
        if (value->poll != message.poll || !named(message.keys, key)) {
            continue;
        }
        if (poll && !is_state && !vouches(*poll, listed, *value)) {
            change.left.push_back(key);
            take_quality(*value, left_age(*poll));
            continue;
        }
        take_quality(*value, message.age);
        // Clients take it from the transition, too. (A poll's own report knows which keys it has
        // seen.)
        if (is_state) {
            take_newer(*value, message.age.as_of);
        }
    }
    return change;
}

Cache::Poll* Cache::make_poll(PollState state) {
    const Stream* of = stream(state.origin, state.report.topic);
    if (!of || polls_.size() >= kPollsMax) {
        return nullptr;
    }
    auto made = std::make_unique<Poll>();
    made->state = std::move(state);
    made->stream = of;
    made->transition_slot = next_slot_++;
    made->tick_slot = next_slot_++;
    poll_index_[{made->state.origin, made->state.report.poll}] = made.get();
    return polls_.emplace_back(std::move(made)).get();
}

Cache::PollChange Cache::poll(const PollState& state) {
    PollChange change;
    if (state.report.poll.empty() || state.report.topic.empty()) {
        return change;
    }
    const auto known = poll_index_.find({state.origin, state.report.poll});
    if (known == poll_index_.end()) {
        change.poll = make_poll(state);
        change.quality_changed = true;
        change.new_report = state.report_seq != 0;
    } else {
        change.poll = known->second;
        const Age& before = change.poll->state.age;
        change.quality_changed = !same_quality(before, state.age);
        change.new_report = is_newer(state, change.poll->state);
        change.poll->state = state;
        if (const Stream* of = stream(state.origin, state.report.topic)) {
            change.poll->stream = of;  // It may feed another topic than it did.
        }
    }
    if (!change.poll) {
        return {};
    }
    if (change.new_report) {
        change.confirms = apply_report(state.report, state.origin);
    }
    if (change.quality_changed || change.new_report) {
        apply_quality(change);
    }
    return change;
}

/// Whether it says of a value that it is newer than it says itself. Values of the same answer came
/// before it, and those that ended since are of none. Of what is not kept here it says so, too.
bool Cache::apply_report(const Report& report, const std::string& origin) {
    if (!report.ok) {
        return false;
    }
    const Entries* entries = find(origin, report.topic);
    const Named named(report);
    std::size_t kept = 0;
    bool confirms = false;
    for (auto it = entries ? entries->begin() : Entries::const_iterator{};
         entries && it != entries->end(); ++it) {
        Value& value = *it->second;
        if (value.poll != report.poll || !named(it->first)) {
            continue;
        }
        ++kept;
        const auto& before = value.age.as_of;  // Hops round ages up: one answer has one wall time.
        confirms = confirms || !before || !report.as_of ||
                   (before->mono < report.as_of->mono && before->wall != report.as_of->wall);
        take_newer(value, report.as_of);
    }
    return confirms || kept < (report.keys ? report.keys->size() : 1);
}

/// Which keys were live and are vouched for no more, and which are again, is left in `change`.
void Cache::apply_quality(PollChange& change) {
    const Poll& poll = *change.poll;
    const Report& report = poll.state.report;
    const Entries* entries = find(poll.state.origin, report.topic);
    if (!entries || poll.state.age.quality == Quality::kInitial) {
        return;  // A value that came before its first report says itself that it is live.
    }
    const Named named(report);
    for (const auto& [key, value] : *entries) {
        if (value->poll != report.poll) {
            continue;
        }
        if (vouches(poll, named, *value)) {
            if (poll.state.age.quality == Quality::kLive && value->age.reason == kNotListed) {
                change.back.push_back(key);
            } else {
                change.values_changed |=
                    !value->outdated && !same_quality(value->age, poll.state.age);
            }
            take_quality(*value, poll.state.age);
            continue;
        }
        if (value->age.quality == Quality::kLive) {
            change.left.push_back(key);
        }
        take_quality(*value, left_age(poll));
    }
}

Age Cache::left_age(const Poll& poll) {
    Age age;
    age.quality = Quality::kStale;
    age.reason = poll.is_state() ? "PRODUCER_SILENT" : kNotListed;
    age.source = poll.is_state() ? "producer" : "engine";
    return age;
}

Cache::Keys Cache::keys_of(const Poll& poll) const {
    Keys keys;
    const Report& report = poll.state.report;
    const Entries* entries = find(poll.state.origin, report.topic);
    if (!entries) {
        return keys;
    }
    const Named named(report);
    for (const auto& [key, value] : *entries) {
        if (value->poll == report.poll) {
            (vouches(poll, named, *value) ? keys.vouched : keys.left).push_back(key);
        }
    }
    return keys;
}

std::vector<std::shared_ptr<const Value>> Cache::replace(const protocol::Snapshot& snapshot) {
    auto old = std::move(topics_);
    const bool same = epoch_ == snapshot.epoch;
    topics_.clear();
    polls_.clear();
    poll_index_.clear();
    entries_ = 0;
    bytes_ = 0;
    epoch_ = snapshot.epoch;
    pos_ = same ? std::max(pos_, snapshot.pos) : snapshot.pos;
    using Name = std::tuple<std::string_view, std::string_view, std::string_view>;
    std::set<Name> not_kept;  // For want of room, or as it is not encodable. It has not ended.
    for (const Message& message : snapshot.values) {
        if (auto made = make_value(message)) {
            (*made)->slot = next_slot_++;
            keep(std::move(*made));
        }
        if (!find(message.origin, message.topic, message.key)) {
            not_kept.emplace(message.origin, message.topic, message.key);
        }
    }
    for (const PollState& state : snapshot.polls) {
        if (const PollChange change = poll(state); change.poll) {
            // The broker keeps keys and as_of of the last good answer through failures and its own
            // restart: its values were confirmed then, not when they last changed.
            Report last_good = state.report;
            last_good.ok = true;
            last_good.as_of = state.age.as_of;
            apply_report(last_good, state.origin);
        }
    }
    std::map<std::pair<std::string_view, std::string_view>, std::uint64_t> upto;
    for (const StreamHead& head : snapshot.streams) {
        upto[{head.origin, head.topic}] = head.seq;
    }
    std::vector<std::shared_ptr<const Value>> gone;
    for (auto& [topic, origins] : old) {
        for (auto& [origin, entries] : origins) {
            const std::uint64_t seq = upto[{origin, topic}];
            for (auto& [key, value] : entries) {
                const bool known = find(origin, topic, key) != nullptr;
                if (same && value->seq > seq) {
                    if (known) {
                        erase(*value->stream, key);
                    }
                    keep(std::move(value));
                } else if (!known && !not_kept.contains({origin, topic, key})) {
                    gone.push_back(std::move(value));
                }
            }
        }
    }
    return gone;
}

Age Cache::effective(Age age) const {
    if (uplink_) {
        return age;
    }
    if (age.quality == Quality::kLive) {
        age.quality = Quality::kStale;
    }
    age.reason = "BROKER_UNREACHABLE";
    age.source = "uplink";
    age.retry_at.reset();
    return age;
}

void Cache::each_of_topic(std::string_view topic,
                          const std::function<void(const Value&)>& visit) const {
    const auto of = topics_.find(topic);
    if (of == topics_.end()) {
        return;
    }
    // Keyed entries before the one without a key, so that a summary never overtakes what it sums
    // up.
    for (const auto& [origin, entries] : of->second) {
        for (const auto& [key, value] : entries) {
            if (!key.empty()) {
                visit(*value);
            }
        }
        if (const auto summary = entries.find(""); summary != entries.end()) {
            visit(*summary->second);
        }
    }
}

void Cache::each_topic(const std::function<void(const std::string&)>& visit) const {
    for (const auto& [topic, origins] : topics_) {
        visit(topic);
    }
}

bool Cache::knows(std::string_view topic) const {
    return topic_names_.find(topic) != topic_names_.end();
}

}  // namespace sigmacast::edge
