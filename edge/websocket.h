// What the bytes of a WebSocket's client say (RFC 6455, sections 5 to 7), as a server has to read
// them; of extensions permessage-deflate (RFC 7692) is told, where it was agreed on. And the frames
// of a server that are no text (render.h makes those).
//
//     std::span<char> input(buffer, n);
//     while (true) {
//         const auto item = reader.next(input);   // kMore: all of the input is used up
//         ...
//     }
//
// Unmasks where the bytes are: a message that came whole is never copied, and a reader between two
// messages holds no memory but itself. What is forbidden is told as soon as it has come, be the
// rest of its frame on its way; after kBad or kClose there is nothing more to ask.
//
// Pure. Runs on: the loop. Bounds: message_bytes_max for a message, however many fragments it has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace sigmacast::edge {

/// Whether text that comes in pieces is UTF-8 (RFC 3629).
class Utf8Check {
 public:
    /// False: whatever follows, it is none.
    bool feed(std::string_view piece);
    /// Nothing is missing of the last character.
    [[nodiscard]] bool whole() const { return missing_ == 0; }

 private:
    std::uint8_t missing_ = 0;  // Bytes of the character that has begun;
    unsigned char low_ = 0x80;  // and what the next of them may be.
    unsigned char high_ = 0xbf;
};

class WebSocketReader {
 public:
    enum class Kind : std::uint8_t {
        kMore,      // Of the input nothing is left.
        kFragment,  // A frame has begun that does not end its message.
        kText,
        kBinary,
        kPing,
        kPong,
        kClose,
        kBad,
    };
    struct Item {
        Kind kind = Kind::kMore;
        std::string_view payload = {};  // In the input or the reader, until the next call.
        bool compressed = false;        // Of kText and kBinary: nobody has looked at its text yet.
        std::uint16_t code = 0;         // What to close with, of kClose and kBad.
    };

    explicit WebSocketReader(std::size_t message_bytes_max, bool deflate = false)
        : message_bytes_max_(message_bytes_max), deflate_(deflate) {}

    /// The next thing that the input says; what it took is taken off its front.
    Item next(std::span<char>& input);

 private:
    [[nodiscard]] bool control() const { return (head_[0] & 0x08u) != 0; }
    [[nodiscard]] bool final() const { return (head_[0] & 0x80u) != 0; }
    [[nodiscard]] std::size_t head_bytes() const;
    [[nodiscard]] bool good_start() const;
    std::uint16_t begin_payload();
    void unmask(std::span<char> bytes);
    [[nodiscard]] Item end(std::string_view payload) const;

    std::size_t message_bytes_max_;
    bool deflate_;
    std::uint64_t left_ = 0;       // Of the payload.
    std::string message_;          // What has come of one that did not come whole.
    std::string control_;          // The same, of a control frame.
    unsigned char head_[14] = {};  // Of the frame, as far as it has come; the mask at its end.
    std::uint8_t head_size_ = 0;
    std::uint8_t mask_at_ = 0;
    bool in_payload_ = false;
    bool in_message_ = false;  // A fragment has come, and not the last one.
    bool text_ = false;
    bool compressed_ = false;
    bool told_ = false;  // What did not come whole: it can go.
    Utf8Check utf8_;
};

/// A close frame without a reason has `reason` empty.
std::string close_frame(std::uint16_t code, std::string_view reason = {});
/// At most 125 bytes.
std::string ping_frame();
std::string pong_frame(std::string_view payload);

}  // namespace sigmacast::edge
