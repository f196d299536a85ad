#include "broker/broker.h"

#include <algorithm>
#include <utility>

#include "common/log.h"

namespace sigmacast::broker {
namespace {

constexpr std::string_view kStateFull = "STATE_FULL";  // Of a poll with a value that was refused.
constexpr std::size_t kMessageOverheadBytes = 400;     // A Message without its data, roughly.

std::size_t weight(const Message& message) {
    return kMessageOverheadBytes + (message.data ? message.data->size() : 0);
}

/// What a key's value takes in a snapshot, at most. Its key is also in the list of its poll.
std::size_t state_cost(const std::string& origin, const std::string& topic, const std::string& key,
                       const std::string& poll, const Bytes& data) {
    return kStateOverheadBytes + origin.size() + topic.size() + 2 * key.size() + poll.size() +
           (data ? data->size() : 0);
}

std::size_t state_cost(const Message& value) {
    return state_cost(value.origin, value.topic, value.key, value.poll, value.data);
}

bool is_logged(const Message& message) {
    return message.kind != Kind::kReport && message.kind != Kind::kHead;
}

/// State that no poll feeds has a poll of its own from here on.
void name_poll(Message& message) {
    if (message.poll.empty() || is_state_poll(message.poll)) {
        message.poll = state_poll(message.topic);
    }
}

/// Quality and why; the value keeps its own time.
void take_quality(Age& age, const std::optional<Age>& from) {
    if (from) {
        age.quality = from->quality;
        age.reason = from->reason;
        age.source = from->source;
        age.retry_at = from->retry_at;
    }
}

/// Without a place in the log.
void make_volatile(Message& message) {
    message.seq = message.kind == Kind::kReport ? message.seq : 0;
    message.pos = 0;
    message.durable = false;
}

}  // namespace

Broker::Broker(storage::Loaded loaded, BrokerOutputs& outputs, Random random)
    : outputs_(outputs),
      ingest_(random),
      random_(std::move(random)),
      epoch_(std::move(loaded.epoch)),
      pos_(loaded.pos),
      committed_pos_(loaded.pos),
      restored_polls_(std::move(loaded.polls)) {
    ingest_.restore(loaded.origins, loaded.streams);
    for (const storage::StreamRecord& stream : loaded.streams) {
        if (stream.kind != storage::StreamKind::kReport) {
            const bool events = stream.kind == storage::StreamKind::kEvent;
            streams_[{stream.origin, stream.topic}] = {stream.seq, stream.seq, stream.seq, 0,
                                                       events};
        }
    }
    for (Message& value : loaded.values) {
        name_poll(value);
        const Name name{value.origin, value.topic};
        keys_[name][value.key] = {value.poll, value.data};
        ++key_count_;
        state_bytes_ += state_cost(value);
        value.epoch = epoch_;
        state_[name].insert_or_assign(value.key, std::move(value));
    }
}

void Broker::start(Now now) {
    next_head_ = now.mono;
    run_ = static_cast<std::uint64_t>(now.mono.time_since_epoch().count());
    restore_state_polls();
    restore_missing_polls();
    restore_refused_polls();
    for (const PollState& poll : restored_polls_) {
        visible_polls_[{poll.origin, poll.report.poll}] = with_keys(poll);
    }
    for (const Change& change : freshness_.on_start(std::exchange(restored_polls_, {}), now)) {
        take_change(change, now);
    }
    flush(now);
}

/// The row of a state poll says which of its keys the owner has vouched for.
void Broker::restore_state_polls() {
    // An earlier version judged it by origin, under the empty name.
    std::erase_if(restored_polls_, [](const PollState& poll) { return poll.report.poll.empty(); });
    for (const PollState& poll : restored_polls_) {
        if (!is_state_poll(poll.report.poll) || !poll.report.keys) {
            continue;
        }
        const std::set<std::string> named(poll.report.keys->begin(), poll.report.keys->end());
        const Name stream{poll.origin, poll.report.topic};
        for (const auto& [key, held] : keys_[stream]) {
            if (held.poll == poll.report.poll && !named.contains(key)) {
                left_[stream].insert(key);
            }
        }
    }
}

/// Which of its keys have no newest value is not in a poll's row: each may be one.
void Broker::restore_refused_polls() {
    for (const PollState& poll : restored_polls_) {
        if (poll.report.code != kStateFull) {
            continue;
        }
        std::set<std::string>& keys = refused_[{poll.origin, poll.report.poll}];
        for (const auto& [key, held] : keys_[{poll.origin, poll.report.topic}]) {
            if (held.poll == poll.report.poll) {
                keys.insert(key);
            }
        }
        if (keys.empty()) {
            keys.insert("");
        }
    }
}

/// A value whose poll's row was damaged is judged like any other, from what the value itself says.
void Broker::restore_missing_polls() {
    std::set<Name> known;
    for (const PollState& poll : restored_polls_) {
        known.insert({poll.origin, poll.report.poll});
    }
    std::set<Name> missing;
    for (const auto& [name, values] : state_) {
        for (const auto& [key, value] : values) {
            if (known.contains({name.first, value.poll})) {
                continue;
            }
            if (is_state_poll(value.poll)) {
                left_[name].insert(key);  // Which instance has sent it is not known any more.
            }
            if (!missing.insert({name.first, value.poll}).second) {
                continue;
            }
            PollState& state = restored_polls_.emplace_back();
            state.origin = name.first;
            state.report.poll = value.poll;
            state.report.topic = name.second;
            state.age = value.age;  // Of its last change: never too young.
        }
    }
}

// ---- What arrives ----

void Broker::on_messages(std::vector<Message> batch, Now now) {
    counts_.received += batch.size();
    for (Message& message : batch) {
        take(ingest_.on_message(std::move(message), admit(), now), now);
    }
    finish(now);
}

void Broker::on_request(const std::string& peer, protocol::Any request, Now now) {
    if (const auto* hello = std::get_if<protocol::Hello>(&request)) {
        on_hello(peer, *hello, now);
    } else if (const auto* sync = std::get_if<protocol::Sync>(&request)) {
        outputs_.reply(peer, ingest_.on_sync(peer, *sync));
    } else if (auto* range = std::get_if<protocol::Range>(&request)) {
        counts_.unreadable += range->unreadable;
        take(ingest_.on_range(peer, std::move(*range), admit(), now), now);
    } else if (const auto* ask = std::get_if<protocol::Ask>(&request)) {
        on_ask(peer, *ask, now);
    } else if (const auto* snapshot = std::get_if<protocol::SnapshotRequest>(&request)) {
        on_snapshot_request(peer, *snapshot, now);
    } else if (const auto* history = std::get_if<protocol::HistoryRequest>(&request)) {
        on_history(peer, *history, now);
    } else {
        ++counts_.unreadable;  // A message that only a broker sends.
    }
    finish(now);
}

void Broker::on_hello(const std::string& peer, const protocol::Hello& hello, Now now) {
    auto greeting = ingest_.on_hello(peer, hello, now);
    if (!greeting) {
        return;
    }
    auto* welcome = std::get_if<protocol::Welcome>(&greeting->answer);
    if (welcome == nullptr) {
        outputs_.reply(peer, std::get<protocol::Conflict>(greeting->answer));
        return;
    }
    for (Message& message : greeting->left) {
        left_behind_.push_back(std::move(message));
    }
    if (greeting->changed) {
        pending_.origins.insert(hello.origin);
        new_owner(hello.origin, now);
    }
    freshness_.declare(hello.origin, hello.polls, now);
    for (PollState& state : freshness_.of_origin(hello.origin)) {
        const Name name{state.origin, state.report.poll};
        if (!visible_polls_.contains(name)) {
            pending_.polls[name] = std::move(state);
        }
    }
    for (auto it = keys_.lower_bound({hello.origin, ""});
         it != keys_.end() && it->first.first == hello.origin; ++it) {
        for (const auto& [key, held] : it->second) {
            const std::string poll = is_state_poll(held.poll) ? "" : held.poll;
            welcome->keys.push_back({it->first.second, poll, key, held.data});
        }
    }
    outputs_.reply(peer, std::move(*welcome));
}

Admit Broker::admit() const {
    if (pending_.bytes > kPendingBytesMax || pending_.messages.size() > kPendingMessagesMax) {
        return Admit::kNothing;
    }
    return degraded_ ? Admit::kNoEvents : Admit::kAll;
}

void Broker::take(Ingest::Actions actions, Now now) {
    for (Message& message : actions.deliver) {
        if (message.kind == Kind::kReport) {
            take_report(std::move(message), now);
        } else if (message.kind == Kind::kValue) {
            take_value(std::move(message), now);
        } else {
            add(std::move(message));
        }
    }
    if (actions.beat) {
        take_beat(*actions.beat, now);  // After what it names.
    }
    for (Outgoing& outgoing : actions.send) {
        outputs_.reply(outgoing.peer, std::move(outgoing.message));
    }
}

void Broker::take_beat(const Ingest::Beat& beat, Now now) {
    freshness_.on_head(beat.origin, beat.sent, now);
    for (const std::string& topic : beat.topics) {
        if (freshness_.find(beat.origin, state_poll(topic)) != nullptr) {
            vouch(beat.origin, topic, beat.as_of, beat.sent, now);
        }
    }
}

/// A newer age alone is not worth a commit: it is written with the next change.
void Broker::vouch(const std::string& origin, const std::string& topic,
                   const std::optional<AsOf>& as_of, Mono sent, Now now) {
    const Name name{origin, state_poll(topic)};
    const auto change = freshness_.vouch(origin, topic, as_of, sent, now);
    if (change) {
        take_change(*change, now);
    } else if (const auto visible = visible_polls_.find(name);
               visible != visible_polls_.end() && idle()) {
        visible->second = with_keys(*freshness_.find(origin, name.second));
    } else {
        pending_.polls[name] = *freshness_.find(origin, name.second);
    }
}

/// What an earlier instance left, nobody vouches for any more.
void Broker::new_owner(const std::string& origin, Now now) {
    for (const Change& change : freshness_.on_new_owner(origin)) {
        take_change(change, now);
    }
    for (auto it = keys_.lower_bound({origin, ""}); it != keys_.end() && it->first.first == origin;
         ++it) {
        const std::string poll = state_poll(it->first.second);
        const PollState* state = freshness_.find(origin, poll);
        for (const auto& [key, held] : it->second) {
            if (state != nullptr && held.poll == poll) {
                left_[it->first].insert(key);
                pending_.polls[{origin, poll}] = *state;
            }
        }
    }
}

void Broker::take_value(Message message, Now now) {
    name_poll(message);
    auto& keys = keys_[{message.origin, message.topic}];
    const auto held = keys.find(message.key);
    const std::size_t before = held == keys.end()
                                   ? 0
                                   : state_cost(message.origin, message.topic, message.key,
                                                held->second.poll, held->second.data);
    if (message.final) {
        key_count_ -= keys.erase(message.key);
        state_bytes_ -= before;
    } else {
        const std::size_t cost = state_cost(message);
        if (held == keys.end() && key_count_ >= kKeysMax) {
            refuse(message, "the broker holds too many keys", now);
            return;
        }
        if (cost > before && state_bytes_ - before + cost > kStateBytesMax) {
            refuse(message, "the broker holds too many bytes of state", now);
            return;
        }
        key_count_ += held == keys.end() ? 1u : 0u;
        state_bytes_ += cost - before;
        keys.insert_or_assign(message.key, Key{message.poll, message.data});
    }
    if (const auto refused = refused_.find({message.origin, message.poll});
        refused != refused_.end()) {
        refused->second.erase(message.key);
        if (refused->second.empty()) {
            refused_.erase(refused);
        }
    }
    const bool unpolled = is_state_poll(message.poll);
    const Name stream{message.origin, message.topic};
    if (const auto left = left_.find(stream); left != left_.end()) {
        left->second.erase(message.key);
        if (left->second.empty()) {
            left_.erase(left);
        }
    }
    const std::optional<AsOf> as_of = message.age.as_of;
    const Mono sent = message.sent;
    const bool for_all =
        unpolled && ingest_.vouches_for_all(message.origin, message.topic, message.seq);
    message.age.quality = Quality::kLive;
    // What a cut network held back for as long as a silence may last is no news of how it is now.
    take_quality(message.age,
                 freshness_.age_of_late_value(message.origin, message.poll, as_of, sent, now));
    add(std::move(message));
    if (for_all) {
        vouch(stream.first, stream.second, as_of, sent, now);
    } else if (unpolled && freshness_.find(stream.first, state_poll(stream.second)) == nullptr) {
        vouch(stream.first, stream.second, std::nullopt, sent, now);
    }
}

/// A gap takes its place. What is held of its key is not the newest any more, so nobody can vouch
/// for it.
void Broker::refuse(const Message& message, const char* why, Now now) {
    ++counts_.refused_values;
    if (counts_.refused_values == 1 || now.mono - refused_logged_ >= kRefusedLogInterval) {
        refused_logged_ = now.mono;
        log_error("a value was refused: end keys that are not needed, or publish smaller values",
                  {{"why", why},
                   {"origin", message.origin},
                   {"topic", message.topic},
                   {"key", message.key},
                   {"keys", key_count_},
                   {"bytes", state_bytes_},
                   {"refused", counts_.refused_values}});
    }
    add(storage::gap_in_place_of(message, why));
    const Name stream{message.origin, message.topic};
    const Name poll{message.origin, message.poll};
    const PollState* state = freshness_.find(poll.first, poll.second);
    if (!is_state_poll(message.poll)) {
        if (auto& keys = refused_[poll]; keys.size() < kRefusedKeysMax) {
            keys.insert(message.key);
        }
    } else if (state != nullptr && keys_[stream].contains(message.key)) {
        left_[stream].insert(message.key);
        pending_.polls[poll] = *state;
    }
}

void Broker::take_report(Message message, Now now) {
    auto& report = std::get<Report>(message.detail);
    const auto refused = refused_.find({message.origin, report.poll});
    if (report.ok && refused != refused_.end()) {
        if (report.keys && report.complete) {
            std::erase_if(refused->second, [&](const std::string& key) {
                return std::find(report.keys->begin(), report.keys->end(), key) ==
                       report.keys->end();
            });
        }
        if (refused->second.empty()) {
            refused_.erase(refused);
        } else {
            const PollState* before = freshness_.find(message.origin, report.poll);
            report.ok = false;
            report.code = kStateFull;
            report.source = "broker";
            report.message = "the broker has no room for its newest value";
            report.as_of = before != nullptr ? before->age.as_of : std::nullopt;
        }
    }
    const std::string poll = message.report().poll;
    const auto change =
        freshness_.on_report(message.origin, message.report(), message.seq, message.sent, now);
    const PollState* state = freshness_.find(message.origin, poll);
    if (state == nullptr) {
        return;
    }
    if (change) {
        take_change(*change, now);
    }
    message.age = state->age;
    message.poll = poll;
    pending_.polls[{message.origin, poll}] = *state;
    add(std::move(message));
}

void Broker::take_change(const Change& change, Now now) {
    log_info("quality changed", {{"origin", change.origin},
                                 {"poll", change.poll},
                                 {"quality", to_string(change.age.quality)},
                                 {"reason", change.age.reason}});
    if (const PollState* state = freshness_.find(change.origin, change.poll)) {
        pending_.polls[{change.origin, change.poll}] = *state;
    }
    add_transition(change, now);
}

void Broker::add_transition(const Change& change, Now now) {
    if (change.topic.empty()) {
        return;  // A poll that has said neither in a hello nor in a report what it feeds.
    }
    Touched touched = keys_of({change.origin, change.topic}, change.poll);
    if (is_state_poll(change.poll) && touched.keys.empty()) {
        return;  // All keys have ended, or were left by an earlier instance.
    }
    // None named means all; so they are named only where there is something to tell apart.
    const bool plain = touched.keys.size() == 1 && touched.keys.front().empty();
    if (touched.all && (plain || touched.keys.size() > kTransitionKeysMax)) {
        touched.keys.clear();
    }
    Message transition;
    transition.kind = Kind::kTransition;
    transition.topic = change.topic;
    transition.origin = change.origin;
    transition.poll = change.poll;
    transition.age = change.age;
    transition.at = now.wall;
    transition.keys = std::move(touched.keys);
    add(std::move(transition));
}

Broker::Touched Broker::keys_of(const Name& stream, const std::string& poll) const {
    Touched touched;
    const auto held = keys_.find(stream);
    if (held == keys_.end()) {
        return touched;
    }
    const auto left = left_.find(stream);
    touched.all = left == left_.end();
    for (const auto& [key, value] : held->second) {
        if (value.poll == poll && (touched.all || !left->second.contains(key))) {
            touched.keys.push_back(key);
        }
    }
    return touched;
}

/// As it is stored and shown: a state poll names its keys where an earlier instance has left
/// others.
PollState Broker::with_keys(PollState poll) const {
    if (is_state_poll(poll.report.poll)) {
        const Name stream{poll.origin, poll.report.topic};
        poll.report.keys.reset();
        if (left_.contains(stream)) {
            poll.report.keys = keys_of(stream, poll.report.poll).keys;
        }
    }
    return poll;
}

void Broker::add(Message message) {
    pending_.bytes += weight(message);
    pending_.messages.push_back(std::move(message));
}

// ---- Into the log ----

void Broker::flush(Now now) {
    if (in_flight_) {
        return;
    }
    if (!degraded_) {
        if (!idle()) {
            submit(0, now);
        }
    } else if (now.mono >= retry_at_) {
        submit(put_back_in_force(now), now);
    } else {
        flow_pending();
    }
}

/// Builds the batch of everything that waits. The first `known` messages have been published
/// before.
void Broker::submit(std::size_t known, Now now) {
    InFlight flight;
    flight.messages = std::move(pending_.messages);
    flight.known = known;
    flight.left_behind = left_behind_.size();
    flight.messages.insert(flight.messages.begin() + static_cast<std::ptrdiff_t>(known),
                           left_behind_.begin(), left_behind_.end());
    flight.polls = std::move(pending_.polls);
    flight.origins = std::move(pending_.origins);
    flight.positions = ingest_.take_positions();
    flight.epoch = next_epoch_;
    flight.since = now.mono;
    pending_ = {};

    auto batch = std::make_shared<storage::Batch>();
    batch->now = now;
    batch->epoch = flight.epoch;
    for (const std::string& origin : flight.origins) {
        batch->origins.push_back(ingest_.record(origin));
    }
    for (Message& message : flight.messages) {
        stamp(message, flight.epoch.empty() ? epoch_ : flight.epoch);
        if (is_logged(message)) {
            batch->rows.push_back(message);
        }
    }
    batch->positions = flight.positions;
    for (auto& [name, poll] : flight.polls) {
        poll = with_keys(std::move(poll));  // Now: what arrives later is not visible with it.
        batch->polls.push_back(poll);
    }
    in_flight_ = std::move(flight);
    outputs_.commit(std::move(batch));
}

void Broker::stamp(Message& message, const std::string& epoch) {
    message.epoch = epoch;
    message.durable = true;
    message.after = 0;
    message.flow = {};
    if (is_logged(message)) {
        Stream& stream = streams_[{message.origin, message.topic}];
        stream.events = stream.events || message.kind == Kind::kEvent;
        message.seq = ++stream.seq;
        message.pos = ++pos_;
        if (message.kind == Kind::kGap) {
            message.detail = Gap{message.seq, message.gap().why};
        }
        return;
    }
    // An edge knows the broker's positions, not the producer's.
    for (Mark& mark : std::get<Report>(message.detail).after) {
        mark = {mark.topic, streams_[{message.origin, mark.topic}].seq, {}};
    }
}

void Broker::on_committed(const Result<storage::Committed>& result, Now now) {
    if (!in_flight_) {
        return;
    }
    head_held_ = false;
    if (!result) {
        on_refused(result.error(), now);
        answer_waiting(now);
        finish(now);
        return;
    }
    InFlight flight = std::move(*in_flight_);
    in_flight_.reset();
    left_behind_.erase(left_behind_.begin(),
                       left_behind_.begin() + static_cast<std::ptrdiff_t>(flight.left_behind));
    ++counts_.batches;
    if (degraded_) {
        degraded_ = false;
        overlay_.clear();
        flowed_.clear();
        flowed_polls_.clear();
        flowed_origins_.clear();
        log_info("the database takes commits again", {{"pos", result->pos}});
    }
    for (const std::uint64_t pos : result->poisoned) {
        for (Message& message : flight.messages) {
            if (is_logged(message) && message.pos == pos) {
                message = storage::gap_in_place_of(message, "the database refused it");
            }
        }
    }
    committed_pos_ = pos_;
    if (!flight.epoch.empty()) {
        adopt_epoch(std::move(flight.epoch), now);
    }
    for (auto& [name, poll] : flight.polls) {
        if (visible_polls_.insert_or_assign(name, std::move(poll)).second) {
            next_head_ = now.mono;  // Edges know polls by heads, and serve old clients by them.
        }
    }
    for (Message& message : flight.messages) {
        make_visible(message);
    }
    for (Outgoing& outgoing : ingest_.acknowledge(flight.positions)) {
        outputs_.reply(outgoing.peer, std::move(outgoing.message));
    }
    answer_waiting(now);
    finish(now);
}

void Broker::answer_waiting(Now now) {
    if (next_epoch_.empty()) {
        for (const auto& [peer, request] : std::exchange(waiting_, {})) {
            answer_snapshot(peer, request, now);
        }
    }
}

void Broker::adopt_epoch(std::string epoch, Now now) {
    renewed_from_ = std::exchange(epoch_, std::move(epoch));
    next_epoch_.clear();
    for (auto& [name, keys] : state_) {
        for (auto& [key, value] : keys) {
            value.epoch = epoch_;
        }
    }
    next_head_ = now.mono;  // The other edges are told at once.
    log_warn("the log has a new epoch", {{"epoch", epoch_}, {"before", renewed_from_}});
}

void Broker::make_visible(Message& message) {
    publish(message);
    if (!is_logged(message)) {
        return;
    }
    ++counts_.committed;
    if (message.kind == Kind::kGap) {
        ++counts_.gaps;
    }
    const Name name{message.origin, message.topic};
    streams_[name].committed = message.seq;
    streams_[name].flowed = 0;
    if (message.kind != Kind::kValue) {
        return;
    }
    auto& keys = state_[name];
    if (message.final) {
        keys.erase(message.key);
    } else {
        std::string key = message.key;
        keys.insert_or_assign(std::move(key), std::move(message));
    }
}

void Broker::publish(const Message& message) {
    ++counts_.published;
    outputs_.publish(message);
}

// ---- While the database refuses ----

void Broker::on_refused(const Error& error, Now now) {
    InFlight flight = std::move(*in_flight_);
    in_flight_.reset();
    ++counts_.refused;
    if (!degraded_) {
        log_error(
            "the database refuses; state goes on without it, events wait with their producers",
            {{"error", error.message}});
    }
    degraded_ = true;
    retry_at_ = now.mono + kRetryInterval;
    pos_ = committed_pos_;
    for (auto& [name, stream] : streams_) {
        stream.seq = stream.committed;
    }
    ingest_.refused(flight.positions);
    for (auto& [name, poll] : flight.polls) {
        pending_.polls.try_emplace(name, std::move(poll));
    }
    pending_.origins.merge(flight.origins);
    flow(std::move(flight.messages), flight.known);
    flow_pending();
}

void Broker::flow_pending() {
    for (auto& [name, poll] : pending_.polls) {
        visible_polls_[name] = with_keys(poll);
        flowed_polls_[name] = std::move(poll);
    }
    flowed_origins_.merge(pending_.origins);
    std::vector<Message> messages = std::move(pending_.messages);
    pending_ = {};
    flow(std::move(messages), 0);
}

/// Publishes state at once. Events are left out: their streams went back to what is durable.
void Broker::flow(std::vector<Message> messages, std::size_t from) {
    for (std::size_t i = from; i < messages.size(); ++i) {
        Message& message = messages[i];
        if (message.kind == Kind::kEvent || message.kind == Kind::kGap) {
            continue;
        }
        make_volatile(message);
        message.epoch = epoch_;
        const Name name{message.origin, message.topic};
        if (message.kind == Kind::kReport) {
            // An edge that lacks one of these takes it for no news of the value before.
            Report& report = std::get<Report>(message.detail);
            const Stream& stream = streams_[{message.origin, report.topic}];
            report.after = {{report.topic, stream.committed, flow_of(stream)}};
        } else {
            Stream& stream = streams_[name];
            ++stream.flowed;
            message.after = stream.committed;
            message.flow = flow_of(stream);
        }
        if (message.kind == Kind::kTransition) {
            flowed_[{name, message.poll}] = {message.origin, message.poll, message.topic,
                                             message.age};
        }
        publish(message);
        if (message.kind == Kind::kValue) {
            std::string key = message.key;
            overlay_.insert_or_assign({name, std::move(key)}, std::move(message));
        }
    }
}

/// Makes a batch of what is in force but not durable, to be tried again, each value as it is now;
/// what waits comes behind it.
std::size_t Broker::put_back_in_force(Now now) {
    Pending later = std::exchange(pending_, {});
    for (const auto& [key, value] : overlay_) {
        Message again = value;
        take_quality(again.age, freshness_.stale_age(value.origin, value.poll, value.age.as_of));
        add(std::move(again));
    }
    for (const auto& [key, change] : flowed_) {
        add_transition(change, now);
    }
    const std::size_t known = pending_.messages.size();
    pending_.polls = flowed_polls_;
    pending_.origins = flowed_origins_;
    for (Message& message : later.messages) {
        add(std::move(message));
    }
    for (auto& [name, poll] : later.polls) {
        pending_.polls.insert_or_assign(name, std::move(poll));
    }
    pending_.origins.merge(later.origins);
    return known;
}

// ---- Time ----

void Broker::on_timer(Now now) {
    for (const Change& change : freshness_.on_tick(now)) {
        take_change(change, now);
    }
    take(ingest_.on_timer(admit(), now), now);
    flush(now);
    if (now.mono < next_head_ || head_held_) {
        return;
    }
    if (commit_hangs(now)) {
        head_held_ = true;
        if (!head_held_logged_ || elapsed(*head_held_logged_, now.mono) >= kHeadHeldLogInterval) {
            head_held_logged_ = now.mono;
            log_warn("a commit is slow; without heads edges call everything stale after 3 s",
                     {{"ms", elapsed(in_flight_->since, now.mono).count()}});
        }
        return;
    }
    publish_head(now);
    next_head_ = std::max(next_head_ + kHeadInterval, now.mono);
}

/// Ends each input. What is due is done here, too: under load one input follows the other, and a
/// head that waits for a quiet moment is a silent broker to the edges.
void Broker::finish(Now now) {
    if (now.mono >= deadline()) {
        on_timer(now);
    } else {
        flush(now);
    }
}

bool Broker::commit_hangs(Now now) const {
    return in_flight_ && elapsed(in_flight_->since, now.mono) >= kCommitPatience;
}

Mono Broker::deadline() const {
    Mono first = head_held_ ? Mono::max() : next_head_;
    for (const auto& when : {freshness_.deadline(), ingest_.deadline()}) {
        first = when ? std::min(first, *when) : first;
    }
    return degraded_ && !in_flight_ ? std::min(first, retry_at_) : first;
}

void Broker::publish_head(Now now) {
    Head head;
    head.pos = committed_pos_;
    for (const auto& [name, stream] : streams_) {
        if (stream.committed > 0 || stream.flowed > 0) {
            head.streams.push_back(
                {name.first, name.second, stream.committed, false, flow_of(stream)});
        }
    }
    head.polls = polls(now);
    Message message;
    message.kind = Kind::kHead;
    message.topic = "head";
    message.origin = "broker";
    message.epoch = epoch_;
    message.pos = committed_pos_;
    message.at = now.wall;
    message.durable = !degraded_;
    message.detail = std::move(head);
    outputs_.publish(message);
}

// ---- What edges ask ----

std::vector<PollState> Broker::polls(Now now) const {
    std::vector<PollState> polls;
    for (const std::string& origin : ingest_.order()) {
        for (auto it = visible_polls_.lower_bound({origin, ""});
             it != visible_polls_.end() && it->first.first == origin; ++it) {
            polls.push_back(it->second);
            polls.back()
                .report.after.clear();  // The producer's positions; visible means delivered.
            // A silence that this broker has slept through, or that is not committed yet.
            Age& age = polls.back().age;
            const auto silence = freshness_.silence_now(it->second, now);
            if (silence && age.quality == Quality::kLive) {
                age.quality = Quality::kStale;
                age.reason = *silence;
                age.source = "producer";
            }
        }
    }
    return polls;
}

void Broker::on_ask(const std::string& peer, const protocol::Ask& ask, Now now) {
    const auto stream = streams_.find({ask.origin, ask.topic});
    const std::uint64_t newest = stream == streams_.end() ? 0 : stream->second.committed;
    protocol::Range answer{ask.id, ask.origin, ask.topic, epoch_, ask.range, {}, 0, {}};
    answer.range.to = std::min(ask.range.to, newest);
    if (ask.range.from <= answer.range.to) {
        auto found = outputs_.read_range(ask.origin, ask.topic, answer.range, now);
        if (!found) {
            log_warn("a range could not be read; the edge will ask again",
                     {{"topic", ask.topic}, {"error", found.error().message}});
            return;
        }
        answer.range = found->range;
        answer.items = std::move(found->items);
        for (Message& item : answer.items) {
            item.epoch = epoch_;
        }
    }
    ++counts_.ranges;
    outputs_.reply(peer, std::move(answer));
}

/// Up to what is visible. Of a log whose epoch is about to change nothing is told any more.
void Broker::on_history(const std::string& peer, const protocol::HistoryRequest& request, Now now) {
    if (!next_epoch_.empty()) {
        return;
    }
    protocol::History answer;
    answer.id = request.id;
    answer.epoch = epoch_;
    answer.from = request.from;
    answer.to = request.from;
    answer.pos = committed_pos_;
    if (request.epoch == epoch_ && request.from < committed_pos_) {
        auto page = outputs_.read_history(request.from, committed_pos_, now);
        if (!page) {
            log_warn("a page of the log could not be read; the edge will ask again",
                     {{"from", request.from}, {"error", page.error().message}});
            return;
        }
        answer.to = page->to;
        answer.floors = std::move(page->floors);
        answer.items = std::move(page->items);
        for (Message& item : answer.items) {
            item.epoch = epoch_;
        }
    }
    ++counts_.histories;
    outputs_.reply(peer, std::move(answer));
}

/// To an edge an answer is as good as a head.
void Broker::on_snapshot_request(const std::string& peer, const protocol::SnapshotRequest& request,
                                 Now now) {
    const bool rewound =
        request.epoch == epoch_ && request.pos > committed_pos_ && request.pos <= sequence::kSeqMax;
    if (!rewound && !commit_hangs(now)) {
        answer_snapshot(peer, request, now);
        return;
    }
    if (rewound && next_epoch_.empty()) {
        log_warn(
            "the log lacks what an edge was sent: it is older than it was, or its disk lost "
            "rows; it gets a new epoch, and clients start from a snapshot",
            {{"pos", committed_pos_}, {"sent", request.pos}, {"epoch", epoch_}});
        next_epoch_ = random_.hex(16);
    }
    if (waiting_.size() < kWaitingMax) {
        waiting_.insert_or_assign(peer, request);
    }
}

/// An edge that followed the log before its epoch was renewed has dropped what was published since
/// the start as known already: its snapshot leaves these events out, so that it asks for them.
void Broker::answer_snapshot(const std::string& peer, const protocol::SnapshotRequest& request,
                             Now now) {
    const bool followed = !renewed_from_.empty() && request.epoch == renewed_from_;
    protocol::Snapshot snapshot;
    snapshot.id = request.id;
    snapshot.epoch = epoch_;
    snapshot.pos = committed_pos_;
    for (const auto& [name, stream] : streams_) {
        const std::uint64_t seq = followed && stream.events ? stream.loaded : stream.committed;
        if (seq > 0 || stream.flowed > 0) {
            snapshot.streams.push_back(
                {name.first, name.second, seq, stream.events, flow_of(stream)});
        }
    }
    snapshot.polls = polls(now);
    for (const auto& [name, keys] : state_) {
        for (const auto& [key, value] : keys) {
            if (!overlay_.contains({name, key})) {
                snapshot.values.push_back(value);
            }
        }
    }
    std::sort(snapshot.values.begin(), snapshot.values.end(),
              [](const Message& a, const Message& b) { return a.pos < b.pos; });
    for (const auto& [key, value] : overlay_) {
        if (!value.final) {
            snapshot.values.push_back(value);
        }
    }
    leave_out(snapshot.values);
    ++counts_.snapshots;
    outputs_.reply(peer, std::move(snapshot));
}

/// The largest values, where all together are more than an edge takes: a database of an earlier
/// version may hold more. Each is named in the log once.
void Broker::leave_out(std::vector<Message>& values) {
    std::size_t bytes = 0;
    for (const Message& value : values) {
        bytes += state_cost(value);
    }
    while (bytes > kStateBytesMax) {
        const auto largest = std::max_element(
            values.begin(), values.end(),
            [](const Message& a, const Message& b) { return state_cost(a) < state_cost(b); });
        ++counts_.left_out;
        if (left_out_.insert({{largest->origin, largest->topic}, largest->key}).second) {
            log_error("a value is left out of snapshots: more state than edges take",
                      {{"origin", largest->origin},
                       {"topic", largest->topic},
                       {"key", largest->key},
                       {"bytes", state_cost(*largest)},
                       {"all", bytes}});
        }
        bytes -= state_cost(*largest);
        values.erase(largest);
    }
}

}  // namespace sigmacast::broker
