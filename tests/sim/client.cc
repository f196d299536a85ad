#include "tests/sim/client.h"

#include <algorithm>
#include <boost/json.hpp>
#include <sstream>

#include "tests/sim/nodes.h"

namespace sigmacast::sim {
namespace {

namespace json = boost::json;

constexpr Millis kBeat{1000};        // Of heads.
constexpr Millis kSilence{3000};     // Three of them.
constexpr Millis kOvercome{15'000};  // After a fault at a hop its bound does not count any more.
constexpr Millis kJitter{100};
constexpr Millis kSlack{150};  // Networks, commits.
/// A key that lists have not named for an interval and so long is not live (common/EVENTS.md).
constexpr Millis kUnlisted{2'000};
/// In which a client finds out that its connection is dead, and has another: it hears nothing for
/// 2 x ping_ms, and comes back (edge/PROTOCOL.md). Of the time in which it did not run it knows
/// nothing: that counts from when it runs again.
constexpr Millis kComesBack = 2 * EdgeNode::kPing + Millis{1000};

std::string text(const json::object& object, const char* name) {
    const json::value* value = object.if_contains(name);
    return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

std::uint64_t number(const json::object& object, const char* name) {
    const json::value* value = object.if_contains(name);
    return value && value->is_number() ? value->to_number<std::uint64_t>() : 0;
}

bool flag(const json::object& object, const char* name) {
    const json::value* value = object.if_contains(name);
    return value && value->is_bool() && value->get_bool();
}

std::optional<Wall> time_at(const json::object& object, const char* name) {
    const std::string value = text(object, name);
    if (value.empty()) {
        return std::nullopt;
    }
    return parse_rfc3339(value).value();
}

std::string_view payload(const std::string& frame) {
    const auto length = static_cast<unsigned char>(frame[1]);
    return std::string_view(frame).substr(length < 126 ? 2 : length == 126 ? 4 : 10);
}

}  // namespace

ClientNode::ClientNode(Timeline& time, Truth& truth, std::string name, std::vector<EdgeNode*> edges,
                       Options options)
    : Process(time, std::move(name)),
      truth_(truth),
      edges_(std::move(edges)),
      options_(std::move(options)) {}

void ClientNode::fail(const char* promise, const std::string& what) const {
    throw Violation(promise, name() + ": " + what);
}

bool ClientNode::wants(const std::string& topic) const {
    return std::any_of(options_.topics.begin(), options_.topics.end(),
                       [&](const std::string& each) { return each == "*" || each == topic; });
}

// ---- The connection ----

void ClientNode::on_start() {
    connect();
}

void ClientNode::on_kill() {
    disconnect();
}

Mono ClientNode::core_deadline() const {
    return port_ ? heard_ + 2 * EdgeNode::kPing : Mono::max();
}

void ClientNode::on_timer() {
    if (port_ && time_.mono() >= heard_ + 2 * EdgeNode::kPing) {
        SIM_SAY(time_, name(), "has heard nothing for too long");
        disconnect();
        reconnect(Millis{100});
    }
}

void ClientNode::connect() {
    if (port_) {
        return;
    }
    edge_ = edges_[time_.random.between(0, edges_.size() - 1)];
    port_ = edge_->connect(*this, options_.dialect);
    if (!port_) {
        reconnect(Millis{400});
        return;
    }
    ++counts_.reconnects;
    SIM_SAY(time_, name(), "connects to " << edge_->name());
    heard_ = time_.mono();
    connected_at_ = time_.mono();
    muted_ = false;
    subscribed_ = false;
    replay_left_ = 0;
    snapshot_topics_.clear();
    if (!v1()) {
        beliefs_.clear();
        views_.clear();
        ended_.clear();  // Another edge may be behind this one.
        subscribed_ = true;
    }
    arm();
}

void ClientNode::reconnect(Millis after) {
    later(after + time_.between(Millis{0}, Millis{300}), [this] { connect(); });
}

void ClientNode::disconnect() {
    if (!port_) {
        return;
    }
    const std::uint64_t port = *std::exchange(port_, {});
    // The edge hears of it at once, or when it wonders.
    EdgeNode* edge = edge_;
    time_.after(muted_ ? Millis{5000} : Millis{1}, [edge, port, life = edge->life()] {
        if (edge->life() == life) {
            edge->gone(port);
        }
    });
}

void ClientNode::lose_connection() {
    if (port_) {
        disconnect();
        reconnect(Millis{10});
    }
}

void ClientNode::hurry() {
    options_.reads_for = Micros{0};
}

void ClientNode::mute() {
    muted_ = true;
}

void ClientNode::carry(Mono when, std::uint64_t port, const edge::FramePtr& frame) {
    time_.at(when, [this, port, frame, life = edge_->life()] {
        if (muted_ || port_ != port || edge_->life() != life) {
            return;
        }
        input([this, port, frame] {
            if (port_ != port) {
                return;
            }
            on_frame(port, frame);
            EdgeNode* edge = edge_;
            if (options_.reads_for > Micros{0}) {
                later(options_.reads_for, [this, edge, port] {
                    if (port_ == port) {
                        edge->taken(port);
                    }
                });
            } else {
                edge->taken(port);
            }
        });
    });
}

void ClientNode::lost(std::uint64_t port, std::uint16_t code, std::optional<Mono> after) {
    time_.at(std::max(after.value_or(time_.mono()), time_.mono()) + Micros{1}, [this, port, code] {
        input([this, port, code] {
            if (port_ == port) {
                SIM_SAY(time_, name(), "is disconnected, code " << code);
                port_.reset();
                reconnect(Millis{50});
            }
        });
    });
}

void ClientNode::send(const std::string& words) {
    EdgeNode* edge = edge_;
    time_.after(time_.micros(50, 2'000), [this, edge, port = *port_, words] {
        if (!muted_ && port_ == port) {
            edge->receive(port, words);
        }
    });
}

void ClientNode::ask_for_topics() {
    json::array types;
    for (const std::string& topic : options_.topics) {
        types.emplace_back(topic);
    }
    json::object data{{"types", std::move(types)}};
    if (came_with_cursor_) {
        json::object topics;
        for (const auto& [stream, pos] : seen_pos_) {
            if (pos > bookmark_) {
                if (!topics.contains(stream.second)) {
                    topics[stream.second] = json::object{};
                }
                topics[stream.second].as_object()[stream.first] = pos;
            }
        }
        json::object resume{{"epoch", epoch_}, {"pos", bookmark_}};
        if (!topics.empty()) {
            resume["topics"] = std::move(topics);
        }
        data["resume"] = std::move(resume);
    }
    send(
        json::serialize(json::object{{"type", "subscribe"}, {"id", 1}, {"data", std::move(data)}}));
}

// ---- What comes ----

void ClientNode::on_frame(std::uint64_t, const edge::FramePtr& frame) {
    heard_ = time_.mono();
    ++counts_.messages;
    const std::string_view words = payload(frame->text());
    SIM_SAY(time_, name(), "<- " << words);
    const json::object message = json::parse(words).as_object();
    if (options_.counted) {
        time_.note(text(message, "type"));
        time_.note(number(message, "seq"));
        time_.note(text(message, "quality"));
    }
    on_message(message);
}

void ClientNode::on_message(const json::object& message) {
    const std::string type = text(message, "type");
    if (type == "hello") {
        on_hello(message);
    } else if (type == "subscribed") {
        on_subscribed(message);
    } else if (type == "heartbeat" || type == "pong") {
        on_bookmark(message);
    } else if (type == "tick") {
        on_tick(message);
    } else if (type == "transition") {
        on_transition(message);
    } else if (type == "skipped") {
        on_skipped(message);
    } else if (type == "error" && number(message.at("data").as_object(), "code") == 4201) {
        ++counts_.behind;  // An edge that has not come so far; it closes.
    } else if (type == "error") {
        fail("P8", "an error for a good message: " + json::serialize(message));
    } else if (type == "goodbye" || type == "connection_error" || type == "notification") {
        return;
    } else {
        on_topic(type, message);
    }
}

void ClientNode::on_hello(const json::object& message) {
    const json::object& data = message.at("data").as_object();
    hello_pos_ = number(data, "pos");
    for (const json::value& feature : data.at("features").as_array()) {
        resumes_ = resumes_ || feature.as_string() == "resume";
    }
    // The first one may be a cursor: nothing was seen before it. A later one would pass over what
    // was missed.
    if (epoch_.empty()) {
        epoch_ = text(data, "epoch");
        bookmark_ = number(data, "pos");
    } else {
        came_with_cursor_ = true;
    }
    ask_for_topics();
}

/// State begins anew; events only where they are not resumed.
void ClientNode::clear_topic(const std::string& topic, bool events_too) {
    for (auto& [stream, keys] : beliefs_) {
        if (topic == "*" || stream.second == topic) {
            keys.clear();
        }
    }
    for (auto& [stream, view] : views_) {
        if ((topic == "*" || stream.second == topic) &&
            (events_too || !is_event_topic(stream.second))) {
            view = {};
        }
    }
}

void ClientNode::on_subscribed(const json::object& message) {
    const json::object& topics = message.at("data").at("topics").as_object();
    const bool asked = message.contains("id");
    snapshot_topics_.clear();
    replay_left_ = 0;
    bool restarts = !subscribed_ && !came_with_cursor_;
    for (const auto& [topic, value] : topics) {
        const json::object& answer = value.as_object();
        const std::string result = text(answer, "result");
        const std::string cause = text(answer, "cause");
        replay_left_ += number(answer, "count");
        if (cause == "too_old" || cause == "new_epoch" || cause == "future" ||
            cause == "bad_cursor" || (answer.contains("lost") && cause != "unavailable")) {
            fail("P2", "nothing is lost here, and it is told: " + json::serialize(message));
        }
        if (result == "resumed") {
            ++counts_.resumed;
            continue;
        }
        if (result != "snapshot" && result != "live" && result != "unknown" &&
            result != "pending") {
            fail("P2", "an answer that is none: " + json::serialize(message));
        }
        ++counts_.snapshots;
        // Only who brings no cursor, or is told so, has no claim to what was before.
        const bool anew = (asked && !came_with_cursor_) || !resumes_ || cause == "unavailable" ||
                          cause == "not_kept" || (cause == "joined" && !came_with_cursor_);
        restarts = restarts || cause == "unavailable" || !resumes_;
        clear_topic(std::string(topic), anew);
        snapshot_topics_.emplace_back(topic);
        if (!resumes_) {
            ended_.clear();
        }
    }
    subscribed_ = true;
    if (restarts) {
        subscribed_since_ = truth_.pos();
    }
    if (replay_left_ == 0) {
        check_snapshot();
    }
}

/// P2 and P5: what the edge had when it said hello, and has not ended since, is in its snapshot.
void ClientNode::check_snapshot() {
    if (hello_pos_ == 0) {
        return;
    }
    const auto before = truth_.state_at(hello_pos_);
    const auto after = truth_.state_at(truth_.pos());
    for (const auto& [name, row] : before) {
        const bool asked = std::any_of(snapshot_topics_.begin(), snapshot_topics_.end(),
                                       [&, topic = name.first.second](const std::string& each) {
                                           return each == "*" || each == topic;
                                       });
        if (!asked || !after.contains(name) || ended_.contains(name) ||
            truth_.said_final(name.first.first, name.first.second, name.second)) {
            continue;
        }
        const auto stream = beliefs_.find(name.first);
        if (stream == beliefs_.end() || !stream->second.contains(name.second)) {
            fail("P5", "a snapshot lacks " + name.first.first + "/" + name.first.second + "/" +
                           name.second + ", which the log has at " + std::to_string(row->pos));
        }
    }
}

void ClientNode::on_bookmark(const json::object& message) {
    const std::string epoch = text(message, "epoch");
    if (!v1() || epoch.empty() || epoch != truth_.epoch()) {
        return;
    }
    const std::uint64_t pos = number(message, "pos");
    if (pos > truth_.pos()) {
        fail("P3", "a bookmark beyond the log: " + std::to_string(pos));
    }
    if (!subscribed_ || replay_left_ > 0) {
        return;  // It says nothing of topics that are not subscribed to.
    }
    epoch_ = epoch;
    bookmark_ = std::max(bookmark_, pos);
    // Everything of its topics up to here was sent before.
    for (std::uint64_t at = std::min(checked_, pos) + 1; at <= pos; ++at) {
        const Truth::Row& row = *truth_.row(at);
        if (!wants(row.topic)) {
            continue;
        }
        const StreamName stream{row.origin, row.topic};
        const auto view = views_.find(stream);
        if (row.kind == Kind::kEvent || row.kind == Kind::kGap) {
            const bool due = row.pos > subscribed_since_;
            if (due && (view == views_.end() || view->second.last < row.seq)) {
                fail("P2", "a bookmark at " + std::to_string(pos) + " passes over event " +
                               std::to_string(row.seq) + " of " + row.origin + "/" + row.topic +
                               " at " + std::to_string(row.pos));
            }
        } else if (row.kind == Kind::kValue && !row.final) {
            const auto keys = beliefs_.find(stream);
            const bool has = keys != beliefs_.end() && keys->second.contains(row.key);
            // An end that was told while the disk refused is not in the log yet.
            if (!has && !ended_.contains({stream, row.key}) &&
                !(truth_.flowed_lately() && truth_.said_final(row.origin, row.topic, row.key)) &&
                truth_.state_at(truth_.pos()).contains({stream, row.key})) {
                fail("P2", "a bookmark at " + std::to_string(pos) + " passes over " + row.origin +
                               "/" + row.topic + "/" + row.key);
            }
            if (has && keys->second.at(row.key).seq != 0 &&
                keys->second.at(row.key).seq < row.seq && !keys->second.at(row.key).outdated) {
                fail("P2", "a bookmark at " + std::to_string(pos) + " passes over value " +
                               std::to_string(row.seq) + " of " + row.origin + "/" + row.topic +
                               "/" + row.key);
            }
        }
    }
    checked_ = std::max(checked_, pos);
}

void ClientNode::on_tick(const json::object& message) {
    const json::object& data = message.at("data").as_object();
    const StreamName stream{text(message, "origin"), text(data, "topic")};
    const std::string poll = text(data, "poll");
    const auto as_of = time_at(message, "as_of");
    heard_of_[{stream, poll}] = time_.mono();
    const auto keys = beliefs_.find(stream);
    if (keys == beliefs_.end() || !as_of) {
        return;
    }
    std::optional<std::set<std::string>> named;
    if (const json::value* list = data.if_contains("keys")) {
        named.emplace();
        for (const json::value& key : list->as_array()) {
            named->insert(std::string(key.as_string()));
        }
    }
    for (auto& [key, belief] : keys->second) {
        if (belief.poll != poll || (named && !named->contains(key)) || belief.outdated) {
            continue;
        }
        if (belief.as_of && time_.when(*belief.as_of) > time_.when(*as_of)) {
            continue;  // Older than what it has.
        }
        belief.as_of = as_of;
        check_belief(stream, key, belief, "a tick");
    }
}

void ClientNode::on_transition(const json::object& message) {
    const json::object& data = message.at("data").as_object();
    const StreamName stream{text(message, "origin"), text(data, "topic")};
    const std::string poll = text(data, "poll");
    take_position(stream, message, false);
    check_row(stream, message);
    heard_of_[{stream, poll}] = time_.mono();
    const auto as_of = time_at(message, "as_of");
    if (as_of && !poll.empty() && !truth_.answered_at(stream.first, poll, *as_of)) {
        fail("P4", "a transition of " + stream.first + "/" + stream.second + " as of " +
                       to_rfc3339(*as_of) + ", when " + poll + " had no good answer");
    }
    std::set<std::string> named;
    for (const json::value& key : data.at("keys").as_array()) {
        named.insert(std::string(key.as_string()));
    }
    const auto keys = beliefs_.find(stream);
    if (keys == beliefs_.end()) {
        return;
    }
    for (auto& [key, belief] : keys->second) {
        if (belief.poll == poll && (named.empty() || named.contains(key)) && !belief.outdated) {
            belief.quality = text(message, "quality");
            belief.reason = text(message, "reason");
            belief.told = time_.mono();
        }
    }
}

void ClientNode::on_skipped(const json::object& message) {
    ++counts_.skipped;
    const json::object& data = message.at("data").as_object();
    const StreamName stream{text(message, "origin"), text(data, "topic")};
    View& view = views_[stream];
    const std::uint64_t from = number(data, "from");
    const std::uint64_t to = number(data, "to");
    const std::string why = text(data, "why");
    if (why == "lost" && truth_.trimmed() == 0) {
        // Nothing is removed here: what is in the log can be had.
        for (const Truth::Row& row : truth_.rows()) {
            if (row.origin == stream.first && row.topic == stream.second && row.seq >= from &&
                row.seq <= to && row.kind != Kind::kGap) {
                fail("P2", "told that " + std::to_string(from) + " to " + std::to_string(to) +
                               " of " + stream.first + "/" + stream.second +
                               " are lost, and the log has them");
            }
        }
    }
    if (is_event_topic(stream.second) && why == "slow") {
        fail("P6", "an event was conflated: " + json::serialize(message));
    }
    if (from != 0 && view.last == 0) {
        // The first that it hears of the stream: it need not have what was before it subscribed.
        const bool due = std::ranges::any_of(truth_.rows(), [&](const Truth::Row& row) {
            return row.origin == stream.first && row.topic == stream.second && row.seq < from &&
                   row.pos > subscribed_since_;
        });
        view.last = due ? 0 : from - 1;
    }
    if (from != 0) {
        view.skips[from] = std::max(view.skips[from], to);
        while (!view.skips.empty() && view.skips.begin()->first <= view.last + 1) {
            view.last = std::max(view.last, view.skips.begin()->second);
            view.skips.erase(view.skips.begin());
        }
    }
    if (const json::value* key = data.if_contains("key")) {
        auto& keys = beliefs_[stream];
        if (const auto known = keys.find(std::string(key->as_string())); known != keys.end()) {
            known->second.outdated = true;
            known->second.quality = "stale";
        }
    }
}

/// P1: rises by one, unless it was told that something was left out.
void ClientNode::take_position(const StreamName& stream, const json::object& message, bool replay) {
    const std::uint64_t seq = number(message, "seq");
    const std::uint64_t pos = number(message, "pos");
    if (seq == 0 || pos == 0) {
        return;
    }
    const std::string where = std::to_string(seq) + " of " + stream.first + "/" + stream.second +
                              " at " + std::to_string(pos);
    if (text(message, "epoch") != epoch_) {
        epoch_ = text(message, "epoch");
        newest_event_.clear();
        seen_pos_.clear();
        bookmark_ = 0;
    }
    View& view = views_[stream];
    if (!v1()) {
        if (is_event_topic(stream.second) && seq <= view.last) {
            fail("P1", "an old client gets event " + where + " after " + std::to_string(view.last));
        }
        view.last = std::max(view.last, seq);
        return;
    }
    if (replay && !is_event_topic(stream.second)) {
        view.last = std::max(view.last, seq);
        seen_pos_[stream] = std::max(seen_pos_[stream], pos);
        return;
    }
    if (seq <= view.last) {
        fail("P1", where + " comes after " + std::to_string(view.last));
    }
    if (!view.fresh && seq != view.last + 1) {
        fail("P2", where + " comes after " + std::to_string(view.last) + ", and nothing was said");
    }
    view.fresh = false;
    view.last = seq;
    seen_pos_[stream] = std::max(seen_pos_[stream], pos);
    while (!view.skips.empty() && view.skips.begin()->first <= view.last + 1) {
        view.last = std::max(view.last, view.skips.begin()->second);
        view.skips.erase(view.skips.begin());
    }
}

/// P3: what has a position is in the log, and is what it is there.
void ClientNode::check_row(const StreamName& stream, const json::object& message) const {
    const std::uint64_t pos = number(message, "pos");
    if (pos == 0 || text(message, "epoch") != truth_.epoch()) {
        return;
    }
    const Truth::Row* row = truth_.row(pos);
    const std::string type = text(message, "type");
    const bool transition = type == "transition";
    if (row == nullptr) {
        fail("P3", "position " + std::to_string(pos) + " is not in the log");
    }
    const bool same =
        row->origin == stream.first && row->topic == stream.second &&
        row->seq == number(message, "seq") && (row->kind == Kind::kTransition) == transition &&
        (transition || (row->key == text(message, "key") && row->final == flag(message, "final") &&
                        row->content == content_of(message.at("data").as_object())));
    if (!same) {
        fail("P3", "position " + std::to_string(pos) + " is something else in the log: '" +
                       row->content + "' of " + row->topic + "; got " + json::serialize(message));
    }
}

void ClientNode::on_topic(const std::string& topic, const json::object& message) {
    const StreamName stream{text(message, "origin"), topic};
    const bool replay = flag(message, "replay");
    if (v1() && !wants(topic)) {
        fail("P6", "a topic that was not asked for: " + topic);
    }
    take_position(stream, message, replay);
    check_row(stream, message);
    if (is_event_topic(topic)) {
        on_event(stream, message, replay);
    } else {
        on_value(stream, message, replay);
    }
    if (replay && !is_event_topic(topic) && replay_left_ > 0 && --replay_left_ == 0) {
        check_snapshot();
    }
}

void ClientNode::on_event(const StreamName& stream, const json::object& message, bool) {
    ++counts_.events;
    const std::uint64_t seq = number(message, "seq");
    if (seq == 0) {
        fail("P3", "an event without a position: " + json::serialize(message));
    }
    std::uint64_t& newest = newest_event_[stream];
    if (seq <= newest && (edges_.size() == 1 || (v1() && resumes_))) {
        fail("P1", "event " + std::to_string(seq) + " of " + stream.first + "/" + stream.second +
                       " comes again, after " + std::to_string(newest));
    }
    newest = std::max(newest, seq);
}

void ClientNode::on_value(const StreamName& stream, const json::object& message, bool replay) {
    const std::string key = text(message, "key");
    auto& keys = beliefs_[stream];
    Belief belief;
    belief.content = content_of(message.at("data").as_object());
    belief.poll = text(message, "poll");
    belief.quality = text(message, "quality");
    belief.reason = text(message, "reason");
    belief.as_of = time_at(message, "as_of");
    belief.seq = number(message, "seq");
    belief.pos = number(message, "pos");
    belief.told = time_.mono();
    heard_of_[{stream, belief.poll}] = time_.mono();
    // Of an end that its edge has missed, where the log did not say in time how it came.
    const bool unknown_end = !v1() && flag(message, "final") && belief.pos == 0 &&
                             !message.contains("durable") &&
                             text(message.at("data").as_object(), "status") == "unknown";
    if (unknown_end) {
        if (!truth_.said_final(stream.first, stream.second, key)) {
            fail("P5", "told of an end that nobody has said: " + json::serialize(message));
        }
        keys.erase(key);
        ended_[{stream, key}] = std::nullopt;
        return;
    }
    check_belief(stream, key, belief, replay ? "a snapshot" : "a value");
    if (belief.as_of) {
        if (const auto when =
                truth_.was(stream.first, stream.second, key, belief.content, *belief.as_of)) {
            check_age(message, *when);
        }
    } else {
        fail("P4", "a value without as_of: " + json::serialize(message));
    }
    const bool volatile_value = message.contains("durable");
    if (flag(message, "final")) {
        keys.erase(key);
        if (!key.empty() && stream.second != "breaker.status") {
            ended_[{stream, key}] =
                volatile_value ? std::optional(truth_.restarts()) : std::nullopt;
        }
        return;
    }
    const auto ended = ended_.find({stream, key});
    if (ended != ended_.end() && !replay && !volatile_value) {
        // What the disk had refused is lost with its broker, until the producer says it again.
        if (!ended->second || *ended->second == truth_.restarts()) {
            fail("P1", "key " + key + " of " + stream.second + " has ended, and comes again");
        }
        ended_.erase(ended);
    }
    const auto before = keys.find(key);
    if (before != keys.end() && !replay && belief.seq != 0 && belief.seq < before->second.seq) {
        fail("P1", "value " + std::to_string(belief.seq) + " of " + stream.second + "/" + key +
                       " after " + std::to_string(before->second.seq));
    }
    keys[key] = std::move(belief);
}

void ClientNode::check_belief(const StreamName& stream, const std::string& key,
                              const Belief& belief, const char* after) const {
    const std::string what =
        stream.first + "/" + stream.second + "/" + key + " = '" + belief.content + "'";
    if (!truth_.ever(stream.first, stream.second, key, belief.content)) {
        fail("P5",
             "after " + std::string(after) + " it believes " + what + ", which nobody has said");
    }
    if (belief.as_of &&
        !truth_.was(stream.first, stream.second, key, belief.content, *belief.as_of)) {
        fail("P4", "after " + std::string(after) + " it believes " + what + " as of " +
                       to_rfc3339(*belief.as_of) + ", when it was not so");
    }
}

/// An age is that of the moment when the message was made, never less, and hardly more.
void ClientNode::check_age(const json::object& message, Mono as_of) const {
    if (!message.contains("age_ms")) {
        return;
    }
    const Millis age{static_cast<Millis::rep>(number(message, "age_ms"))};
    const Millis now = elapsed(as_of, time_.mono());
    if (age > now + Millis{12}) {
        fail("P4", "an age of " + std::to_string(age.count()) + " ms, and it is " +
                       std::to_string(now.count()) + ": " + json::serialize(message));
    }
    if (time_.wall_jumped_at() > as_of) {
        return;  // `timestamp` cannot be placed.
    }
    const auto made = time_at(message, "timestamp");
    const auto from = time_at(message, "as_of");
    if (made && from && age < *made - *from - Millis{2}) {
        fail("P4", "an age of " + std::to_string(age.count()) + " ms, " +
                       std::to_string((*made - *from).count()) + " ms after the answer");
    }
}

// ---- How far it may be wrong ----

void ClientNode::check_liveness() const {
    const bool ran = well() && elapsed(thawed_at(), time_.mono()) > kComesBack;
    if (!port_ || !subscribed_ || !ran || replay_left_ > 0 || options_.window < 32) {
        return;
    }
    const bool client_well = truth_.settled(name(), kOvercome) &&
                             truth_.settled(edge_->name(), kOvercome) && !muted_ &&
                             options_.reads_for == Micros{0};
    const bool uplink_well = truth_.settled("uplink " + edge_->name(), kOvercome);
    const bool broker_well = truth_.settled("broker", kOvercome);
    for (const auto& [stream, keys] : beliefs_) {
        const bool producer_well = truth_.settled("producer " + stream.first, kOvercome);
        for (const auto& [key, belief] : keys) {
            if (belief.quality != "live") {
                continue;
            }
            const PollRules* poll = truth_.poll(stream.first, belief.poll);
            const auto good = truth_.last_good(stream.first, belief.poll);
            if (!good || (!belief.poll.empty() && poll == nullptr)) {
                fail("P4",
                     "it believes in a value of " + stream.second + " that nobody answers for");
            }
            Millis bound = kSilence;
            if (poll != nullptr) {
                bound = poll->interval + kJitter + poll->deadline + Millis{250};
                if (!producer_well || !broker_well) {
                    bound = std::max(bound, 2 * poll->interval + Millis{2000});
                }
            }
            bound += broker_well && uplink_well ? Millis{0} : kSilence;
            bound += client_well ? Millis{0} : kComesBack;
            bound += producer_well && broker_well && uplink_well ? kSlack : kSlack + kBeat;
            // Nor without hearing of it: what says so may have been lost on the way, one by one.
            // For state that no poll feeds heads vouch, and are told so often.
            if (v1() && truth_.settled("loss uplink " + edge_->name(), kOvercome)) {
                Millis silence = kSlack;
                Millis disturbed = kSilence;
                if (poll != nullptr) {
                    silence += poll->interval + kJitter + poll->deadline + Millis{250};
                    disturbed = 2 * poll->interval + Millis{2000};
                } else {
                    silence += EdgeNode::kPing + 2 * kBeat;
                    disturbed += silence;
                }
                if (!producer_well || !broker_well) {
                    silence = std::max(silence, disturbed) + kBeat;
                }
                silence += broker_well && uplink_well ? Millis{0} : kSilence + kBeat;
                silence += client_well ? Millis{0} : kComesBack;
                const auto heard = heard_of_.find({stream, belief.poll});
                if (heard != heard_of_.end() && elapsed(heard->second, time_.mono()) > silence) {
                    fail("P4", "it believes that " + stream.first + "/" + stream.second + "/" +
                                   key + " is live, and has heard nothing of it for " +
                                   std::to_string(elapsed(heard->second, time_.mono()).count()) +
                                   " ms; the bound is " + std::to_string(silence.count()));
                }
            }
            if (elapsed(*good, time_.mono()) > bound) {
                fail("P4", "it believes that " + stream.first + "/" + stream.second + "/" + key +
                               " is live, " + std::to_string(elapsed(*good, time_.mono()).count()) +
                               " ms after the last good answer; the bound is " +
                               std::to_string(bound.count()));
            }
            // Nor much longer than lists name it: the first that comes after that says so. (Behind
            // the transition that calls its poll live again.)
            const auto named = truth_.last_named(stream.first, stream.second, key);
            if (poll != nullptr && named && elapsed(belief.told, time_.mono()) > kSlack &&
                elapsed(*named, time_.mono()) > poll->interval + kUnlisted + bound) {
                fail("P4", "it believes that " + stream.first + "/" + stream.second + "/" + key +
                               " is live, " +
                               std::to_string(elapsed(*named, time_.mono()).count()) +
                               " ms after an answer named it; the bound is " +
                               std::to_string((poll->interval + kUnlisted + bound).count()));
            }
        }
    }
    if (!client_well || !uplink_well || !broker_well) {
        return;
    }
    // And no longer than it must.
    for (const auto& [stream, keys] : beliefs_) {
        if (!truth_.settled("producer " + stream.first, kOvercome)) {
            continue;
        }
        for (const auto& [key, belief] : keys) {
            const auto since =
                belief.poll.empty() ? std::nullopt : truth_.good_since(stream.first, belief.poll);
            const bool long_enough = since &&
                                     elapsed(*since, time_.mono()) > Millis{250} + kSlack &&
                                     elapsed(connected_at_, time_.mono()) > Millis{1000};
            if (long_enough && belief.quality != "live" && !belief.outdated &&
                belief.reason != "NOT_LISTED") {
                fail("P4", "it believes that " + stream.first + "/" + stream.second + "/" + key +
                               " is " + belief.quality + " (" + belief.reason + "), " +
                               std::to_string(elapsed(*since, time_.mono()).count()) +
                               " ms after the first good answer");
            }
        }
    }
}

std::string ClientNode::not_converged(
    const std::map<std::string, std::map<std::pair<std::string, std::string>, std::string>>& wanted)
    const {
    if (!port_ || !subscribed_) {
        return name() + " has no connection";
    }
    for (const auto& [origin, values] : wanted) {
        for (const auto& [what, content] : values) {
            if (v1() && !wants(what.first)) {
                continue;
            }
            const StreamName stream{origin, what.first};
            const auto keys = beliefs_.find(stream);
            const bool known = keys != beliefs_.end() && keys->second.contains(what.second);
            const std::string name_of = origin + "/" + what.first + "/" + what.second;
            if (!v1() && !known) {
                continue;  // One origin alone; jobs that it has not subscribed to.
            }
            if (!known) {
                return name() + " does not know " + name_of;
            }
            const Belief& belief = keys->second.at(what.second);
            if (belief.content != content) {
                return name() + " believes " + name_of + " = '" + belief.content +
                       "', and it is '" + content + "'";
            }
            if (belief.quality != "live") {
                return name() + " believes that " + name_of + " is " + belief.quality + ": " +
                       belief.reason;
            }
        }
        for (const auto& [stream, keys] : beliefs_) {
            if (stream.first != origin || stream.second == "breaker.status") {
                continue;
            }
            for (const auto& [key, belief] : keys) {
                if (!values.contains({stream.second, key}) && belief.quality == "live") {
                    return name() + " still believes in " + origin + "/" + stream.second + "/" +
                           key;
                }
            }
        }
    }
    if (!v1()) {
        return {};
    }
    std::map<StreamName, std::uint64_t> newest;
    for (const Truth::Row& row : truth_.rows()) {
        if (row.kind == Kind::kEvent && wants(row.topic) && row.pos > subscribed_since_) {
            newest[{row.origin, row.topic}] = row.seq;
        }
    }
    for (const auto& [stream, seq] : newest) {
        const auto view = views_.find(stream);
        if (view == views_.end() || view->second.last < seq) {
            return name() + " lacks event " + std::to_string(seq) + " of " + stream.first + "/" +
                   stream.second;
        }
    }
    return {};
}

}  // namespace sigmacast::sim
