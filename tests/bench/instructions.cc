// sigmacast-bench-instructions CASE: work of the edge's core under valgrind, for
// tests/bench/instructions to count. Each case prepares something and then calls measured() once,
// in which alone instructions are collected; it prints how often the work was done in there.
//
// Nothing here depends on time, on randomness or on the machine's load: the clock stands still, the
// generator is seeded, and no socket is opened.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "edge/encoding.h"
#include "edge/hub.h"
#include "edge/outbox.h"
#include "tests/unit/edge_fixture.h"

namespace sigmacast::edge {
namespace {

using namespace testing;

constexpr std::size_t kSessions = 1'000;
constexpr std::size_t kKeys = 200;
constexpr std::size_t kMissed = 100;
constexpr std::size_t kEvents = 10;
const std::string kEventTopic = "bench";
const std::string kStateTopic = "state";

std::string json_of_288_bytes(std::size_t n) {
    std::string json = R"({"bench_n":)" + std::to_string(n) + R"(,"p":")";
    json.append(123 - json.size() - 2, 'x');  // About 288 with the envelope.
    return json + "\"}";
}

/// An edge without sockets: what wire.cc does with the Hub, and an outbox for each client.
class Edge {
 public:
    Edge() {
        apply(snapshot(1, {}, {poll_state({}, 1, live(clock_.now()))}, {value({}, clock_.now())}));
        apply(Upstream::UplinkChange{true});
    }

    Session& open() {
        Session& session = hub_.open(Dialect::kV1, clock_.now());
        outboxes_.emplace(&session, Outbox());
        flush();
        return session;
    }
    void say(Session& session, const std::string& text) {
        hub_.receive(session, text, clock_.now());
    }
    void subscribe(Session& session, const std::string& topic, const std::string& more = "") {
        say(session,
            R"({"type":"subscribe","id":1,"data":{"types":[")" + topic + "\"]" + more + "}}");
    }
    void listen(std::size_t sessions, const std::string& topic) {
        for (std::size_t i = 0; i < sessions; ++i) {
            subscribe(open(), topic);
            flush();
        }
    }

    Message next_event() {
        const std::size_t n = ++events_;
        Message message =
            event({.topic = kEventTopic, .json = json_of_288_bytes(n), .seq = n}, clock_.now());
        message.pos = ++pos_;
        return message;
    }
    Message next_state(std::size_t key) {
        Message message = value({.topic = kStateTopic,
                                 .key = "key" + std::to_string(key),
                                 .json = json_of_288_bytes(key),
                                 .seq = ++states_},
                                clock_.now());
        message.pos = ++pos_;
        return message;
    }
    template <typename Step>
    void apply(Step step) {
        std::vector<Upstream::Step> steps;
        steps.emplace_back(std::move(step));
        hub_.apply(std::move(steps), clock_.now());
    }
    void bookmark() { apply(Upstream::Bookmark{pos_}); }

    /// Everything that waits is sent, to sockets that take it all. Returns the number of frames.
    std::size_t flush() {
        std::size_t frames = 0;
        for (Session* session : hub_.take_touched()) {
            Outbox& outbox = outboxes_.at(session);
            while (true) {
                for (FramePtr& each :
                     session->take(outbox.room(), clock_.now(), outbox.bytes_room())) {
                    outbox.append(encoder_.encode(std::move(each), {}, clock_.now().mono));
                    ++frames;
                }
                if (outbox.empty()) {
                    break;
                }
                iovec parts[Outbox::kPartsMax];
                std::size_t bytes = 0;
                for (std::size_t i = 0, count = outbox.gather(parts); i < count; ++i) {
                    bytes += parts[i].iov_len;
                }
                outbox.consume(bytes);
            }
        }
        return frames;
    }
    /// What falls due within the time that the Hub gathers for.
    void turn() {
        clock_.advance(Hub::kGather);
        hub_.on_timer(clock_.now());
    }
    [[nodiscard]] Hub& hub() { return hub_; }

 private:
    Clock clock_;
    Hub hub_{HubOptions{}, Random(3)};
    Encoder encoder_;
    std::unordered_map<Session*, Outbox> outboxes_;
    std::size_t events_ = 0;
    std::size_t states_ = 0;
    std::uint64_t pos_ = 100;
};

[[noreturn]] void die(const char* what) {
    std::fprintf(stderr, "sigmacast-bench-instructions: %s\n", what);
    std::exit(1);
}

void check(bool holds, const char* what) {
    if (!holds) {
        die(what);
    }
}

}  // namespace
}  // namespace sigmacast::edge

// Where instructions are collected: tests/bench/instructions names it to valgrind.
extern "C" [[gnu::noinline]] void measured(const std::function<void()>& work) {
    work();
    asm volatile("" ::: "memory");  // Not the last call, which would become a jump out of here.
}

namespace sigmacast::edge {
namespace {

/// One event becomes a frame: JSON text spliced into its envelope.
std::size_t encode() {
    const Clock clock;
    const Stream stream{.origin = "nas", .topic = kEventTopic};
    Value value;
    value.kind = Kind::kEvent;
    value.stream = &stream;
    value.epoch = kEpoch;
    value.seq = value.pos = 1'000;
    value.at = clock.now().wall;
    value.json = std::make_shared<const std::string>(json_of_288_bytes(1));
    std::size_t bytes = 0;
    measured([&] {
        for (std::size_t i = 0; i < kEvents; ++i) {
            bytes +=
                frame(render_value(value, live(clock.now()), Dialect::kV1, clock.now()))->size();
        }
    });
    check(bytes > 100 * kEvents, "encode made nothing");
    return kEvents;
}

/// Events come from the broker, one at a time, and go to so many sessions.
std::size_t fan_out(std::size_t sessions) {
    Edge edge;
    edge.listen(sessions, kEventTopic);
    std::vector<Message> events;
    for (std::size_t i = 0; i < kEvents; ++i) {
        events.push_back(edge.next_event());
    }
    std::size_t frames = 0;
    measured([&] {
        for (Message& each : events) {
            edge.apply(std::move(each));
            frames += edge.flush();
        }
    });
    check(frames == kEvents * sessions, "not every session got every event");
    return frames;
}

/// As many come at once, and leave each client in one go.
std::size_t burst() {
    Edge edge;
    edge.listen(kSessions, kEventTopic);
    std::vector<Upstream::Step> steps;
    for (std::size_t i = 0; i < kEvents; ++i) {
        steps.emplace_back(edge.next_event());
    }
    std::size_t frames = 0;
    measured([&] {
        edge.hub().apply(std::move(steps), Clock().now());
        frames += edge.flush();
    });
    check(frames == kEvents * kSessions, "not every session got every event");
    return frames;
}

/// A session that takes nothing is conflated: values of kKeys keys, ten of each.
std::size_t conflate() {
    Edge edge;
    edge.listen(1, kStateTopic);
    std::vector<Message> values;
    for (std::size_t i = 0; i < 10 * kKeys; ++i) {
        values.push_back(edge.next_state(i % kKeys));
    }
    measured([&] {
        for (Message& each : values) {
            edge.apply(std::move(each));
        }
        edge.flush();
    });
    return 10 * kKeys;
}

/// A new client: hello, subscribe, and the newest value of kKeys keys.
std::size_t subscribe() {
    Edge edge;
    for (std::size_t i = 0; i < kKeys; ++i) {
        edge.apply(edge.next_state(i));
    }
    std::size_t frames = 0;
    measured([&] {
        Session& session = edge.hub().open(Dialect::kV1, Clock().now());
        edge.subscribe(session, kStateTopic);
        frames = session.take(10 * kKeys, Clock().now()).size();
    });
    check(frames >= kKeys + 2, "the snapshot is not whole");
    return 1;
}

/// A client comes back and has missed kMissed events, which the edge still has.
std::size_t resume() {
    Edge edge;
    for (std::size_t i = 0; i < kMissed; ++i) {
        edge.apply(edge.next_event());
    }
    edge.bookmark();
    Session& session = edge.open();
    std::size_t frames = 0;
    measured([&] {
        edge.subscribe(session, kEventTopic,
                       R"(,"resume":{"epoch":")" + kEpoch + R"(","pos":100})");
        for (int turns = 0; turns < 10 && frames <= kMissed; ++turns) {
            edge.turn();
            frames += edge.flush();
        }
    });
    check(frames == kMissed + 1, "not all that was missed came");
    return 1;
}

std::size_t run(std::string_view name) {
    if (name == "encode") {
        return encode();
    } else if (name == "event_to_one") {
        return fan_out(1);
    } else if (name == "event_to_1000") {
        return fan_out(kSessions);
    } else if (name == "burst_to_1000") {
        return burst();
    } else if (name == "conflate") {
        return conflate();
    } else if (name == "subscribe") {
        return subscribe();
    } else if (name == "resume") {
        return resume();
    }
    die("no such case");
}

}  // namespace
}  // namespace sigmacast::edge

int main(int argc, char** argv) {
    constexpr std::array kCases = {"encode",   "event_to_one", "event_to_1000", "burst_to_1000",
                                   "conflate", "subscribe",    "resume"};
    if (argc != 2) {  // Names them, so that whoever runs them has no list of its own.
        for (const char* name : kCases) {
            std::puts(name);
        }
        return 0;
    }
    std::printf("%zu\n", sigmacast::edge::run(argv[1]));
    return 0;
}
