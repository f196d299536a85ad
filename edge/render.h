// What clients read: envelopes as JSON text, and the WebSocket frame around them. A value's data
// was turned into JSON once, when it arrived; here members are spliced into that text, without a
// document tree.
//
//     FramePtr sent = frame(render_value(value, age, Dialect::kV1, now));   // shared by every
//     session
//
// Pure; thread safe (no state). PROTOCOL.md has every envelope with an example. It does not decide
// who gets what.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/message.h"

namespace sigmacast::edge {

/// kLegacy: a client without a subprotocol; kV1: sigmacast.v1.*.
enum class Dialect : std::uint8_t { kLegacy, kV1 };

/// One stream; lives as long as the cache that made it.
struct Stream {
    std::string origin;
    std::string topic;
};

/// A value or an event as the edge keeps it: the message, with its data as JSON text.
struct Value {
    Kind kind = Kind::kValue;
    const Stream* stream = nullptr;
    std::string key;
    std::string poll;
    std::string epoch;
    std::uint64_t seq = 0;
    std::uint64_t pos = 0;
    Age age;  // Without regard to the uplink: see Cache::effective().
    bool final = false;
    bool durable = true;
    bool outdated = false;  // A newer one could not be kept: it stays stale, whatever reports say.
    Wall at;
    Bytes json;              // An object, without its outer `timestamp`.
    Bytes data;              // What became that, a msgpack map; null where nothing did.
    bool reserved = false;   // The object has a member named stale, error_code or last_update.
    std::uint64_t slot = 0;  // Names (origin, topic, key) for conflation; 0 for events.
};

/// What is known of one source: hello and REST list these.
struct Source {
    std::string_view origin;
    std::string_view poll;
    std::string_view topic;
    Age age;
};

/// A transition: logged (seq and pos set) or made here (the uplink's).
struct Transition {
    const Stream* stream = nullptr;
    std::string_view poll;
    std::vector<std::string> keys;
    std::string_view epoch;
    std::uint64_t seq = 0;
    std::uint64_t pos = 0;
    Age age;
};

/// One message for clients: a complete, unmasked, unfragmented WebSocket text frame. Made once, and
/// shared by everyone who gets it.
class Frame {
 public:
    Frame(std::string text, Bytes data) : text_(std::move(text)), data_(std::move(data)) {}

    [[nodiscard]] const std::string& text() const { return text_; }
    /// Of the text: what it weighs in a client's queue.
    [[nodiscard]] std::size_t size() const { return text_.size(); }
    /// Its `data` as the bus has brought it, a msgpack map; null where it was made here.
    [[nodiscard]] const Bytes& data() const { return data_; }

 private:
    friend class Encoder;  // encoding.h: made when the first client wants them.

    std::string text_;
    Bytes data_;
    mutable std::unique_ptr<std::array<Bytes, 3>> others_;
};
using FramePtr = std::shared_ptr<const Frame>;

FramePtr frame(std::string_view payload, Bytes data = nullptr);

/// The text in a frame, without its head.
std::string_view payload_of(std::string_view frame);
inline std::string_view payload_of(const Frame& frame) {
    return payload_of(frame.text());
}

/// Appends what precedes a payload of so many bytes from a server (RFC 6455 5.2); `first`: its
/// first byte.
void append_frame_head(std::string& out, unsigned char first, std::size_t payload_bytes);

/// Where a v1 message stands in the log, as its text says; `pos` 0: nowhere.
struct Place {
    std::string type = {};
    std::string topic = {};  // Of a transition: that which it is about.
    std::string origin = {};
    std::string epoch = {};
    std::uint64_t pos = 0;
    bool replay = false;  // Part of a snapshot, or of what a client missed.
    bool state = false;   // It has a quality.
};
/// Of a message as the functions below make it.
Place place_of(std::string_view message);

/// A JSON object's text without the named outer members. The text must be an object as
/// append_json() writes it.
std::string without_members(std::string_view object, const std::vector<std::string_view>& names);
/// Whether the object has one of these outer members.
bool has_member(std::string_view object, const std::vector<std::string_view>& names);

std::string render_value(const Value& value, const Age& age, Dialect dialect, Now now,
                         bool replay = false);
/// An event's text as render_value() makes it for those who missed it.
std::string mark_replay(std::string_view rendered);
std::string render_transition(const Transition& transition, Now now);
/// A good answer that changed nothing. `keys` are named where the engine's list was not complete.
std::string render_tick(const Source& source, const std::vector<std::string>* keys, Now now);
/// `from` 0: what is not sent has no position. `key`: what the client holds of it is not the newest
/// any more, and nothing will say so again; null where a newer value follows, or it is no state.
std::string render_skipped(const Stream& stream, std::uint64_t from, std::uint64_t to,
                           std::string_view why, Now now, const std::string* key = nullptr);

/// {"type":TYPE,"timestamp":NOW[,"id":ID][,"data":DATA][,REST]}; `id`, `data` and `rest` are JSON
/// text, or empty.
std::string render_plain(std::string_view type, std::string_view id, std::string_view data,
                         std::string_view rest, Now now);
std::string render_goodbye(std::uint16_t code, std::string_view reason, Millis hint, Now now);
std::string render_error(std::string_view id, int code, std::string_view name,
                         std::string_view message, bool temporary, Now now,
                         std::string_view topic = {});

/// An object: {"origin":..,"poll":..,"topic":..,"quality":..,...}.
void append_source(std::string& out, const Source& source, Now now);

/// `,"quality":..,"as_of":..,"age_ms":..,"reason":..,"source":..,"retry_at":..`, without what is
/// not known.
void append_age(std::string& out, const Age& age, Now now);

/// `"name":"text"`, with a comma before it where the object already has members.
void append_member(std::string& out, std::string_view name, std::string_view text);
void append_member(std::string& out, std::string_view name, std::uint64_t number);

}  // namespace sigmacast::edge
