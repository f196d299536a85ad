#include "storage/reader.h"

#include <functional>
#include <utility>

#include "storage/checksum.h"
#include "storage/schema.h"

namespace sigmacast::storage {
namespace {

// Columns: 0 pos, 1 stream, 2 seq, 3 kind, 4 at_ms, 5 boot, 6 mono_us, 7 header, 8 body, 9 crc, 10
// origin, 11 topic.
constexpr std::string_view kColumns =
    "SELECT l.pos, l.stream, l.seq, l.kind, l.at_ms, l.boot, l.mono_us, l.header, l.body, l.crc, "
    "o.name, s.topic "
    "FROM log l JOIN streams s ON s.id = l.stream JOIN origins o ON o.id = s.origin ";

Message damaged(const Statement& row) {
    Message lost;
    lost.origin = row.text(10);
    lost.topic = row.text(11);
    lost.pos = row.natural(0);
    lost.seq = row.natural(2);
    lost.at = Wall{Millis{row.integer(4)}};
    return gap_in_place_of(lost, "the row in the log is damaged");
}

Message message_of(const Statement& row, std::int64_t boot, Now now) {
    const Stamp stamp{row.integer(4), row.integer(5), row.integer(6)};
    const std::int64_t sum =
        checksum(row.natural(0), row.integer(1), row.natural(2), static_cast<int>(row.integer(3)),
                 stamp.at_ms, stamp.boot, stamp.mono_us, row.bytes(7), row.bytes(8));
    auto message = decode_row(row.bytes(7), row.bytes(8), stamp, boot, now);
    if (sum != row.integer(9) || !message) {
        return damaged(row);
    }
    message->pos = row.natural(0);
    message->seq = row.natural(2);
    return std::move(*message);
}

/// What `add` makes of each row of a query. Values that it binds must live until then.
template <class T>
Result<std::vector<T>> collect(Statement& query, const std::function<void(std::vector<T>&)>& add) {
    std::vector<T> found;
    for (;;) {
        const auto row = query.step();
        if (!row) {
            return row.error();
        }
        if (!*row) {
            return found;
        }
        add(found);
    }
}

}  // namespace

LogReader::LogReader(Database db, Statement range, std::string boot)
    : db_(std::move(db)), range_(std::move(range)), boot_(std::move(boot)) {}

Result<LogReader> LogReader::open(const std::string& path, const std::string& boot) {
    auto db = Database::open(path, Database::Mode::kRead);
    if (!db) {
        return db.error();
    }
    if (auto known = check(*db); !known) {
        return known.error();
    }
    auto range = db->prepare(
        std::string(kColumns) +
        "WHERE l.stream = (SELECT s2.id FROM streams s2 JOIN origins o2 ON o2.id = s2.origin "
        "WHERE o2.name = ? AND s2.topic = ?) AND l.seq BETWEEN ? AND ? ORDER BY l.seq LIMIT ?");
    if (!range) {
        return range.error();
    }
    return LogReader(std::move(*db), std::move(*range), boot);
}

/// This boot's id in the table; looked up again until the broker has written it.
Result<std::int64_t> LogReader::boot() {
    if (boot_row_) {
        return *boot_row_;
    }
    auto find = db_.prepare("SELECT id FROM boots WHERE boot = ?");
    if (!find) {
        return find.error();
    }
    find->bind(boot_);
    const auto row = find->step();
    if (!row) {
        return row.error();
    }
    if (!*row) {
        return std::int64_t{-1};
    }
    boot_row_ = find->integer(0);
    return *boot_row_;
}

Result<LogRange> LogReader::range(const std::string& origin, const std::string& topic,
                                  sequence::Range asked, Now now) {
    const auto current = boot();
    if (!current) {
        return current.error();
    }
    LogRange answer{asked, {}};
    std::size_t bytes = 0;
    range_.bind(origin, topic, asked.from, asked.to, std::uint64_t{kRangeRowsMax + 1});
    for (;;) {
        const auto row = range_.step();
        if (!row) {
            return row.error();
        }
        if (!*row) {
            return answer;
        }
        bytes += range_.bytes(7).size() + range_.bytes(8).size();
        const bool full = answer.items.size() == kRangeRowsMax || bytes > kRangeBytesMax;
        if (full && !answer.items.empty()) {
            answer.range.to = answer.items.back().seq;
            range_.rewind();
            return answer;
        }
        answer.items.push_back(message_of(range_, *current, now));
    }
}

Result<std::vector<LogEntry>> LogReader::read(const LogQuery& query, Now now) {
    const auto current = boot();
    if (!current) {
        return current.error();
    }
    auto select = db_.prepare(
        std::string(kColumns) +
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
        entries.push_back({Wall{Millis{select->integer(4)}}, message_of(*select, *current, now)});
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
        const Stamp stamp{select->integer(2), select->integer(3), select->integer(4)};
        const std::int64_t sum =
            checksum(select->integer(8), select->bytes(9), select->natural(1), select->natural(0),
                     stamp.at_ms, stamp.boot, stamp.mono_us, select->bytes(5), select->bytes(6));
        auto message = decode_row(select->bytes(5), select->bytes(6), stamp, *current, now);
        if (message && sum == select->integer(7)) {
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
