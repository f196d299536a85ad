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

namespace sigmacast::storage {

/// A range answer stops after this many rows or bytes; `range.to` then says how far it goes.
inline constexpr std::size_t kRangeRowsMax = 1024;
inline constexpr std::size_t kRangeBytesMax = 4u << 20;

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

class LogReader {
 public:
    /// Errors: kNotFound, kUnsupported (another schema), kCorrupt.
    static Result<LogReader> open(const std::string& path, const std::string& boot = boot_id());

    Result<LogRange> range(const std::string& origin, const std::string& topic,
                           sequence::Range asked, Now now);
    Result<std::vector<LogEntry>> read(const LogQuery& query, Now now);
    /// The newest value of each key, by origin, topic and key. A damaged one is left out: the
    /// broker rebuilds it at its next start.
    Result<std::vector<LogEntry>> state(Now now);
    Result<std::vector<StreamRecord>> streams();

 private:
    LogReader(Database db, Statement range, std::string boot);
    Result<std::int64_t> boot();

    Database db_;
    Statement range_;
    std::string boot_;
    std::optional<std::int64_t> boot_row_;
};

}  // namespace sigmacast::storage
