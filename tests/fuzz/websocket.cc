// What the bytes of a WebSocket's client say: the same however they come, and never more than was
// agreed.
//
// Input: a byte, the size of a piece; then the bytes as they come. Odd sizes: the bytes are those
// of messages, which are framed here, in two fragments each, and have to be heard so, too. Sizes
// that three divides: compression was agreed on.
#include "edge/websocket.h"

#include <algorithm>
#include <string>
#include <vector>

#include "edge/encoding.h"
#include "tests/fuzz/fuzz.h"

namespace sigmacast::edge {
namespace {

using fuzz::require;
using Kind = WebSocketReader::Kind;

constexpr std::size_t kMessageMax = 300;

struct Heard {
    Kind kind;
    std::string payload;
    std::uint16_t code;
    bool compressed = false;

    bool operator==(const Heard&) const = default;
};

std::vector<Heard> read(std::string bytes, std::size_t piece, bool deflate = false) {
    WebSocketReader reader(kMessageMax, deflate);
    std::vector<Heard> heard;
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
        std::span<char> input(bytes.data() + at, std::min(piece, bytes.size() - at));
        for (auto item = reader.next(input); item.kind != Kind::kMore; item = reader.next(input)) {
            heard.push_back({item.kind, std::string(item.payload), item.code, item.compressed});
            if (item.kind == Kind::kBad || item.kind == Kind::kClose) {
                return heard;
            }
        }
        require(input.empty(), "all of the input is used up");
    }
    return heard;
}

void check(const Heard& item) {
    const bool message = item.kind == Kind::kText || item.kind == Kind::kBinary;
    require(item.payload.size() <= (message ? kMessageMax : 125), "nothing is over its bound");
    require(item.kind != Kind::kText || item.compressed || fuzz::is_utf8(item.payload),
            "text is UTF-8", item.payload);
    if (item.compressed) {
        static Encoder encoder;
        const auto inflated = encoder.inflate(item.payload, kMessageMax);
        require(!inflated || inflated->size() <= kMessageMax, "what is inflated is not over it");
    }
    require(
        item.kind != Kind::kBad || (item.code == 1002 || item.code == 1007 || item.code == 1009),
        "what is bad has a code of its own");
    require(item.kind != Kind::kClose || (item.code >= 1000 && item.code <= 4999),
            "a close has a code that may be sent");
}

/// RFC 6455 5.2, by its words.
std::string framed(unsigned first, std::string_view payload) {
    std::string out{static_cast<char>(first)};
    if (payload.size() < 126) {
        out += static_cast<char>(0x80 + payload.size());
    } else {
        out += '\xfe';
        out += static_cast<char>(payload.size() / 256);
        out += static_cast<char>(payload.size() % 256);
    }
    out += "mask";
    for (std::size_t i = 0; i < payload.size(); ++i) {
        out += static_cast<char>(payload[i] ^ "mask"[i % 4]);
    }
    return out;
}

void hear_messages(const std::vector<std::string>& messages, std::size_t piece) {
    std::string bytes;
    std::vector<Heard> expected;
    for (const std::string& each : messages) {
        const std::string payload = each.substr(0, kMessageMax);
        const std::size_t half = payload.size() / 2;
        bytes += framed(0x02, std::string_view(payload).substr(0, half)) + framed(0x89, "p") +
                 framed(0x80, std::string_view(payload).substr(half));
        expected.push_back({Kind::kFragment, {}, 0});
        expected.push_back({Kind::kPing, "p", 0});
        expected.push_back({Kind::kBinary, payload, 0});
    }
    require(read(bytes, piece) == expected, "what a client frames is heard");
}

}  // namespace
}  // namespace sigmacast::edge

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace sigmacast;
    using namespace sigmacast::edge;
    fuzz::Input input(data, size);
    const std::size_t piece = input.byte() + 1u;
    const std::string bytes(input.rest());
    const bool deflate = piece % 3 == 0;
    const std::vector<Heard> whole = read(bytes, bytes.size() + 1, deflate);
    for (const Heard& item : whole) {
        check(item);
    }
    require(read(bytes, piece, deflate) == whole, "the same is heard however the bytes come");
    if (piece % 2 == 0) {
        hear_messages(fuzz::split(bytes), piece);
    }
    return 0;
}
