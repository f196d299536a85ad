// What the edge's tests share: messages as the broker would send them, and time that stands still
// until it is moved.
#pragma once

#include <boost/json.hpp>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/codec.h"
#include "common/message.h"
#include "common/protocol.h"
#include "edge/render.h"

namespace sigmacast::edge::testing {

inline const std::string kEpoch = "0123456789abcdef0123456789abcdef";

class Clock {
 public:
    [[nodiscard]] Now now() const {
        return {Mono{Seconds{1'000}} + passed_, Wall{Seconds{1'795'219'106}} + passed_};
    }
    void advance(Millis by) { passed_ += by; }

 private:
    Millis passed_{0};
};

inline Bytes packed(std::string_view json) {
    return std::make_shared<const std::string>(to_msgpack(*parse_json(json)));
}

inline AsOf as_of(Now now) {
    return {now.wall, now.mono};
}

inline Age live(Now now) {
    Age age;
    age.quality = Quality::kLive;
    age.as_of = as_of(now);
    return age;
}

inline Age stale(Now since, std::string reason, std::string source = "engine") {
    Age age = live(since);
    age.quality = Quality::kStale;
    age.reason = std::move(reason);
    age.source = std::move(source);
    return age;
}

struct Make {
    std::string topic = "system.status";
    std::string key = {};
    std::string poll = "system.status";
    std::string json = R"({"cpu_usage":1.5})";
    std::uint64_t seq = 1;
    std::string origin = "nas";
    bool final = false;
};

inline Message value(Make make, Now now) {
    Message message;
    message.kind = Kind::kValue;
    message.topic = make.topic;
    message.origin = make.origin;
    message.key = make.key;
    message.poll = make.poll;
    message.epoch = kEpoch;
    message.seq = make.seq;
    message.pos = make.seq + 100;
    message.final = make.final;
    message.age = live(now);
    message.at = now.wall;
    message.data = packed(make.json);
    return message;
}

inline Message event(Make make, Now now) {
    Message message = value(std::move(make), now);
    message.kind = Kind::kEvent;
    message.poll.clear();
    return message;
}

inline Message transition(Make make, Age age, Now now) {
    Message message = value(std::move(make), now);
    message.kind = Kind::kTransition;
    message.data = nullptr;
    message.age = std::move(age);
    return message;
}

inline PollState poll_state(Make make, std::uint64_t report_seq, Age age,
                            std::optional<std::vector<std::string>> keys = {}) {
    PollState state;
    state.origin = make.origin;
    state.report.poll = make.poll;
    state.report.topic = make.topic;
    state.report.ok = age.quality == Quality::kLive;
    state.report.as_of = age.as_of;
    state.report.code = age.reason;
    state.report.source = age.source;
    state.report.keys = std::move(keys);
    state.report.interval = Millis{5'000};
    state.report_seq = report_seq;
    state.age = std::move(age);
    return state;
}

/// As the broker's heads tell of a topic's state that no poll feeds; `keys`: those vouched for.
inline PollState state_poll_state(const std::string& topic, std::uint64_t seq, Age age,
                                  std::optional<std::vector<std::string>> keys = {}) {
    PollState state = poll_state({.topic = topic, .poll = state_poll(topic)}, seq, std::move(age),
                                 std::move(keys));
    state.report.ok = true;
    state.report.interval = Millis{0};
    return state;
}

/// While the broker's disk refuses: without a place in the log, the `nth` after the one at `after`.
inline Message unlogged(Message message, std::uint64_t after = 0, Flow flow = {1, 1}) {
    message.seq = 0;
    message.pos = 0;
    message.durable = false;
    message.after = after;
    message.flow = flow;
    return message;
}

inline Message report(const PollState& state) {
    Message message;
    message.kind = Kind::kReport;
    message.topic = report_topic(state.report.poll);
    message.origin = state.origin;
    message.poll = state.report.poll;
    message.epoch = kEpoch;
    message.seq = state.report_seq;
    message.age = state.age;
    message.detail = state.report;
    return message;
}

inline Message head(std::uint64_t pos, std::vector<StreamHead> streams,
                    std::vector<PollState> polls = {}, std::string epoch = kEpoch) {
    Message message;
    message.kind = Kind::kHead;
    message.topic = "head";
    message.origin = "broker";
    message.epoch = std::move(epoch);
    message.pos = pos;
    message.detail = Head{pos, std::move(streams), std::move(polls)};
    return message;
}

inline protocol::Snapshot snapshot(std::uint64_t id, std::vector<StreamHead> streams,
                                   std::vector<PollState> polls = {},
                                   std::vector<Message> values = {}, std::string epoch = kEpoch) {
    protocol::Snapshot made;
    made.id = id;
    made.epoch = std::move(epoch);
    made.pos = 100;
    made.streams = std::move(streams);
    made.polls = std::move(polls);
    made.values = std::move(values);
    return made;
}

/// The payload of a complete, unmasked text frame.
inline std::string payload(const FramePtr& frame) {
    const std::string& text = frame->text();
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const std::size_t header = byte(1) < 126 ? 2 : byte(1) == 126 ? 4 : 10;
    return text.substr(header);
}

/// What nobody looks into.
inline FramePtr raw_frame(std::string text) {
    return std::make_shared<const Frame>(std::move(text), nullptr);
}

inline boost::json::object json_of(const FramePtr& frame) {
    return boost::json::parse(payload(frame)).as_object();
}

}  // namespace sigmacast::edge::testing
