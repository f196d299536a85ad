#include "edge/encoding.h"

#include <zlib.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include "common/codec.h"

namespace sigmacast::edge {
namespace {

// The first byte of a frame that is a whole message (RFC 6455 5.2; the third bit is RFC 7692's).
constexpr unsigned char kText = 0x81;
constexpr unsigned char kBinary = 0x82;
constexpr unsigned char kCompressed = 0x40;

constexpr int kRawWindow = -15;  // No header of zlib's; the largest window.
/// What each compressed message ends with and none is sent with (RFC 7692 7.2.1).
constexpr std::string_view kTail("\x00\x00\xff\xff", 4);

constexpr std::string_view kExtension = "permessage-deflate";
/// What we make is decoded, whatever it is.
constexpr CodecLimits kOwn{.bytes_max = SIZE_MAX, .elements_max = SIZE_MAX, .depth_max = 64};

Bytef* bytes_of(std::string_view text) {
    return reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));  // zlib only reads them.
}

/// The message of a frame, its data as they came.
std::string packed(const Frame& frame) {
    const std::string_view text = payload_of(frame);
    if (!frame.data()) {
        return to_msgpack(*parse_json(text, kOwn));
    }
    const auto envelope = parse_json(without_members(text, {"data"}), kOwn);
    return to_msgpack(envelope->get_object(), "data", *frame.data());
}

std::string_view trimmed(std::string_view text) {
    constexpr std::string_view kAround = " \t\"";
    const std::size_t begin = text.find_first_not_of(kAround);
    return begin == std::string_view::npos
               ? std::string_view{}
               : text.substr(begin, text.find_last_not_of(kAround) - begin + 1);
}

std::string_view take_until(char separator, std::string_view& list) {
    const std::size_t end = std::min(list.find(separator), list.size());
    const std::string_view part = list.substr(0, end);
    list.remove_prefix(std::min(end + 1, list.size()));
    return part;
}

bool is_window(std::string_view bits) {
    return bits == "8" || bits == "9" ||
           (bits.size() == 2 && bits[0] == '1' && bits >= "10" && bits <= "15");
}

struct Offer {
    bool names_our_window = false;  // Then the answer has to, too (RFC 7692 7.1.2.1).
};

/// What follows the name of the extension; nullopt where it cannot be met. A smaller window of ours
/// would be another message for each size; one of the client's needs nothing.
std::optional<Offer> read_offer(std::string_view parameters) {
    std::vector<std::string_view> seen;
    while (!parameters.empty()) {
        std::string_view value = take_until(';', parameters);
        const bool valued = value.find('=') != std::string_view::npos;
        const std::string_view name = trimmed(take_until('=', value));
        value = trimmed(value);
        const bool known = name == "server_max_window_bits" ? value == "15"
                           : name == "client_max_window_bits"
                               ? !valued || is_window(value)
                               : !valued && (name == "server_no_context_takeover" ||
                                             name == "client_no_context_takeover");
        if (!known || std::find(seen.begin(), seen.end(), name) != seen.end()) {
            return std::nullopt;
        }
        seen.push_back(name);
    }
    const bool named = std::find(seen.begin(), seen.end(), "server_max_window_bits") != seen.end();
    return Offer{.names_our_window = named};
}

}  // namespace

struct Encoder::Streams {
    Streams() {
        constexpr int kMemory = 8;
        if (deflateInit2(&out, Z_DEFAULT_COMPRESSION, Z_DEFLATED, kRawWindow, kMemory,
                         Z_DEFAULT_STRATEGY) != Z_OK) {
            throw std::bad_alloc();
        }
        if (inflateInit2(&in, kRawWindow) != Z_OK) {
            deflateEnd(&out);
            throw std::bad_alloc();
        }
    }
    ~Streams() {
        deflateEnd(&out);
        inflateEnd(&in);
    }
    Streams(const Streams&) = delete;
    Streams& operator=(const Streams&) = delete;

    z_stream out{};
    z_stream in{};
};

Encoder::Encoder() = default;
Encoder::~Encoder() = default;

Encoder::Streams& Encoder::streams() {
    if (!streams_) {
        streams_ = std::make_unique<Streams>();
    }
    return *streams_;
}

bool Encoder::may_deflate(const FramePtr& frame, Mono now) {
    if (frame->size() < kDeflateMin) {
        return false;
    }
    if (frame.use_count() > 1 || frame->others_) {
        return true;  // Others get it, or have got it.
    }
    if (elapsed(second_, now) >= Seconds{1}) {
        second_ = now;
        own_bytes_ = 0;
    }
    own_bytes_ += frame->size();
    return own_bytes_ <= kOwnBytesEach;
}

Bytes Encoder::encode_other(const FramePtr& frame, Encoding as, Mono now) {
    const Frame& of = *frame;
    as.deflate = as.deflate && may_deflate(frame, now);
    if (!as.msgpack && !as.deflate) {
        return text_of(frame);
    }
    if (!of.others_) {
        of.others_ = std::make_unique<std::array<Bytes, 3>>();
    }
    Bytes& made = (*of.others_)[!as.msgpack ? 0u : as.deflate ? 2u : 1u];
    if (!made) {
        made = make(of, as);
    }
    return made;
}

Bytes Encoder::make(const Frame& frame, Encoding as) {
    const std::string pack = as.msgpack ? packed(frame) : std::string();
    counters_.msgpack += as.msgpack ? 1u : 0u;
    const std::string_view payload = as.msgpack ? std::string_view(pack) : payload_of(frame);
    const unsigned char first = as.msgpack ? kBinary : kText;
    std::string out;
    if (std::string deflated;
        as.deflate && payload.size() >= kDeflateMin && append_deflated(deflated, payload)) {
        append_frame_head(out, first | kCompressed, deflated.size());
        out += deflated;
    } else {
        append_frame_head(out, first, payload.size());
        out += payload;
    }
    return std::make_shared<const std::string>(std::move(out));
}

/// False where it would not get shorter.
bool Encoder::append_deflated(std::string& out, std::string_view payload) {
    z_stream& stream = streams().out;
    deflateReset(&stream);
    out.resize(payload.size() + kTail.size());
    stream.next_in = bytes_of(payload);
    stream.avail_in = static_cast<uInt>(payload.size());
    stream.next_out = bytes_of(out);
    stream.avail_out = static_cast<uInt>(out.size());
    const bool whole =
        ::deflate(&stream, Z_SYNC_FLUSH) == Z_OK && stream.avail_in == 0 && stream.avail_out > 0;
    out.resize(out.size() - stream.avail_out);
    if (!whole || !out.ends_with(kTail)) {
        return false;
    }
    out.resize(out.size() - kTail.size());
    ++counters_.deflated;
    counters_.deflate_in += payload.size();
    counters_.deflate_out += out.size();
    return true;
}

Result<std::string> Encoder::inflate(std::string_view payload, std::size_t bytes_max) {
    z_stream& stream = streams().in;
    inflateReset(&stream);
    std::string out;
    for (const std::string_view part : {payload, kTail}) {
        stream.next_in = bytes_of(part);
        stream.avail_in = static_cast<uInt>(part.size());
        while (stream.avail_in > 0 || stream.avail_out == 0) {
            const std::size_t before = out.size();
            out.resize(std::min(std::max(2 * before, std::size_t{1'024}), bytes_max + 1));
            stream.next_out = bytes_of(out) + before;
            stream.avail_out = static_cast<uInt>(out.size() - before);
            const int result = ::inflate(&stream, Z_SYNC_FLUSH);
            out.resize(out.size() - stream.avail_out);
            if (out.size() > bytes_max) {
                return Error{Errc::kTooLarge, "more than " + std::to_string(bytes_max) +
                                                  " bytes without compression"};
            }
            if (result == Z_BUF_ERROR && stream.avail_in == 0) {
                break;  // There was nothing more.
            }
            if (result == Z_STREAM_END) {
                inflateReset(&stream);  // A client may say that it was the last block (7.2.3.4).
            } else if (result != Z_OK) {
                return Error{Errc::kInvalid, "the message is not compressed as RFC 7692 says"};
            }
        }
    }
    return out;
}

std::optional<std::string> accept_deflate(std::string_view offers) {
    while (!offers.empty()) {
        std::string_view offer = take_until(',', offers);
        if (trimmed(take_until(';', offer)) != kExtension) {
            continue;
        }
        if (const auto asked = read_offer(offer)) {
            return std::string(kExtension) +
                   "; server_no_context_takeover; client_no_context_takeover" +
                   (asked->names_our_window ? "; server_max_window_bits=15" : "");
        }
    }
    return std::nullopt;
}

}  // namespace sigmacast::edge
