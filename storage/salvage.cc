#include "storage/salvage.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "common/state_file.h"
#include "storage/database.h"
#include "storage/failure.h"
#include "storage/meta.h"
#include "storage/rows.h"
#include "storage/schema.h"

namespace sigmacast::storage {
namespace {

namespace fs = std::filesystem;

/// Places where the log cannot be read; beyond so many the rest of it is given up.
constexpr int kHolesMax = 1000;
/// Rows of one transaction of the new file.
constexpr std::uint64_t kCopyRows = 5'000;
/// Damaged databases that are kept beside the one in use.
constexpr std::size_t kAsidesMax = 5;
/// Links to links that are followed, as the kernel does.
constexpr int kLinksMax = 40;
/// A write-ahead log with nothing in it has a header at most.
constexpr std::uintmax_t kWalHeaderBytes = 32;

// The first bytes of every database of ours: SQLite's magic, pages of 4096 bytes, WAL, and how
// full a page may be. Then, from byte 68, the mark.
constexpr std::array<unsigned char, 24> kHeader{'S', 'Q', 'L', 'i', 't', 'e', ' ', 'f',
                                                'o', 'r', 'm', 'a', 't', ' ', '3', 0,
                                                16,  0,   2,   2,   0,   64,  32,  32};
constexpr std::size_t kMarkAt = 68;

std::string building(const std::string& path) {
    return path + ".salvaged";
}
std::string ready(const std::string& path) {
    return path + ".ready";
}

[[noreturn]] void cannot_look_at(const std::string& path, const std::error_code& problem) {
    throw Failure{{Errc::kUnavailable, "cannot look at " + path + ": " + problem.message() +
                                           "; see to the disk and the folder's owner"}};
}

/// Only what is surely not there is gone: a look that fails must not put a database aside.
bool exists(const std::string& path) {
    std::error_code problem;
    const fs::file_type type = fs::status(path, problem).type();
    if (type == fs::file_type::none || (problem && type != fs::file_type::not_found)) {
        cannot_look_at(path, problem);
    }
    return type != fs::file_type::not_found;
}

std::uintmax_t size_of(const std::string& path) {
    if (!exists(path)) {
        return 0;
    }
    std::error_code problem;
    const std::uintmax_t size = fs::file_size(path, problem);
    if (problem) {
        cannot_look_at(path, problem);
    }
    return size;
}

void remove(const std::string& path) {
    std::error_code ignored;
    for (const char* part : {"", "-wal", "-shm"}) {
        fs::remove(path + part, ignored);
    }
}

void rename(const std::string& from, const std::string& to) {
    std::error_code problem;
    fs::rename(from, to, problem);
    if (problem) {
        throw Failure{
            {Errc::kUnavailable, "cannot rename " + from + " to " + to + ": " + problem.message()}};
    }
}

/// Each may be as large as the database was: somebody has to look at them before there are more.
void refuse_more_than_enough(const std::string& path) {
    const std::string prefix = fs::path(path).filename().string() + ".damaged-";
    fs::path folder = fs::path(path).parent_path();
    folder = folder.empty() ? "." : folder;
    std::set<std::string> names;
    std::error_code problem;
    for (fs::directory_iterator entry(folder, problem), end; !problem && entry != end;
         entry.increment(problem)) {
        std::string name = entry->path().filename().string();
        if (name.starts_with(prefix)) {
            name = name.ends_with("-wal") ? name.substr(0, name.size() - 4) : name;
            names.insert(std::move(name));
        }
    }
    if (problem) {
        cannot_look_at(folder.string(), problem);
    }
    if (names.size() >= kAsidesMax) {
        throw Failure{
            {Errc::kUnavailable,
             path + " is damaged, and " + std::to_string(names.size()) + " damaged copies (" +
                 path +
                 ".damaged-*) are beside it already: see why this disk damages files, move "
                 "the copies away, then start again"}};
    }
}

/// x.db.damaged-20261121T101530Z
std::string name_aside(const std::string& path, Now now) {
    refuse_more_than_enough(path);
    std::string time = to_rfc3339(now.wall).substr(0, 19);
    std::erase_if(time, [](char c) { return c == '-' || c == ':'; });
    const std::string name = path + ".damaged-" + time + "Z";
    std::string free = name;
    for (int i = 2; exists(free) || exists(free + "-wal"); ++i) {
        free = name + "-" + std::to_string(i);
    }
    return free;
}

void put_aside(const std::string& path, const std::string& aside) {
    // The log first: whatever takes the database's place must not find the log of another.
    for (const char* part : {"-wal", ""}) {
        if (exists(path + part)) {
            rename(path + part, aside + part);
        }
    }
    std::error_code ignored;
    fs::remove(path + "-shm", ignored);
}

/// Gives the new file its name. May be cut off anywhere, and begun anew.
std::string put_in_place(const std::string& path, Now now) {
    const std::string aside = name_aside(path, now);
    put_aside(path, aside);
    need(sync_folder_of(path));
    rename(ready(path), path);
    need(sync_folder_of(path));
    return aside;
}

std::string first_bytes(const std::string& path) {
    std::string bytes(kMarkAt + 4, '\0');
    std::ifstream file(path, std::ios::binary);
    file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    bytes.resize(static_cast<std::size_t>(file.gcount()));
    return bytes;
}

/// A file that was named by mistake must not be taken from whom it belongs to.
bool looks_like_ours(const std::string& path) {
    const std::string bytes = first_bytes(path);
    const std::string mark = {'S', 'G', 'M', 'C'};
    // Of the magic a quarter may be wrong.
    const std::size_t length = std::min(bytes.size(), std::size_t{16});
    std::size_t same = 0;
    for (std::size_t i = 0; i < length; ++i) {
        same += static_cast<unsigned char>(bytes[i]) == kHeader[i] ? 1U : 0U;
    }
    return same * 4 >= length * 3 || (bytes.size() > kMarkAt && bytes.substr(kMarkAt) == mark) ||
           exists(path + ".reserve") || size_of(path + "-wal") > kWalHeaderBytes;
}

std::string not_ours(const std::string& path, const std::string& why) {
    return path + " is not a database of Sigmacast (" + why +
           "): name another file in broker.database, or move this one away";
}

bool header_is_damaged(const std::string& path) {
    const std::string bytes = first_bytes(path);
    return bytes.size() < kHeader.size() ||
           !std::equal(
               kHeader.begin(), kHeader.end(), bytes.begin(),
               [](unsigned char a, char b) { return a == static_cast<unsigned char>(b); });
}

/// A copy whose first bytes are as they have to be, since without them SQLite reads nothing.
void copy_with_header(const std::string& path, const std::string& copy) {
    for (const char* part : {"", "-wal"}) {
        std::error_code problem;
        if (exists(path + part)) {
            fs::copy_file(path + part, copy + part, fs::copy_options::overwrite_existing, problem);
        }
        if (problem) {
            throw Failure{{Errc::kFull, "cannot copy " + path + part + ": " + problem.message()}};
        }
    }
    std::fstream file(copy, std::ios::binary | std::ios::in | std::ios::out);
    file.write(reinterpret_cast<const char*>(kHeader.data()),
               static_cast<std::streamsize>(kHeader.size()));
    file.close();
    if (!file) {
        throw Failure{{Errc::kFull, "cannot write to " + copy}};
    }
}

class Copy {
 public:
    Copy(Database& from, Database& to)
        : from_(from),
          to_(to),
          origin_(need(to.prepare("INSERT OR IGNORE INTO origins VALUES (?, ?, ?, ?, ?)"))),
          stream_(need(to.prepare(
              "INSERT OR REPLACE INTO streams (id, origin, topic, kind, seq, epoch, pseq, "
              "floor_pos, floor_seq, head, crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"))) {}

    void run() {
        // What cannot be read of the schema does not keep the rest from being read, nor does a file
        // that is shorter than it says.
        static_cast<void>(from_.execute("PRAGMA writable_schema=ON"));
        look_for_chain();
        begin();
        copy_meta();
        copy_boots();
        copy_origins();
        copy_streams();
        copy_log();
        finish_streams();
        copy_state();
        copy_polls();
        need(to_.prepare("INSERT OR REPLACE INTO meta VALUES ('pos', ?)"))
            .run(static_cast<std::int64_t>(pos_))
            .value();
        commit();
    }

    [[nodiscard]] std::string summary() const {
        return std::to_string(rows_) + " rows of the log, " + std::to_string(values_) +
               " values and " + std::to_string(streams_.size()) + " streams of " +
               std::to_string(origins_.size()) + " origins were saved, " +
               std::to_string(damaged_) + " rows were damaged, and in " + std::to_string(holes_) +
               " places nothing could be read";
    }

 private:
    struct Stream {
        std::int64_t origin = 0;
        StreamRecord record;
        std::int64_t head = 0;
        bool derived = false;  // Its row is gone; the log tells of it.
        std::int64_t first_seq = 0;
        std::int64_t first_pos = 0;
        std::int64_t last_seq = 0;
        std::int64_t last_crc = 0;
    };

    /// A file of the first schema, which a migration could not take on, has neither the chain nor
    /// checksums of streams and origins.
    void look_for_chain() {
        const auto found =
            from_.number("SELECT count(*) FROM pragma_table_info('log') WHERE name = 'prev'");
        if (!found) {
            throw_unless_corrupt(found.error());
            return;
        }
        const auto columns = from_.number("SELECT count(*) FROM pragma_table_info('log')");
        chained_ = *found > 0 || !columns || *columns == 0;
        if (!chained_) {
            log_columns_.replace(log_columns_.find("l.prev"), 6, "NULL");
        }
    }

    void begin() { transaction_.emplace(need(Transaction::begin(to_))); }
    void commit() {
        need(transaction_->commit());
        transaction_.reset();
        need(to_.checkpoint());
    }

    /// Each row of a query that can be read: from the front and, where that ends early, from the
    /// back. `order` names the columns of the key.
    template <class Take>
    void read(const std::string& query, const std::vector<std::string>& order, Take take) {
        for (const char* direction : {" ASC", " DESC"}) {
            std::string sql = query + " ORDER BY ";
            for (const std::string& column : order) {
                sql += (column == order.front() ? "" : ", ") + column + direction;
            }
            auto rows = from_.prepare(sql);
            Result<bool> row = rows ? rows->step() : Result<bool>(rows.error());
            while (row && *row) {
                take(*rows);
                row = rows->step();
            }
            if (row) {
                return;
            }
            throw_unless_corrupt(row.error());
        }
        ++holes_;
    }

    /// A disk that fails, or no memory, is no damage: the next start may read more. A row whose
    /// size is damaged is too large for SQLite.
    static void throw_unless_corrupt(const Error& error) {
        const bool lacks = error.message.find("no such table") != std::string::npos ||
                           error.message.find("no such column") != std::string::npos;
        if (error.code != Errc::kCorrupt && error.code != Errc::kTooLarge && !lacks) {
            throw Failure{error};
        }
    }

    void copy_meta() {
        read("SELECT key, value FROM meta", {"key"}, [this](const Statement& row) {
            if (row.bytes(0) == "pos" && is_count(row.integer(1))) {
                pos_ = row.natural(1);
            }
        });
    }

    /// Without them no row counts as one of this boot, and each age is a guess that says so; with
    /// a wrong one some age would be wrong and not say it.
    void copy_boots() {
        const auto meta = read_meta(from_);
        const auto boots = meta ? read_boots(from_, *meta, "") : Result<Boots>(meta.error());
        if (!boots || boots->damaged) {
            ++damaged_;
            return;
        }
        Statement insert = need(to_.prepare("INSERT OR IGNORE INTO boots VALUES (?, ?)"));
        read("SELECT id, boot FROM boots NOT INDEXED", {"id"},
             [&](const Statement& row) { need(insert.run(row.integer(0), row.bytes(1))); });
    }

    void copy_origins() {
        const std::string crc = chained_ ? "crc" : "0";
        read("SELECT id, name, epoch, instance, " + crc + " FROM origins", {"id"},
             [this](const Statement& row) {
                 const bool text = row.is_text(1) && row.is_text(3);
                 const OriginRecord record{row.text(1), row.natural(2), row.text(3)};
                 const std::int64_t id = row.integer(0);
                 if (text && is_count(id) &&
                     (!chained_ || origin_checksum(id, record) == row.integer(4))) {
                     add_origin(id, record);
                 } else {
                     ++damaged_;
                 }
             });
    }

    void add_origin(std::int64_t id, const OriginRecord& record) {
        if (!origins_.emplace(record.name, id).second) {
            return;
        }
        next_origin_ = std::max(next_origin_, id + 1);
        need(origin_.run(id, record.name, record.epoch, record.instance,
                         origin_checksum(id, record)));
    }

    std::int64_t origin_of(const std::string& name) {
        if (!origins_.contains(name)) {
            add_origin(next_origin_, {name, 0, ""});
        }
        return origins_.at(name);
    }

    void copy_streams() {
        std::string query(kStreamRows);
        query.resize(query.find(" ORDER BY"));
        if (!chained_) {
            query.replace(query.find("s.head, s.crc"), 13, "0, 0");
        }
        read(query, {"s.id"}, [this](const Statement& row) {
            Stream stream;
            const bool text = row.is_text(1) && row.is_text(2);
            stream.record = stream_record(row);
            stream.head = row.integer(9);
            const bool possible = is_count(row.integer(0)) && is_count(row.integer(4)) &&
                                  is_count(row.integer(7)) && is_count(row.integer(8)) &&
                                  row.integer(3) >= 0 && row.integer(3) <= 3;
            if (!text || !possible ||
                (chained_ &&
                 stream_checksum(row.integer(0), stream.record, stream.head) != row.integer(10))) {
                ++damaged_;
                return;
            }
            stream.origin = origin_of(stream.record.origin);
            if (streams_.emplace(row.integer(0), stream).second) {
                write_stream(row.integer(0), stream);
            }
        });
    }

    void write_stream(std::int64_t id, const Stream& stream) {
        const StreamRecord& record = stream.record;
        need(stream_.run(id, stream.origin, record.topic,
                         std::int64_t{static_cast<int>(record.kind)}, record.seq, record.epoch,
                         record.pseq, record.floor_pos, record.floor_seq, stream.head,
                         stream_checksum(id, record, stream.head)));
    }

    /// The stream of a row. Where the table has lost it, each row of the log names it.
    Stream* stream_of(std::int64_t id, const Result<Message>& row) {
        const auto known = streams_.find(id);
        if (known != streams_.end()) {
            return &known->second;
        }
        if (!row || !is_count(id)) {
            return nullptr;
        }
        for (const auto& [other, stream] : streams_) {
            if (stream.record.origin == row->origin && stream.record.topic == row->topic) {
                return nullptr;  // A stream has one id.
            }
        }
        Stream stream;
        stream.origin = origin_of(row->origin);
        stream.record.origin = row->origin;
        stream.record.topic = row->topic;
        stream.record.kind = row->kind == Kind::kEvent ? StreamKind::kEvent : StreamKind::kState;
        stream.derived = true;
        write_stream(id, stream);
        return &streams_.emplace(id, std::move(stream)).first->second;
    }

    // ---- The log ----

    void copy_log() {
        insert_row_.emplace(need(
            to_.prepare("INSERT OR IGNORE INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")));
        std::int64_t next = 1;
        for (int holes = 0; holes < kHolesMax && !forward(next); ++holes) {
            ++holes_;
            const std::int64_t hole = next;
            if (!step_over(next)) {
                return;
            }
            backward(hole, next);
        }
    }

    /// From `next` on; true at the end, else `next` is what could not be read.
    bool forward(std::int64_t& next) {
        auto rows =
            from_.prepare("SELECT" + log_columns_ + "FROM log l WHERE l.pos >= ? ORDER BY l.pos");
        if (!rows) {
            throw_unless_corrupt(rows.error());
            return false;
        }
        rows->bind(next);
        for (;;) {
            const auto row = rows->step();
            if (!row) {
                throw_unless_corrupt(row.error());
                return false;
            }
            if (!*row) {
                return true;
            }
            next = take_row(log_row(*rows)) + 1;
        }
    }

    /// Behind the hole at `next`: the first place, by doubling steps, that can be read.
    bool step_over(std::int64_t& next) {
        auto probe = from_.prepare("SELECT pos FROM log WHERE pos >= ? ORDER BY pos LIMIT 1");
        if (!probe) {
            throw_unless_corrupt(probe.error());
            return false;
        }
        for (std::int64_t step = 1; next + step < kCountMax; step *= 2) {
            probe->bind(next + step);
            const auto row = probe->step();
            if (row) {
                next += step;
                return true;
            }
            throw_unless_corrupt(row.error());
        }
        return false;
    }

    void backward(std::int64_t from, std::int64_t to) {
        auto rows = from_.prepare("SELECT" + log_columns_ +
                                  "FROM log l WHERE l.pos >= ? AND l.pos < ? ORDER BY l.pos DESC");
        if (!rows) {
            throw_unless_corrupt(rows.error());
            return;
        }
        rows->bind(from, to);
        Result<bool> row = rows->step();
        for (; row && *row; row = rows->step()) {
            take_row(log_row(*rows));
        }
        if (!row) {
            throw_unless_corrupt(row.error());
        }
    }

    std::int64_t take_row(const LogRow& row) {
        const auto message = row.message(0, {});
        Stream* stream = message && is_count(row.pos) && row.pos > 0 && is_count(row.seq)
                             ? stream_of(row.stream, message)
                             : nullptr;
        if (stream == nullptr || stream->record.topic != message->topic ||
            stream->record.origin != message->origin) {
            ++damaged_;
            return row.pos;
        }
        if (stream->first_seq == 0 || row.seq < stream->first_seq) {
            stream->first_seq = row.seq;
            stream->first_pos = row.pos;
        }
        if (row.seq > stream->last_seq) {
            stream->last_seq = row.seq;
            stream->last_crc = row.crc;
        }
        pos_ = std::max(pos_, static_cast<std::uint64_t>(row.pos));
        if (row.prev) {
            need(insert_row_->run(row.pos, row.stream, row.seq, row.kind, row.stamp.at_ms,
                                  row.stamp.boot, row.stamp.mono_us, Blob{row.header},
                                  Blob{row.body}, row.crc, *row.prev));
        } else {
            need(insert_row_->run(row.pos, row.stream, row.seq, row.kind, row.stamp.at_ms,
                                  row.stamp.boot, row.stamp.mono_us, Blob{row.header},
                                  Blob{row.body}, row.crc, Null{}));
        }
        if (++rows_ % kCopyRows == 0) {
            commit();
            begin();
        }
        return row.pos;
    }

    /// What is missing at the lower end of the log counts as trimmed: whoever resumes there is told
    /// so. What is missing at the upper end, the start finds.
    void finish_streams() {
        for (auto& [id, stream] : streams_) {
            StreamRecord& record = stream.record;
            if (stream.derived) {
                record.seq = static_cast<std::uint64_t>(stream.last_seq);
            }
            if (stream.derived || !chained_) {
                stream.head = stream.last_crc;
            }
            if (record.kind != StreamKind::kReport && stream.first_seq > 0) {
                const auto first = static_cast<std::uint64_t>(stream.first_seq);
                if (record.floor_seq + 1 < first) {
                    record.floor_seq = first - 1;
                    record.floor_pos = static_cast<std::uint64_t>(stream.first_pos) - 1;
                }
            } else if (record.kind != StreamKind::kReport && record.floor_seq < record.seq) {
                record.floor_seq = record.seq;
                record.floor_pos = pos_;
            }
            write_stream(id, stream);
        }
    }

    // ---- State ----

    void copy_state() {
        Statement insert =
            need(to_.prepare("INSERT OR IGNORE INTO state VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"));
        read("SELECT stream, key, seq, pos, at_ms, boot, mono_us, header, body, crc FROM state",
             {"stream", "key"}, [&](const Statement& row) {
                 const bool text = row.is_text(1);
                 const Stamp stamp{row.integer(4), row.integer(5), row.integer(6)};
                 const auto message = decode_row(row.bytes(7), row.bytes(8), stamp, 0, {});
                 const Stream* stream =
                     text && state_checksum(row.integer(0), row.bytes(1), row.natural(2),
                                            row.natural(3), stamp, row.bytes(7),
                                            row.bytes(8)) == row.integer(9)
                         ? stream_of(row.integer(0), message)
                         : nullptr;
                 if (stream == nullptr || !message) {
                     ++damaged_;
                     return;
                 }
                 if (stream->derived && stream->last_seq == 0) {
                     settle(row.integer(0), row.natural(2), row.natural(3));
                 }
                 need(insert.run(row.integer(0), row.bytes(1), row.natural(2), row.natural(3),
                                 stamp.at_ms, stamp.boot, stamp.mono_us, Blob{row.bytes(7)},
                                 Blob{row.bytes(8)}, row.integer(9)));
                 ++values_;
             });
    }

    /// Of a stream of which only values are left: nothing before them is in the log.
    void settle(std::int64_t id, std::uint64_t seq, std::uint64_t pos) {
        Stream& stream = streams_.at(id);
        stream.record.seq = std::max(stream.record.seq, seq);
        stream.record.floor_seq = stream.record.seq;
        pos_ = std::max(pos_, pos);
        stream.record.floor_pos = std::max(stream.record.floor_pos, pos);
        write_stream(id, stream);
    }

    void copy_polls() {
        Statement insert =
            need(to_.prepare("INSERT OR IGNORE INTO polls VALUES (?, ?, ?, ?, ?, ?, ?)"));
        read("SELECT origin, poll, at_ms, boot, mono_us, header, crc FROM polls",
             {"origin", "poll"}, [&](const Statement& row) {
                 const Stamp stamp{row.integer(2), row.integer(3), row.integer(4)};
                 const bool known = std::any_of(
                     origins_.begin(), origins_.end(),
                     [&](const auto& origin) { return origin.second == row.integer(0); });
                 if (known && poll_checksum(row.integer(0), row.bytes(1), stamp, row.bytes(5)) ==
                                  row.integer(6)) {
                     need(insert.run(row.integer(0), row.bytes(1), stamp.at_ms, stamp.boot,
                                     stamp.mono_us, Blob{row.bytes(5)}, row.integer(6)));
                 } else {
                     ++damaged_;
                 }
             });
    }

    Database& from_;
    Database& to_;
    bool chained_ = true;
    std::string log_columns_{kLogColumns};
    Statement origin_;
    Statement stream_;
    std::optional<Statement> insert_row_;
    std::optional<Transaction> transaction_;
    std::map<std::string, std::int64_t> origins_;
    std::map<std::int64_t, Stream> streams_;
    std::int64_t next_origin_ = 1;
    std::uint64_t pos_ = 0;
    std::uint64_t rows_ = 0;
    std::uint64_t values_ = 0;
    std::uint64_t damaged_ = 0;
    std::uint64_t holes_ = 0;
};

/// Makes the new file, complete and closed, under the name of ready().
std::string build(const std::string& path) {
    const std::string source = header_is_damaged(path) ? path + ".source" : path;
    const std::string target = building(path);
    remove(target);
    if (source != path) {
        copy_with_header(path, source);
    }
    std::string summary = "nothing of it could be read";
    {
        Database to = need(Database::open(target, Database::Mode::kWrite));
        need(migrate(to));
        auto from = Database::open(source, Database::Mode::kRead);
        if (from) {
            Copy copy(*from, to);
            copy.run();
            summary = copy.summary();
        } else if (from.error().code != Errc::kCorrupt) {
            throw Failure{from.error()};
        }
        need(to.checkpoint());
    }
    if (source != path) {
        remove(source);
    }
    rename(target, ready(path));
    need(sync_folder_of(path));
    return summary;
}

}  // namespace

Result<std::vector<std::string>> begin_salvage(const std::string& path, Now now) {
    std::vector<std::string> said;
    try {
        if (exists(ready(path))) {
            const std::string aside = put_in_place(path, now);
            said.push_back("a salvage that was cut off was finished: the damaged database is now " +
                           aside);
        }
        remove(building(path));
        remove(path + ".source");
        const std::uintmax_t size = size_of(path);
        if (size > 0 && size < kPageBytes && !exists(path + "-journal")) {
            if (!looks_like_ours(path)) {
                return Error{Errc::kCorrupt, not_ours(path, "it is too short")};
            }
            const std::string aside = name_aside(path, now);
            put_aside(path, aside);
            need(sync_folder_of(path));
            said.push_back("the database was damaged (it was cut off) and is now " + aside +
                           "; nothing of it could be read, and a new log begins");
        } else if (size == 0 && size_of(path + "-wal") > kWalHeaderBytes) {
            const std::string aside = name_aside(path, now);
            put_aside(path, aside);
            need(sync_folder_of(path));
            said.push_back("the database is " + std::string(exists(aside) ? "empty" : "gone") +
                           ", though its write-ahead log is not; what there was is now " + aside +
                           "*, and a new log begins");
        } else if (size == 0 && exists(path + ".reserve")) {
            said.push_back("the database is empty or gone, though it was in use: a new log begins");
        }
        return said;
    } catch (const Failure& failure) {
        return failure.error;
    }
}

Result<std::vector<std::string>> salvage(const std::string& path, Now now, const std::string& why) {
    try {
        if (!looks_like_ours(path)) {
            return Error{Errc::kCorrupt, not_ours(path, why)};
        }
        refuse_more_than_enough(path);
        const std::string summary = build(path);
        const std::string aside = put_in_place(path, now);
        return std::vector<std::string>{
            "the database was damaged (" + why + ") and is now " + aside +
                "; nothing was deleted, it may be removed once nobody wants to look at it",
            "a new log with a new epoch begins with what could be read: " + summary};
    } catch (const Failure& failure) {
        remove(building(path));
        remove(path + ".source");
        return failure.error.within(path + " is damaged (" + why +
                                    "), and what it holds could not be saved: make room and see "
                                    "that the folder can be written, or move the file away");
    } catch (const std::exception& problem) {
        return Error{Errc::kUnavailable, path + " is damaged (" + why + "): " + problem.what()};
    }
}

Result<std::string> follow_links(const std::string& path) {
    fs::path at = path;
    for (int links = 0; links < kLinksMax; ++links) {
        std::error_code problem;
        if (!fs::is_symlink(at, problem)) {
            return at.string();
        }
        const fs::path target = fs::read_symlink(at, problem);
        if (problem) {
            return Error{Errc::kUnavailable,
                         "cannot look at the link " + at.string() + ": " + problem.message()};
        }
        at = at.parent_path() / target;
    }
    return Error{Errc::kUnavailable,
                 path + " is a link that leads nowhere: name the file in broker.database"};
}

void suspect(const std::string& path) {
    static_cast<void>(write_file_durably(path + ".suspect", "", 0600));
}

bool is_suspect(const std::string& path) {
    return exists(path + ".suspect");
}

void forget_suspicion(const std::string& path) {
    std::error_code ignored;
    fs::remove(path + ".suspect", ignored);
}

}  // namespace sigmacast::storage
