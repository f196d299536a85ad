// The event log and the last-known-good state, in one SQLite file. A batch is one transaction: rows
// appended, state upserted, stream positions moved. After commit() returns, everything in the batch
// survives a power cut.
//
//     auto store = Store::open("data/sigmacast.db", system_now());   // checks, repairs, loads
//     Loaded loaded = (*store)->take_loaded();
//     (*store)->commit(batch);
//
// A row that the database refuses (poison: too large, violates a constraint) becomes a gap row; a
// database that refuses (full, read-only, I/O error) is an error for the whole batch, which left no
// trace. A full disk (or quota) costs history, not what comes: the reserve beside the database is
// given up (reserve.h), and until there is room again trim() keeps the file from growing. Runs on:
// one thread at a time (the writer's). It is the only writing connection of the file; take a
// FileLock first.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "storage/database.h"
#include "storage/records.h"
#include "storage/reserve.h"

namespace sigmacast::storage {

/// The largest row; beyond it a row is poison.
inline constexpr int kRowBytesMax = 16 << 20;
/// Rows that one trim removes at most, so that it never holds a commit up for long.
inline constexpr int kTrimRowsMax = 1000;
/// While the disk is full, trim() keeps so much of the file free for what comes; of a small file an
/// eighth.
inline constexpr std::uint64_t kSpareBytesMax = 4u << 20;

struct TrimLimits {
    Millis retain_values{0};         // Of state streams: values and transitions.
    Millis retain_events{0};         // Of event streams.
    std::uint64_t retain_bytes = 0;  // Of all: beyond it the oldest rows go.
};

class Store {
 public:
    /// Opens or makes the file, brings its schema up to date, checks state against the log and
    /// repairs what it can. `boot` identifies this boot of the machine.
    static Result<std::unique_ptr<Store>> open(const std::string& path, Now now,
                                               const std::string& boot = boot_id());

    /// What the file held. To be called once.
    Loaded take_loaded() { return std::move(loaded_); }

    /// Errors: kFull, kUnavailable, kCorrupt: nothing was written; the same batch may be tried
    /// again.
    Result<Committed> commit(const Batch& batch);

    /// Removes up to kTrimRowsMax rows that are past the limits. Returns how many: 0 when there are
    /// none; then it looks after the reserve. To be called soon after kFull.
    Result<std::size_t> trim(Now now, const TrimLimits& limits);

    void checkpoint() { db_.checkpoint(); }
    [[nodiscard]] int wal_pages() const { return db_.wal_pages(); }
    /// Bytes in use in the database file.
    Result<std::uint64_t> bytes();
    /// Problems that open() found and repaired, one sentence each.
    [[nodiscard]] const std::vector<std::string>& repairs() const { return repairs_; }
    /// For tests that fill the disk or spoil a row.
    Database& database() { return db_; }

 private:
    using StreamName = std::pair<std::string, std::string>;  // origin, topic
    struct Stream {
        std::int64_t id = 0;
        bool saved = false;
        StreamRecord record;
    };
    struct Statements {
        Statement origin, stream, log, state, end_key, poll, meta, first_rows, oldest_rows,
            trim_stream, floor;
    };
    /// What a transaction will have changed once it has committed.
    struct Changes {
        std::map<StreamName, Stream> streams;
        std::map<std::string, std::int64_t> origins;
        std::vector<std::uint64_t> poisoned;
        std::uint64_t pos = 0;
    };
    struct Trimmed {
        Stream* stream;
        std::uint64_t pos;
        std::uint64_t seq;
    };

    struct Size {
        std::uint64_t used;
        std::uint64_t file;
    };

    Store(Database db, Statements statements, std::int64_t boot);
    static std::unique_ptr<Store> open_once(const std::string& path, Now now,
                                            const std::string& boot);
    static Statements prepare(Database& db);

    void load(Now now);
    void load_meta();
    void load_streams();
    void check_log();
    void load_state(Now now);
    void replay_values(Now now);
    void rebuild(std::int64_t stream, const std::string& key, Now now);
    void load_polls(Now now);
    void renew_epoch(const std::string& why);

    Committed write(const Batch& batch, bool row_by_row);
    void write_rows(const Batch& batch, bool row_by_row, Changes& changes);
    void write_origin(const OriginRecord& origin, Changes& changes);
    void write_row(const Message& row, const Stream& stream, const Stamp& stamp, Mono now);
    void write_state(const Message& row, const Stream& stream, const Stamp& stamp, Mono now);
    void write_poll(const PollState& poll, const Stamp& stamp, Mono now, Changes& changes);
    void write_stream(const Stream& stream);
    Stream& stream_of(const std::string& origin, const std::string& topic, Changes& changes);
    std::int64_t origin_of(const std::string& name, Changes& changes);

    Error refused(Error error);
    void keep_reserve();
    Size size();
    bool too_large(std::uint64_t retain_bytes);
    std::vector<Trimmed> find_old(Now now, const TrimLimits& limits);
    std::vector<Trimmed> find_oldest();

    Database db_;
    Reserve reserve_;
    bool full_ = false;  // The disk was, and there was no room yet for a new reserve.
    Statements sql_;
    std::int64_t boot_;
    std::map<std::string, std::int64_t> origins_;
    std::map<StreamName, Stream> streams_;
    std::int64_t next_stream_ = 1;
    std::int64_t next_origin_ = 1;
    std::uint64_t pos_ = 0;
    Loaded loaded_;
    std::vector<std::string> repairs_;
};

}  // namespace sigmacast::storage
