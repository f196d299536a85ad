// What travels between producer, broker and edges, and its bytes on the bus. `common/WIRE.md` lists
// every field.
//
// A message is three frames: the topic frame (type, NUL, origin: ZeroMQ matches by prefix), a
// header (a msgpack map with its version in `v`, unknown members skipped) and the body, which is
// the event's data as a msgpack map and is passed on untouched from the producer to the edge's
// encoder. Ages travel as durations: whoever encodes adds the monotonic time that the value spent
// here, so that no hop compares two machines' clocks.
//
// Values; no thread of their own. Bytes are shared and immutable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "common/result.h"
#include "common/time.h"

namespace sigmacast {

using Bytes = std::shared_ptr<const std::string>;
using Frames = std::vector<std::string>;

/// Protocol version of the bus; a peer with a higher one is refused by name.
inline constexpr unsigned kBusVersion = 1;

enum class Quality : std::uint8_t {
    kInitial = 0,  // Not polled yet.
    kLive = 1,
    kStale = 2,  // Kept, known to be old.
    kDown = 3,   // Never had a value, and cannot get one.
};
std::string_view to_string(Quality quality);

/// When the engine last answered with a value: by its wall clock, for showing, and by this
/// machine's monotonic clock, for computing an age. Both are set or neither.
struct AsOf {
    Wall wall;
    Mono mono;
};

/// How far a value can be trusted, and why not further.
struct Age {
    Quality quality = Quality::kInitial;
    std::optional<AsOf> as_of;
    bool uncertain =
        false;  // The age crossed a boot: as_of is right, the age is a guess by wall clocks.
    std::string reason;  // An error code of CONTRACT, as RPC_DISCONNECT; empty while live.
    std::string source;  // The hop that failed: engine, producer, broker, uplink; empty while live.
    std::optional<Wall> retry_at;
};

/// A place among what a stream was given that is not logged, since its newest logged position: the
/// nth in this run of the broker. 0: none.
struct Flow {
    std::uint64_t run = 0;
    std::uint64_t nth = 0;
};

/// A place in a stream up to which something has been taken into account.
struct Mark {
    std::string topic;
    std::uint64_t seq = 0;
    Flow flow = {};
};

/// How one poll went. The newest one of a poll supersedes all before it.
struct Report {
    std::string poll;
    std::string topic;  // The state topic that this poll feeds.
    bool ok = false;
    std::optional<AsOf> as_of;   // When the engine last answered well; kept from the last good one
                                 // by a failed report.
    std::string code;            // Error code when !ok.
    std::string source;          // Which hop failed when !ok.
    std::string message;         // For a person, when !ok.
    std::uint32_t failures = 0;  // Consecutive.
    std::optional<Wall> retry_at;
    bool unsupported = false;  // The engine has no such method (-32601): no failure, no value.
    /// The poll's whole set of keys after a good answer; nullopt where the poll feeds one value
    /// without a key.
    std::optional<std::vector<std::string>> keys;
    bool complete =
        true;  // False where the engine cut its list off: absent keys are unknown, not ended.
    std::vector<Mark>
        after;  // Values that belong to this answer: not to be believed before they have arrived.
    Millis interval{0};
    Millis deadline{0};
};

/// The newest report of a poll and what the broker makes of it. Heads and snapshots to the edges
/// carry these.
struct PollState {
    std::string origin;
    Report report;
    std::uint64_t report_seq = 0;
    Age age;
};

/// Where one stream stands.
struct StreamHead {
    std::string origin;
    std::string topic;
    std::uint64_t seq = 0;
    bool events = false;  // Of a snapshot: it has had events.
    Flow flow = {};
};

/// Where the log begins, for one stream: nothing of it is left up to `pos`.
struct StreamFloor {
    std::string origin;
    std::string topic;
    std::uint64_t pos = 0;
};

/// Sent each second, after what it names.
struct Head {
    std::uint64_t pos = 0;            // Feed: the log's committed position.
    std::vector<StreamHead> streams;  // Newest position of each stream.
    std::vector<PollState> polls;     // Feed only.
};

/// A hole that can not be filled: seq..to of the stream are lost for good.
struct Gap {
    std::uint64_t to = 0;
    std::string why;
};

enum class Kind : std::uint8_t {
    kValue = 1,       // A state topic's new value of a key.
    kEvent = 2,       // An event: each one counts.
    kReport = 3,      // How a poll went.
    kTransition = 4,  // The broker's: quality or reason of a poll's values changed; no value.
    kHead = 5,
    kGap = 6,
};
inline bool is_state(Kind kind) {
    return kind == Kind::kValue || kind == Kind::kTransition;
}

struct Message {
    Kind kind = Kind::kValue;
    std::string topic;
    std::string origin;
    std::string key;
    std::string
        poll;  // The poll that feeds it. None does: empty on ingest, state_poll() on the feed.
    std::string epoch;  // Ingest: the producer's counter in decimal. Feed: the log's, 32
                        // hexadecimal digits.
    std::uint64_t seq =
        0;  // Ingest: stamped by the Sender. Feed: stamped by the broker. Reports: the producer's.
    std::uint64_t pos = 0;  // Feed: global log position; 0 where it is not logged.
    Age age;
    bool final = false;       // The last of its key.
    bool durable = true;      // False while the broker's disk refuses.
    std::uint64_t after = 0;  // Of what is not durable: the stream's newest logged position,
    Flow flow = {};           // and its place behind that.
    Wall at;                  // When this message was made.
    Mono sent;  // When it left the last hop, by this machine's clock; set by decode().
    std::vector<std::string>
        keys;  // Transition: the keys that it touches; none named: all of the poll.
    std::variant<std::monostate, Report, Head, Gap> detail;
    Bytes data;  // Event data, a msgpack map; null where there is none.

    [[nodiscard]] const Report& report() const { return std::get<Report>(detail); }
    [[nodiscard]] const Head& head() const { return std::get<Head>(detail); }
    [[nodiscard]] const Gap& gap() const { return std::get<Gap>(detail); }
};

/// The name of the stream that carries a poll's reports.
std::string report_topic(std::string_view poll);

/// On the feed, the poll in whose place an origin's heads vouch for a topic's state that no poll
/// feeds (WIRE.md). Never shown to clients.
inline constexpr std::string_view kStatePollPrefix = "state:";
inline std::string state_poll(std::string_view topic) {
    return std::string(kStatePollPrefix).append(topic);
}
inline bool is_state_poll(std::string_view poll) {
    return poll.starts_with(kStatePollPrefix);
}

/// A topic's or an origin's name may be this long; decode() refuses longer ones, and so should
/// whoever makes one.
inline constexpr std::size_t kNameBytesMax = 128;
/// Checks a topic or an origin: 1 to 128 printable ASCII characters without a space. `what` is for
/// the message.
Result<> check_name(std::string_view what, std::string_view name);

/// Encodes to [topic NUL origin][header][body].
Frames encode(const Message& message, Mono now);
/// Header and body alone, as storage and repair replies carry them: topic and origin go into the
/// header.
std::pair<std::string, Bytes> encode_record(const Message& message, Mono now);

/// Decodes what encode() made. Errors: kInvalid (not ours, or over a limit), kUnsupported (a higher
/// version).
Result<Message> decode(const Frames& frames, Now now);
Result<Message> decode_record(std::string_view header, Bytes body, Now now);

}  // namespace sigmacast
