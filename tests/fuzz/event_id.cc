// The ids of event streams, as a client brings them back: whatever they hold is understood as a
// place in the log, or as no id.
//
// Input: a byte of options; then an id as it comes, or the bytes of one, to which version and check
// are added here; after a separator, what the stream is sent.
#include "edge/event_id.h"

#include <algorithm>
#include <optional>

#include "common/sequence.h"
#include "edge/session.h"
#include "tests/fuzz/fuzz.h"

namespace sigmacast::edge {
namespace {

using fuzz::require;

/// As RFC 4648 5 and FNV-1a say, and not by the code under test.
std::string sealed(std::string_view body) {
    std::string bytes = "\x01" + std::string(body);
    std::uint32_t check = 2'166'136'261u;
    for (const char c : bytes) {
        check = (check ^ static_cast<unsigned char>(c)) * 16'777'619u;
    }
    for (int shift = 0; shift < 32; shift += 8) {
        bytes += static_cast<char>(check >> shift & 0xffu);
    }
    std::string out;
    for (std::size_t bit = 0; bit < bytes.size() * 8; bit += 6) {
        unsigned value = 0;
        for (std::size_t i = bit; i < bit + 6; ++i) {
            const unsigned byte =
                i / 8 < bytes.size() ? static_cast<unsigned char>(bytes[i / 8]) : 0u;
            value = value << 1 | (byte >> (7 - i % 8) & 1u);
        }
        out += "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[value];
    }
    return out;
}

void check_answer(const std::string& token, const std::optional<EventId>& id) {
    const ClientMessage message =
        parse_client_message(R"({"type":"subscribe","data":{"types":["a"],"resume":)" +
                             (id ? id->resume() : std::string("{}")) + "}}");
    require(message.type == ClientMessage::Type::kSubscribe && message.resume,
            "whatever it holds is answered in `subscribed`", token);
    if (!id) {
        require(!message.cursor, "what is no id is no cursor", token);
        return;
    }
    require(id->token() == token, "an id is written in one way", token);
    const std::string resume = id->resume();
    if (resume.find("\xEF\xBF\xBD") == std::string::npos) {  // Of names that are not UTF-8.
        require(message.cursor.has_value(), "an id is a cursor", resume);
        require(message.cursor->pos <= sequence::kSeqMax, "of a position that a log can have");
        for (const auto& [stream, pos] : message.cursor->seen) {
            require(pos >= message.cursor->pos && pos <= sequence::kSeqMax,
                    "what was sent beyond a bookmark is beyond it");
        }
    }
}

/// Wherever its client comes from, an id that a stream sends is one that it can come back with.
void go_on(EventId id, fuzz::Input input) {
    const std::string epochs[] = {std::string(32, 'a'), "0123456789abcdef0123456789abcdef", ""};
    const std::string names[] = {"a", "task.queued", std::string(kNameBytesMax, 'n'), ""};
    while (!input.empty()) {
        const std::uint8_t what = input.byte();
        const std::uint64_t pos = input.byte() == 0 ? input.number() >> 1 : input.byte();
        const std::string& epoch = epochs[what % 3];
        if (what % 7 == 0) {
            id.reach(epoch, pos);
        } else if (what % 7 == 1) {
            id.forget();
        } else {
            id.pass({.type = names[what % 4],
                     .topic = names[what % 4],
                     .origin = names[what / 4 % 4],
                     .epoch = epoch,
                     .pos = pos,
                     .replay = what % 5 == 0,
                     .state = what % 3 == 0});
        }
        const std::string token = id.token();
        require(token.size() <= EventId::kTokenBytesMax, "an id fits into a header");
        require(token.empty() || EventId::parse(token).has_value(), "an id can be read", token);
    }
}

}  // namespace
}  // namespace sigmacast::edge

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace sigmacast;
    using namespace sigmacast::edge;
    fuzz::Input input(data, size);
    const bool as_it_comes = input.byte() % 2 == 0;
    const std::vector<std::string> parts = fuzz::split(input.rest());
    const std::string token = as_it_comes ? parts[0] : sealed(parts[0]);
    const std::optional<EventId> id = EventId::parse(token);
    if (!token.empty()) {
        check_answer(token, id);
    }
    go_on(id.value_or(EventId()),
          fuzz::Input(parts.size() > 1 ? std::string_view(parts[1]) : std::string_view()));
    return 0;
}
