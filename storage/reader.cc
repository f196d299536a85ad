#include "storage/reader.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "storage/meta.h"
#include "storage/schema.h"

namespace sigmacast::storage {
namespace {

// log_row()'s columns, then 11 origin, 12 topic, 13 floor_seq.
const std::string kColumns = "SELECT" + std::string(kLogColumns) +
                             ", o.name, s.topic, s.floor_seq FROM log l "
                             "JOIN streams s ON s.id = l.stream JOIN origins o ON o.id = s.origin ";

Message gap_of(const Statement& select, std::uint64_t seq, std::uint64_t to, const char* why) {
    Message lost;
    lost.origin = select.text(11);
    lost.topic = select.text(12);
    lost.pos = select.natural(0);
    lost.seq = seq;
    lost.at = Wall{Millis{select.integer(4)}};
    Message gap = gap_in_place_of(lost, why);
    gap.detail = Gap{to, why};
    return gap;
}

Message message_of(const Statement& select, const LogRow& row, bool intact, std::int64_t boot,
                   Now now) {
    if (intact) {
        if (auto message = row.intact_message(boot, now)) {
            return std::move(*message);
        }
    }
    const auto seq = static_cast<std::uint64_t>(row.seq);
    return gap_of(select, seq, seq, "the row in the log is damaged");
}

/// What `add` makes of each row of a query. Values that it binds must live until then.
template <class T>
Result<std::vector<T>> collect(Statement& query, const std::function<void(std::vector<T>&)>& add) {
    std::vector<T> found;
    if (const auto done = query.each([&] { add(found); }); !done) {
        return done.error();
    }
    return found;
}

}  // namespace

LogReader::LogReader(Database db, Statements sql, std::string boot)
    : db_(std::move(db)), sql_(std::move(sql)), boot_(std::move(boot)) {}

Result<LogReader> LogReader::open(const std::string& path, const std::string& boot) {
    auto db = Database::open(path, Database::Mode::kRead);
    if (!db) {
        return db.error();
    }
    if (auto known = check(*db); !known) {
        return known.error();
    }
    auto range = db->prepare(
        kColumns +
        "WHERE l.stream = (SELECT s2.id FROM streams s2 JOIN origins o2 ON o2.id = s2.origin "
        "WHERE o2.name = ? AND s2.topic = ?) AND l.seq BETWEEN ? AND ? ORDER BY l.seq LIMIT ?");
    auto page_end = db->prepare(
        "SELECT max(pos), count(*) FROM "
        "(SELECT pos FROM log WHERE pos > ? AND pos <= ? ORDER BY pos LIMIT ?)");
    // 2: a stream of events.
    auto page =
        db->prepare(kColumns + "WHERE l.pos > ? AND l.pos <= ? AND s.kind = 2 ORDER BY l.pos");
    auto floors = db->prepare(kStreamRows);
    for (const auto* statement : {&range, &page_end, &page, &floors}) {
        if (!*statement) {
            return statement->error();
        }
    }
    return LogReader(
        std::move(*db),
        {std::move(*range), std::move(*page_end), std::move(*page), std::move(*floors)}, boot);
}

/// This boot's id in the table; looked up again until the broker has written it.
Result<std::int64_t> LogReader::boot() {
    if (boot_row_) {
        return *boot_row_;
    }
    const auto meta = read_meta(db_);
    const auto boots = meta ? read_boots(db_, *meta, boot_) : Result<Boots>(meta.error());
    if (!boots) {
        return boots.error();
    }
    if (!boots->number) {
        return std::int64_t{-1};
    }
    boot_row_ = boots->number;
    return *boot_row_;
}

void LogReader::met(const LogRow& row, const char* what) {
    if (damage_.empty()) {
        damage_ = "the row of the log at position " + std::to_string(row.pos) + " " + what;
    }
}

/// Rows that a start has found missing stay so; these are new.
void LogReader::met_hole(const LogRow& after) {
    const auto meta = read_meta(db_);
    if (meta && static_cast<std::uint64_t>(after.pos) > meta->lost_to) {
        met(after, "comes after rows that are missing");
    }
}

Result<LogRange> LogReader::range(const std::string& origin, const std::string& topic,
                                  sequence::Range asked, Now now) {
    const auto current = boot();
    if (!current) {
        return current.error();
    }
    Statement& range = sql_.range;
    LogRange answer{asked, {}};
    std::size_t bytes = 0;
    // One row more than asked for, since it vouches for the last one.
    const std::uint64_t to = std::min(asked.to, sequence::kSeqMax - 1) + 1;
    range.bind(origin, topic, asked.from, to, std::uint64_t{kRangeRowsMax + 1});
    std::uint64_t next = asked.from;
    std::int64_t crc = 0;  // Of the row before.
    for (;;) {
        const auto row = range.step();
        if (!row) {
            return row.error();
        }
        if (!*row) {
            return answer;
        }
        const LogRow found = log_row(range);
        const bool intact = found.intact();
        const std::uint64_t seq = range.natural(2);
        if (!answer.items.empty() && seq == next && intact && found.prev && *found.prev != crc &&
            crc != kDisowned && answer.items.back().seq + 1 == seq) {
            Message& before = answer.items.back();
            before =
                gap_in_place_of(before, "the row in the log is not the one that was committed");
            met(found, "is not the one after the row that was committed before it");
        }
        if (!intact && found.crc != kDisowned) {
            met(found, "is damaged");
        }
        next = std::max(next, range.natural(13) + 1);
        if (seq > asked.to) {
            range.rewind();
            return answer;
        }
        bytes += found.header.size() + found.body.size();
        const bool full = answer.items.size() >= kRangeRowsMax || bytes > kRangeBytesMax;
        if (full && !answer.items.empty()) {
            answer.range.to = answer.items.back().seq;
            range.rewind();
            return answer;
        }
        if (seq > next) {
            answer.items.push_back(gap_of(range, next, seq - 1, "the log lost it"));
            --answer.items.back().pos;
            met_hole(found);
        }
        answer.items.push_back(message_of(range, found, intact, *current, now));
        next = seq + 1;
        crc = found.crc;
    }
}

Result<LogPage> LogReader::history(std::uint64_t from, std::uint64_t to, Now now) {
    const auto current = boot();
    if (!current) {
        return current.error();
    }
    LogPage page;
    page.to = to;
    sql_.page_end.bind(from, to, std::uint64_t{kHistoryVisitedMax});
    const auto end = sql_.page_end.step();
    if (!end) {
        return end.error();
    }
    if (sql_.page_end.natural(1) == kHistoryVisitedMax) {
        page.to = sql_.page_end.natural(0);
    }
    sql_.page_end.rewind();
    std::size_t bytes = 0;
    sql_.page.bind(from, page.to);
    for (;;) {
        const auto row = sql_.page.step();
        if (!row) {
            return row.error();
        }
        if (!*row) {
            break;
        }
        const LogRow found = log_row(sql_.page);
        bytes += found.header.size() + found.body.size();
        const bool full = page.items.size() == kHistoryRowsMax || bytes > kHistoryBytesMax;
        if (full && !page.items.empty()) {
            page.to = page.items.back().pos;
            sql_.page.rewind();
            break;
        }
        const bool intact = found.intact();
        if (!intact && found.crc != kDisowned) {
            met(found, "is damaged");
        }
        page.items.push_back(message_of(sql_.page, found, intact, *current, now));
    }
    // After the rows: what is trimmed between the two is told as lost, and never left out unsaid.
    auto trimmed = floors(from);
    if (!trimmed) {
        return trimmed.error();
    }
    page.floors = std::move(*trimmed);
    return page;
}

/// A page goes by the kinds of streams: where the row of one is damaged, its events might be left
/// out and nobody told.
Result<std::vector<StreamFloor>> LogReader::floors(std::uint64_t from) {
    std::vector<StreamFloor> found;
    Statement& read = sql_.floors;
    read.rewind();
    for (;;) {
        const auto row = read.step();
        if (!row) {
            return row.error();
        }
        if (!*row) {
            return found;
        }
        const bool text = read.is_text(2);
        StreamRecord stream = stream_record(read);
        if (!text ||
            stream_checksum(read.integer(0), stream, read.integer(9)) != read.integer(10)) {
            read.rewind();
            return Error{Errc::kCorrupt, db_.path() + ": the row of a stream is damaged"};
        }
        if (stream.kind == StreamKind::kEvent && stream.floor_pos > from) {
            found.push_back({std::move(stream.origin), std::move(stream.topic), stream.floor_pos});
        }
    }
}

Result<std::vector<LogEntry>> LogReader::read(const LogQuery& query, Now now) {
    const auto current = boot();
    if (!current) {
        return current.error();
    }
    auto select = db_.prepare(
        kColumns +
        "WHERE l.pos BETWEEN ? AND ? AND (? = '' OR o.name = ?) AND (? = '' OR s.topic = ?) "
        "AND l.at_ms BETWEEN ? AND ? ORDER BY l.pos " +
        (query.newest_first ? "DESC" : "ASC") + " LIMIT ?");
    if (!select) {
        return select.error();
    }
    const std::int64_t since = query.since ? query.since->time_since_epoch().count() : 0;
    const std::int64_t until =
        query.until ? query.until->time_since_epoch().count() : std::int64_t{1} << 62;
    select->bind(query.from_pos, query.to_pos, query.origin, query.origin, query.topic, query.topic,
                 since, until, std::uint64_t{query.max});
    return collect<LogEntry>(*select, [&](auto& entries) {
        const LogRow row = log_row(*select);
        entries.push_back(
            {Wall{Millis{row.stamp.at_ms}}, message_of(*select, row, row.intact(), *current, now)});
    });
}

Result<std::vector<LogEntry>> LogReader::state(Now now) {
    const auto current = boot();
    if (!current) {
        return current.error();
    }
    auto select = db_.prepare(
        "SELECT v.pos, v.seq, v.at_ms, v.boot, v.mono_us, v.header, v.body, v.crc, v.stream, v.key "
        "FROM state v "
        "JOIN streams s ON s.id = v.stream JOIN origins o ON o.id = s.origin "
        "ORDER BY o.id, s.topic, v.key");
    if (!select) {
        return select.error();
    }
    return collect<LogEntry>(*select, [&](auto& entries) {
        const bool text = select->is_text(9);
        const Stamp stamp{select->integer(2), select->integer(3), select->integer(4)};
        const std::int64_t sum =
            state_checksum(select->integer(8), select->bytes(9), select->natural(1),
                           select->natural(0), stamp, select->bytes(5), select->bytes(6));
        auto message = decode_row(select->bytes(5), select->bytes(6), stamp, *current, now);
        if (text && message && sum == select->integer(7)) {
            message->pos = select->natural(0);
            message->seq = select->natural(1);
            entries.push_back({Wall{Millis{stamp.at_ms}}, std::move(*message)});
        }
    });
}

Result<std::vector<StreamRecord>> LogReader::streams() {
    auto select = db_.prepare(
        "SELECT o.name, s.topic, s.kind, s.seq, s.epoch, s.pseq, s.floor_pos, s.floor_seq "
        "FROM streams s JOIN origins o ON o.id = s.origin ORDER BY o.id, s.topic");
    if (!select) {
        return select.error();
    }
    return collect<StreamRecord>(*select, [&](auto& records) {
        records.push_back({select->text(0), select->text(1),
                           static_cast<StreamKind>(select->integer(2)), select->natural(3),
                           select->natural(4), select->natural(5), select->natural(6),
                           select->natural(7)});
    });
}

}  // namespace sigmacast::storage
