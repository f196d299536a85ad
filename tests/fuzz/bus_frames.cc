// Frames from the bus, of both kinds of socket: what can be read is written and read as the same.
//
// Input: a byte that chooses how it is read, then frames, separated by fuzz::kSeparator.
#include <algorithm>
#include <boost/json.hpp>

#include "common/codec.h"
#include "common/message.h"
#include "common/protocol.h"
#include "common/transit.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/same_json.h"

namespace sigmacast {
namespace {

using fuzz::require;

const Now kNow{Mono{Seconds{1'000'000}}, Wall{Seconds{1'795'219'106}}};
const Now kLater{kNow.mono + Millis{1'500}, kNow.wall + Millis{1'500}};

void check_age(const Age& age) {
    require(age.quality <= Quality::kDown, "a quality is one of four");
    require(!age.as_of || age.as_of->mono <= kNow.mono, "nothing is younger than now");
}

void check_message(const Message& message) {
    require(check_name("topic", message.topic) && check_name("origin", message.origin),
            "names can be shown");
    require(message.kind >= Kind::kValue && message.kind <= Kind::kGap, "a kind is known");
    check_age(message.age);
    (void)to_rfc3339(message.at);
    if (message.data) {
        std::string text;
        require(append_json(text, *message.data).has_value(), "data can be shown as JSON");
        require(fuzz::is_utf8(text), "it is shown in UTF-8", text);
        require(parse_json(text, {.bytes_max = text.size() + 1, .depth_max = 64}).has_value(),
                "it is JSON", text);
    }
}

/// An age grows by what the message stays here, to the millisecond and never less.
void check_stay(const Message& before, const Message& after) {
    if (before.age.as_of) {
        require(after.age.as_of.has_value() && after.age.as_of->wall == before.age.as_of->wall,
                "as_of is not touched");
        const auto stay = kLater.mono - kNow.mono;
        require(after.age.as_of->mono + stay <= before.age.as_of->mono + stay,
                "a value does not get younger on its way");
    }
}

void run_message(const Frames& frames) {
    const auto message = decode(frames, kNow);
    if (!message) {
        require(!message.error().message.empty(), "a refusal says why");
        return;
    }
    check_message(*message);
    const Frames written = encode(*message, kNow.mono);
    const auto again = decode(written, kNow);
    require(again.has_value(), "what was read can be read again",
            again ? "" : again.error().message);
    require(encode(*again, kNow.mono) == written, "and is the same");
    const auto late = decode(encode(*message, kLater.mono), kLater);
    require(late.has_value(), "later, too");
    check_stay(*message, *late);

    const auto [header, body] = encode_record(*message, kNow.mono);
    const auto record = decode_record(header, body, kNow);
    require(record && encode(*record, kNow.mono) == written, "a record holds the same");
}

void run_record(const Frames& frames) {
    const auto body = std::make_shared<const std::string>(frames.size() > 1 ? frames[1] : "");
    if (const auto message = decode_record(frames[0], body, kNow)) {
        check_message(*message);
    }
}

void run_protocol(const Frames& frames) {
    const auto message = protocol::decode(frames, kNow);
    if (!message) {
        require(!message.error().message.empty(), "a refusal says why");
        return;
    }
    const Frames written = protocol::encode(*message, kNow.mono);
    const auto again = protocol::decode(written, kNow);
    require(again.has_value() && again->index() == message->index(),
            "what was read can be read again", again ? "" : again.error().message);
    require(protocol::encode(*again, kNow.mono) == written, "and is the same");
}

void run_stamps(const Frames& frames) {
    constexpr std::uint64_t kOwn = 0x0101010101010101;
    Transit transit(kOwn);
    Mono now = kNow.mono;
    for (const std::string& frame : frames) {
        const auto stamp = Stamp::read(frame);
        if (!stamp) {
            continue;
        }
        require(stamp->bytes() == frame, "a stamp is written as it was read");
        require(transit.sent(*stamp, now) <= now, "nothing was sent after now");
        now += Millis{100};
    }
}

void run_json(std::string_view text) {
    const auto value = parse_json(text);
    if (!value) {
        return;
    }
    std::string shown;
    const std::string packed = to_msgpack(*value);
    require(append_json(shown, packed).has_value(), "what was JSON can be shown as JSON");
    const auto again = parse_json(shown, {.bytes_max = shown.size() + 1});
    require(again && fuzz::same_json(*again, *value), "and is the same", shown);
    require(!value->is_object() || check_map(packed).has_value(), "an object is a map");
}

}  // namespace
}  // namespace sigmacast

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace sigmacast;
    fuzz::Input input(data, size);
    const std::uint8_t way = input.byte();
    const std::string_view rest = input.rest();
    switch (way % 5) {
        case 0:
            run_message(fuzz::split(rest));
            break;
        case 1:
            run_protocol(fuzz::split(rest));
            break;
        case 2:
            run_record(fuzz::split(rest));
            break;
        case 3:
            run_stamps(fuzz::split(rest));
            break;
        default:
            run_json(rest);
    }
    return 0;
}
