// The repair socket: what producers and edges ask the broker, and what it answers (DEALER to
// ROUTER). One message is one msgpack map, followed by records (header and body frames, as in
// message.h) where it carries any.
//
//   producer -> broker   Hello {origin, instance, epoch, polls}    first, and whenever it hears
//   Unknown
//            <-          Welcome {floor, keys}                     or Conflict: another instance
//            owns the origin
//            ->          Sync {origin, instance, epoch}            each second
//            <-          Durable {streams}                         each second, and after each
//            commit of that origin
//            <-          Ask {topic, from, to}                     a gap
//            ->          Range {topic, range, records, superseded}
//   edge     -> broker   SnapshotRequest {id, epoch, pos}
//            <-          Snapshot {id, epoch, pos, streams, polls, records}
//            ->          Ask {id, origin, topic, from, to}
//            <-          Range {id, origin, topic, epoch, range, records, superseded}
//            ->          HistoryRequest {id, epoch, from}          for clients that were away
//            <-          History {id, epoch, from, to, pos, floors, records}
//   either              <- Refused {why}                         its key does not allow this
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/message.h"
#include "common/sequence.h"

namespace sigmacast::protocol {

struct DeclaredPoll {
    std::string name;
    std::string topic;
    Millis interval{0};
    Millis deadline{0};
};

struct Hello {
    std::string origin;
    std::string instance;     // Random, new at each start.
    std::uint64_t epoch = 0;  // The producer's own counter, raised and synced at each start.
    bool first = true;        // The first hello of this instance: its epoch may still be raised.
    std::vector<DeclaredPoll> polls;
};

/// The keys of a state topic that the broker holds as not ended.
struct LiveKey {
    std::string topic;
    std::string poll;
    std::string key;
    Bytes data;  // The last known data; null where the welcome had no room for it.
};

struct Welcome {
    std::uint64_t epoch = 0;    // The epoch under which this instance owns the origin.
    std::vector<Mark> streams;  // Durable positions in that epoch.
    std::vector<LiveKey> keys;
};

/// The origin is owned by an epoch that is not below the asker's. A first hello tries again above
/// `floor`; any later one stops: another producer uses this name.
struct Conflict {
    std::uint64_t floor = 0;
};

struct Sync {
    std::string origin;
    std::string instance;
    std::uint64_t epoch = 0;
};

struct Durable {
    std::uint64_t epoch = 0;
    std::vector<Mark> streams;
};

/// The broker does not know this instance: say hello again.
struct Unknown {};

/// The asker's key does not let it do this (the broker's [curve]): nothing was done.
struct Refused {
    std::string why;
};

struct Ask {
    std::uint64_t id = 0;
    std::string origin;
    std::string topic;
    sequence::Range range;
};

struct Range {
    std::uint64_t id = 0;
    std::string origin;
    std::string topic;
    std::string epoch;
    sequence::Range range;
    std::vector<sequence::Range> superseded;
    std::uint64_t newest = 0;  // Position of the topic when this was made; 0: not said.
    std::vector<Message> items;
    std::uint64_t unreadable =
        0;  // Decoding: records that are not what they should be. Left out, so they count as lost.
};

/// What the asker was sent before: the highest position of that log epoch. A log that holds less
/// has lost it, and gets a new epoch before the snapshot is answered.
struct SnapshotRequest {
    std::uint64_t id = 0;
    std::string epoch = {};  // Empty: nothing yet.
    std::uint64_t pos = 0;
};

struct Snapshot {
    std::uint64_t id = 0;
    std::string epoch;  // The log's.
    std::uint64_t pos = 0;
    std::vector<StreamHead> streams;  // Everything up to these positions is in the snapshot.
    std::vector<PollState> polls;     // In the order of arrival of their origins.
    std::vector<Message> values;      // The newest value of each key.
    std::uint64_t unreadable =
        0;  // Decoding: records left out, as in Range. To be logged and counted.
};

/// A page of the log's events, of all streams.
struct HistoryRequest {
    std::uint64_t id = 0;
    std::string epoch;
    std::uint64_t from = 0;  // What comes after this position.
};

/// Every event and gap of the event streams after `from`, up to `to`, which may be any position
/// up to `pos`. Where `epoch` is not the asker's, or `from` is beyond `pos`, `to` is `from`.
struct History {
    std::uint64_t id = 0;
    std::string epoch;
    std::uint64_t from = 0;
    std::uint64_t to = 0;
    std::uint64_t pos = 0;            // The log's, committed.
    std::vector<StreamFloor> floors;  // Of event streams that have lost something after `from`.
    std::vector<Message> items;       // In the order of pos.
    std::uint64_t unreadable = 0;     // Decoding: records left out, as in Range.
};

using Any = std::variant<Hello, Welcome, Conflict, Sync, Durable, Unknown, Ask, Range,
                         SnapshotRequest, Snapshot, Refused, HistoryRequest, History>;

/// Data of live keys in one welcome: no message may outgrow what the bus takes. Of the keys beyond
/// it the names are there.
inline constexpr std::size_t kWelcomeDataMax = 32u << 20;

/// Records in one message; decode() refuses more, so a larger snapshot or range is to be cut by
/// whoever makes it.
inline constexpr std::size_t kRecordsMax = 100'000;

Frames encode(const Any& message, Mono now);
/// Errors: kInvalid, kTooLarge, kUnsupported.
Result<Any> decode(const Frames& frames, Now now);

}  // namespace sigmacast::protocol
