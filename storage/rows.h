// The rows as every check sees them: their checksums in one place, and a row of the log read back.
//
// Each row carries a checksum of its columns. In the log it covers `prev`, the checksum of the row
// before in the same stream, and `streams.head` has the newest: so the newest row vouches for the
// one before, and so on down to the oldest that is kept. A row that was lost, swapped, or replaced
// by an older version of itself is found, and trimming, which takes the oldest of a stream, leaves
// nothing to mend. Values; no thread of their own.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "storage/database.h"
#include "storage/records.h"

namespace sigmacast::storage {

/// Beyond it a number of the store's own is damage: each counts from 1 by ones.
inline constexpr std::int64_t kCountMax = std::int64_t{1} << 62;
inline bool is_count(std::int64_t number) {
    return number >= 0 && number <= kCountMax;
}

/// No row has it: the chain disowns the row, and every reader takes it for damaged.
inline constexpr std::int64_t kDisowned = -1;

/// To be selected from `log l`; log_row() reads them, wherever they begin.
inline constexpr std::string_view kLogColumns =
    " l.pos, l.stream, l.seq, l.kind, l.at_ms, l.boot, l.mono_us, l.header, l.body, l.crc, l.prev ";

/// Valid until the next step of its statement.
struct LogRow {
    std::int64_t pos = 0;
    std::int64_t stream = 0;
    std::int64_t seq = 0;
    std::int64_t kind = 0;
    Stamp stamp;
    std::string_view header;
    std::string_view body;
    std::int64_t crc = 0;
    std::optional<std::int64_t> prev;  // None in a row that is older than the chain.

    [[nodiscard]] std::int64_t checksum() const;
    [[nodiscard]] bool intact() const { return crc == checksum(); }
    /// Errors: kCorrupt.
    [[nodiscard]] Result<Message> message(std::int64_t boot, Now now) const;
    /// The same of a row that is known to be intact.
    [[nodiscard]] Result<Message> intact_message(std::int64_t boot, Now now) const;
};
LogRow log_row(const Statement& statement, int first = 0);

std::int64_t state_checksum(std::int64_t stream, std::string_view key, std::uint64_t seq,
                            std::uint64_t pos, const Stamp& stamp, std::string_view header,
                            std::string_view body);
std::int64_t poll_checksum(std::int64_t origin, std::string_view poll, const Stamp& stamp,
                           std::string_view header);
std::int64_t stream_checksum(std::int64_t id, const StreamRecord& record, std::int64_t head);
std::int64_t origin_checksum(std::int64_t id, const OriginRecord& record);

/// Every stream, and what is left of one whose origin is gone: 0 id, 1 origin, 2 topic, 3 kind,
/// 4 seq, 5 epoch, 6 pseq, 7 floor_pos, 8 floor_seq, 9 head, 10 crc.
inline constexpr std::string_view kStreamRows =
    "SELECT s.id, o.name, s.topic, s.kind, s.seq, s.epoch, s.pseq, s.floor_pos, s.floor_seq, "
    "s.head, s.crc FROM streams s LEFT JOIN origins o ON o.id = s.origin ORDER BY s.id";
StreamRecord stream_record(const Statement& row);

/// Gives streams and origins the checksums of what they hold.
Result<> write_checksums(Database& db);

}  // namespace sigmacast::storage
