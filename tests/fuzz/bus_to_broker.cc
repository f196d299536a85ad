// What producers and edges send to a broker, from their frames to the batches that it writes.
//
// Input: steps, separated by 0xC1 0xFE; a step is a byte that says which, and its arguments.
#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "broker/broker.h"
#include "common/log.h"
#include "tests/fuzz/fuzz.h"

namespace sigmacast::broker {
namespace {

using fuzz::require;

constexpr std::string_view kSteps = "\xC1\xFE";
constexpr std::size_t kStepsMax = 200;
constexpr int kRoundsMax = 10;  // Until nothing is due; beyond it the program would spin.

/// A broker whose database is a note of the positions that it took.
class World final : public BrokerOutputs {
 public:
    World() {
        storage::Loaded empty;
        empty.epoch = "0123456789abcdef0123456789abcdef";
        broker_ = std::make_unique<Broker>(std::move(empty), *this, Random(7));
        broker_->start(now_);
    }

    void step(std::string_view text) {
        fuzz::Input input(text);
        switch (input.byte() % 9) {
            case 0:
                take(decode(fuzz::split(input.rest()), now_));
                break;
            case 1:
                if (auto request = protocol::decode(fuzz::split(input.rest()), now_)) {
                    broker_->on_request("peer", std::move(*request), now_);
                }
                break;
            case 2:
                broker_->on_request(peer(input), hello(input), now_);
                break;
            case 3:
                take(some_message(input));
                break;
            case 4:
                take(some_head(input));
                break;
            case 5:
                broker_->on_request(peer(input), some_range(input), now_);
                break;
            case 6:
                broker_->on_request(
                    peer(input), protocol::SnapshotRequest{input.byte(), "", input.byte()}, now_);
                break;
            case 7:
                answer(input.byte() % 4 != 3);
                return;
            default:
                pass(Millis{input.byte() * 20});
        }
        answer(true);
    }

    void publish(const Message& message) override {
        const auto read = decode(encode(message, now_.mono), now_);
        require(read.has_value(), "what is published can be read",
                read ? "" : read.error().message);
        require(message.pos <= broker_pos_, "P3: nothing is seen before it is durable");
    }
    void reply(const std::string&, protocol::Any message) override {
        const auto read = protocol::decode(protocol::encode(message, now_.mono), now_);
        require(read.has_value(), "an answer can be read", read ? "" : read.error().message);
        if (const auto* ask = std::get_if<protocol::Ask>(&message)) {
            require(ask->range.from <= ask->range.to, "what is asked for is a range");
            ask_ = *ask;
        }
    }
    void commit(std::shared_ptr<const storage::Batch> batch) override {
        require(!batch_, "one batch at a time");
        batch_ = std::move(batch);
        check_positions();
    }
    Result<storage::LogRange> read_range(const std::string&, const std::string&,
                                         sequence::Range range, Now) override {
        return storage::LogRange{range, {}};
    }
    Result<storage::LogPage> read_history(std::uint64_t, std::uint64_t to, Now) override {
        return storage::LogPage{to, {}, {}};
    }

 private:
    using Name = std::pair<std::string, std::string>;

    static std::string peer(fuzz::Input& input) { return input.byte() % 2 == 0 ? "p0" : "p1"; }
    static std::string origin(std::uint8_t number) { return number % 2 == 0 ? "nas" : "other"; }
    static std::string topic(std::uint8_t number) {
        constexpr const char* kTopics[] = {"jobs", "system.status", "rpc_error"};
        return kTopics[number % 3];
    }

    static protocol::Hello hello(fuzz::Input& input) {
        protocol::Hello hello;
        hello.origin = origin(input.byte());
        hello.instance = input.byte() % 2 == 0 ? "i" : "j";
        hello.epoch = input.byte() % 4;
        hello.first = input.byte() % 2 == 0;
        hello.polls = {{"p", "jobs", Millis{1'000}, Millis{500}}};
        return hello;
    }
    Message some_message(fuzz::Input& input) {
        constexpr Kind kKinds[] = {Kind::kValue, Kind::kEvent, Kind::kReport, Kind::kGap};
        Message message;
        message.kind = kKinds[input.byte() % 4];
        message.origin = origin(input.byte());
        message.topic = topic(input.byte());
        message.key = std::string(input.take(input.byte() % 3));
        message.poll = input.byte() % 2 == 0 ? "p" : "";
        message.epoch = std::to_string(input.byte() % 4);
        message.seq = input.byte();
        message.final = input.byte() % 4 == 3;
        message.age.quality = Quality::kLive;
        message.age.as_of = AsOf{now_.wall, now_.mono};
        message.at = now_.wall;
        message.sent = now_.mono;
        message.data = std::make_shared<const std::string>("\x80");
        if (message.kind == Kind::kGap) {
            message.detail = Gap{message.seq + input.byte(), "why"};
        }
        if (message.kind == Kind::kReport) {
            message.topic = report_topic("p");
            message.detail = some_report(input);
        }
        return message;
    }
    Report some_report(fuzz::Input& input) {
        Report report;
        report.poll = "p";
        report.topic = "jobs";
        report.ok = input.byte() % 2 == 0;
        report.as_of = AsOf{now_.wall, now_.mono};
        report.code = report.ok ? "" : "FAILED";
        report.interval = Millis{1'000};
        if (input.byte() % 2 == 0) {
            report.keys.emplace();
            for (int i = input.byte() % 3; i > 0; --i) {
                report.keys->emplace_back(input.take(1));
            }
        }
        report.complete = input.byte() % 4 != 3;
        report.after = {{"jobs", input.byte()}};
        return report;
    }
    Message some_head(fuzz::Input& input) {
        Message message;
        message.kind = Kind::kHead;
        message.topic = "head";
        message.origin = origin(input.byte());
        message.epoch = std::to_string(input.byte() % 4);
        message.at = now_.wall;
        message.sent = now_.mono;
        Head head;
        for (int i = input.byte() % 3; i > 0; --i) {
            head.streams.push_back({message.origin, topic(input.byte()), input.byte()});
        }
        message.detail = std::move(head);
        return message;
    }
    protocol::Range some_range(fuzz::Input& input) {
        protocol::Range range;
        range.id = ask_.id;
        range.origin = ask_.origin;
        range.topic = ask_.topic;
        range.epoch = std::to_string(input.byte() % 4);
        range.range = {ask_.range.from + input.byte() % 4, ask_.range.to};
        if (input.byte() % 2 == 0) {
            range.superseded = {{ask_.range.from, ask_.range.from + input.byte()}};
        }
        for (int i = input.byte() % 4; i > 0; --i) {
            Message message = some_message(input);
            message.topic = ask_.topic;
            message.seq += ask_.range.from;
            range.items.push_back(std::move(message));
        }
        return range;
    }

    void take(Result<Message> message) {
        if (message) {
            std::vector<Message> batch;
            batch.push_back(std::move(*message));
            broker_->on_messages(std::move(batch), now_);
        }
    }

    /// The database's answer to the batch in flight.
    void answer(bool good) {
        if (!batch_) {
            return;
        }
        const auto batch = std::exchange(batch_, nullptr);
        if (!good) {
            broker_->on_committed(Error{Errc::kFull, "full"}, now_);
            return;
        }
        for (const Message& row : batch->rows) {
            broker_pos_ = row.pos;
            seq_[{row.origin, row.topic}] = row.seq;
        }
        broker_->on_committed(storage::Committed{broker_pos_, {}}, now_);
    }

    /// P1: each row has the next position of the log and of its stream.
    void check_positions() const {
        std::uint64_t pos = broker_pos_;
        std::map<Name, std::uint64_t> seq = seq_;
        for (const Message& row : batch_->rows) {
            require(row.pos == ++pos, "positions of the log have no holes");
            require(row.seq == ++seq[{row.origin, row.topic}], "positions of a stream neither",
                    row.topic);
            require(row.kind != Kind::kHead && row.kind != Kind::kReport,
                    "neither reports nor heads are logged");
        }
    }

    void pass(Millis time) {
        now_.mono += time;
        now_.wall += time;
        for (int rounds = 0; broker_->deadline() <= now_.mono; ++rounds) {
            require(rounds < kRoundsMax, "a timer that is due is served");
            broker_->on_timer(now_);
        }
    }

    Now now_{Mono{Seconds{1'000}}, Wall{Seconds{1'795'219'106}}};
    std::uint64_t broker_pos_ = 0;
    std::map<Name, std::uint64_t> seq_;
    std::shared_ptr<const storage::Batch> batch_;
    protocol::Ask ask_;
    std::unique_ptr<Broker> broker_;
};

}  // namespace
}  // namespace sigmacast::broker

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace sigmacast;
    static const int quiet = (log_start("fuzz", "error"), 0);
    (void)quiet;
    broker::World world;
    const auto steps = fuzz::split(fuzz::Input(data, size).rest(), broker::kSteps);
    for (std::size_t i = 0; i < std::min(steps.size(), broker::kStepsMax); ++i) {
        world.step(steps[i]);
    }
    return 0;
}
