#include "storage/meta.h"

#include <utility>

#include "storage/checksum.h"
#include "storage/rows.h"

namespace sigmacast::storage {
namespace {

std::int64_t meta_checksum(const Meta& meta) {
    const Sums sums = meta.sums.value_or(Sums{});
    return checksum(meta.epoch, meta.pos, meta.lost_to, meta.clean ? 1 : 0, sums.streams,
                    sums.state, meta.clock_boot, meta.clock_offset_ms, meta.boots);
}

std::uint64_t count_or_none(const Statement& row) {
    return is_count(row.integer(1)) ? row.natural(1) : 0;  // The log says it.
}

}  // namespace

Result<Meta> read_meta(Database& db) {
    auto read = db.prepare("SELECT key, value FROM meta");
    if (!read) {
        return read.error();
    }
    Meta meta;
    std::optional<std::uint64_t> streams;
    std::optional<std::uint64_t> state;
    std::optional<std::int64_t> sum;
    bool strange = false;
    const auto done = read->each([&] {
        const std::string_view key = read->bytes(0);
        if (key == "log_epoch") {
            meta.epoch = read->text(1);
        } else if (key == "pos") {
            meta.pos = count_or_none(*read);
        } else if (key == "lost_to") {
            meta.lost_to = count_or_none(*read);
        } else if (key == "clean") {
            meta.clean = read->integer(1) == 1;
        } else if (key == "streams_sum") {
            streams = read->natural(1);
        } else if (key == "state_sum") {
            state = read->natural(1);
        } else if (key == "clock_boot") {
            meta.clock_boot = read->integer(1);
        } else if (key == "clock_offset_ms") {
            meta.clock_offset_ms = read->integer(1);
        } else if (key == "boots_sum") {
            meta.boots = read->natural(1);
            meta.sealed = true;
        } else if (key == "meta_sum") {
            sum = read->integer(1);
            meta.sealed = true;
        } else {
            strange = true;
        }
    });
    if (!done) {
        return done.error();
    }
    if (streams && state) {
        meta.sums = Sums{*streams, *state};
    }
    meta.damaged = strange || (meta.sealed && sum != meta_checksum(meta));
    return meta;
}

Result<MetaWriter> MetaWriter::prepare(Database& db) {
    auto write = db.prepare(
        "INSERT OR REPLACE INTO meta VALUES ('log_epoch', ?), ('pos', ?), ('lost_to', ?), "
        "('clean', ?), ('streams_sum', ?), ('state_sum', ?), ('clock_boot', ?), "
        "('clock_offset_ms', ?), ('boots_sum', ?), ('meta_sum', ?)");
    if (!write) {
        return write.error();
    }
    return MetaWriter(std::move(*write));
}

Result<> MetaWriter::write(const Meta& meta) {
    const Sums sums = meta.sums.value_or(Sums{});
    return write_.run(meta.epoch, meta.pos, meta.lost_to, std::int64_t{meta.clean ? 1 : 0},
                      sums.streams, sums.state, meta.clock_boot, meta.clock_offset_ms, meta.boots,
                      meta_checksum(meta));
}

std::uint64_t boot_checksum(std::int64_t number, std::string_view boot) {
    return static_cast<std::uint64_t>(checksum(number, boot));
}

Result<Boots> read_boots(Database& db, const Meta& meta, const std::string& boot) {
    // The table itself, not its index, which nothing else reads.
    auto read = db.prepare("SELECT id, boot FROM boots NOT INDEXED");
    if (!read) {
        return read.error();
    }
    Boots boots;
    const auto done = read->each([&] {
        boots.empty = false;
        boots.sum += boot_checksum(read->integer(0), read->bytes(1));
        if (read->bytes(1) == boot) {
            boots.number = read->integer(0);
        }
    });
    if (!done) {
        return done.error();
    }
    boots.damaged = meta.damaged || (meta.sealed && meta.boots != boots.sum);
    if (boots.damaged) {
        boots.number.reset();
    }
    return boots;
}

}  // namespace sigmacast::storage
