// Reads the log, beside the broker that writes it: ranges for edges, and `sigmacast log`. Its own
// read-only connection; each call is one short read, so that none keeps the WAL from being
// truncated. Runs on: one thread at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/sequence.h"
#include "storage/database.h"
#include "storage/records.h"
#include "storage/rows.h"

namespace sigmacast::storage {

/// A range answer stops after this many rows or bytes; `range.to` then says how far it goes.
inline constexpr std::size_t kRangeRowsMax = 1024;
inline constexpr std::size_t kRangeBytesMax = 4u << 20;

/// So does a page of history, or after this many rows of any kind.
inline constexpr std::size_t kHistoryRowsMax = 1024;
inline constexpr std::size_t kHistoryBytesMax = 1u << 20;
inline constexpr std::size_t kHistoryVisitedMax = 20'000;

struct LogQuery {
    std::string origin = {};  // Empty: all.
    std::string topic = {};   // Empty: all.
    std::uint64_t from_pos = 0;
    std::uint64_t to_pos = ~std::uint64_t{0} >> 1;
    std::optional<Wall> since = std::nullopt;
    std::optional<Wall> until = std::nullopt;
    bool newest_first = false;
    std::size_t max = 1000;
};

struct LogEntry {
    Wall committed;
    Message message;
};

struct LogRange {
    sequence::Range range;       // What was answered; may end before what was asked.
    std::vector<Message> items;  // A row that is damaged, missing, or disowned is a gap.
};

/// The events, and the gaps of event streams, after the position that was asked for.
struct LogPage {
    std::uint64_t to = 0;             // It has everything up to here.
    std::vector<StreamFloor> floors;  // Of event streams trimmed beyond what was asked for.
    std::vector<Message> items;       // By pos. A damaged row is a gap.
};

class LogReader {
 public:
    /// Errors: kNotFound, kUnsupported (another schema), kCorrupt.
    static Result<LogReader> open(const std::string& path, const std::string& boot = boot_id());

    Result<LogRange> range(const std::string& origin, const std::string& topic,
                           sequence::Range asked, Now now);
    /// After `from`, at most up to `to`.
    Result<LogPage> history(std::uint64_t from, std::uint64_t to, Now now);
    Result<std::vector<LogEntry>> read(const LogQuery& query, Now now);
    /// The newest value of each key, by origin, topic and key. A damaged one is left out: the
    /// broker rebuilds it at its next start.
    Result<std::vector<LogEntry>> state(Now now);
    Result<std::vector<StreamRecord>> streams();

    /// The first damage that range() or history() met in a row, in a sentence; empty: none. What a
    /// start has found before is not told again.
    [[nodiscard]] const std::string& damage() const { return damage_; }

 private:
    struct Statements {
        Statement range;
        Statement page_end;
        Statement page;
        Statement floors;
    };
    LogReader(Database db, Statements sql, std::string boot);
    Result<std::int64_t> boot();
    void met(const LogRow& row, const char* what);
    void met_hole(const LogRow& after);
    Result<std::vector<StreamFloor>> floors(std::uint64_t from);

    Database db_;
    Statements sql_;
    std::string boot_;
    std::optional<std::int64_t> boot_row_;
    std::string damage_;
};

}  // namespace sigmacast::storage
