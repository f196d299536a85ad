// The event log and the last-known-good state, in one SQLite file. A batch is one transaction: rows
// appended, state upserted, stream positions moved. After commit() returns, everything in the batch
// survives a power cut.
//
//     auto store = Store::open("data/sigmacast.db", system_now());   // checks, repairs, loads
//     Loaded loaded = (*store)->take_loaded();
//     (*store)->commit(batch);
//     (*store)->mark_clean();   // The next start need not look for what a power cut leaves.
//
// What a start checks, and what it does about damage, is in storage/README.md. In short: a damaged
// or missing value is rebuilt from the log; a damaged row of the log becomes a gap; a file that
// SQLite cannot use is put aside under another name, never deleted, and what can be read of it is
// the beginning of a new one with a new epoch. Each repair is one sentence in repairs().
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
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "storage/database.h"
#include "storage/meta.h"
#include "storage/records.h"
#include "storage/reserve.h"
#include "storage/rows.h"

namespace sigmacast::storage {

/// The largest row that SQLite takes.
inline constexpr int kRowBytesMax = 16 << 20;
/// Key, header and body of the largest record; beyond it a row is poison. It has room for the other
/// columns of each table: what the log takes, the state takes.
inline constexpr std::size_t kRecordBytesMax = kRowBytesMax - (64u << 10);
/// A clock that is wrong at the start of the machine may claim that it was off for years: retention
/// believes this much of it.
inline constexpr Millis kOffMax{3'600'000};
/// Rows that one trim removes at most, so that it never holds a commit up for long.
inline constexpr int kTrimRowsMax = 1000;
/// After a start that was not clean the newest rows are held against the chain, this many.
inline constexpr std::uint64_t kCheckRowsMax = 50'000;
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
    /// repairs what it can. `boot` identifies this boot of the machine. Errors: kUnsupported (a
    /// newer schema, or not ours), kFull, kUnavailable.
    static Result<std::unique_ptr<Store>> open(const std::string& name, Now now,
                                               const std::string& boot = boot_id());

    /// What the file held. To be called once.
    Loaded take_loaded() { return std::move(loaded_); }

    /// Errors: kFull, kUnavailable: nothing was written; the same batch may be tried again.
    /// kCorrupt, kConflict: the file is not what it should be; the next open() looks at all of it
    /// and mends it.
    Result<Committed> commit(const Batch& batch);

    /// Removes up to kTrimRowsMax rows that are past the limits. Returns how many: 0 when there are
    /// none; then it looks after the reserve. To be called soon after kFull.
    Result<std::size_t> trim(Now now, const TrimLimits& limits);

    /// Holds every row of the log against the chain. True: nothing is wrong. What is wrong is
    /// mended as at a start, with a sentence in repairs().
    Result<bool> check_all();

    /// Whatever comes after it takes the mark back. Fails silently: the next start checks more.
    void mark_clean();

    /// Copies the write-ahead log into the database. Errors: as commit().
    Result<> checkpoint();
    /// The first damaged row that trim() met, in a sentence; empty: none. The next open() looks at
    /// the whole file.
    [[nodiscard]] const std::string& damage() const { return damage_; }
    [[nodiscard]] int wal_pages() const { return db_.wal_pages(); }
    /// Bytes in use in the database file.
    Result<std::uint64_t> bytes();
    /// Problems that open() found and repaired, one sentence each.
    [[nodiscard]] const std::vector<std::string>& repairs() const { return repairs_; }
    /// For tests that fill the disk or spoil a row.
    Database& database() { return db_; }

 private:
    using StreamName = std::pair<std::string, std::string>;  // origin, topic
    using ValueName = std::pair<StreamName, std::string>;    // stream, key
    struct Origin {
        std::int64_t id = 0;
        std::int64_t crc = 0;  // Of its row; 0: it has none yet.
    };
    struct Stream {
        std::int64_t id = 0;
        bool saved = false;
        StreamRecord record;
        std::int64_t head = 0;  // The checksum of its newest row in the log.
        std::int64_t crc = 0;   // Of its row.
    };
    struct Statements {
        Statement origin, stream, log, state, state_crc, end_key, poll, poll_crc, first_rows,
            oldest_rows, trim_stream, pages, free_pages;
        MetaWriter meta;
    };
    /// What a transaction will have changed once it has committed.
    struct Changes {
        std::map<StreamName, Stream> streams;
        std::map<std::string, Origin> origins;
        std::vector<std::uint64_t> poisoned;
        std::uint64_t pos = 0;
        std::string epoch;
        Sums sums;
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
    /// What is wrong with the rows of a stream.
    struct Findings {
        std::uint64_t missing = 0;
        std::vector<std::int64_t> damaged;   // Their positions.
        std::vector<std::int64_t> replaced;  // Intact, and not the ones that were committed.
        [[nodiscard]] std::uint64_t count() const {
            return missing + damaged.size() + replaced.size();
        }
    };
    /// The newest row of a stream, or where retention has left it.
    struct Tail {
        std::uint64_t seq = 0;
        std::int64_t pos = 0;
        std::int64_t crc = 0;
        bool intact = true;
    };

    Store(Database db, Statements statements);
    enum class Repairs { kRefuse, kMake };
    static Result<std::unique_ptr<Store>> try_open(const std::string& path, Now now,
                                                   const std::string& boot, Repairs repairs);
    static Statements prepare(Database& db);

    void load(const std::string& boot, Now now);
    Meta load_meta();
    void load_boot(const std::string& boot, const Meta& meta);
    void load_streams();
    void drop_impossible_rows();
    void check_log(Now now);
    Tail read_tail(const Stream& stream);
    void check_tail(Stream& stream, Now now);
    bool check_chain(std::uint64_t from_pos);
    bool check_chain_of(const Stream& stream, std::uint64_t from_pos);
    bool reindex_once();
    Findings walk(const Stream& stream, std::uint64_t from_pos);
    void load_state(Now now);
    void keep_sound_values(Now now);
    void replay_values(Now now);
    void replay(const StreamName& name, const Stream& stream, std::uint64_t from, Now now);
    void restore_value(std::int64_t stream, Message message, const Stamp& stamp,
                       std::string_view header, std::string_view body);
    void load_polls(Now now);
    void save_sums();
    void renew_epoch(const std::string& why);
    void repaired(std::string what);

    Committed write(const Batch& batch, bool row_by_row);
    void write_rows(const Batch& batch, bool row_by_row, Changes& changes);
    void write_origin(const OriginRecord& origin, Changes& changes);
    void write_row(const Message& row, Stream& stream, const Stamp& stamp, Mono now);
    void write_state(const Message& row, const Stream& stream, const Stamp& stamp, Mono now,
                     Changes& changes);
    void write_poll(const PollState& poll, const Stamp& stamp, Mono now, Changes& changes);
    void write_stream(Stream& stream, Changes& changes);
    Result<> write_meta(const Changes& changes, bool clean = false);
    Stream& stream_of(const std::string& origin, const std::string& topic, Changes& changes);
    Origin& origin_of(const std::string& name, Changes& changes);
    [[nodiscard]] Changes begin_changes() const;
    void adopt(Changes changes);

    Error refused(Error error);
    void keep_reserve();
    Size size();
    bool too_large(std::uint64_t retain_bytes);
    void load_clock(const Meta& meta, Now now);
    bool believes(const LogRow& row);
    [[nodiscard]] Millis age_of(const Stamp& stamp, Now now) const;
    std::vector<Trimmed> find_old(Now now, const TrimLimits& limits);
    std::vector<Trimmed> find_oldest();

    Database db_;
    Reserve reserve_;
    bool full_ = false;  // The disk was, and there was no room yet for a new reserve.
    Statements sql_;
    std::int64_t boot_ = 0;
    std::uint64_t boots_sum_ = 0;
    std::map<std::string, Origin> origins_;
    std::map<StreamName, Stream> streams_;
    std::int64_t next_stream_ = 1;
    std::int64_t next_origin_ = 1;
    std::uint64_t pos_ = 0;
    Sums sums_;
    std::string epoch_;
    std::uint64_t lost_to_ = 0;            // Up to here the log is known to lack rows.
    bool clean_ = false;                   // What the file said when it was opened.
    bool doubtful_ = false;                // It was found damaged while it was in use.
    bool damaged_ = false;                 // It was since: the next start has to look.
    bool reindexed_ = false;               // In the check that is under way.
    std::optional<Sums> sums_at_open_;     // And of its sums; none in a file of the first schema.
    std::map<ValueName, Message> values_;  // While it loads.
    std::vector<std::string> damaged_values_;  // Their keys, as far as they can be read; likewise.
    Millis clock_offset_{0};                   // From Mono to the wall clock, for retention.
    std::string damage_;
    Loaded loaded_;
    std::vector<std::string> repairs_;
};

}  // namespace sigmacast::storage
