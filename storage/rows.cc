#include "storage/rows.h"

#include <string>
#include <utility>
#include <vector>

#include "storage/checksum.h"

namespace sigmacast::storage {
namespace {

/// Sets the checksum of each row of a query; `sum` makes it, `update` writes it by the id in its
/// first column.
template <class Sum>
Result<> update_checksums(Database& db, std::string_view query, std::string_view update, Sum sum) {
    auto read = db.prepare(query);
    auto write = db.prepare(update);
    if (!read || !write) {
        return read ? write.error() : read.error();
    }
    std::vector<std::pair<std::int64_t, std::int64_t>> sums;
    if (auto done = read->each([&] { sums.emplace_back(read->integer(0), sum(*read)); }); !done) {
        return done;
    }
    for (const auto& [id, crc] : sums) {
        if (auto done = write->run(crc, id); !done) {
            return done;
        }
    }
    return {};
}

}  // namespace

std::int64_t LogRow::checksum() const {
    Checksum sum;
    sum.add(pos).add(stream).add(seq).add(kind).add(stamp.at_ms).add(stamp.boot);
    sum.add(stamp.mono_us).add(header).add(body);
    if (prev) {
        sum.add(*prev);
    }
    return sum.value();
}

Result<Message> LogRow::message(std::int64_t boot, Now now) const {
    if (!intact()) {
        return Error{Errc::kCorrupt, "the row in the log is damaged"};
    }
    return intact_message(boot, now);
}

Result<Message> LogRow::intact_message(std::int64_t boot, Now now) const {
    auto read = decode_row(header, body, stamp, boot, now);
    if (read) {
        read->pos = static_cast<std::uint64_t>(pos);
        read->seq = static_cast<std::uint64_t>(seq);
    }
    return read;
}

LogRow log_row(const Statement& statement, int first) {
    LogRow row;
    row.pos = statement.integer(first);
    row.stream = statement.integer(first + 1);
    row.seq = statement.integer(first + 2);
    row.kind = statement.integer(first + 3);
    row.stamp = {statement.integer(first + 4), statement.integer(first + 5),
                 statement.integer(first + 6)};
    row.header = statement.bytes(first + 7);
    row.body = statement.bytes(first + 8);
    row.crc = statement.integer(first + 9);
    if (!statement.null(first + 10)) {
        row.prev = statement.integer(first + 10);
    }
    return row;
}

std::int64_t state_checksum(std::int64_t stream, std::string_view key, std::uint64_t seq,
                            std::uint64_t pos, const Stamp& stamp, std::string_view header,
                            std::string_view body) {
    return checksum(stream, key, seq, pos, stamp.at_ms, stamp.boot, stamp.mono_us, header, body);
}

std::int64_t poll_checksum(std::int64_t origin, std::string_view poll, const Stamp& stamp,
                           std::string_view header) {
    return checksum(origin, poll, stamp.at_ms, stamp.boot, stamp.mono_us, header);
}

std::int64_t stream_checksum(std::int64_t id, const StreamRecord& record, std::int64_t head) {
    Checksum sum;
    sum.add(id).add(record.origin).add(record.topic).add(static_cast<int>(record.kind));
    sum.add(record.seq).add(record.epoch).add(record.pseq);
    return sum.add(record.floor_pos).add(record.floor_seq).add(head).value();
}

std::int64_t origin_checksum(std::int64_t id, const OriginRecord& record) {
    return checksum(id, record.name, record.epoch, record.instance);
}

StreamRecord stream_record(const Statement& row) {
    return {row.text(1),    row.text(2),    static_cast<StreamKind>(row.integer(3)),
            row.natural(4), row.natural(5), row.natural(6),
            row.natural(7), row.natural(8)};
}

Result<> write_checksums(Database& db) {
    auto done = update_checksums(
        db, kStreamRows, "UPDATE streams SET crc = ? WHERE id = ?", [](const Statement& row) {
            return stream_checksum(row.integer(0), stream_record(row), row.integer(9));
        });
    if (!done) {
        return done;
    }
    return update_checksums(db, "SELECT id, name, epoch, instance FROM origins",
                            "UPDATE origins SET crc = ? WHERE id = ?", [](const Statement& row) {
                                return origin_checksum(row.integer(0),
                                                       {row.text(1), row.natural(2), row.text(3)});
                            });
}

}  // namespace sigmacast::storage
