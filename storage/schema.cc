#include "storage/schema.h"

#include <array>

#include "storage/rows.h"

namespace sigmacast::storage {
namespace {

using Migration = Result<> (*)(Database&);

// seq and pos are the broker's; epoch and pseq are the producer's durable position. at_ms, boot and
// mono_us say when a row's header was encoded: ages in it count from there, exactly within one
// boot, by the wall clock across boots.
Result<> first_schema(Database& db) {
    return db.execute(R"sql(
        CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
        CREATE TABLE boots (id INTEGER PRIMARY KEY, boot TEXT NOT NULL UNIQUE);
        CREATE TABLE origins (
            id INTEGER PRIMARY KEY,  -- in the order of arrival
            name TEXT NOT NULL UNIQUE,
            epoch INTEGER NOT NULL,
            instance TEXT NOT NULL);
        CREATE TABLE streams (
            id INTEGER PRIMARY KEY,
            origin INTEGER NOT NULL REFERENCES origins (id),
            topic TEXT NOT NULL,
            kind INTEGER NOT NULL,
            seq INTEGER NOT NULL,
            epoch INTEGER NOT NULL,
            pseq INTEGER NOT NULL,
            floor_pos INTEGER NOT NULL DEFAULT 0,
            floor_seq INTEGER NOT NULL DEFAULT 0,
            UNIQUE (origin, topic));
        CREATE TABLE log (
            pos INTEGER PRIMARY KEY,
            stream INTEGER NOT NULL REFERENCES streams (id),
            seq INTEGER NOT NULL,
            kind INTEGER NOT NULL,
            at_ms INTEGER NOT NULL,
            boot INTEGER NOT NULL,
            mono_us INTEGER NOT NULL,
            header BLOB NOT NULL,
            body BLOB NOT NULL,
            crc INTEGER NOT NULL);
        CREATE UNIQUE INDEX log_by_stream ON log (stream, seq);
        CREATE TABLE state (
            stream INTEGER NOT NULL REFERENCES streams (id),
            key TEXT NOT NULL,
            seq INTEGER NOT NULL,
            pos INTEGER NOT NULL,
            at_ms INTEGER NOT NULL,
            boot INTEGER NOT NULL,
            mono_us INTEGER NOT NULL,
            header BLOB NOT NULL,
            body BLOB NOT NULL,
            crc INTEGER NOT NULL,
            PRIMARY KEY (stream, key)) WITHOUT ROWID;
        CREATE TABLE polls (
            origin INTEGER NOT NULL REFERENCES origins (id),
            poll TEXT NOT NULL,
            at_ms INTEGER NOT NULL,
            boot INTEGER NOT NULL,
            mono_us INTEGER NOT NULL,
            header BLOB NOT NULL,
            crc INTEGER NOT NULL,
            PRIMARY KEY (origin, poll)) WITHOUT ROWID;
    )sql");
}

// What a start needs to tell damage from data: `prev` chains the rows of a stream, and is NULL in a
// row that is older than the chain; `head` is the checksum of a stream's newest row. Streams and
// origins of the first schema had no checksum: they get theirs as they are.
Result<> chained_schema(Database& db) {
    if (auto done = db.execute(R"sql(
            ALTER TABLE log ADD COLUMN prev INTEGER;
            ALTER TABLE streams ADD COLUMN head INTEGER NOT NULL DEFAULT 0;
            ALTER TABLE streams ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
            ALTER TABLE origins ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
            UPDATE streams SET head = coalesce(
                (SELECT crc FROM log WHERE stream = streams.id ORDER BY seq DESC LIMIT 1), 0);
        )sql");
        !done) {
        return done;
    }
    return write_checksums(db);
}

constexpr std::array<Migration, 2> kMigrations{first_schema, chained_schema};

/// A bit of the mark may have flipped: no other program has these tables.
constexpr std::string_view kOurTables =
    "SELECT count(*) FROM sqlite_master WHERE name IN "
    "('meta', 'boots', 'origins', 'streams', 'log', 'state', 'polls')";

Error foreign(Database& db) {
    const auto ours = db.number(kOurTables);
    if (ours && *ours == 7) {
        return {Errc::kCorrupt, db.path() + ": the file's mark is damaged"};
    }
    return {
        Errc::kUnsupported,
        db.path() +
            " belongs to another program: name another file in broker.database, or move this one"};
}

/// No Sigmacast will have so many; beyond it, and below 1, the number is damaged.
constexpr std::int64_t kVersionMax = 1000;

/// Of a file of ours whose schema this program does not know.
Error unknown(const Database& db, std::int64_t version) {
    if (version < 1 || version > kVersionMax) {
        return {Errc::kCorrupt,
                db.path() + ": the number of its schema is damaged: " + std::to_string(version)};
    }
    return {Errc::kUnsupported,
            db.path() + " has schema " + std::to_string(version) + "; this program knows up to " +
                std::to_string(schema_version()) + ": start the newer Sigmacast"};
}

struct Identity {
    std::int64_t application = 0;
    std::int64_t version = 0;
    std::int64_t tables = 0;
};

Result<Identity> identify(Database& db) {
    Identity identity;
    const auto read = [&db](const char* sql, std::int64_t& into) -> Result<> {
        const auto value = db.number(sql);
        if (!value) {
            return value.error();
        }
        into = *value;
        return {};
    };
    if (auto done = read("PRAGMA application_id", identity.application); !done) {
        return done.error();
    }
    if (auto done = read("PRAGMA user_version", identity.version); !done) {
        return done.error();
    }
    if (auto done = read("SELECT count(*) FROM sqlite_master", identity.tables); !done) {
        return done.error();
    }
    return identity;
}

}  // namespace

std::int64_t schema_version() {
    return static_cast<std::int64_t>(kMigrations.size());
}

Result<> check(Database& db) {
    const auto identity = identify(db);
    if (!identity) {
        return identity.error();
    }
    if (identity->application != kApplicationId) {
        return foreign(db);
    }
    if (identity->version < 1 || identity->version > schema_version()) {
        return unknown(db, identity->version);
    }
    if (identity->version < schema_version()) {
        return Error{Errc::kUnsupported, db.path() + " has the older schema " +
                                             std::to_string(identity->version) +
                                             ": start the broker once, which brings it up to date"};
    }
    return {};
}

Result<> migrate(Database& db) {
    const auto identity = identify(db);
    if (!identity) {
        return identity.error();
    }
    const bool empty =
        identity->tables == 0 && identity->application == 0 && identity->version == 0;
    if (!empty && identity->application != kApplicationId) {
        return foreign(db);
    }
    if (!empty && (identity->version < 1 || identity->version > schema_version())) {
        return unknown(db, identity->version);
    }
    for (std::int64_t version = identity->version; version < schema_version(); ++version) {
        auto transaction = Transaction::begin(db);
        if (!transaction) {
            return transaction.error();
        }
        if (auto done = kMigrations[static_cast<std::size_t>(version)](db); !done) {
            return done.error().within("migration to schema " + std::to_string(version + 1));
        }
        const std::string mark = "PRAGMA application_id=" + std::to_string(kApplicationId) +
                                 "; PRAGMA user_version=" + std::to_string(version + 1);
        if (auto done = db.execute(mark); !done) {
            return done.error();
        }
        if (auto done = transaction->commit(); !done) {
            return done.error();
        }
    }
    return {};
}

}  // namespace sigmacast::storage
