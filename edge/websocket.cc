#include "edge/websocket.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace sigmacast::edge {
namespace {

enum Opcode : unsigned {
    kContinuation = 0,
    kText = 1,
    kBinary = 2,
    kClose = 8,
    kPing = 9,
    kPong = 10
};

constexpr unsigned kCompressed = 0x40;         // RFC 7692 6: the first frame of a message.
constexpr std::size_t kControlBytesMax = 125;  // RFC 6455 5.5.

// RFC 6455 7.4.1.
constexpr std::uint16_t kNormal = 1000;
constexpr std::uint16_t kProtocolError = 1002;
constexpr std::uint16_t kBadPayload = 1007;
constexpr std::uint16_t kTooBig = 1009;

/// Those that an endpoint may send (7.4), of 1000 to 1015 without the ones that stand for "none".
bool may_be_sent(std::uint16_t code) {
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1013) ||
           (code >= 3000 && code <= 4999);
}

std::string control_frame(Opcode opcode, std::string_view payload) {
    payload = payload.substr(0, kControlBytesMax);
    std::string out;
    out.reserve(2 + payload.size());
    out += static_cast<char>(0x80u | opcode);
    out += static_cast<char>(payload.size());
    out += payload;
    return out;
}

}  // namespace

bool Utf8Check::feed(std::string_view piece) {
    for (std::size_t i = 0; i < piece.size(); ++i) {
        const auto byte = static_cast<unsigned char>(piece[i]);
        if (missing_ > 0) {
            if (byte < low_ || byte > high_) {
                return false;
            }
            --missing_;
            low_ = 0x80;
            high_ = 0xbf;
        } else if (byte >= 0x80) {
            if (byte < 0xc2 || byte > 0xf4) {
                return false;
            }
            missing_ = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
            // Neither what fewer bytes could say, nor surrogates, nor beyond U+10FFFF.
            low_ = byte == 0xe0 ? 0xa0 : byte == 0xf0 ? 0x90 : 0x80;
            high_ = byte == 0xed ? 0x9f : byte == 0xf4 ? 0x8f : 0xbf;
        }
    }
    return true;
}

std::size_t WebSocketReader::head_bytes() const {
    if (head_size_ < 2) {
        return 2;
    }
    const unsigned length = head_[1] & 0x7fu;
    return 2u + (length == 126 ? 2u : length == 127 ? 8u : 0u) + 4u;
}

/// By the first two bytes (5.1 to 5.5).
bool WebSocketReader::good_start() const {
    const unsigned opcode = head_[0] & 0x0fu;
    const unsigned extensions = head_[0] & 0x70u;
    const bool compressed =
        deflate_ && extensions == kCompressed && (opcode == kText || opcode == kBinary);
    if ((extensions != 0 && !compressed) || (head_[1] & 0x80u) == 0) {
        return false;  // Extensions that nobody has asked for; a client masks.
    }
    if (control()) {
        return opcode <= kPong && final() && (head_[1] & 0x7fu) <= kControlBytesMax;
    }
    return opcode <= kBinary && (opcode == kContinuation) == in_message_;
}

/// The whole head is there: 0, or what to close with.
std::uint16_t WebSocketReader::begin_payload() {
    const std::size_t wide = head_bytes() - 6u;
    left_ = head_[1] & 0x7fu;
    if (wide > 0) {
        left_ = 0;
        for (std::size_t i = 0; i < wide; ++i) {
            left_ = left_ << 8 | head_[2 + i];
        }
        if (left_ < (wide == 2 ? 126u : 65'536u)) {
            return kProtocolError;  // 5.2: in the fewest bytes.
        }
    }
    if (!control()) {
        if (left_ > message_bytes_max_ - message_.size()) {
            return kTooBig;
        }
        const unsigned opcode = head_[0] & 0x0fu;
        if (opcode != kContinuation) {
            text_ = opcode == kText;
            compressed_ = (head_[0] & kCompressed) != 0;
            utf8_ = {};
        }
        in_message_ = !final();
    }
    in_payload_ = true;
    mask_at_ = 0;
    return 0;
}

void WebSocketReader::unmask(std::span<char> bytes) {
    const unsigned char* mask = head_ + head_bytes() - 4;
    char turned[8];  // Twice the mask, from where this piece begins.
    for (std::size_t i = 0; i < sizeof turned; ++i) {
        turned[i] = static_cast<char>(mask[(mask_at_ + i) % 4]);
    }
    mask_at_ = static_cast<std::uint8_t>((mask_at_ + bytes.size()) % 4);
    std::size_t i = 0;
    std::uint64_t pattern = 0;
    std::memcpy(&pattern, turned, sizeof pattern);
    for (; i + sizeof pattern <= bytes.size(); i += sizeof pattern) {
        std::uint64_t word = 0;
        std::memcpy(&word, bytes.data() + i, sizeof word);
        word ^= pattern;
        std::memcpy(bytes.data() + i, &word, sizeof word);
    }
    for (std::size_t j = 0; i < bytes.size(); ++i, ++j) {
        bytes[i] = static_cast<char>(bytes[i] ^ turned[j]);
    }
}

/// A message or a control frame is there.
WebSocketReader::Item WebSocketReader::end(std::string_view payload) const {
    if (!control()) {
        if (text_ && !compressed_ && !utf8_.whole()) {
            return {.kind = Kind::kBad, .code = kBadPayload};
        }
        return {.kind = text_ ? Kind::kText : Kind::kBinary,
                .payload = payload,
                .compressed = compressed_};
    }
    const unsigned opcode = head_[0] & 0x0fu;
    if (opcode != kClose) {
        return {.kind = opcode == kPing ? Kind::kPing : Kind::kPong, .payload = payload};
    }
    if (payload.empty()) {
        return {.kind = Kind::kClose, .code = kNormal};
    }
    const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(payload[at]); };
    const auto code = static_cast<std::uint16_t>(payload.size() < 2 ? 0 : byte(0) << 8 | byte(1));
    Utf8Check reason;
    if (!may_be_sent(code) || !reason.feed(payload.substr(2)) || !reason.whole()) {
        return {.kind = Kind::kBad, .code = kProtocolError};
    }
    return {.kind = Kind::kClose, .payload = payload, .code = code};
}

WebSocketReader::Item WebSocketReader::next(std::span<char>& input) {
    if (std::exchange(told_, false)) {
        std::string().swap(control() ? control_ : message_);  // Else it keeps its memory.
    }
    while (true) {
        while (!in_payload_) {
            if (input.empty()) {
                return {};
            }
            head_[head_size_++] = static_cast<unsigned char>(input.front());
            input = input.subspan(1);
            if (head_size_ == 2 && !good_start()) {
                return {.kind = Kind::kBad, .code = kProtocolError};
            }
            if (head_size_ == head_bytes()) {
                if (const std::uint16_t code = begin_payload()) {
                    return {.kind = Kind::kBad, .code = code};
                }
                if (!final()) {
                    return {.kind = Kind::kFragment};
                }
            }
        }
        const auto bytes = input.first(std::min<std::uint64_t>(left_, input.size()));
        input = input.subspan(bytes.size());
        left_ -= bytes.size();
        unmask(bytes);
        const std::string_view piece(bytes.data(), bytes.size());
        std::string& kept = control() ? control_ : message_;
        if (!control() && text_ && !compressed_ && !utf8_.feed(piece)) {
            return {.kind = Kind::kBad, .code = kBadPayload};
        }
        const bool whole = left_ == 0 && final() && kept.empty();
        if (!whole) {
            kept += piece;
        }
        if (left_ > 0) {
            return {};
        }
        in_payload_ = false;
        head_size_ = 0;
        if (final()) {
            told_ = !whole;
            return end(whole ? piece : std::string_view(kept));
        }
    }
}

std::string close_frame(std::uint16_t code, std::string_view reason) {
    std::string payload{static_cast<char>(code >> 8), static_cast<char>(code & 0xff)};
    payload += reason;
    return control_frame(kClose, payload);
}

std::string ping_frame() {
    return control_frame(kPing, {});
}

std::string pong_frame(std::string_view payload) {
    return control_frame(kPong, payload);
}

}  // namespace sigmacast::edge
