// What comes from the broker, from its frames to what two clients are sent.
//
// Input: steps, separated by 0xC1 0xFE; a step is a byte that says which, and its arguments.
#include <algorithm>
#include <boost/json.hpp>

#include "common/log.h"
#include "edge/hub.h"
#include "edge/upstream.h"
#include "tests/fuzz/edge_output.h"
#include "tests/unit/edge_fixture.h"

namespace sigmacast::edge {
namespace {

using fuzz::require;
using testing::Make;

constexpr std::string_view kSteps = "\xC1\xFE";
constexpr std::size_t kStepsMax = 200;
constexpr int kRoundsMax = 10;  // Until nothing is due; beyond it the program would spin.

/// An edge with an old client and a new one, which is subscribed to everything.
class World {
 public:
    World() : upstream_(Random(1), {}), hub_({}, Random(2)) {
        old_ = &hub_.open(Dialect::kLegacy, clock_.now());
        new_ = &hub_.open(Dialect::kV1, clock_.now());
        hub_.receive(*new_, R"({"type":"subscribe","data":{"types":["*"]}})", clock_.now());
        heed(upstream_.start(clock_.now()));
    }

    void step(std::string_view text) {
        fuzz::Input input(text);
        switch (input.byte() % 10) {
            case 0:
                if (auto message = decode(fuzz::split(input.rest()), clock_.now())) {
                    heed(upstream_.on_message(std::move(*message), clock_.now()));
                }
                break;
            case 1:
                if (auto reply = protocol::decode(fuzz::split(input.rest()), clock_.now())) {
                    heed(upstream_.on_reply(std::move(*reply), clock_.now()));
                }
                break;
            case 2:
                say(testing::value(make(input), clock_.now()));
                break;
            case 3:
                say(testing::event(make(input), clock_.now()));
                break;
            case 4:
                say(testing::transition(make(input), age(input), clock_.now()));
                break;
            case 5:
                say(testing::report(
                    testing::poll_state(make(input), input.byte(), age(input), keys(input))));
                break;
            case 6:
                say(some_head(input));
                break;
            case 7:
                heed(upstream_.on_reply(some_snapshot(input), clock_.now()));
                break;
            case 8:
                heed(upstream_.on_reply(some_range(input), clock_.now()));
                break;
            default:
                pass(Millis{input.byte() * 20});
        }
        check_clients();
    }

 private:
    static std::string topic(std::uint8_t number) {
        constexpr const char* kTopics[] = {"system.status", "compression.update", "rpc_error"};
        return kTopics[number % 3];
    }
    static Make make(fuzz::Input& input) {
        Make made;
        made.topic = topic(input.byte());
        made.poll = made.topic == "compression.update" ? "jobs" : made.topic;
        made.key = std::string(input.take(input.byte() % 4));
        made.seq = input.byte();
        made.origin = input.byte() % 2 == 0 ? "nas" : "other";
        made.final = input.byte() % 4 == 3;
        return made;
    }
    Age age(fuzz::Input& input) {
        return input.byte() % 2 == 0 ? testing::live(clock_.now())
                                     : testing::stale(clock_.now(), std::string(input.take(3)));
    }
    static std::optional<std::vector<std::string>> keys(fuzz::Input& input) {
        const std::uint8_t count = input.byte() % 4;
        if (count == 3) {
            return std::nullopt;
        }
        std::vector<std::string> keys;
        for (int i = 0; i < count; ++i) {
            keys.emplace_back(input.take(2));
        }
        return keys;
    }
    std::vector<StreamHead> streams(fuzz::Input& input) {
        std::vector<StreamHead> heads;
        for (int i = input.byte() % 4; i > 0; --i) {
            const std::string name = topic(input.byte());
            heads.push_back({input.byte() % 2 == 0 ? "nas" : "other", name, input.byte()});
        }
        return heads;
    }
    std::vector<PollState> polls(fuzz::Input& input) {
        std::vector<PollState> polls;
        for (int i = input.byte() % 3; i > 0; --i) {
            Make made = make(input);
            const std::uint64_t seq = input.byte();
            Age known = age(input);
            polls.push_back(
                testing::poll_state(std::move(made), seq, std::move(known), keys(input)));
        }
        return polls;
    }
    static std::string epoch(std::uint8_t number) {
        return number % 8 == 7 ? "ffffffffffffffffffffffffffffffff" : testing::kEpoch;
    }
    Message some_head(fuzz::Input& input) {
        const std::uint64_t pos = input.byte();
        std::string of = epoch(input.byte());
        auto named = streams(input);
        return testing::head(pos, std::move(named), polls(input), std::move(of));
    }
    protocol::Snapshot some_snapshot(fuzz::Input& input) {
        std::string of = epoch(input.byte());
        auto named = streams(input);
        auto known = polls(input);
        std::vector<Message> values;
        for (int i = input.byte() % 4; i > 0; --i) {
            values.push_back(testing::value(make(input), clock_.now()));
        }
        return testing::snapshot(snapshot_id_, std::move(named), std::move(known),
                                 std::move(values), std::move(of));
    }
    protocol::Range some_range(fuzz::Input& input) {
        protocol::Range range;
        range.id = ask_.id;
        range.origin = ask_.origin;
        range.topic = ask_.topic;
        range.epoch = epoch(input.byte());
        range.range = {ask_.range.from + input.byte() % 4,
                       std::min(ask_.range.to, ask_.range.from + input.byte())};
        for (int i = input.byte() % 4; i > 0; --i) {
            Make made = make(input);
            made.topic = ask_.topic;
            made.origin = ask_.origin;
            made.seq += ask_.range.from;
            range.items.push_back(testing::value(std::move(made), clock_.now()));
        }
        return range;
    }

    void say(Message message) { heed(upstream_.on_message(std::move(message), clock_.now())); }

    void heed(Upstream::Output output) {
        for (const protocol::Any& request : output.requests) {
            require(protocol::decode(protocol::encode(request, clock_.now().mono), clock_.now())
                        .has_value(),
                    "a request can be read");
            if (const auto* snapshot = std::get_if<protocol::SnapshotRequest>(&request)) {
                snapshot_id_ = snapshot->id;
            } else if (const auto* ask = std::get_if<protocol::Ask>(&request)) {
                require(ask->range.from <= ask->range.to, "what is asked for is a range");
                ask_ = *ask;
            }
        }
        hub_.apply(std::move(output.steps), clock_.now());
    }

    void pass(Millis time) {
        clock_.advance(time);
        const Mono now = clock_.now().mono;
        for (int rounds = 0; upstream_.deadline() && *upstream_.deadline() <= now; ++rounds) {
            require(rounds < kRoundsMax, "a timer that is due is served");
            heed(upstream_.on_timer(clock_.now()));
        }
        for (int rounds = 0; hub_.deadline() <= now; ++rounds) {
            require(rounds < kRoundsMax, "a timer that is due is served");
            hub_.on_timer(clock_.now());
        }
    }

    void check_clients() {
        for (Session* session : {old_, new_}) {
            require(!session->closing(), "nothing from the broker closes a client that reads");
            for (const FramePtr& frame : session->take(100'000, clock_.now())) {
                fuzz::check_frame(frame->text());
            }
        }
        (void)hub_.take_touched();
    }

    testing::Clock clock_;
    Upstream upstream_;
    Hub hub_;
    Session* old_ = nullptr;
    Session* new_ = nullptr;
    std::uint64_t snapshot_id_ = 0;
    protocol::Ask ask_;
};

}  // namespace
}  // namespace sigmacast::edge

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace sigmacast;
    static const int quiet = (log_start("fuzz", "error"), 0);
    (void)quiet;
    edge::World world;
    const auto steps = fuzz::split(fuzz::Input(data, size).rest(), edge::kSteps);
    for (std::size_t i = 0; i < std::min(steps.size(), edge::kStepsMax); ++i) {
        world.step(steps[i]);
    }
    return 0;
}
