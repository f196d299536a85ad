// What an engine answers: what is made of it can be sent, and a bad answer changes nothing.
//
// Input: a byte that chooses the poll, a byte that chooses the HTTP status, then the body. Request
// 1 was asked.
#include <algorithm>
#include <boost/json.hpp>
#include <set>

#include "common/codec.h"
#include "common/log.h"
#include "producer/core.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/same_json.h"

namespace sigmacast::producer {
namespace {

using fuzz::require;
namespace json = boost::json;

const Now kNow{Mono{Seconds{1'000}}, Wall{Seconds{1'795'219'106}}};
constexpr std::size_t kErrorTextMax = 2'000;

/// Each mapper, as the default polls use it.
const PollSettings& poll_for(std::uint8_t choice) {
    static const std::vector<PollSettings> polls = default_settings().producer.polls;
    return polls[choice % polls.size()];
}

void check_text(const std::string& text) {
    require(!text.empty() && text.size() <= kErrorTextMax, "a failure is told, in short", text);
    require(std::none_of(text.begin(), text.end(), [](unsigned char c) { return c < ' '; }),
            "a failure is told in one line", text);
}

/// Inside, out, and back: JSON as the edge writes it is the value that the mapper made.
void check_round_trip(const json::object& data) {
    const std::string packed = to_msgpack(data);
    if (!check_map(packed)) {
        return;  // Over a limit: the producer calls the answer unusable.
    }
    std::string text;
    require(append_json(text, packed).has_value(), "what can be sent can be shown");
    require(fuzz::is_utf8(text), "it is shown in UTF-8", text);
    const auto again = parse_json(text, {.bytes_max = text.size() + 1, .depth_max = 64});
    require(again && fuzz::same_json(*again, data), "nothing changes on the way", text);
}

void check_mapped(const PollSettings& poll, const Mapped& mapped) {
    require(!mapped.values.empty(), "an answer has a value");
    std::set<std::string> keys;
    for (const MappedValue& value : mapped.values) {
        require(keys.insert(value.key).second, "each key is there once", value.key);
        require(value.key.size() <= 256, "a key is short", value.key);
        check_round_trip(value.data);
    }
    require(!has_ends(poll) || mapped.values.back().key.empty(), "the summary comes last");
}

/// Keeps what a producer publishes, and answers its first calls.
class World final : public Producer::Io {
 public:
    explicit World(const PollSettings& poll) : producer_(options(poll), *this, Random(1)) {
        producer_.start(kNow);
    }
    void answer(const http::Response& reply) {
        require(call_ != 0, "a poll is made at the start");
        published_.clear();
        producer_.on_reply(call_, reply, kNow);
    }
    [[nodiscard]] bool good() const { return producer_.polls()[0].ok; }
    [[nodiscard]] std::vector<Message> of(Kind kind) const {
        std::vector<Message> found;
        std::copy_if(published_.begin(), published_.end(), std::back_inserter(found),
                     [&](const Message& message) { return message.kind == kind; });
        return found;
    }
    [[nodiscard]] const std::vector<Message>& published() const { return published_; }

    void publish(Message message) override { published_.push_back(std::move(message)); }
    void send(protocol::Any) override {}
    Result<> save_epoch(std::uint64_t) override { return {}; }
    void call(Call call) override { call_ = call_ == 0 ? call.id : call_; }
    void on_poll_ended(const std::string&, std::string_view, Millis) override {}

 private:
    static ProducerOptions options(const PollSettings& poll) {
        ProducerOptions options;
        options.settings.polls = {poll};
        options.settings.jitter = Millis{0};
        options.origin = "nas";
        options.instance = "i";
        return options;
    }
    std::vector<Message> published_;
    std::uint64_t call_ = 0;
    Producer producer_;
};

/// Whatever was answered, what goes out is what a broker takes, and one report tells of it.
void check_producer(const PollSettings& poll, const http::Response& reply, bool usable) {
    World world(poll);
    world.answer(reply);
    for (const Message& message : world.published()) {
        const auto read = decode(encode(message, kNow.mono), kNow);
        require(read.has_value(), "what is published can be read",
                read ? "" : read.error().message);
    }
    const auto reports = world.of(Kind::kReport);
    require(reports.size() == 1 && reports[0].report().ok == world.good(), "one report a poll");
    const auto values = world.of(Kind::kValue);
    const bool any = std::any_of(values.begin(), values.end(),
                                 [&](const Message& value) { return value.topic == poll.topic; });
    require(world.good() ? usable : !any, "a bad answer is no value");
}

}  // namespace
}  // namespace sigmacast::producer

extern "C" int LLVMFuzzerInitialize(int*, char***) {
    sigmacast::log_start("fuzz", "error");
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace sigmacast;
    using namespace sigmacast::producer;
    static const int quiet = LLVMFuzzerInitialize(nullptr, nullptr);
    (void)quiet;
    constexpr int kStatus[] = {200, 200, 500, 422};
    fuzz::Input input(data, size);
    const PollSettings& poll = poll_for(input.byte());
    http::Response reply;
    reply.status = kStatus[input.byte() % 4];
    reply.body = std::string(input.rest());

    Outcome outcome = judge(reply, 1);
    bool usable = false;
    if (!outcome.ok()) {
        check_text(outcome.text);
    } else {
        fuzz::require(!outcome.value.is_null(), "a value is not null");
        const auto mapped = map_answer(poll, outcome.value, kNow);
        usable = mapped.has_value();
        if (usable) {
            check_mapped(poll, *mapped);
        } else {
            check_text(mapped.error().message);
        }
    }
    check_producer(poll, reply, usable);
    return 0;
}
