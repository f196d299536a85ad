// The rows of `meta`: what holds for the log as a whole, under one checksum, since a bit that flips
// in the epoch, the clock or the mark of a clean stop would be believed by everybody. A file that
// was last written before there was one is read as it is. Values; no thread of their own.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "storage/database.h"

namespace sigmacast::storage {

/// The checksums of all rows of a table, added up: a row that is gone, or is an older version of
/// itself, shows in its sum.
struct Sums {
    std::uint64_t streams = 0;  // And origins.
    std::uint64_t state = 0;    // And polls.
    bool operator==(const Sums&) const = default;
};

struct Meta {
    std::string epoch;          // The log's; empty before it has one.
    std::uint64_t pos = 0;      // The newest.
    std::uint64_t lost_to = 0;  // Up to here the log is known to lack rows.
    bool clean = false;         // Nothing was written after the mark of a clean stop.
    std::optional<Sums> sums;   // None in a file of the first schema.
    std::int64_t clock_boot = 0;
    std::int64_t clock_offset_ms = 0;  // From Mono to the wall clock, as that boot believes it.
    std::uint64_t boots = 0;           // The checksums of the rows of boots, added up.

    bool sealed = false;   // It was read with a checksum,
    bool damaged = false;  // which is not the one of what was read.
};

Result<Meta> read_meta(Database& db);

/// Writes all of them, and their checksum, in one statement.
class MetaWriter {
 public:
    explicit MetaWriter(Statement write) : write_(std::move(write)) {}
    static Result<MetaWriter> prepare(Database& db);
    Result<> write(const Meta& meta);

 private:
    Statement write_;
};

/// By which number rows name a boot of the machine.
struct Boots {
    std::optional<std::int64_t> number;  // Of the boot that was asked for.
    std::uint64_t sum = 0;
    bool empty = true;
    bool damaged = false;  // Then no number is believed.
};
Result<Boots> read_boots(Database& db, const Meta& meta, const std::string& boot);
std::uint64_t boot_checksum(std::int64_t number, std::string_view boot);

}  // namespace sigmacast::storage
