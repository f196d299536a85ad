#include "ops/cli/event_line.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <memory>

#include "common/codec.h"

namespace sigmacast::cli {
namespace {

namespace json = boost::json;

// Names that the pipeline itself uses on the bus or towards clients.
constexpr std::array<std::string_view, 16> kReserved{
    "head",       "hello", "welcome",   "subscribed",       "unsubscribed",
    "transition", "tick",  "heartbeat", "skipped",          "error",
    "ping",       "pong",  "goodbye",   "connection_error", "authenticated",
    "*"};

Error invalid(std::string message) {
    return {Errc::kInvalid, std::move(message)};
}

Result<std::string> read_text(const json::object& line, std::string_view name) {
    const json::value* value = line.if_contains(name);
    if (!value) {
        return std::string();
    }
    if (!value->is_string()) {
        return invalid("'" + std::string(name) + "' has to be a string");
    }
    return std::string(value->get_string());
}

Result<> check_type(const std::string& type) {
    if (type.empty()) {
        return invalid("'type' is missing");
    }
    if (type.size() > kTypeBytesMax) {
        return Error{Errc::kTooLarge,
                     "'type' is longer than " + std::to_string(kTypeBytesMax) + " bytes"};
    }
    const bool printable =
        std::all_of(type.begin(), type.end(), [](unsigned char c) { return c > 0x20 && c < 0x7F; });
    if (!printable) {
        return invalid("'type' has a character in it that is not printable ASCII, or a space");
    }
    if (type.starts_with("poll.") ||
        std::find(kReserved.begin(), kReserved.end(), type) != kReserved.end()) {
        return invalid("the type '" + type + "' is reserved: choose another name");
    }
    return {};
}

Result<> check_members(const json::object& line) {
    constexpr std::array<std::string_view, 5> kMembers{"type", "key", "data", "kind", "final"};
    for (const auto& member : line) {
        const std::string_view name = member.key();
        if (std::find(kMembers.begin(), kMembers.end(), name) == kMembers.end()) {
            return invalid("unknown member '" + std::string(name.substr(0, 40)) +
                           "' (known: type, key, data, kind, final)");
        }
    }
    return {};
}

Result<Kind> read_kind(const json::object& line, bool state) {
    const auto kind = read_text(line, "kind");
    if (!kind) {
        return kind.error();
    }
    if (!kind->empty() && *kind != "event" && *kind != "state") {
        return invalid("'kind' has to be event or state");
    }
    return (kind->empty() ? state : *kind == "state") ? Kind::kValue : Kind::kEvent;
}

Result<Bytes> read_data(const json::object& line) {
    const json::value* data = line.if_contains("data");
    if (data && !data->is_object()) {
        return invalid("'data' has to be an object");
    }
    std::string packed = to_msgpack(data ? *data : json::value(json::object()));
    const CodecLimits limits;
    if (packed.size() > limits.bytes_max) {
        return Error{Errc::kTooLarge,
                     "'data' is larger than " + std::to_string(limits.bytes_max) + " bytes"};
    }
    return std::make_shared<const std::string>(std::move(packed));
}

}  // namespace

Result<Message> parse_event_line(std::string_view line, bool state) {
    const Result<json::value> parsed = parse_json(line);
    if (!parsed) {
        return parsed.error();
    }
    if (!parsed->is_object()) {
        return invalid("not an object as {\"type\":..,\"key\":..,\"data\":{..}}");
    }
    const json::object& object = parsed->get_object();
    if (const auto known = check_members(object); !known) {
        return known.error();
    }
    const auto type = read_text(object, "type");
    const auto key = read_text(object, "key");
    const auto kind = read_kind(object, state);
    auto data = read_data(object);
    if (!type || !key || !kind || !data) {
        return !type ? type.error() : !key ? key.error() : !kind ? kind.error() : data.error();
    }
    if (const auto good = check_type(*type); !good) {
        return good.error();
    }
    if (key->size() > kKeyBytesMax) {
        return Error{Errc::kTooLarge,
                     "'key' is longer than " + std::to_string(kKeyBytesMax) + " bytes"};
    }
    Message message;
    message.kind = *kind;
    message.topic = *type;
    message.key = *key;
    message.data = std::move(*data);
    message.age.quality = Quality::kLive;
    if (const json::value* last = object.if_contains("final")) {
        if (!last->is_bool() || (last->get_bool() && *kind != Kind::kValue)) {
            return invalid("'final' has to be true or false, and true for state alone");
        }
        message.final = last->get_bool();
    }
    return message;
}

}  // namespace sigmacast::cli
