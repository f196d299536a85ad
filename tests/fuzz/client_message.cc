// What clients send, to an edge that has some state.
//
// Input: a byte of options, then messages, separated by 0x1E.
#include <algorithm>
#include <boost/json.hpp>
#include <optional>

#include "edge/hub.h"
#include "tests/fuzz/edge_output.h"
#include "tests/unit/edge_fixture.h"

namespace sigmacast::edge {
namespace {

using fuzz::require;
using Object = boost::json::object;

constexpr std::uint8_t kV1Session = 1;
constexpr std::uint8_t kNeedsToken = 2;
constexpr std::uint8_t kReadsNothing = 4;
constexpr std::uint8_t kTimePasses = 8;  // After each message: enough to be answered, or sent on.
constexpr std::uint8_t kBrokerAnswers = 16;  // What the edge asks for its clients.
constexpr std::uint64_t kEvents = 20;

/// Answers to one message: an error of each of kNamesMax topics, every byte escaped.
constexpr std::size_t kAnswerBytesMax = kNamesMax * (kTopicNameMax * 6 + 256);

void check_understood(const ClientMessage& message) {
    const bool bad = message.type == ClientMessage::Type::kBad;
    require(bad != message.problem.empty(), "a bad message, and no other, has a problem");
    require(fuzz::is_utf8(message.problem), "a problem can be shown", message.problem);
    if (bad) {
        return;
    }
    require(message.types.size() <= kNamesMax, "the number of types is bounded");
    for (const std::string& type : message.types) {
        require(!type.empty() && type.size() <= kTopicNameMax, "each type has a length", type);
    }
    if (!message.id.empty()) {
        const auto id = parse_json(message.id);
        require(id && (id->is_number() || id->is_string()), "an id is a number or a text",
                message.id);
    }
}

/// An edge that knows three topics, with one client.
class World {
 public:
    World(Dialect dialect, bool needs_token) : hub_(options(needs_token), Random(3)) {
        std::vector<Upstream::Step> steps;
        steps.push_back(snapshot());
        steps.push_back(Upstream::UplinkChange{true});
        for (std::uint64_t seq = 1; seq <= kEvents; ++seq) {
            steps.push_back(testing::event({.topic = "rpc_error", .seq = seq}, clock_.now()));
        }
        steps.push_back(Upstream::Bookmark{100 + kEvents});
        hub_.apply(std::move(steps), clock_.now());
        session_ = &hub_.open(dialect, clock_.now(), needs_token ? std::nullopt : all());
        take();
    }

    Session& session() { return *session_; }
    [[nodiscard]] const HubCounters& counters() const { return hub_.counters(); }
    void say(std::string_view text) { hub_.receive(*session_, text, clock_.now()); }
    /// Longer than any answer may take.
    void pass(bool broker_answers) {
        for (int i = 0; i < 8; ++i) {
            clock_.advance(Millis{500});
            hub_.on_timer(clock_.now());
            for (const protocol::Any& request : hub_.take_requests()) {
                const auto& asked = std::get<protocol::HistoryRequest>(request);
                require(asked.epoch == testing::kEpoch, "the broker is asked of its own log");
                if (broker_answers) {
                    answer(asked);
                }
            }
        }
        require(hub_.history().requests() <= 1'000,
                "the broker is asked a bounded number of times");
    }
    std::vector<Object> take() {
        std::vector<Object> taken;
        for (const FramePtr& frame : session_->take(100'000, clock_.now())) {
            taken.push_back(fuzz::check_frame(frame->text()));
        }
        return taken;
    }

 private:
    void answer(const protocol::HistoryRequest& asked) {
        protocol::History answer;
        answer.id = asked.id;
        answer.epoch = asked.epoch;
        answer.from = asked.from;
        answer.pos = 100 + kEvents;
        answer.to = std::max(asked.from, std::uint64_t{100});
        answer.floors = {{"nas", "rpc_error", 50}};
        for (std::uint64_t pos = 95; pos <= 100; ++pos) {
            Message row = testing::event({.topic = "compression.update", .seq = pos}, clock_.now());
            row.pos = pos;
            answer.items.push_back(std::move(row));
        }
        std::vector<Upstream::Step> steps;
        steps.push_back(std::move(answer));
        hub_.apply(std::move(steps), clock_.now());
    }

    static std::optional<Grant> all() { return Grant{}; }

    static HubOptions options(bool needs_token) {
        HubOptions options;
        if (needs_token) {
            options.verify = [](std::string_view token, Wall) -> Result<Grant> {
                if (token != "good") {
                    return Error{token == "old" ? Errc::kTimeout : Errc::kInvalid, "no good"};
                }
                Grant grant;
                grant.everything = false;
                grant.topics = {"system.status"};
                return grant;
            };
        }
        return options;
    }

    [[nodiscard]] protocol::Snapshot snapshot() const {
        const Now now = clock_.now();
        return testing::snapshot(
            1, {}, {testing::poll_state({}, 1, testing::live(now))},
            {testing::value({}, now),
             testing::value({.topic = "compression.update", .key = "job \"1\"", .poll = "jobs"},
                            now),
             testing::value({.topic = "agent_x.status", .poll = {}}, now)});
    }

    testing::Clock clock_;
    Hub hub_;
    Session* session_ = nullptr;
};

void check_answer(const ClientMessage& message, const std::vector<Object>& answers,
                  const Session& session) {
    if (message.type == ClientMessage::Type::kPing) {
        require(answers.size() == 1 && answers[0].at("type") == "pong", "a ping has one pong");
    }
    if (message.type == ClientMessage::Type::kBad) {
        require(answers.size() == 1 && answers[0].at("type") == "error",
                "a bad message has one error");
        const auto* id = answers[0].if_contains("id");
        require(message.id.empty() || (id != nullptr && *id == *parse_json(message.id)),
                "an error brings the id that came in", message.id);
    }
    if (message.type == ClientMessage::Type::kSubscribe && session.v1()) {
        require(!answers.empty() && answers[0].at("type") == "subscribed",
                "a subscribe is answered first of all");
    }
}

void run(fuzz::Input input) {
    const std::uint8_t options = input.byte();
    const bool needs_token = (options & kNeedsToken) != 0;
    const bool reads = (options & kReadsNothing) == 0;
    World world((options & kV1Session) != 0 ? Dialect::kV1 : Dialect::kLegacy, needs_token);
    Session& session = world.session();
    for (const std::string& text : fuzz::split(input.rest(), "\x1E")) {
        if (session.closing() || !session.wants_reading()) {
            break;  // As the adapter does.
        }
        const ClientMessage message = parse_client_message(text);
        check_understood(message);
        const bool admitted = session.grant.has_value();
        world.say(text);
        require(session.subscriptions().size() <= HubOptions{}.subscriptions_max,
                "subscriptions are bounded");
        if (admitted) {
            require(!session.closing(), "no message closes a session", text);
        }
        if (reads && admitted && session.queued_bytes() > 0) {
            check_answer(message, world.take(), session);
        } else if (reads) {
            world.take();
        }
        if ((options & kTimePasses) != 0) {
            world.pass((options & kBrokerAnswers) != 0);
            for (const auto& resume : session.resumes) {
                require(session.closing() || resume->phase != Resume::Phase::kAsked,
                        "who asks to resume is answered, or sent on", text);
            }
            if (reads) {
                world.take();
            }
        }
        require(session.queued_bytes() <= QueueLimits{}.control_bytes_max + kAnswerBytesMax,
                "what waits for a client is bounded");
    }
    world.take();
    if (!session.closing() && session.grant) {
        world.say(R"({"type":"ping"})");
        const auto answers = world.take();
        require(answers.size() == 1 && answers[0].at("type") == "pong",
                "whatever it has sent, it is answered");
    }
}

}  // namespace
}  // namespace sigmacast::edge

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    sigmacast::edge::run({data, size});
    return 0;
}
