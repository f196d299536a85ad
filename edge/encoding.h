// The encodings of a client's messages: text (JSON) or msgpack, compressed (RFC 7692) or not. What
// the Hub makes is text. Anything else is made of that when the first client wants it, once, and
// kept with the frame for all the others.
//
//     outbox.append(encoder.encode(std::move(frame), encoding, now.mono));
//     const auto message = encoder.inflate(payload, bytes_max);   // of a client
//
// Each message is compressed by itself (no context takeover), so that its bytes are everyone's.
// What is one client's alone (the state that it is answered with) is compressed, too, but of all
// clients together no more than kOwnBytesEach a second: a crowd that comes back is answered at
// once. A message in msgpack has the members of the text; its `data` are the bytes that the
// producer has sent, untouched.
//
// Runs on: the loop. Holds 300 KB once something was compressed, however many clients there are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "common/message.h"
#include "common/result.h"
#include "common/time.h"
#include "edge/render.h"

namespace sigmacast::edge {

struct Encoding {
    bool msgpack = false;
    bool deflate = false;
};

struct EncodeCounters {
    std::uint64_t msgpack = 0;  // Frames made, as below; what is shared counts once.
    std::uint64_t deflated = 0;
    std::uint64_t deflate_in = 0;  // Bytes.
    std::uint64_t deflate_out = 0;
};

class Encoder {
 public:
    /// A shorter payload is not worth it: it is sent as it is.
    static constexpr std::size_t kDeflateMin = 256;
    /// A second, and at once; a megabyte takes some 25 ms.
    static constexpr std::size_t kOwnBytesEach = 1u << 20;

    Encoder();
    ~Encoder();
    Encoder(const Encoder&) = delete;
    Encoder& operator=(const Encoder&) = delete;

    /// A whole WebSocket frame. One that would grow is not compressed.
    Bytes encode(FramePtr frame, Encoding as, Mono now) {
        if (as.msgpack || as.deflate) {
            return encode_other(frame, as, now);
        }
        return text_of(std::move(frame));
    }
    /// The frame as it is; it lives as long as these bytes.
    static Bytes text_of(FramePtr frame) {
        const std::string* text = &frame->text();
        return {std::move(frame), text};
    }

    /// A client's compressed message. Errors: kInvalid (RFC 7692 does not say so), kTooLarge (it
    /// would be more than `bytes_max`).
    Result<std::string> inflate(std::string_view payload, std::size_t bytes_max);

    [[nodiscard]] const EncodeCounters& counters() const { return counters_; }

 private:
    struct Streams;

    Bytes encode_other(const FramePtr& frame, Encoding as, Mono now);
    bool may_deflate(const FramePtr& frame, Mono now);
    Bytes make(const Frame& frame, Encoding as);
    bool append_deflated(std::string& out, std::string_view payload);
    Streams& streams();

    std::unique_ptr<Streams> streams_;
    Mono second_{};              // Since when
    std::size_t own_bytes_ = 0;  // so much of what is one client's was compressed.
    EncodeCounters counters_;
};

/// The answer to a client's Sec-WebSocket-Extensions, a list that is well-formed: the first offer
/// of permessage-deflate that can be met; nullopt where there is none.
std::optional<std::string> accept_deflate(std::string_view offers);

}  // namespace sigmacast::edge
