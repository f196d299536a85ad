// What the store takes and gives: the rows of a batch, what a start finds, and how a message
// becomes the bytes of a row and comes back with the right age. Values; no thread of their own.
//
// A row remembers when its header was encoded, by three clocks: wall, boot id, time since boot.
// Read within the same boot, its as_of is exact; read after a reboot the age is a guess by the wall
// clock, and says so (`uncertain`).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/message.h"

namespace sigmacast::storage {

enum class StreamKind : std::uint8_t {
    kUnknown = 0,  // Heard of, nothing seen yet.
    kState = 1,
    kEvent = 2,
    kReport = 3,  // poll.<name>: has a producer's position, and no row in the log.
};

struct OriginRecord {
    std::string name;
    std::uint64_t epoch = 0;  // The producer's epoch that owns the name.
    std::string instance;
};

/// Where a stream stands. `seq` is the broker's position, `pseq` the producer's durable one in
/// `epoch`; floor_* belong to the last row that retention removed.
struct StreamRecord {
    std::string origin;
    std::string topic;
    StreamKind kind = StreamKind::kUnknown;
    std::uint64_t seq = 0;
    std::uint64_t epoch = 0;
    std::uint64_t pseq = 0;
    std::uint64_t floor_pos = 0;
    std::uint64_t floor_seq = 0;
};

/// How far a producer's stream has been received.
struct Position {
    std::string origin;
    std::string topic;
    StreamKind kind = StreamKind::kUnknown;
    std::uint64_t epoch = 0;
    std::uint64_t pseq = 0;
};

/// One transaction. Everything in it becomes durable together or not at all.
struct Batch {
    Now now{};
    std::vector<OriginRecord> origins;  // New or changed.
    std::vector<Message>
        rows;  // With seq and pos, in the order of pos: value, event, transition, gap.
    std::vector<Position> positions;
    std::vector<PollState> polls;
    std::string epoch = {};  // Where it is not empty: the log's epoch from here on.
};

struct Committed {
    std::uint64_t pos = 0;  // The log's position after the batch.
    std::vector<std::uint64_t>
        poisoned;  // Rows that the database refused: gaps stand in their place.
};

/// What the database held when it was opened.
struct Loaded {
    std::string epoch;  // The log's.
    std::uint64_t pos = 0;
    std::vector<OriginRecord> origins;  // In the order of arrival.
    std::vector<StreamRecord> streams;
    std::vector<Message> values;   // The newest of each key, by pos.
    std::vector<PollState> polls;  // In the order of arrival of their origins.
};

/// When a row was encoded.
struct Stamp {
    std::int64_t at_ms = 0;
    std::int64_t boot = 0;  // Id in the table of boots.
    std::int64_t mono_us = 0;
};
Stamp make_stamp(Now now, std::int64_t boot);

/// A message as it was when the row was encoded, its ages counted from then. `boot` is the current
/// boot's id.
Result<Message> decode_row(std::string_view header, std::string_view body, const Stamp& stamp,
                           std::int64_t boot, Now now);

/// A hole in the place of `lost`: same stream, same positions.
Message gap_in_place_of(const Message& lost, std::string why);

}  // namespace sigmacast::storage
